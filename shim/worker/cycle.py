"""One request and its response, on the connection that carries them."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from shim.asgi import Message, Scope
from shim.headers import Headers, joined, values_of

# How much of a body may have arrived before somebody asks for it.
READ_AHEAD_BYTES = 64 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Their responses have no body, whatever their headers say (RFC 9112, section 6.3).
_BODILESS = frozenset([204, 304])


class Wire(Protocol):
    """The connection, as far as a request needs it."""

    @property
    def is_writable(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def read_on(self) -> None: ...
    def finish(self, cycle: Cycle) -> None: ...


class Cycle:
    """A request as it arrives, and the outlet of its response. `is_over` says that the response is complete.

    `is_gone` says that the caller disconnected before that. `keep_alive` is whether the connection may serve another
    request after this one; `expects_continue` whether the caller waits for a word before it sends the body.
    """

    def __init__(self, wire: Wire, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.is_gone = False
        self.is_over = False
        self._wire = wire
        self._expects_continue = expects_continue
        self._pieces: list[bytes] = []
        self._size = 0
        self._has_all = False
        self._has_news = False
        self._reader: asyncio.Future[None] | None = None
        self._has_begun = False
        self._is_chunked = False
        # Of the response's body, where its head tells how long it is.
        self._left = 0

    async def receive(self) -> Message:
        """What has arrived of the body since the last call, or the caller's disconnect; for one reader at a time."""
        if self._expects_continue and not self._has_begun:
            self._expects_continue = False
            self._wire.write(_CONTINUE)
        while not (self._has_news or self.is_gone or self.is_over):
            self._wire.read_on()
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self.is_gone or self.is_over:
            return {"type": "http.disconnect"}
        self._has_news = False
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._drop()
        return {"type": "http.request", "body": body, "more_body": not self._has_all}

    @property
    def is_writable(self) -> bool:
        return self._wire.is_writable

    async def drain(self) -> None:
        await self._wire.drain()

    def begin(self, status: int, headers: Headers) -> None:
        framing: Headers = []
        if self.scope["method"] != "HEAD" and status not in _BODILESS:
            lengths = values_of(headers, b"content-length")
            if lengths:
                self._left = int(lengths[0])
            else:
                self._is_chunked = True
                framing.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            framing.append((b"connection", b"close"))
        self._has_begun = True
        self._wire.write(joined(_status_line(status), headers + framing))

    def write(self, body: bytes) -> bool:
        if not body:
            pass  # an empty chunk would end the response
        elif self._is_chunked:
            self._wire.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif self.scope["method"] != "HEAD":
            self._left -= len(body)
            if self._left < 0:
                raise ValueError("the response is longer than its Content-Length")
            self._wire.write(body)
        return self._wire.is_writable

    def end(self) -> None:
        if self._left:
            raise ValueError("the response is shorter than its Content-Length")
        if self._is_chunked:
            self._wire.write(b"0\r\n\r\n")
        self.is_over = not self.is_gone
        self._drop()  # what nobody has read would keep the connection from reading on
        self._wake()
        self._wire.finish(self)

    # What the connection reports.
    @property
    def is_far_ahead(self) -> bool:
        return self._size > READ_AHEAD_BYTES

    def arrived(self, piece: bytes) -> None:
        """A piece of the request's body; dropped once nobody needs it any more."""
        if not self.is_over:
            self._pieces.append(piece)
            self._size += len(piece)
            self._has_news = True
            self._wake()

    def arrived_whole(self) -> None:
        self._has_all = self._has_news = True
        self._wake()

    def disconnected(self) -> None:
        self.is_gone = not self.is_over
        self._wake()

    def _drop(self) -> None:
        self._pieces.clear()
        self._size = 0

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    phrase = next((each.phrase for each in HTTPStatus if each == status), "")
    return b"HTTP/1.1 %d %s" % (status, phrase.encode("ascii"))
