"""What a transport carries, and what can go wrong on the way. Errors have the names that httpx gives to the same."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from shim.headers import Headers

# Takes a piece of a body, and says whether it can take the next at once; else `drain` waits until it can.
type Write = Callable[[bytes], bool]
type Drain = Callable[[], Awaitable[None]]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class TransportError(Exception):
    """A request has not come to the end of its response; what it says is for operators."""


class LocalProtocolError(TransportError):
    """The request is nothing that HTTP/1.1 can say."""


class ConnectError(TransportError):
    """There is no connection: nothing was sent."""


class ConnectTimeout(ConnectError):
    """There is no connection yet."""


class RemoteProtocolError(TransportError):
    """What came is no response, or not all of it."""


class WriteError(TransportError):
    """Upstream takes no more of the request."""


class ReadTimeout(TransportError):
    """Upstream fell silent."""


class Origin(NamedTuple):
    """Whom a request goes to. `authority` is what its Host header says."""

    scheme: str
    host: str
    port: int
    authority: bytes


class WireRequest(NamedTuple):
    """A request as it goes on the wire: `target` as it is, `headers` and no others. They hold the subscription key.

    A body that is still to arrive is an iterator, which is used once. `connect_timeout` spans name look-up, TCP and
    TLS, `head_timeout` the wait for the response's head from then on, and `read_timeout` is the silence that its body
    may have; all in seconds, None for any.
    """

    method: str
    origin: Origin
    target: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes] = b""
    connect_timeout: float | None = None
    read_timeout: float | None = None
    head_timeout: float | None = None

    def __repr__(self) -> str:
        return f"WireRequest({self.method!r}, {self.origin!r}, {self.target!r})"


class WireResponse(Protocol):
    """A response whose head has arrived. Iterated over, it gives the body as it was sent, or raises TransportError."""

    status: int
    headers: Headers

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def relay(self, write: Write, drain: Drain) -> None:
        """Writes the body as it arrives. Raises TransportError, and what `write` raises."""
        async for piece in self:
            if not write(piece):
                await drain()

    async def aclose(self) -> None:
        """Ends the exchange; upstream notices at once if it was not over."""


class Transport(Protocol):
    """Carries requests to wherever their origins are."""

    async def send(self, request: WireRequest) -> WireResponse:
        """Sends the request and waits for the head of its response; a body may still be on its way when this returns.

        Raises TransportError and nothing else: ConnectError if nothing was sent.
        """
        ...

    async def aclose(self) -> None:
        """Closes idle connections. Those in use belong to their exchanges."""


@lru_cache(maxsize=8)  # APIM's, the vault's, and those that tokens and keys come from
def origin_of(url: str) -> Origin:
    """Of a URL from the settings, which have checked it, or from the Azure SDK. Raises KeyError or ValueError."""
    parts = urlsplit(url)
    host, default = parts.hostname or "", _DEFAULT_PORTS[parts.scheme]
    port = parts.port or default
    shown = f"[{host}]" if ":" in host else host
    return Origin(parts.scheme, host, port, (shown if port == default else f"{shown}:{port}").encode("ascii"))
