"""Upstream's response, sent to the caller as it arrives."""

import asyncio
from contextlib import suppress

from shim.answer.events import EventStream, is_event_stream
from shim.asgi import Outlet, Response
from shim.call.caller import Caller
from shim.errors import CallerGone, UpstreamFailed
from shim.headers import Headers
from shim.monitoring.record import CallRecord
from shim.transport.wire import Write
from shim.upstream import UpstreamResponse


class StreamedResponse(Response):
    """An ASGI response that owns the upstream response it relays, and closes it whatever happens.

    `heartbeat` is in seconds. `record` ends with the response.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        headers: Headers,
        caller: Caller,
        *,
        heartbeat: float,
        record: CallRecord,
    ) -> None:
        super().__init__(upstream.status, headers)
        self._upstream = upstream
        self._caller = caller
        self._heartbeat = heartbeat
        self._record = record

    async def send(self, outlet: Outlet) -> None:
        """If upstream dies, the response stays unfinished: the server then cuts the connection, for all to see."""
        code = reason = ""
        try:
            with self._caller.cancelling():
                outlet.begin(self.status_code, self.raw_headers)
                if self._heartbeat and is_event_stream(self.raw_headers):
                    await self._relay_with_heartbeats(outlet)
                else:
                    await self._relay(outlet.write, outlet)
                outlet.end()
        except CallerGone as gone:
            code = gone.code  # nobody is left to tell
        except UpstreamFailed as error:
            code, reason = error.code, str(error)
        finally:
            self._record.end(code, reason)
            await self._upstream.close()

    async def _relay(self, write: Write, outlet: Outlet) -> None:
        passed = self._record.passed

        def pass_on(chunk: bytes) -> bool:
            is_writable = write(chunk)
            passed(chunk)
            return is_writable

        await self._upstream.relay(pass_on, outlet.drain)

    async def _relay_with_heartbeats(self, outlet: Outlet) -> None:
        """The body of server-sent events, long silences filled with heartbeats."""
        events = EventStream(outlet)
        beating = asyncio.create_task(events.beat(self._heartbeat))
        try:
            await self._relay(events.write, outlet)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            self._record.heartbeats(events.beats)
