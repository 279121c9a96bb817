"""What the Azure SDK speaks HTTP with: the shim's own transport, in the terms of azure-core's public interfaces."""

from __future__ import annotations

import os
import ssl
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from azure.core.exceptions import (
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import AsyncHttpTransport
from azure.core.pipeline.transport import HttpRequest as LegacyRequest
from azure.core.rest import HttpRequest

from shim.headers import Headers
from shim.keys.azure.response import SdkResponse, decoded
from shim.transport.choice import Choice, open_transport, proxy_for
from shim.transport.direct import Resolve, ShimTransport
from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    ReadTimeout,
    Transport,
    TransportError,
    WireRequest,
    WireResponse,
    origin_of,
)

# Of a response, before and after it is decoded. A page of API Management's subscriptions has less than a tenth of it.
MAX_BYTES = 4 * 1024 * 1024
# Seconds, where a call names none, as in azure-core's own transports. Whoever asks for a token gives up long before.
_TIMEOUT = 300.0
# The transport's to say.
_FRAMING = frozenset(["connection", "content-length", "host", "transfer-encoding"])
_OF_A_BODY = frozenset(["PATCH", "POST", "PUT"])

type SdkRequest = HttpRequest | LegacyRequest


class SdkTransport(AsyncHttpTransport[SdkRequest, SdkResponse]):
    """Carries the SDK's requests: no redirects, no cookies; a proxy where HTTPS_PROXY names one.

    Responses are read whole. Reading the certificates of the default for `verify` takes 20 ms, and happens with the
    first connection that has TLS. `resolve` finds hosts in place of the DNS. Needs no running event loop until it is
    opened, which the first request does.
    """

    def __init__(self, verify: ssl.SSLContext | None = None, *, resolve: Resolve | None = None) -> None:
        self._verify = verify
        self._resolve = resolve
        self._has_been_opened = False
        # By proxy; None is the direct way.
        self._carriers: dict[str | None, Transport] = {}

    @property
    def is_open(self) -> bool:
        return bool(self._carriers)

    async def open(self) -> None:
        """Opens no connection yet. Raises ValueError once it has been closed, as azure-core's own does."""
        if self._has_been_opened and not self._carriers:
            raise ValueError("the transport has been closed")
        self._has_been_opened = True
        self._carriers.setdefault(None, ShimTransport(verify=self._verify, resolve=self._resolve))

    async def close(self) -> None:
        carriers = list(self._carriers.values())
        self._carriers.clear()
        for carrier in carriers:
            await carrier.aclose()

    async def __aenter__(self) -> SdkTransport:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()

    async def send(
        self,
        request: SdkRequest,
        *,
        stream: bool = False,
        connection_timeout: float = _TIMEOUT,
        read_timeout: float = _TIMEOUT,
        **unknown: Any,
    ) -> SdkResponse:
        """The whole response, with `stream` too. Timeouts are in seconds; `read_timeout` is of each silence.

        Raises ServiceRequestError if nothing was sent, and ServiceResponseError where a request may have arrived that
        has no response; each has its TimeoutError. TypeError for what nothing here can do.
        """
        if unknown:
            raise TypeError(f"the SDK asks for {', '.join(sorted(unknown))}")
        await self.open()
        try:
            wired = _on_the_wire(request, connection_timeout, read_timeout)
            response = await self._carrier(request.url).send(wired)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
        except ConnectTimeout as error:
            raise ServiceRequestTimeoutError(str(error), error=error) from error
        except ConnectError as error:
            # Its name is what operators are told: ConnectionRefusedError, SSLCertVerificationError.
            raise ServiceRequestError(str(error), error=error.__cause__ or error) from error
        except LocalProtocolError as error:
            raise ServiceRequestError(str(error), error=error) from error
        except ReadTimeout as error:
            raise ServiceResponseTimeoutError(str(error), error=error) from error
        except TransportError as error:
            raise ServiceResponseError(str(error), error=error) from error
        return SdkResponse(request, response.status, response.headers, body)

    def _carrier(self, url: str) -> Transport:
        proxy = proxy_for(url, os.environ)
        if proxy not in self._carriers:
            self._carriers[proxy] = open_transport(Choice("httpx", proxy=proxy), verify=self._verify)
        return self._carriers[proxy]


def _on_the_wire(request: SdkRequest, connect_timeout: float, read_timeout: float) -> WireRequest:
    """Raises LocalProtocolError, which does not say what it read: the path may name a secret."""
    body = _body_of(request)
    try:
        parts = urlsplit(request.url)
        origin = origin_of(f"{parts.scheme}://{parts.netloc}")
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}".encode("ascii")
        given = {name.lower(): value for name, value in request.headers.items()}
        headers: Headers = [
            (name.encode("ascii"), value.encode("latin-1"))
            for name, value in ({"accept": "*/*", "accept-encoding": "gzip"} | given).items()
            if name not in _FRAMING
        ]
    except (KeyError, ValueError):
        raise LocalProtocolError("the URL or a header is none") from None
    headers.insert(0, (b"host", origin.authority))
    if body or request.method in _OF_A_BODY:
        headers.append((b"content-length", b"%d" % len(body)))
    return WireRequest(
        request.method,
        origin,
        target,
        headers,
        body,
        connect_timeout=connect_timeout,
        head_timeout=read_timeout,
        read_timeout=read_timeout,
    )


def _body_of(request: SdkRequest) -> bytes:
    """Raises TypeError for files and for what arrives by and by."""
    content = request.content if isinstance(request, HttpRequest) else request.files or request.data
    if isinstance(content, dict) and not getattr(request, "files", None):
        content = urlencode(content)
    if isinstance(content, str):
        content = content.encode()
    if content is not None and not isinstance(content, bytes):
        raise TypeError("the SDK sends a body that is no text, form or bytes")
    return content or b""


async def _read(response: WireResponse) -> bytes:
    """The decoded body. Raises TransportError."""
    body = bytearray()
    async for piece in response:
        body += piece
        if len(body) > MAX_BYTES:
            raise TransportError(f"the response has more than {MAX_BYTES} bytes")
    return decoded(bytes(body), response.headers, MAX_BYTES)
