"""A request's head, as Kestrel reads it, and what can be wrong with a request. Pure.

From Http1MessageBody.cs, HttpRequestHeaders.cs and BadHttpRequestException.cs of Kestrel 8
(src/Servers/Kestrel/Core/src of dotnet/aspnetcore).
"""

from dataclasses import dataclass
from typing import Self

import h11

from devhost.host_headers import Headers, asks_for_upgrade, decoded, values


class CallerGone(Exception):
    """The caller has closed the connection, or half of it: to Kestrel the request is aborted either way."""


class Refused(Exception):
    """A request that Kestrel answers itself."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class BadBody(Exception):
    """A body that is too large or too slow, or breaks its framing. Kestrel throws; the status is up to the host."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: Headers
    #: Bytes; None of a chunked body.
    length: int | None

    @classmethod
    def of(cls, event: h11.Request) -> Self:
        """Raises Refused."""
        try:
            headers = decoded(event.headers)
            chunked = bool(values(headers, "transfer-encoding"))
            length = None if chunked else int((values(headers, "content-length") or ["0"])[0])
            request = cls(event.method.decode("ascii"), event.target.decode("ascii"), headers, length)
        except ValueError:
            raise Refused(400) from None
        if asks_for_upgrade(headers) and request.has_body:
            raise Refused(400)  # UpgradeRequestCannotHavePayload
        return request

    @property
    def has_body(self) -> bool:
        return self.length != 0
