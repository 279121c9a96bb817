"""A caller's connection, as Kestrel serves it: heads within its limits, bodies at its rates, responses held and sent.

Sources are Kestrel 8's, in src/Servers/Kestrel/Core/src/Internal/Http of dotnet/aspnetcore. Not imitated: HTTP/2, TLS,
the time-outs of a connection without a request.
"""

import asyncio
import contextlib
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

import h11

from devhost.data_rates import ReadRate, WriteRate
from devhost.host_headers import Headers, values
from devhost.limits import Limits, fault_of_head
from devhost.request import BadBody, CallerGone, Refused, Request

_CHUNK = 65536
# MaxRequestBufferSize: so much of the next request is read ahead while this one is being answered.
_READ_AHEAD = 2**20


class Caller:
    """One connection, a request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self.address: str = writer.get_extra_info("peername")[0]
        #: Called with the headers when a response's head goes out; ASP.NET Core's Response.OnStarting.
        self.on_starting: Callable[[Headers], None] = lambda _: None
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=2**21)
        self._write_rate = WriteRate(limits.minimum_rate, limits.grace)
        self._watching: asyncio.Task[None] | None = None
        self._body_read = asyncio.Event()
        #: Status, headers and reason that have not been sent.
        self._held: tuple[int, Headers, bytes] | None = None
        self._length: int | None = 0
        self._to_head = False
        self._received = 0
        #: Whether anything of the response has been sent.
        self.started = False

    async def request(self) -> Request | None:
        """The next request; None where the caller has closed. Raises Refused."""
        received = self._http.trailing_data[0]
        while True:
            if fault := fault_of_head(received, self._limits):
                raise Refused(fault)
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                raise Refused(400) from None
            if isinstance(event, h11.Request):
                return self._begun(event)
            try:
                data = await self._reader.read(_CHUNK)
            except ConnectionError:
                return None
            if not data or event is not h11.NEED_DATA:
                return None
            received += data
            self._http.receive_data(data)

    def _begun(self, event: h11.Request) -> Request:
        self._held, self.started, self._received = None, False, 0
        self._read_rate = ReadRate(self._limits.minimum_rate, self._limits.grace)
        request = Request.of(event)
        self._length, self._to_head = request.length, request.method == "HEAD"
        if not request.has_body:
            self._http.next_event()  # an EndOfMessage at once
            self._body_ended()
        return request

    async def read(self) -> bytes:
        """The next bytes of the request's body, none at its end. Raises BadBody, CallerGone."""
        if (self._length or 0) > self._limits.body:
            raise BadBody("announced to be larger than the host takes")
        while self._watching is None:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise BadBody(str(error)) from None
            if isinstance(event, h11.Data):
                self._received += len(event.data)
                if self._received > self._limits.body:
                    raise BadBody("larger than the host takes")
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                self._body_ended()
            else:
                await self._receive()
        return b""

    async def _receive(self) -> None:
        if self._http.they_are_waiting_for_100_continue and not self.started:
            going_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._write(self._http.send(going_on) or b"")
        began = self._now()
        try:
            async with asyncio.timeout(self._read_rate.patience):
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            raise BadBody("slower than the host waits") from None
        except ConnectionError:
            raise CallerGone from None
        if not data:
            raise CallerGone
        self._read_rate.read(self._now() - began, len(data))
        self._http.receive_data(data)

    def _body_ended(self) -> None:
        """From here on, what arrives is the next request, or the caller's end."""
        self._watching = asyncio.create_task(self._watch())
        self._body_read.set()

    async def _watch(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(_CHUNK):
                self._http.receive_data(data)
                if len(self._http.trailing_data[0]) > _READ_AHEAD:
                    await asyncio.get_running_loop().create_future()

    async def gone(self) -> None:
        """Returns once the caller has closed. While its body is being read, reading tells instead."""
        await self._body_read.wait()
        if self._watching is not None:
            await asyncio.wait([self._watching])

    def respond(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        """The response's head. It goes out with the first bytes of the body, or at its end."""
        self._held = (status, headers, reason or _phrase(status))

    async def write(self, content: bytes) -> None:
        """Sends at once. Raises CallerGone, also of a caller who takes nothing for too long."""
        data = self._head() + (self._http.send(h11.Data(data=content)) or b"")
        self._write(data)
        self._write_rate.wrote(self._now(), len(data))
        try:
            async with asyncio.timeout_at(self._write_rate.deadline):
                await self._writer.drain()
        except (TimeoutError, ConnectionError):
            self.abort()
            raise CallerGone from None

    def flush_head(self) -> None:
        """Sends the head now; with a host that holds nothing back."""
        self._write(self._head())

    async def end(self) -> bool:
        """Ends the response; whether the connection can take another request."""
        if self._held is not None:
            # HttpProtocol.cs, CreateResponseHeaders: of a response that ended before it had a body.
            status, headers, _ = self._held
            if status not in (204, 205, 304) and not self._to_head and not values(headers, "content-length"):
                headers.append(("content-length", "0"))
        self._write(self._head() + (self._http.send(h11.EndOfMessage()) or b""))
        try:
            async with asyncio.timeout(self._limits.drain):
                while await self.read():
                    """The rest of a body that nobody wanted (Http1MessageBody.cs, OnConsumeAsync)."""
        except (TimeoutError, BadBody, CallerGone):
            await self._linger()
            return False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
            self._body_read.clear()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.on_starting = lambda _: None
        return True

    async def refuse(self, status: int) -> None:
        """Responds with nothing but a status, and closes."""
        closing = f"Content-Length: 0\r\nConnection: close\r\nDate: {_date()}\r\nServer: Kestrel\r\n\r\n"
        self._write(b"HTTP/1.1 %d %s\r\n%s" % (status, _phrase(status), closing.encode()))
        await self._linger()

    def abort(self) -> None:
        """Breaks the connection, so that a response cut short does not look whole."""
        self._writer.transport.abort()

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._writer.close()

    def _write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise CallerGone
        self._writer.write(data)

    def _head(self) -> bytes:
        """The held head's bytes, once."""
        if self._held is None:
            return b""
        (status, headers, reason), self._held = self._held, None
        self.on_starting(headers)
        for name, value in (("date", _date()), ("server", "Kestrel")):
            if not values(headers, name):
                headers.append((name, value))
        self.started = True
        return self._http.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""

    async def _linger(self) -> None:
        """Lets the caller read the response before a reset could take it away."""
        with contextlib.suppress(OSError, TimeoutError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(self._limits.drain):
                if self._watching is not None:
                    await asyncio.wait([self._watching])
                while await self._reader.read(_CHUNK):
                    """Thrown away."""

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _date() -> str:
    return formatdate(usegmt=True)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
