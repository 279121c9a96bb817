"""One HTTP/1.1 connection to upstream: a request goes out, its response comes in, and every byte stays as it is.

The parser is llhttp, Node's own, by way of httptools. It is kept strict: what it refuses has no one meaning.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shim.headers import Headers
from shim.transport import framing
from shim.transport.exchange import Exchange, StaleConnectionError
from shim.transport.tcp import Tcp
from shim.transport.tls import said_close_notify
from shim.transport.wire import LocalProtocolError, RemoteProtocolError, WriteError

# Of the head of a response, and of what may stand between the pieces of its body. Services behind gateways send long
# headers (content-security-policy, say).
_MAX_HEAD_BYTES = 128 * 1024


class Owner(Protocol):
    """Who keeps connections between exchanges."""

    def release(self, connection: Connection) -> None: ...
    def distrust(self) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Carries one exchange at a time, and is given back to its `owner` when it is free for the next.

    All of a thread's connections may share a `buffer`: what is read into it is parsed before the next is read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tcp: Tcp, buffer: memoryview, owner: Owner) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._buffer = buffer
        self._owner = owner
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # Some servers pad the sizes of chunks.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._transport: asyncio.Transport | None = None
        self._tcp = tcp
        self._reading = True
        self._writable: asyncio.Future[None] | None = None
        self._exchange: Exchange | None = None
        self._reused = False
        self._counts_acknowledgements = False
        self._begin_response(head_only=False)

    def _begin_response(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self._headers: Headers = []
        self._in_head = True
        self._is_interim = False
        self._is_over = False
        self._keep_alive = False
        self._ended_by_peer = False
        self._has_answered = False
        self._acknowledged: int | None = None
        self._last_piece = b""
        self._overhead = 0  # bytes since the last that anybody was given

    @property
    def tls(self) -> ssl.SSLObject | None:
        return cast("ssl.SSLObject | None", self._transport and self._transport.get_extra_info("ssl_object"))

    def is_fresh(self) -> bool:
        """Whether a request may go out on it: nothing has arrived since its last response ended.

        What the event loop has not read yet counts too: a second response, or a 408 before an idle connection is
        closed, would become the next caller's.
        """
        return (
            self._exchange is None
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._tcp.has_news()
        )

    def send(
        self,
        head: bytes,
        body: bytes | AsyncIterator[bytes],
        length: int | None,
        *,
        head_only: bool,
        read_timeout: float | None,
    ) -> Exchange:
        """Sends a request, its body as that arrives: `length` bytes, or chunked if that is None.

        `head_only` says that no body follows the head of the response (HEAD).
        """
        exchange = self._exchange = Exchange(self, self._loop, read_timeout)
        self._begin_response(head_only=head_only)
        self._acknowledged = self._tcp.bytes_acknowledged()
        if isinstance(body, bytes):
            self._write_at_once(head + body)
        else:
            self._write_at_once(head)
            exchange.upload = self._loop.create_task(self._upload(exchange, body, length))
        return exchange

    def close(self) -> None:
        """At once, whatever is under way."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def read_on(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    async def _upload(self, exchange: Exchange, body: AsyncIterator[bytes], length: int | None) -> None:
        try:
            if length is None:
                await self._write_chunks(body)
            else:
                await self._write_bytes(body, length)
        except Exception as error:
            # The caller's body broke off, and so has to the one upstream; or upstream is gone.
            if self._exchange is exchange:
                self.close()
                exchange.end(error)

    async def _write_chunks(self, body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            if piece:  # an empty chunk would end the body
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await self._drain()
        self._write(b"0\r\n\r\n")

    async def _write_bytes(self, body: AsyncIterator[bytes], length: int) -> None:
        async for piece in body:
            length -= len(piece)
            if length < 0:
                break
            self._write(piece)
            await self._drain()
        # Else its rest would be taken for the next request on this connection, or the next request for its rest.
        if length:
            raise LocalProtocolError("the body is not as long as its Content-Length")

    def _write(self, data: bytes) -> None:
        """Raises WriteError if upstream has closed: asyncio's own errors then are of no one type.

        No `writelines`: before Python 3.13.2 asyncio's knows no back-pressure (CVE-2024-12254).
        """
        if self._transport is None or self._transport.is_closing():
            raise WriteError("it closed the connection")
        self._transport.write(data)

    def _write_at_once(self, data: bytes) -> None:
        """Leaves no time after `is_fresh` in which something could arrive and pass for the response.

        uvloop gathers writes until the end of a turn, but not those that exceed the transport's limit.
        """
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=0)
            self._write(data)
            self._transport.set_write_buffer_limits()

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
        exchange, parser = self._exchange, self._parser
        data = self._buffer[:nbytes]
        if exchange is None or parser is None:  # a response to nothing that was asked
            self._reject(data)
            self.close()
            return
        if not self._has_answered and not self._is_answer():
            self._reject(data)
            self._fail(exchange, "it sent a response before the request")
            return
        self._overhead += nbytes
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._keep_alive = False
            if not self._is_over:
                self._fail(exchange, "its response is not HTTP/1.1")
                return
        if self._exchange is not exchange:  # refused by a callback
            return
        if self._is_over:
            self._keep_alive = self._keep_alive and framing.ends_with(
                bytes(data), self._last_piece, self._headers
            )
            self._finish(exchange)
        elif self._overhead > _MAX_HEAD_BYTES:
            self._fail(exchange, f"the head of its response has more than {_MAX_HEAD_BYTES} bytes")
        else:
            exchange.deliver()
            if exchange.is_far_ahead and self._reading and self._transport is not None:
                self._reading = False
                self._transport.pause_reading()

    def _reject(self, data: memoryview) -> None:
        # Servers announce so that they close an idle connection (RFC 9110, section 15.5.9).
        if not bytes(data[:12]).endswith(b" 408"):
            self._owner.distrust()

    def _is_answer(self) -> bool:
        """Whether what arrives first can be a response to what was sent: then the request has arrived as well.

        A response carries the acknowledgement of its request. Bytes without one were on their way already.
        """
        self._has_answered = not (self._reused and self._counts_acknowledgements) or self._has_taken_some()
        return self._has_answered

    def _has_taken_some(self) -> bool:
        """Whether upstream's kernel has acknowledged any of the request; True where nobody knows."""
        if self._acknowledged is None:
            return True
        return self._tcp.bytes_acknowledged() != self._acknowledged

    def eof_received(self) -> None:
        self._ended_by_peer = self.tls is None or said_close_notify(self.tls)

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        exchange = self._exchange
        if exchange is not None:
            if self._ended_by_peer and not self._in_head and not framing.is_framed(self._headers):
                self._finish(exchange)
            else:
                reason = "it closed the connection" if error is None else type(error).__name__
                self._fail(exchange, reason)
        # These refer to each other in circles, which over TLS hold 200 KB each until the collector runs.
        self._parser = self._transport = None

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        uploaded = exchange.upload is None or exchange.upload.done()
        exchange.end()
        transport = self._transport
        if transport is None:
            return
        all_sent = uploaded and transport.get_write_buffer_size() == 0
        if all_sent and self._keep_alive and not transport.is_closing():
            self._counts_acknowledgements = self._acknowledged is not None and self._has_taken_some()
            self._reused = True
            self.read_on()
            self._owner.release(self)
        else:
            transport.abort()

    def _fail(self, exchange: Exchange, reason: str) -> None:
        stale = self._reused and not self._has_answered
        accepted = not self._counts_acknowledgements or self._has_taken_some()
        self.close()
        exchange.end(
            StaleConnectionError(reason, accepted=accepted) if stale else RemoteProtocolError(reason)
        )

    # httptools'
    def on_message_begin(self) -> None:
        if self._is_over:  # a second response to the one request
            self._keep_alive = False
            self._owner.distrust()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not in the trailers, which no client of OpenAI's reads
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        if parser is None or exchange is None or self._is_over:
            return
        status = parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            return
        if fault := framing.fault_of(status, self._headers):
            self._fail(exchange, fault)
            return
        self._in_head = False
        self._overhead = 0
        exchange.begin(status, self._headers)
        # The parser cannot be told that no body follows, and so waits for one: the connection cannot be reused.
        self._is_over = self._head_only

    def on_body(self, piece: bytes) -> None:
        if not self._is_over and self._exchange is not None:
            self._overhead = 0
            self._last_piece = piece
            self._exchange.add(piece)

    def on_message_complete(self) -> None:
        if self._is_interim:  # what it announces is between upstream and the shim
            self._headers = []
        elif not self._is_over and self._parser is not None:
            self._is_over = True
            self._keep_alive = self._parser.should_keep_alive()
