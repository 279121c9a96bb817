"""A transport of our own: connections to other servers, opened, kept and used again.

httpx's own pool, and aiohttp's, each take several times as long for a call, re-encode targets or join headers
(docs/benchmarks.md); a proxy can have none of that.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import aiohappyeyeballs
from aiohappyeyeballs.types import AddrInfoType

from shim.headers import Headers, joined
from shim.transport.connection import Connection
from shim.transport.exchange import Exchange, StaleConnectionError
from shim.transport.pool import KEEPALIVE_SECONDS, Counts, Pool
from shim.transport.sockets import make_socket
from shim.transport.tcp import Tcp, probe_when_silent
from shim.transport.tls import Trust, default_trust
from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    Origin,
    ReadTimeout,
    WireRequest,
)

# After which another address is tried beside one that does not answer (RFC 8305, section 5).
HAPPY_EYEBALLS_SECONDS = 0.25
# At once: a large body takes a turn of the loop for each of these (bench/NOTES.md). Less than what is mapped by itself
# (worker/memory.py).
READ_BYTES = 240 * 1024
# What may be repeated though upstream may have acted on it (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])

type Resolve = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]


class ShimTransport:
    """Carries calls over HTTP/1.1, as they are: no cookies, redirects, decoding, and no headers but the request's.

    There are as many connections as requests in flight, which the Functions host bounds: a wait for a connection would
    be a hidden queue.

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
        self._trust = Trust.of(verify) if verify is not None else None
        self._resolve = resolve or _resolve
        self._pools: dict[Origin, Pool] = {}
        self._opening: set[asyncio.Task[Connection]] = set()
        self._buffer = memoryview(bytearray(READ_BYTES))

    async def send(self, request: WireRequest) -> Exchange:
        """Sends the request and waits for the head of its response; a body may still be on its way when this returns.

        Raises LocalProtocolError for what HTTP/1.1 cannot say. Of what the network does, raises TransportError and
        nothing else: ConnectError if nothing was sent.
        """
        body, length = request.body, _length_of(request.headers, request.body)
        head = _head(request.method, request.target, request.headers)

        async def attempt(connection: Connection) -> Exchange:
            exchange = connection.send(
                head, body, length, head_only=request.method == "HEAD", read_timeout=request.read_timeout
            )
            await _begun(exchange, request.head_timeout)
            return exchange

        pool = self._pool(request.origin)
        if pooled := pool.take():
            try:
                return await attempt(pooled)
            except StaleConnectionError as stale:
                self.counts.stale += 1
                repeatable = isinstance(body, bytes) and (request.method in _IDEMPOTENT or not stale.accepted)
                if not repeatable:
                    raise
                self.counts.repeated += 1
        connection = await self._connect(request.origin, pool, request.connect_timeout)
        exchange = await attempt(connection)
        if tls := connection.tls:
            self._trusted().sessions.keep(tls)
        return exchange

    async def aclose(self) -> None:
        """Closes idle connections, and those that are still being opened for nobody once they are.

        Those in use belong to their exchanges.
        """
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin.host, self.counts, self._keepalive)
        return pool

    async def _connect(self, origin: Origin, pool: Pool, timeout: float | None) -> Connection:
        """A connection that nobody waits for any more is opened all the same, and kept for the next call.

        Cancelled at the wrong moment of TLS's handshake, uvloop logs a fatal error and keeps its buffers.
        """
        opening = asyncio.get_running_loop().create_task(self._open(origin, pool, timeout))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(opening)
        except BaseException as error:
            opening.add_done_callback(pool.keep_opened)
            if isinstance(error, TimeoutError):  # ours, or the kernel's own
                within = "in time" if timeout is None else f"within {timeout:g} s"
                raise ConnectTimeout(f"no connection {within}") from error
            if isinstance(error, OSError | UnicodeError):  # DNS, TLS and certificates; names that are none
                raise ConnectError(type(error).__name__) from error
            raise

    async def _open(self, origin: Origin, pool: Pool, timeout: float | None) -> Connection:
        """Raises OSError or UnicodeError; takes no longer than twice the `timeout`."""
        loop, secure = asyncio.get_running_loop(), origin.scheme == "https"
        async with asyncio.timeout(timeout):
            connected = await self._dial(origin)
        probe_when_silent(connected)
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._look_at(connected), self._buffer, pool),
            sock=connected,
            ssl=self._trusted().context if secure else None,
            server_hostname=origin.host if secure else None,
            ssl_handshake_timeout=timeout if secure else None,
        )
        self.counts.opened += 1
        return connection

    async def _dial(self, origin: Origin) -> socket.socket:
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

    def _trusted(self) -> Trust:
        if self._trust is None:
            self._trust = default_trust()
        return self._trust


async def _begun(exchange: Exchange, timeout: float | None) -> None:
    if timeout is None:
        await exchange.begun()
        return
    try:
        async with asyncio.timeout(timeout):
            await exchange.begun()
    except TimeoutError:
        raise ReadTimeout(f"no response within {timeout:g} s") from None


async def _resolve(host: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _length_of(headers: Headers, body: bytes | AsyncIterator[bytes]) -> int | None:
    """The length that the headers announce; None for a chunked body. Raises LocalProtocolError."""
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    if len(lengths) > 1 or (lengths and chunked):
        raise LocalProtocolError("the body is framed twice")
    if isinstance(body, bytes):
        if chunked or int(lengths[0] if lengths else 0) != len(body):
            raise LocalProtocolError("the body is not as long as its Content-Length")
    elif not lengths and not chunked:
        raise LocalProtocolError("a body of unknown length must be chunked")
    return int(lengths[0]) if lengths else None


def _head(method: str, target: bytes, headers: Headers) -> bytes:
    """Raises LocalProtocolError for what HTTP/1.1 cannot say."""
    line = b"%s %s HTTP/1.1" % (method.encode("ascii", "replace"), target)
    try:
        if line.count(b" ") == 2:
            return joined(line, headers)
    except ValueError:
        pass
    raise LocalProtocolError("a header or the URL holds a character that HTTP does not allow")
