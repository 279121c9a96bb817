"""A request on its way to the worker, whose body can be sent once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from devhost.host_headers import Headers, values


class SendFailed(Exception):
    """The request was not sent, or no response came: .NET's HttpRequestException."""


class Upload:
    """A request's body on its way to the worker. It can be sent once, even where it is in memory.

    YARP's StreamCopyHttpContent.cs (2.0.1).
    """

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """`read` gives the next bytes, and none at the end."""
        self._read = read
        self.begun = False
        #: Why the body could not be read, where that is so.
        self.failure: Exception | None = None

    async def next(self) -> bytes:
        try:
            return await self._read()
        except Exception as failure:
            self.failure = failure
            raise SendFailed(f"the body could not be read: {failure}") from failure

    def begin(self) -> None:
        if self.begun:
            raise SendFailed("Stream was already consumed.")
        self.begun = True


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes to the worker."""

    method: str
    target: str
    headers: Headers
    upload: Upload | None

    @property
    def expects_continue(self) -> bool:
        return any(value.lower() == "100-continue" for value in values(self.headers, "expect"))

    @property
    def length(self) -> int | None:
        stated = values(self.headers, "content-length")
        return int(stated[0]) if stated else None
