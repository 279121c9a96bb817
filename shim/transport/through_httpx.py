"""httpx's own engine as a transport: through a proxy, and wherever the operator asks for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import h11
import httpx

from shim.headers import Headers
from shim.transport import wire
from shim.transport.wire import WireRequest, WireResponse

# The first that fits: some are of the others' kinds.
_ERRORS: tuple[tuple[type[Exception], type[wire.TransportError]], ...] = (
    # httpx's parser says so of a body that is not as long as its Content-Length, and httpx passes that on as it is.
    (h11.LocalProtocolError, wire.LocalProtocolError),
    (httpx.LocalProtocolError, wire.LocalProtocolError),
    (httpx.ConnectError, wire.ConnectError),
    (httpx.ConnectTimeout, wire.ConnectTimeout),
    (httpx.ProxyError, wire.ConnectError),  # it opened no tunnel
    (httpx.TimeoutException, wire.ReadTimeout),
    (httpx.WriteError, wire.WriteError),
    (httpx.TransportError, wire.RemoteProtocolError),
)


class HttpxTransport:
    """Carries calls by way of a transport of httpx's."""

    def __init__(self, carrier: httpx.AsyncBaseTransport) -> None:
        self._carrier = carrier

    async def send(self, request: WireRequest) -> HttpxResponse:
        """Raises wire.TransportError, and what the body raises."""
        origin = request.origin
        url = f"{origin.scheme}://{origin.authority.decode('ascii')}"
        given = httpx.Request(
            request.method,
            url,
            headers=request.headers,
            stream=httpx.ByteStream(request.body) if isinstance(request.body, bytes) else _Body(request.body),
            extensions={
                "timeout": httpx.Timeout(
                    # It knows one silence, of head and body alike.
                    None,
                    connect=request.connect_timeout,
                    read=request.read_timeout,
                ).as_dict()
            },
        )
        given.url = _Url(url, request.target)
        try:
            return HttpxResponse(await self._carrier.handle_async_request(given))
        except (httpx.TransportError, h11.LocalProtocolError) as error:
            raise _translated(error) from error

    async def aclose(self) -> None:
        await self._carrier.aclose()


class HttpxResponse(WireResponse):
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Headers = response.headers.raw
        # Its bytes as they came: httpx's own iterators count and may decode them.
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except httpx.TransportError as error:
            raise _translated(error) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def open_httpx(proxy: str | None, verify: ssl.SSLContext | None, keepalive: float) -> HttpxTransport:
    """Opens no connection yet. `keepalive` is in seconds."""
    return HttpxTransport(
        httpx.AsyncHTTPTransport(
            verify=verify or ssl.create_default_context(),
            proxy=httpx.Proxy(proxy) if proxy else None,
            # As many connections as calls in flight, as with our own.
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=keepalive
            ),
        )
    )


class _Url(httpx.URL):
    """A URL whose target goes on the wire as it is.

    Given as httpx's extension, the target would be asked of a proxy itself, by CONNECT too.
    """

    def __init__(self, origin: str, target: bytes) -> None:
        super().__init__(origin)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


class _Body(httpx.AsyncByteStream):
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces


def _translated(error: Exception) -> wire.TransportError:
    kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
    return kind(str(error))
