"""Server-sent events as Azure OpenAI writes them."""

import asyncio
import json

from aiohttp import web

from devhost.standin.call import Call


class EventStream:
    """An event stream under way: one write per event, with the call's delay before each but the first."""

    def __init__(self, call: Call) -> None:
        self._request = call.request
        self._delay = call.chunk_delay
        self._sent = 0
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})

    @classmethod
    async def open(cls, call: Call) -> "EventStream":
        """Send the head and start the stream."""
        stream = cls(call)
        await stream.response.prepare(call.request)
        return stream

    async def send(self, data: object, event: str | None = None) -> None:
        """Send one event with JSON data, named where the operation names its events."""
        if self._sent and self._delay:
            await asyncio.sleep(self._delay)
        self._sent += 1
        name = f"event: {event}\n" if event else ""
        await self._write(f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n")

    async def done(self) -> web.StreamResponse:
        """End the stream with the `[DONE]` that chat and completion streams carry."""
        await self._write("data: [DONE]\n\n")
        return await self.end()

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        await self.response.write_eof()
        return self.response

    async def _write(self, text: str) -> None:
        await self.response.write(text.encode())
