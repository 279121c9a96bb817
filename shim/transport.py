"""An httpx transport that leaves bytes as they are: connections to upstream, kept and used again.

httpx's own transport and aiohttp's each take several times as long (bench/NOTES.md), and both have something to say
about URL and headers; a proxy can have none of that.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple, Self

import httpx

from shim.connection import Connection, Exchange
from shim.errors import Headers

# Idle connections are let go before API Management's load balancer drops them, without a word, after four minutes:
# https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset
_KEEPALIVE_SECONDS = 90.0
# Seconds of silence after which TCP asks whether the other end is there, so that the same load balancer does not drop
# a long wait for an answer.
_PROBE_SECONDS = 60
# Other addresses are tried beside one that does not answer (RFC 8305, section 5).
_HAPPY_EYEBALLS_SECONDS = 0.25
_READ_BYTES = 64 * 1024
# Their requests have a length, or servers wait for one (RFC 9110, section 8.6; http.sys answers 411).
_METHODS_WITH_CONTENT = frozenset([b"POST", b"PUT", b"PATCH"])


class _Origin(NamedTuple):
    scheme: bytes
    host: bytes
    port: int | None


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends a request whose `target` extension, if any, is the request target as it goes on the wire.

    https://www.python-httpx.org/advanced/extensions/#target. No cookies, redirects, decoding, proxies or headers
    of its own but Host and those that frame the body; and no request is ever sent twice.

    `connect_timeout` is in seconds, and spans name look-up, TCP and TLS. How long an answer may take is for the caller
    of this to say. There are as many connections as requests in flight, which the Functions host bounds: a wait for
    a connection would be a hidden queue.
    """

    def __init__(self, *, connect_timeout: float, verify: ssl.SSLContext | None = None) -> None:
        self._connect_timeout = connect_timeout
        self._verify = verify
        self._idle: dict[_Origin, list[Connection]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.LocalProtocolError for what HTTP/1.1 cannot say.

        Of what the network does, raises httpx.TransportError and nothing else: ConnectError and ConnectTimeout where
        nothing was sent.
        """
        url = request.url
        origin = _Origin(url.raw_scheme, url.raw_host, url.port)
        message = _Message.of(request)
        connection = self._idle_one(origin) or await self._connect(origin)
        exchange = message.go(connection)
        try:
            await exchange.answered
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange, request=request)

    async def aclose(self) -> None:
        """Closes idle connections. Those in use are their responses'."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _idle_one(self, origin: _Origin) -> Connection | None:
        """The one used last: those that are not needed grow old and go."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if self._is_fresh(connection):
                return connection
            connection.close()
        return None

    def _is_fresh(self, connection: Connection) -> bool:
        age = asyncio.get_running_loop().time() - connection.idle_since
        return connection.is_usable and age < _KEEPALIVE_SECONDS

    async def _connect(self, origin: _Origin) -> Connection:
        loop = asyncio.get_running_loop()
        host = origin.host.decode("ascii")

        def release(connection: Connection) -> None:
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, []).append(connection)
            if self._sweeping is None:
                self._sweeping = loop.call_later(_KEEPALIVE_SECONDS, self._sweep)

        secure = origin.scheme == b"https"
        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop, self._buffer, release),
                    host,
                    origin.port or (443 if secure else 80),
                    ssl=self._trust() if secure else None,
                    server_hostname=host if secure else None,
                    happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {self._connect_timeout:g} s") from error
        except OSError as error:  # DNS, TLS and certificates among them
            raise httpx.ConnectError(type(error).__name__) from error
        _probe_when_silent(transport.get_extra_info("socket"))
        return connection

    def _trust(self) -> ssl.SSLContext:
        if self._verify is None:
            self._verify = ssl.create_default_context()
        return self._verify

    def _sweep(self) -> None:
        """Closes what has been idle for too long, so that upstream need not hold it either."""
        self._sweeping = None
        for origin, connections in list(self._idle.items()):
            kept = [connection for connection in connections if self._is_fresh(connection)]
            for connection in set(connections).difference(kept):
                connection.close()
            self._idle[origin] = kept
        if any(self._idle.values()):
            self._sweeping = asyncio.get_running_loop().call_later(_KEEPALIVE_SECONDS / 3, self._sweep)


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as it goes on the wire."""

    head: bytes
    content: bytes
    stream: httpx.AsyncByteStream | None
    length: int | None
    head_only: bool

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        method = request.method.encode("ascii")
        headers = request.headers.raw
        content, stream = b"", None
        if isinstance(request.stream, httpx.ByteStream):
            content = b"".join(request.stream)
        else:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            stream = request.stream
        length = next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
        if length is None:
            if stream is not None:
                headers.append((b"transfer-encoding", b"chunked"))
            elif content or method in _METHODS_WITH_CONTENT:
                headers.append((b"content-length", b"%d" % len(content)))
        elif stream is None and length != len(content):
            raise httpx.LocalProtocolError("the body is not as long as its Content-Length")
        target = request.extensions.get("target", request.url.raw_path)
        head = _head(method, target, [(b"host", request.url.netloc), *headers])
        return cls(head, content, stream, length, method == b"HEAD")

    def go(self, connection: Connection) -> Exchange:
        if self.stream is None:
            return connection.send(self.head, self.content, head_only=self.head_only)
        return connection.send_streaming(
            self.head, aiter(self.stream), self.length, head_only=self.head_only
        )


def _head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Raises httpx.LocalProtocolError where a part could pass for several (RFC 9112, section 11.1)."""
    lines = [b"%s %s HTTP/1.1" % (method, target), *[b"%s: %s" % header for header in headers], b"\r\n"]
    head = b"\r\n".join(lines)
    breaks = len(lines)
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or lines[0].count(b" ") != 2:
        raise httpx.LocalProtocolError("a header or the URL holds a character that HTTP does not allow")
    return head


def _probe_when_silent(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Named so on Linux, and on macOS TCP_KEEPALIVE.
    if option := getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None):
        connected.setsockopt(socket.IPPROTO_TCP, option, _PROBE_SECONDS)
