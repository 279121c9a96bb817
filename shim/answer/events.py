"""Server-sent events, with heartbeats in their silences."""

import asyncio

from shim.asgi import Outlet
from shim.headers import Headers, values_of

# A comment line (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
# One newline, not two: a blank line would end an event, and OpenAI's Python SDK fails on an empty one.
_HEARTBEAT = b": heartbeat\n"
# The Functions host holds a response's head back until its first body byte (YARP's forwarder flushes with the body), so
# the first heartbeat comes soon: it is what tells the caller that the call was accepted.
_FIRST_BEAT_SECONDS = 1.0
# What the end of an event looks like in the bytes before it.
_EVENT_ENDS = (b"\n\n", b"\n\r\n")


class EventStream:
    """Knows where in the stream it is, so that a heartbeat never falls into the middle of an event."""

    def __init__(self, outlet: Outlet) -> None:
        self.beats = 0
        self._outlet = outlet
        self._tail = b"\n\n"
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._now()

    def write(self, chunk: bytes) -> bool:
        """Whether the outlet can take more at once."""
        self._tail = chunk[-3:] if len(chunk) > 2 else (self._tail + chunk)[-3:]
        self._sent_at = self._now()
        return self._outlet.write(chunk)

    async def beat(self, interval: float) -> None:
        """Fills silences of `interval` seconds, the one before the first event sooner."""
        silence = min(interval, _FIRST_BEAT_SECONDS)
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + silence - self._now()))
            if self._now() < self._sent_at + silence:
                silence = interval
                continue
            if self._tail.endswith(_EVENT_ENDS) and self._outlet.is_writable:
                self._outlet.write(_HEARTBEAT)
                self.beats += 1
            silence = interval
            self._sent_at = self._now()


def is_event_stream(headers: Headers) -> bool:
    """Whether something can be put into the body: not if it is compressed, or of a length told beforehand."""
    kinds = values_of(headers, b"content-type")
    plain = not values_of(headers, b"content-encoding") and not values_of(headers, b"content-length")
    return plain and bool(kinds) and kinds[0].lower().startswith(b"text/event-stream")
