"""Upstream's response, sent to the caller as it arrives."""

import asyncio
import logging
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shim.answer.events import EventStream, is_event_stream
from shim.call.caller import Caller
from shim.errors import CallerGone, UpstreamFailed
from shim.headers import Headers
from shim.upstream.client import UpstreamResponse

log = logging.getLogger("shim")


class StreamedResponse(Response):
    """An ASGI response that owns the upstream response it relays, and closes it whatever happens.

    `heartbeat` is in seconds. `request_id` is the one in the log: upstream may have given the response its own.
    """

    def __init__(
        self,
        upstream: UpstreamResponse,
        headers: Headers,
        caller: Caller,
        *,
        heartbeat: float,
        request_id: str,
    ) -> None:
        self.status_code = upstream.status
        self.raw_headers = headers
        self.background = None
        self._upstream = upstream
        self._caller = caller
        self._heartbeat = heartbeat
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """If upstream dies, the response stays unfinished: the server then cuts the connection, for all to see."""
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
        except CallerGone:
            pass  # nobody is left to tell
        except UpstreamFailed as error:
            log.warning("response cut: %s request_id=%s", error, self._request_id)
        finally:
            await self._upstream.close()

    async def _send_body(self, send: Send) -> None:
        async for chunk in self._upstream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

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
