"""What the stand-in was sent: one record per request, and waiting for a request to arrive or to end."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from aiohttp import web

Ended = Literal["complete", "caller gone", "error"]

BODY_KEPT = 64 * 1024
REQUESTS_KEPT = 1_000


@dataclass(slots=True, eq=False)
class Received:
    """One request as it came over the wire.

    The body is counted and digested while it is read; only its first 64 KiB are kept, so that a test may send
    gigabytes. `ended` is None until the response is written ("complete"), the caller has disconnected ("caller gone"),
    or the response failed or closed the connection itself ("error"). Times are those of the event loop's clock.
    """

    request_id: str
    method: str
    target: str
    headers: list[tuple[str, str]]
    arrived_at: float
    ended: Ended | None = None
    ended_at: float | None = None
    body_length: int = 0
    _body: bytearray = field(default_factory=bytearray, repr=False)
    _digest: Any = field(default_factory=hashlib.sha256, repr=False)

    @classmethod
    def head_of(cls, request: web.Request) -> "Received":
        """Record a request's head; one without an x-request-id gets an id made here."""
        headers = [
            (name.decode("ascii", "replace").lower(), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        ]
        request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        return cls(request_id, request.method, request.raw_path, headers, asyncio.get_running_loop().time())

    @property
    def body(self) -> bytes:
        """The first 64 KiB of what has been read of the body."""
        return bytes(self._body)

    @property
    def body_sha256(self) -> str:
        """SHA-256, in hex, of what has been read of the body."""
        return str(self._digest.hexdigest())

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.headers_named(name)), None)

    def headers_named(self, name: str) -> list[str]:
        """Every value of a header, in the order received."""
        return [value for each, value in self.headers if each == name.lower()]

    async def body_chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it arrives, recorded on the way. What is not read stays in the caller's socket."""
        async for chunk in request.content.iter_any():
            self.body_length += len(chunk)
            self._digest.update(chunk)
            self._body += chunk[: max(0, BODY_KEPT - len(self._body))]
            yield chunk

    async def read_body(self, request: web.Request) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.body_chunks(request)])

    async def drain_body(self, request: web.Request) -> None:
        """Read the body to its end, keeping none of it."""
        async for _ in self.body_chunks(request):
            pass


class Recorder:
    """The newest 1,000 requests, and the means to wait for one."""

    def __init__(self) -> None:
        self._received: dict[str, Received] = {}
        self._changed = asyncio.Event()

    @property
    def received(self) -> Mapping[str, Received]:
        """The requests by x-request-id, oldest first; an id used again stands for its newest use."""
        return MappingProxyType(self._received)

    @property
    def latest(self) -> Received | None:
        """The newest request."""
        return next(reversed(self._received.values()), None)

    async def arrived(self, request_id: str, timeout: float = 5.0) -> Received:
        """Wait until the head of a request has arrived. Raises TimeoutError after `timeout` seconds."""
        return await self._wait_for(request_id, "arrive", timeout)

    async def ended(self, request_id: str, timeout: float = 5.0) -> Received:
        """Wait until a request has ended, however it did. Raises TimeoutError after `timeout` seconds."""
        return await self._wait_for(request_id, "end", timeout)

    def _arrive(self, received: Received) -> None:
        self._received.pop(received.request_id, None)
        self._received[received.request_id] = received
        if len(self._received) > REQUESTS_KEPT:
            del self._received[next(iter(self._received))]
        self._wake()

    def _end(self, received: Received, ended: Ended) -> None:
        received.ended, received.ended_at = ended, asyncio.get_running_loop().time()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, request_id: str, verb: Literal["arrive", "end"], timeout: float) -> Received:
        try:
            async with asyncio.timeout(timeout):
                while not (found := self._received.get(request_id)) or (verb == "end" and not found.ended):
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise TimeoutError(f"request {request_id} did not {verb} within {timeout} s") from None
