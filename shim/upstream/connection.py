"""One HTTP/1.1 connection to upstream: a request goes out, its answer comes in, and every byte stays as it is.

The parser is llhttp, Node's own, by way of httptools. It is kept strict: what it refuses has no one meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shim.headers import Headers

# Of an answer that is read more slowly than it comes; each of its connections holds that much.
_READ_AHEAD_BYTES = 64 * 1024
# Of the head of an answer, and of what may stand between the pieces of its body. Services behind gateways send long
# headers (content-security-policy, say).
_MAX_HEAD_BYTES = 128 * 1024

type Released = Callable[[Connection], None]


class Exchange:
    """A request on its way, and its answer. `answered` is done once the answer's head has come.

    Iterated over, it gives the body as it comes, pieces that came together as one. Closed before the end, it closes
    its connection: that is what cancels the request upstream.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: Headers = []
        self.answered: asyncio.Future[None] = loop.create_future()
        self.upload: asyncio.Task[None] | None = None
        self._loop = loop
        self._connection: Connection | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._arrived: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises httpx.TransportError where the answer does not come to its end."""
        while True:
            if self._pieces:
                yield self._take()
            elif self._error is not None:
                raise self._error
            elif self._connection is None:
                return
            else:
                self._arrived = self._loop.create_future()
                await self._arrived

    def _take(self) -> bytes:
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._connection is not None:
            self._connection.read_on()
        return piece

    @property
    def is_far_ahead(self) -> bool:
        return self._size > _READ_AHEAD_BYTES

    # What the connection has to tell.
    def begin(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        if not self.answered.done():
            self.answered.set_result(None)

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def end(self, error: Exception | None = None) -> None:
        """After this, the connection has nothing more to do with it."""
        self._connection = None
        self._error = error
        if error is not None and not self.answered.done():
            self.answered.set_exception(error)
        if self.upload is not None and self.upload is not asyncio.current_task(self._loop):
            self.upload.cancel()
        self.wake()

    def close(self) -> None:
        self._pieces.clear()
        if self._connection is not None:
            self._connection.close()
            self.end()


class Connection(asyncio.BufferedProtocol):
    """Carries one exchange at a time; `release` is called when it is free for the next.

    All of a thread's connections may share a `buffer`: what is read into it is parsed before the next is read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: memoryview, release: Released) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._buffer = buffer
        self._release = release
        self._parser = HttpResponseParser(self)
        # Some servers pad the sizes of chunks.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._transport: asyncio.Transport
        self._reading = True
        self._writable: asyncio.Future[None] | None = None
        self._exchange: Exchange | None = None
        self._begin_answer(head_only=False)

    def _begin_answer(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self._headers: Headers = []
        self._in_head = True
        self._is_interim = False
        self._is_over = False
        self._keep_alive = False
        self._overhead = 0  # bytes since the last that anybody was given

    @property
    def is_usable(self) -> bool:
        return self._exchange is None and not self._transport.is_closing()

    def send(
        self, head: bytes, body: bytes | AsyncIterator[bytes], length: int | None, *, head_only: bool
    ) -> Exchange:
        """Sends a request, its body as that comes: `length` bytes, or chunked where that is None.

        `head_only` says that no body follows the head of the answer (HEAD).
        """
        exchange = self._exchange = Exchange(self, self._loop)
        self._begin_answer(head_only=head_only)
        if isinstance(body, bytes):
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            exchange.upload = self._loop.create_task(self._upload(exchange, body, length))
        return exchange

    def close(self) -> None:
        """At once, whatever is under way."""
        self._exchange = None
        self._transport.abort()

    def read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    async def _upload(self, exchange: Exchange, body: AsyncIterator[bytes], length: int | None) -> None:
        try:
            if length is None:
                await self._write_chunks(body)
            else:
                await self._write_bytes(body, length)
        except Exception as error:
            # The caller's body broke off, and so has to the one upstream.
            if self._exchange is exchange:
                self.close()
                exchange.end(error)

    async def _write_chunks(self, body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            await self._drain()
        self._transport.write(b"0\r\n\r\n")

    async def _write_bytes(self, body: AsyncIterator[bytes], length: int) -> None:
        async for piece in body:
            length -= len(piece)
            if length < 0:
                break
            self._transport.write(piece)
            await self._drain()
        # Else its rest would be taken for the next request on this connection, or the next request for its rest.
        if length:
            raise httpx.LocalProtocolError("the body is not as long as its Content-Length")

    async def _drain(self) -> None:
        if self._writable is not None:
            await self._writable

    # asyncio's
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports are not asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self._exchange
        if exchange is None:  # an answer to nothing that was asked
            self.close()
            return
        self._overhead += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade):
            self._keep_alive = False
            if not self._is_over:
                self._fail(exchange, "its answer is not HTTP/1.1")
                return
        if self._is_over:
            self._finish(exchange)
        elif self._overhead > _MAX_HEAD_BYTES:
            self._fail(exchange, f"the head of its answer has more than {_MAX_HEAD_BYTES} bytes")
        else:
            exchange.wake()
            if exchange.is_far_ahead and self._reading:
                self._reading = False
                self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        if self._exchange is None:
            return
        if error is None and not self._in_head and not _is_framed(self._headers):
            self._finish(self._exchange)
        else:
            reason = "it closed the connection" if error is None else type(error).__name__
            self._fail(self._exchange, reason)

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        uploaded = exchange.upload is None or exchange.upload.done()
        exchange.end()
        if uploaded and self._keep_alive and not self._transport.is_closing():
            self.read_on()
            self._release(self)
        else:
            self._transport.abort()

    def _fail(self, exchange: Exchange, reason: str) -> None:
        self.close()
        exchange.end(httpx.RemoteProtocolError(reason))

    # httptools'
    def on_message_begin(self) -> None:
        if self._is_over:  # a second answer to the one request
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not in the trailers, which no client of OpenAI's reads
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim or self._is_over or self._exchange is None:
            return
        self._in_head = False
        self._overhead = 0
        self._exchange.begin(status, self._headers)
        # The parser cannot be told that no body follows, and so waits for one: with it, the connection is done for.
        self._is_over = self._head_only

    def on_body(self, piece: bytes) -> None:
        if not self._is_over and self._exchange is not None:
            self._overhead = 0
            self._exchange.add(piece)

    def on_message_complete(self) -> None:
        if self._is_interim:  # what it announces is between upstream and the shim
            self._headers = []
        elif not self._is_over:
            self._is_over = True
            self._keep_alive = self._parser.should_keep_alive()


def _is_framed(headers: Headers) -> bool:
    """Whether the answer says itself where it ends, rather than by the connection's end (RFC 9112, section 6.3)."""
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)
