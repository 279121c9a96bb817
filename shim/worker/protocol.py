"""HTTP/1.1 as the Functions host speaks it to the worker: requests one after the other, and no pipelining.

What cannot be parsed is refused in OpenAI's shape, and its invocation ended. The parser is llhttp, by way of httptools.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import unquote

import httptools

from shim import errors
from shim.errors import InvalidRequest, MethodNotAllowed, ShimError, describe_defect
from shim.headers import Headers, announces_body, joined
from shim.worker.cycle import Cycle
from shim.worker.invocations import ARRIVED, Invocations

log = logging.getLogger("shim")

# One asks for a tunnel, the other for its own request back, keys and all (RFC 9110, sections 9.3.6 and 9.3.8).
_REFUSED_METHODS = frozenset([b"CONNECT", b"TRACE"])
# The host takes 32 KB of headers from a caller (devhost/limits.py), and adds a few.
MAX_HEAD_BYTES = 64 * 1024
# At once, as from upstream (transport/direct.py).
READ_BYTES = 240 * 1024
_INVOCATION_ID_LINE = re.compile(rb"^x-ms-invocation-id:[ \t]*([0-9A-Za-z-]{1,64})[ \t]*\r?$", re.I | re.M)

type App = Callable[[Cycle], Awaitable[None]]


class Connections:
    """What a server's connections share, and who they are. What is read into `buffer` is parsed before the next is."""

    def __init__(self, app: App, invocations: Invocations) -> None:
        self.app = app
        self.invocations = invocations
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.opened: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> Connection:
        return Connection(asyncio.get_running_loop(), self)

    async def close_idle_forever(self, keep_alive: float) -> None:
        """Closes, five times in `keep_alive` seconds, connections that have been idle for longer than that."""
        while True:
            await asyncio.sleep(keep_alive / 5)
            since = asyncio.get_running_loop().time() - keep_alive
            for connection in list(self.opened):
                if connection.idle_since is not None and connection.idle_since < since:
                    connection.close()

    async def drain(self, seconds: float) -> None:
        """Has every connection close after the response in progress; what takes longer than `seconds` is cut off."""
        try:
            async with asyncio.timeout(seconds):
                while self.opened or self.tasks:
                    # Each time anew: one that was accepted before the listener closed may only come now.
                    for connection in list(self.opened):
                        connection.close()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            log.error("%d connections were cut off by the worker's shutdown", len(self.opened))
            for task in self.tasks:
                task.cancel()


class Connection(asyncio.BufferedProtocol):
    """One connection of the host's. Refuses what it cannot parse, and ends the invocation beside it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, among: Connections) -> None:
        self.idle_since: float | None = loop.time()
        self._loop = loop
        self._among = among
        self._parser = httptools.HttpRequestParser(self)
        self.is_writable = True
        self._writable: asyncio.Event | None = None
        self._is_reading = True
        self._cycle: Cycle | None = None
        # Where the parser is: in neither, between two requests.
        self._in_head = self._in_body = False
        # With all that came of a head: where that cannot be parsed, the invocation's id is found in it.
        self._received = b""
        self._url = b""
        self._headers: Headers = []
        self._refusal: ShimError | None = None

    def write(self, data: bytes) -> None:
        """Nothing to a caller who has left: uvloop's transports raise once they are closed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        if not self.is_writable:
            self._writable = self._writable or asyncio.Event()
            await self._writable.wait()

    def read_on(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()

    def finish(self, cycle: Cycle) -> None:
        """The response is complete: the next request may come."""
        if cycle.keep_alive:
            self.idle_since = self._loop.time()
            self.read_on()
        else:
            self._transport.close()

    def close(self) -> None:
        """At once if no request is in progress, else after the response."""
        if self._cycle is None or self._cycle.is_over:
            self._transport.close()
        else:
            self._cycle.keep_alive = False

    async def _serve(self, cycle: Cycle) -> None:
        try:
            await self._among.app(cycle)
        except Exception as defect:
            log.error("a response broke off: %s", describe_defect(defect))
        finally:
            if not cycle.is_over:  # the caller finds an end where none should be
                self._transport.close()

    # asyncio's
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports are not asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._among.opened.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._among.opened.discard(self)
        self.resume_writing()
        if self._cycle is not None:
            self._cycle.disconnected()
        # Both know this connection: all three would stay until the collector looks.
        self._cycle = None
        del self._parser

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._among.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._among.buffer[:nbytes]
        if self._in_body:
            self._received = b""
        else:
            self._received = (self._received if self._in_head else b"") + bytes(data[:MAX_HEAD_BYTES])
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # of no use to anybody here: it is answered as any other request without a body
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._in_head and len(self._received) >= MAX_HEAD_BYTES:
            self._refuse()
        elif self._cycle is not None and self._cycle.is_far_ahead and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    # httptools'
    def on_message_begin(self) -> None:
        if self._cycle is not None and not self._cycle.is_over:
            # The host does not pipeline, and of several requests only one could be told of a disconnect.
            raise ValueError("a request before the response to the last one")
        self.idle_since = None
        self._in_head = True
        self._url = b""
        self._headers = []

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header (RFC 9110, section 6.5.1)
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        method = self._parser.get_method()
        if method in _REFUSED_METHODS:
            self._refusal = MethodNotAllowed("CONNECT and TRACE are not passed on. Nothing was sent on.")
            raise ValueError("a method that is not passed on")
        # Older ones know no chunks, and llhttp takes a newer one too.
        if self._parser.get_http_version() != "1.1":
            raise ValueError("another version of HTTP")
        if self._parser.should_upgrade() and announces_body(self._headers):
            raise ValueError("an upgrade with a body, which httptools would drop")
        # An absolute-form target names a host of its own, which would be dropped.
        if not self._url.startswith(b"/"):
            raise ValueError("the request target is not a path")
        target = httptools.parse_url(self._url)
        path = target.path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": target.path,
            "query_string": target.query or b"",
            "root_path": "",
            "headers": self._headers,
            "client": None,
            "server": None,
            "state": {},
        }
        self._cycle = Cycle(
            self,
            scope,
            keep_alive=self._parser.should_keep_alive(),
            expects_continue=any(
                name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers
            ),
        )
        # Eagerly: it has a way to go before it has to wait, and can begin without a turn of the loop.
        task = asyncio.Task(self._serve(self._cycle), loop=self._loop, eager_start=True)
        self._among.tasks.add(task)
        task.add_done_callback(self._among.tasks.discard)
        self._in_head, self._in_body = False, True

    def on_body(self, piece: bytes) -> None:
        if self._cycle is not None:
            self._cycle.arrived(piece)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._cycle is not None:
            self._cycle.scope["state"][ARRIVED] = True
            self._cycle.arrived_whole()
            if self._cycle.is_over:  # the response came before the end of the request
                self.idle_since = self._loop.time()

    def _refuse(self) -> None:
        if not self._in_head:
            # In the middle of a body, or of a response: the handler at work learns of it as of a caller who left. After
            # the response, another one would be taken for that to the next request.
            self._transport.abort()
            return
        status, headers, content = errors.render(self._refusal or _not_http())
        head = joined(b"HTTP/1.1 %d " % status, [*headers, (b"connection", b"close")])
        self.write(head + content)
        self._transport.close()
        if match := _INVOCATION_ID_LINE.search(self._received):
            refusing = self._loop.create_task(self._among.invocations.refuse(match[1].decode("ascii")))
            self._among.tasks.add(refusing)
            refusing.add_done_callback(self._among.tasks.discard)


def _not_http() -> InvalidRequest:
    return InvalidRequest("The request line or a header is not valid HTTP/1.1. Nothing was sent on.")
