"""An httpx transport of our own: connections to upstream, opened, kept and used again.

httpx's own pool, and aiohttp's, each take several times as long for a call, re-encode targets or join headers
(docs/benchmarks.md); a proxy can have none of that. What goes wrong has httpx's names.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import aiohappyeyeballs
import httpx
from aiohappyeyeballs.types import AddrInfoType

from shim.headers import Headers, joined
from shim.keys.azure.sockets import make_socket
from shim.upstream.connection import Connection
from shim.upstream.exchange import Exchange, StaleConnectionError
from shim.upstream.pool import KEEPALIVE_SECONDS, Counts, Pool
from shim.upstream.tcp import Tcp, probe_when_silent
from shim.upstream.tls import Sessions

# After which another address is tried beside one that does not answer (RFC 8305, section 5).
HAPPY_EYEBALLS_SECONDS = 0.25
# At once: a large body takes a turn of the loop for each of these (bench/NOTES.md). Less than what is mapped by itself
# (worker/memory.py).
READ_BYTES = 240 * 1024
# What may be repeated though upstream may have acted on it (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])

type Resolve = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]


class _Origin(NamedTuple):
    host: str
    port: int
    secure: bool


class _Times(NamedTuple):
    connect: float | None
    read: float | None


class ShimTransport(httpx.AsyncBaseTransport):
    """Carries calls over HTTP/1.1, as they are: no cookies, redirects, decoding, and no headers but the request's.

    Takes httpx's request extensions `target`, which goes on the wire as it is, and `timeout`, of which `connect` spans
    name look-up, TCP and TLS, and `read` is the silence that a response's body may have; how long its head may take is
    for the caller of this to say. There are as many connections as requests in flight, which the Functions host bounds:
    a wait for a connection would be a hidden queue.

    A request that met the end of a connection used before is repeated once, on a new one, if upstream cannot have taken
    any of it, or may be asked twice.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        keepalive: float = KEEPALIVE_SECONDS,
        look_at: Callable[[socket.socket], Tcp] = Tcp,
    ) -> None:
        self.counts = Counts()
        self._keepalive = keepalive
        self._look_at = look_at
        self._verify = verify
        self._tls: ssl.SSLContext | None = None
        self._resolve = resolve or _resolve
        self._pools: dict[_Origin, Pool] = {}
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._sessions = Sessions()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request and waits for the head of its response; a body may still be on its way when this returns.

        Raises httpx.LocalProtocolError for what HTTP/1.1 cannot say. Of what the network does, raises
        httpx.TransportError and nothing else: ConnectError or ConnectTimeout if nothing was sent.
        """
        headers = request.headers.raw
        target = request.extensions.get("target", request.url.raw_path)
        body = _body_of(request)
        length = _length_of(headers, body)
        head = _head(request.method, target, headers)
        times = _times_of(request)
        origin = _Origin(
            request.url.host, request.url.port or _default_port(request), request.url.scheme == "https"
        )

        async def attempt(connection: Connection) -> httpx.Response:
            exchange = connection.send(
                head, body, length, head_only=request.method == "HEAD", read_timeout=times.read
            )
            return await _response_of(exchange)

        pool = self._pool(origin)
        if pooled := pool.take():
            try:
                return await attempt(pooled)
            except StaleConnectionError as stale:
                self.counts.stale += 1
                repeatable = isinstance(body, bytes) and (request.method in _IDEMPOTENT or not stale.accepted)
                if not repeatable:
                    raise
                self.counts.repeated += 1
        connection = await self._connect(origin, pool, times.connect)
        response = await attempt(connection)
        if tls := connection.tls:
            self._sessions.keep(tls)
        return response

    async def aclose(self) -> None:
        """Closes idle connections. Those in use belong to their exchanges."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _pool(self, origin: _Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(self.counts, self._keepalive)
        return pool

    async def _connect(self, origin: _Origin, pool: Pool, timeout: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                connected = await self._dial(origin)
                probe_when_silent(connected)
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._look_at(connected), self._buffer, pool),
                    sock=connected,
                    ssl=self._trust() if origin.secure else None,
                    server_hostname=origin.host if origin.secure else None,
                    # uvloop keeps what is cancelled at the wrong moment, 256 KiB of buffer with it, until this ends:
                    # a minute unless it is told.
                    ssl_handshake_timeout=timeout if origin.secure else None,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {timeout:g} s") from error
        except (OSError, UnicodeError) as error:  # DNS, TLS and certificates among them; names that are none
            raise httpx.ConnectError(type(error).__name__) from error
        self.counts.opened += 1
        return connection

    async def _dial(self, origin: _Origin) -> socket.socket:
        """A TCP connection to whichever of the host's addresses answers first.

        aiohappyeyeballs, because the worker runs uvloop (proxy_worker/start_worker.py), whose `create_connection` has
        no `happy_eyeballs_delay`.
        """
        return await aiohappyeyeballs.start_connection(
            await self._resolve(origin.host, origin.port),
            happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS,
            interleave=1,
            socket_factory=make_socket,
        )

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = self._sessions.resumed_by(self._verify or ssl.create_default_context())
        return self._tls


async def _response_of(exchange: Exchange) -> httpx.Response:
    try:
        await exchange.answered
        exchange.raise_if_broken()
    except BaseException:
        exchange.close()
        raise
    return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange)


async def _resolve(host: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _default_port(request: httpx.Request) -> int:
    return 443 if request.url.scheme == "https" else 80


def _times_of(request: httpx.Request) -> _Times:
    times = request.extensions.get("timeout", {})
    return _Times(times.get("connect"), times.get("read"))


def _body_of(request: httpx.Request) -> bytes | AsyncIterator[bytes]:
    """The body at once if it is at hand, else as it arrives."""
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream)
    assert isinstance(request.stream, httpx.AsyncByteStream)
    return aiter(request.stream)


def _length_of(headers: Headers, body: bytes | AsyncIterator[bytes]) -> int | None:
    """The length that the headers announce; None for a chunked body. Raises httpx.LocalProtocolError."""
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    if len(lengths) > 1 or (lengths and chunked):
        raise httpx.LocalProtocolError("the body is framed twice")
    if isinstance(body, bytes):
        if chunked or int(lengths[0] if lengths else 0) != len(body):
            raise httpx.LocalProtocolError("the body is not as long as its Content-Length")
    elif not lengths and not chunked:
        raise httpx.LocalProtocolError("a body of unknown length must be chunked")
    return int(lengths[0]) if lengths else None


def _head(method: str, target: bytes, headers: Headers) -> bytes:
    """Raises httpx.LocalProtocolError for what HTTP/1.1 cannot say."""
    line = b"%s %s HTTP/1.1" % (method.encode("ascii", "replace"), target)
    try:
        if line.count(b" ") == 2:
            return joined(line, headers)
    except ValueError:
        pass
    raise httpx.LocalProtocolError("a header or the URL holds a character that HTTP does not allow")
