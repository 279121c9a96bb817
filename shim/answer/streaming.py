"""Upstream's answer, sent to the caller as it comes."""

import asyncio
import logging
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shim.call.caller import Caller
from shim.errors import CallerGone, UpstreamFailed
from shim.headers import Headers, named
from shim.upstream.client import UpstreamResponse

log = logging.getLogger("shim")

# A comment line (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
# One newline, not two: a blank line would end an event, and OpenAI's Python SDK fails on an empty one.
_HEARTBEAT = b": heartbeat\n"
# What an event's end looks like in the bytes before it.
_EVENT_ENDS = (b"\n\n", b"\n\r\n")


class StreamedResponse(Response):
    """An ASGI response that owns the upstream response it relays, and closes it whatever happens."""

    def __init__(
        self, upstream: UpstreamResponse, headers: Headers, caller: Caller, *, heartbeat: float
    ) -> None:
        self.status_code = upstream.status
        self.raw_headers = headers
        self.background = None
        self._upstream = upstream
        self._caller = caller
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A death upstream leaves the answer unfinished: the server then cuts the connection, for all to see."""
        try:
            with self._caller.cancelling():
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                if self._heartbeat and _is_event_stream(self.raw_headers):
                    await self._send_beating(send)
                else:
                    await self._send_body(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except CallerGone:
            """Nobody is left to tell."""
        except UpstreamFailed as error:
            log.warning("answer cut: %s request_id=%s", error, self._request_id())
        finally:
            self._upstream.close()

    async def _send_body(self, send: Send) -> None:
        async for chunk in self._upstream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _send_beating(self, send: Send) -> None:
        """The body of server-sent events, long silences filled with heartbeats."""
        events = _EventStream(send)
        beating = asyncio.create_task(events.beat(self._heartbeat))
        try:
            await self._send_body(events.send)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    def _request_id(self) -> str:
        return named(self.raw_headers, b"x-request-id")[0].decode("latin-1")


class _EventStream:
    """Knows where in the stream it is, so that a heartbeat never falls into the middle of an event."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tail = b"\n\n"
        self._lock = asyncio.Lock()
        self._sent_at = asyncio.get_running_loop().time()

    async def send(self, message: Message) -> None:
        async with self._lock:
            await self._send(message)
        self._tail = (self._tail + message["body"][-3:])[-3:]
        self._sent_at = asyncio.get_running_loop().time()

    async def beat(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + interval - loop.time()))
            if loop.time() < self._sent_at + interval:
                continue
            if self._tail.endswith(_EVENT_ENDS) and not self._lock.locked():
                async with self._lock:
                    await self._send({"type": "http.response.body", "body": _HEARTBEAT, "more_body": True})
            self._sent_at = loop.time()


def _is_event_stream(headers: Headers) -> bool:
    """Compressed or sized bodies are none that something can be put into."""
    kinds = named(headers, b"content-type")
    plain = not named(headers, b"content-encoding") and not named(headers, b"content-length")
    return plain and bool(kinds) and kinds[0].lower().startswith(b"text/event-stream")
