"""Upstream's response, sent to the caller as it arrives."""

import asyncio
from contextlib import suppress

from shim.answer.events import EventStream, is_event_stream
from shim.asgi import Receive, Response, Scope, Send
from shim.call.caller import Caller
from shim.errors import CallerGone, UpstreamFailed
from shim.headers import Headers
from shim.monitoring.record import CallRecord
from shim.upstream.client import UpstreamResponse


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """If upstream dies, the response stays unfinished: the server then cuts the connection, for all to see."""
        code = reason = ""
        try:
            with self._caller.cancelling():
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                if self._heartbeat and is_event_stream(self.raw_headers):
                    await self._send_with_heartbeats(send)
                else:
                    await self._send_body(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except CallerGone as gone:
            code = gone.code  # nobody is left to tell
        except UpstreamFailed as error:
            code, reason = error.code, str(error)
        finally:
            self._record.end(code, reason)
            await self._upstream.close()

    async def _send_body(self, send: Send) -> None:
        async for chunk in self._upstream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._record.passed(chunk)

    async def _send_with_heartbeats(self, send: Send) -> None:
        """The body of server-sent events, long silences filled with heartbeats."""
        events = EventStream(send)
        beating = asyncio.create_task(events.beat(self._heartbeat))
        try:
            await self._send_body(events.send)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            self._record.heartbeats(events.beats)
