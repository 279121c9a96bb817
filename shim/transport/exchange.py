"""A request on its way and its response, from the caller's side of the connection that carries them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from shim.headers import Headers
from shim.transport.wire import Drain, ReadTimeout, RemoteProtocolError, WireResponse, Write

# Of a response that is read more slowly than it arrives; each connection in use holds that much and one read more.
_READ_AHEAD_BYTES = 64 * 1024


class Carrier(Protocol):
    """The connection, as far as an exchange needs it."""

    def close(self) -> None: ...
    def read_on(self) -> None: ...


class StaleConnectionError(RemoteProtocolError):
    """A connection that had been used before ended without a byte in response to this request.

    `accepted` says whether upstream may have taken any of the request.
    """

    def __init__(self, reason: str, *, accepted: bool) -> None:
        super().__init__(reason)
        self.accepted = accepted


class Exchange(WireResponse):
    """A request on its way, and its response. `answered` is done once the response's head has arrived.

    Iterated over, it gives the body as it arrives; pieces that arrived together come as one. Closed before the end, it
    closes its connection, which is what cancels the request upstream. `read_timeout` is how many seconds of silence the
    body may have, None for any number.
    """

    def __init__(
        self, connection: Carrier, loop: asyncio.AbstractEventLoop, read_timeout: float | None
    ) -> None:
        self.status = 0
        self.headers: Headers = []
        self.answered: asyncio.Future[None] = loop.create_future()
        self.upload: asyncio.Task[None] | None = None
        self._loop = loop
        self._connection: Carrier | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._arrived: asyncio.Future[None] | None = None
        self._write: Write | None = None
        self._error: Exception | None = None
        self._read_timeout = read_timeout
        self._waiting_since = 0.0
        self._silence: asyncio.TimerHandle | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises TransportError if the response does not come to its end."""
        while True:
            if self._pieces:
                yield self._take()
            elif self._error is not None:
                raise self._error
            elif self._connection is None:
                return
            else:
                await self._arrival()

    async def relay(self, write: Write, drain: Drain) -> None:
        """Writes each piece in the same turn of the loop in which it arrives, as long as `write` takes it at once."""
        while True:
            if self._pieces:
                if not write(self._take()):
                    await drain()
            elif self._error is not None:
                raise self._error
            elif self._connection is None:
                return
            else:
                self._write = write
                try:
                    await self._arrival()
                finally:
                    self._write = None
                await drain()

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._pieces.clear()
        if self._connection is not None:
            self._connection.close()
            self.end()

    def _take(self) -> bytes:
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._connection is not None:
            self._connection.read_on()
        return piece

    async def _arrival(self) -> None:
        self._arrived = self._loop.create_future()
        self._waiting_since = self._loop.time()
        if self._silence is None and self._read_timeout is not None:
            self._silence = self._loop.call_later(self._read_timeout, self._check_silence)
        await self._arrived

    def _check_silence(self) -> None:
        """One timer for the whole body, set anew when it fires: one for each piece would cost more than the piece."""
        assert self._read_timeout is not None
        waiting = self._arrived is not None and not self._arrived.done()
        due = (self._waiting_since if waiting else self._loop.time()) + self._read_timeout
        if due > self._loop.time():
            self._silence = self._loop.call_at(due, self._check_silence)
        elif self._connection is not None:
            self._connection.close()
            self.end(ReadTimeout(f"it sent nothing for {self._read_timeout:g} s"))

    @property
    def is_far_ahead(self) -> bool:
        return self._size > _READ_AHEAD_BYTES

    async def begun(self) -> None:
        """Waits for the head of the response. Raises TransportError, and has closed the exchange then.

        What came together with the head may have ended the response before anything of its body: that is no response.
        """
        try:
            await self.answered
            if self._error is not None and not self._pieces:
                raise self._error
        except BaseException:
            self.close()
            raise

    # What the connection reports.
    def begin(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        if not self.answered.done():
            self.answered.set_result(None)

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def deliver(self) -> None:
        """What has been added so far is all that came together."""
        if self._write is not None and self._pieces and self._relayed(self._write):
            self._waiting_since = self._loop.time()
        else:
            self._wake()

    def _relayed(self, write: Write) -> bool:
        """Whether what has arrived is written, and more can be at once."""
        try:
            is_writable = write(self._take())
        except Exception as defect:  # it belongs to whoever relays, not to the connection
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_exception(defect)
            return True
        if not is_writable:
            self._write = None  # until it has been drained
        return is_writable

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def end(self, error: Exception | None = None) -> None:
        """After this, the connection has nothing more to do with it."""
        self._connection = None
        self._error = error
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if error is not None and not self.answered.done():
            self.answered.set_exception(error)
        if self.upload is not None and self.upload is not asyncio.current_task(self._loop):
            self.upload.cancel()
        self._wake()
