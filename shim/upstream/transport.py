"""Connections to upstream: opened, kept, used again. Requests go out on them as bytes that nobody else has a say in.

httpx's own pool, and aiohttp's, each take several times as long for a call, re-encode URLs and add headers of their own
(bench/NOTES.md); a proxy can have none of that. What goes wrong has httpx's names.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs
import httpx
from aiohappyeyeballs.types import AddrInfoType

from shim.headers import Headers
from shim.upstream.connection import Connection, Exchange

# Idle connections are let go before API Management's load balancer drops them, without a word, after four minutes:
# https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset
_KEEPALIVE_SECONDS = 90.0
# Of silence, after which TCP asks whether the other end is there: a long wait for an answer is not dropped either.
_PROBE_SECONDS = 60
# After which another address is tried beside one that does not answer (RFC 8305, section 5).
_HAPPY_EYEBALLS_SECONDS = 0.25
_READ_BYTES = 64 * 1024
# Requests with these have a length, or servers wait for one (RFC 9110, section 8.6; http.sys answers 411).
_METHODS_WITH_CONTENT = frozenset(["POST", "PUT", "PATCH"])
_PORTS = {"http": 80, "https": 443}


class _Origin(NamedTuple):
    host: str
    port: int
    secure: bool
    authority: bytes


type Resolve = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]


class Transport:
    """Carries calls over HTTP/1.1. No cookies, redirects, decoding or proxies; and no request is ever sent twice.

    `connect_timeout` is in seconds, and spans name look-up, TCP and TLS. How long an answer may take is for the caller
    of this to say. There are as many connections as requests in flight, which the Functions host bounds: a wait for
    a connection would be a hidden queue.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        verify: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._verify = verify
        self._resolve = resolve or _resolve
        self._idle: dict[_Origin, list[Connection]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))

    async def send(
        self, method: str, origin: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> Exchange:
        """Sends a request to `origin` (`https://host[:port]`), and waits for the head of its answer.

        `target` goes on the wire as it is, and so do the headers, after Host and before one that frames the body if
        none does. A body that is not at hand is sent as it comes, and may still be coming when this returns.

        Raises httpx.LocalProtocolError for what HTTP/1.1 cannot say. Of what the network does, raises
        httpx.TransportError and nothing else: ConnectError or ConnectTimeout where nothing was sent.
        """
        to = _parsed(origin)
        length = next((int(value) for name, value in headers if name == b"content-length"), None)
        fields = [(b"host", to.authority), *headers]
        if length is None:
            if not isinstance(body, bytes):
                fields.append((b"transfer-encoding", b"chunked"))
            elif body or method in _METHODS_WITH_CONTENT:
                fields.append((b"content-length", b"%d" % len(body)))
        elif isinstance(body, bytes) and length != len(body):
            raise httpx.LocalProtocolError("the body is not as long as its Content-Length")
        head = _head(method, target, fields)
        connection = self._idle_one(to) or await self._connect(to)
        exchange = connection.send(head, body, length, head_only=method == "HEAD")
        try:
            await exchange.answered
        except BaseException:
            exchange.close()
            raise
        return exchange

    def close(self) -> None:
        """Closes idle connections. Those in use belong to their exchanges."""
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

        def release(connection: Connection) -> None:
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, []).append(connection)
            if self._sweeping is None:
                self._sweeping = loop.call_later(_KEEPALIVE_SECONDS, self._sweep)

        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop, self._buffer, release),
                    sock=await self._dial(origin),
                    ssl=self._trust() if origin.secure else None,
                    server_hostname=origin.host if origin.secure else None,
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {self._connect_timeout:g} s") from error
        except (OSError, UnicodeError) as error:  # DNS, TLS and certificates among them; names that are none
            raise httpx.ConnectError(type(error).__name__) from error
        _probe_when_silent(transport.get_extra_info("socket"))
        return connection

    async def _dial(self, origin: _Origin) -> socket.socket:
        """A TCP connection to whichever of the host's addresses answers first.

        aiohappyeyeballs, because the worker runs uvloop (proxy_worker/start_worker.py), whose `create_connection` has
        no `happy_eyeballs_delay`.
        """
        return await aiohappyeyeballs.start_connection(
            await self._resolve(origin.host, origin.port),
            happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS,
            interleave=1,
        )

    def _trust(self) -> ssl.SSLContext:
        if self._verify is None:
            self._verify = ssl.create_default_context()
        return self._verify

    def _sweep(self) -> None:
        """Closes what has been idle for too long, so that upstream need not hold it either."""
        self._sweeping = None
        for origin, connections in self._idle.items():
            fresh = [connection for connection in connections if self._is_fresh(connection)]
            for connection in set(connections).difference(fresh):
                connection.close()
            self._idle[origin] = fresh
        if any(self._idle.values()):
            self._sweeping = asyncio.get_running_loop().call_later(_KEEPALIVE_SECONDS / 3, self._sweep)


async def _resolve(host: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


@lru_cache(maxsize=8)  # the settings name two at most
def _parsed(origin: str) -> _Origin:
    parts = urlsplit(origin)
    default = _PORTS[parts.scheme]
    authority = parts.netloc.removesuffix(f":{default}")
    return _Origin(
        parts.hostname or "", parts.port or default, parts.scheme == "https", authority.encode("ascii")
    )


def _head(method: str, target: str, headers: Headers) -> bytes:
    """Raises httpx.LocalProtocolError where a part could pass for several (RFC 9112, section 11.1)."""
    line = f"{method} {target} HTTP/1.1".encode("ascii", "replace")
    head = b"\r\n".join([line, *map(b": ".join, headers), b"\r\n"])
    breaks = len(headers) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or line.count(b" ") != 2:
        raise httpx.LocalProtocolError("a header or the URL holds a character that HTTP does not allow")
    return head


def _probe_when_silent(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Named so on Linux, and on macOS TCP_KEEPALIVE.
    if option := getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None):
        connected.setsockopt(socket.IPPROTO_TCP, option, _PROBE_SECONDS)
