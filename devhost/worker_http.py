"""The HTTP client with which the host forwards to the worker: .NET 8's SocketsHttpHandler.

From HttpConnection.cs (SendAsync), HttpConnectionPool.cs and HttpHandlerDefaults.cs of dotnet/runtime
(src/libraries/System.Net.Http/src/System/Net/Http/SocketsHttpHandler). Over HTTP/1.1 it sends all of a request before
it reads any of the response, unless the request says `Expect: 100-continue`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

import h11

from devhost.host_headers import NotAscii, as_ascii
from devhost.limits import Limits
from devhost.sent import SendFailed, Sent, Upload

_CHUNK = 65536


class _Unanswered(SendFailed):
    """The worker closed the connection before it had sent a byte, and none of the body was sent: the same again."""


class Truncated(Exception):
    """The worker's response broke off."""


class WorkerHttp:
    """Connections to the worker's server. `progress` is called with every step of a transfer."""

    def __init__(self, uri: str, limits: Limits) -> None:
        address = urlsplit(uri)
        self._host, self._port = address.hostname or "", address.port or 80
        self._limits = limits
        self._idle: list[_Connection] = []

    async def send(self, sent: Sent, progress: Callable[[], None]) -> "Response":
        """Raises SendFailed."""
        try:
            headers = as_ascii([("host", f"{self._host}:{self._port}"), *sent.headers])
        except NotAscii as error:
            raise SendFailed("a header's value is not ASCII") from error
        request = h11.Request(method=sent.method, target=sent.target, headers=headers)
        for _ in range(self._limits.connection_tries - 1):
            with contextlib.suppress(_Unanswered):
                return await self._send_on(await self._connection(), request, sent, progress)
        return await self._send_on(await self._connection(), request, sent, progress)

    async def _send_on(
        self, connection: "_Connection", request: h11.Request, sent: Sent, progress: Callable[[], None]
    ) -> "Response":
        try:
            head = await connection.exchange(request, sent, progress)
        except (OSError, h11.ProtocolError) as error:
            connection.abort()
            raise SendFailed(str(error) or type(error).__name__) from error
        except BaseException:
            connection.abort()
            raise
        return Response(head, connection, self._idle)

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        try:
            ends = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise SendFailed(str(error)) from error
        return _Connection(*ends, self._limits)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=int(limits.response_head))
        self._uploading: asyncio.Task[None] | None = None
        self._idle_since = 0.0

    async def exchange(self, request: h11.Request, sent: Sent, progress: Callable[[], None]) -> h11.Response:
        """Sends a request and reads the head of its response. Raises SendFailed, OSError, h11.ProtocolError."""
        if sent.upload is not None and not sent.expects_continue:
            sent.upload.begin()  # before the head is flushed
        self._write(self.http.send(request))
        allowed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if sent.upload is None:
            self._write(self.http.send(h11.EndOfMessage()))
        else:
            self._uploading = asyncio.create_task(self._upload_once(sent.upload, allowed, progress))
            self._uploading.add_done_callback(self._break_if_failed)
            if not sent.expects_continue:
                allowed.set_result(True)
                await self._whole_upload()
        await self._writer.drain()
        try:
            head = await self._head(allowed, sent)
        except (OSError, h11.ProtocolError):
            await self._whole_upload()  # whose failure is the reason, if it has one
            raise
        if not allowed.done():
            small = sent.length is not None and sent.length <= self._limits.sent_all_the_same
            allowed.set_result(head.status_code < 300 or small)
        await self._whole_upload()
        return head

    async def _whole_upload(self) -> None:
        """Waits until all is sent, where the host does before it goes on."""
        if self._uploading is not None and (self._limits.buffers or self._uploading.done()):
            await self._uploading

    async def _upload_once(
        self, upload: Upload, allowed: asyncio.Future[bool], progress: Callable[[], None]
    ) -> None:
        wanted = True
        with contextlib.suppress(TimeoutError):
            wanted = await asyncio.wait_for(asyncio.shield(allowed), self._limits.wait_for_continue)
        if not wanted:
            return
        if not upload.begun:
            upload.begin()
        while content := await upload.next():
            progress()
            self._write(self.http.send(h11.Data(data=content)))
            await self._writer.drain()
            progress()
        self._write(self.http.send(h11.EndOfMessage()))
        await self._writer.drain()

    def _write(self, data: bytes | None) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("the worker closed the connection")
        self._writer.write(data or b"")

    def _break_if_failed(self, uploading: asyncio.Task[None]) -> None:
        """So that nobody waits for a response to half a request."""
        if not uploading.cancelled() and uploading.exception() is not None:
            self._writer.transport.abort()

    async def _head(self, allowed: asyncio.Future[bool], sent: Sent) -> h11.Response:
        anything = False
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Response):
                self._check_size(event)
                return event
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    raise SendFailed("the worker switched protocols, which devhost does not")
                if event.status_code == 100 and not allowed.done():
                    allowed.set_result(True)
                continue
            data = await self._reader.read(_CHUNK)
            if not data and not anything and not (sent.upload and sent.upload.begun):
                raise _Unanswered("the worker closed the connection")
            anything = True
            self.http.receive_data(data)

    def _check_size(self, head: h11.Response) -> None:
        size = len("HTTP/1.1 200 \r\n\r\n") + len(head.reason)
        size += sum(len(name) + len(value) + len(": \r\n") for name, value in head.headers)
        if size > self._limits.response_head:
            raise SendFailed(f"the response's head has more than {self._limits.response_head} bytes")

    async def read(self) -> bytes:
        """The next bytes of the response's body, none at its end. Raises Truncated."""
        try:
            while True:
                event = self.http.next_event()
                if isinstance(event, h11.Data):
                    return bytes(event.data)
                if event is not h11.NEED_DATA:
                    return b""
                self.http.receive_data(await self._reader.read(_CHUNK))
        except (OSError, h11.RemoteProtocolError) as error:
            raise Truncated(str(error)) from error

    def reusable(self) -> bool:
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        self._idle_since = asyncio.get_running_loop().time()
        return True

    def usable(self) -> bool:
        idle = asyncio.get_running_loop().time() - self._idle_since
        return idle < self._limits.idle_connection and not (
            self._reader.at_eof() or self._writer.is_closing()
        )

    def abort(self) -> None:
        if self._uploading is not None:
            self._uploading.cancel()
        self._writer.transport.abort()


class Response:
    """The worker's, with its body still to come."""

    def __init__(self, head: h11.Response, connection: _Connection, idle: list[_Connection]) -> None:
        self.status = head.status_code
        self.reason = bytes(head.reason)
        self.headers = [(bytes(name), bytes(value)) for name, value in head.headers]
        self._connection = connection
        self._idle = idle
        self._read_whole = False

    async def read(self) -> bytes:
        """The next bytes, none at the end. Raises Truncated."""
        content = await self._connection.read()
        if not content and self._connection.reusable():
            self._read_whole = True
            self._idle.append(self._connection)
        return content

    def close(self) -> None:
        """Breaks the connection of a response that was not read to its end, so that the worker knows."""
        if not self._read_whole:
            self._connection.abort()
