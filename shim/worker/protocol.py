"""HTTP/1.1 as the worker's server speaks it: uvicorn's, with refusals in OpenAI's shape that end their invocation."""

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shim import errors
from shim.errors import InvalidRequest, MethodNotAllowed, ShimError
from shim.worker.invocations import ARRIVED, Invocations

# One asks for a tunnel, the other for its own request back, keys and all (RFC 9110, sections 9.3.6 and 9.3.8).
_REFUSED_METHODS = frozenset([b"CONNECT", b"TRACE"])
# The host takes 32 KB of headers from a caller (devhost/limits.py), and adds a few.
_MAX_HEAD_BYTES = 64 * 1024
_CONTINUE = b"HTTP/1.1 100 "
_INVOCATION_ID_LINE = re.compile(rb"^x-ms-invocation-id:[ \t]*([0-9A-Za-z-]{1,64})[ \t]*\r?$", re.I | re.M)


def protocol_for(invocations: Invocations) -> type[HttpToolsProtocol]:
    class Protocol(HttpToolsProtocol):
        """Refuses what it cannot parse in OpenAI's shape, and ends the invocation beside it."""

        _in_head = False
        # With all that came of a head: where that cannot be parsed, the invocation's id is found in it.
        _received = b""
        _refusing: asyncio.Task[None] | None = None
        _refusal: ShimError | None = None

        def data_received(self, data: bytes) -> None:
            self._received = (self._received + data)[:_MAX_HEAD_BYTES] if self._in_head else data
            super().data_received(data)

        def on_message_begin(self) -> None:
            self._in_head = True
            if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
                # The host does not pipeline, and uvicorn tells only the last of several requests of a disconnect.
                raise ValueError("a request before the response to the last one")
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            if self.parser.get_method() in _REFUSED_METHODS:
                self._refusal = MethodNotAllowed("CONNECT and TRACE are not passed on. Nothing was sent on.")
                raise ValueError("a method that is not passed on")
            # An absolute-form target names a host of its own; uvicorn would keep its path and drop the rest.
            if not self.url.startswith(b"/"):
                raise ValueError("the request target is not a path")
            super().on_headers_complete()
            self._start = CoalescedStart(self.transport, self.loop)
            self.cycle.transport = cast("asyncio.Transport", self._start)

        def on_message_complete(self) -> None:
            self.scope["state"][ARRIVED] = True
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._start.flush()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            # None until the first request, whatever its annotation says.
            if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
                # In the middle of a body: the handler at work learns of it as of a caller who left.
                self.transport.abort()
                return
            status, headers, content = errors.render(self._refusal or _not_http())
            lines = b"".join(b"%s: %s\r\n" % header for header in [*headers, (b"connection", b"close")])
            self.transport.write(b"HTTP/1.1 %d \r\n%s\r\n%s" % (status, lines, content))
            self.transport.close()
            if invocation_id := self._invocation_id():
                self._refusing = asyncio.create_task(invocations.refuse(invocation_id))

        def _invocation_id(self) -> str | None:
            match = _INVOCATION_ID_LINE.search(self._received)
            return match[1].decode("ascii") if match else None

    return Protocol


def _not_http() -> InvalidRequest:
    return InvalidRequest("The request line or a header is not valid HTTP/1.1. Nothing was sent on.")


class CoalescedStart:
    """A transport that coalesces the first writes of a response, those of one turn of the loop, into one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] | None = []

    def write(self, data: bytes) -> None:
        if self._held is None or data.startswith(_CONTINUE):
            self._write(data)
            return
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        if self._held:
            held, self._held = self._held, None
            self._write(b"".join(held))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def _write(self, data: bytes) -> None:
        """Nothing to a caller who has left: uvloop's transports raise once they are closed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
