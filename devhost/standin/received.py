"""What the stand-in was sent: one record per request, and waiting for a request to arrive or to end."""

import asyncio
import hashlib
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from aiohttp import web

if TYPE_CHECKING:
    from hashlib import _Hash

Ended = Literal["complete", "caller gone", "error"]

BODY_KEPT = 64 * 1024
REQUESTS_KEPT = 1_000


@dataclass(slots=True, eq=False)
class Received:
    """One request as it came over the wire.

    The body is counted and digested while somebody reads it; only its first 64 KiB are kept, so that a test
    may send gigabytes. `ended` is None until the answer is written ("complete"), the caller has left
    ("caller gone"), or the answer failed or closed the connection itself ("error"). Times are those of the
    event loop's clock.
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
    _digest: "_Hash" = field(default_factory=hashlib.sha256, repr=False)

    @classmethod
    def head_of(cls, request: web.Request) -> "Received":
        """Record a request's head; one without an x-request-id gets an id made here."""
        headers = [
            (name.decode("ascii", "replace").lower(), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        ]
        request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        arrived_at = asyncio.get_running_loop().time()
        return cls(request_id, request.method, request.raw_path, headers, arrived_at)

    @property
    def body(self) -> bytes:
        """The first 64 KiB of what has been read of the body."""
        return bytes(self._body)

    @property
    def body_sha256(self) -> str:
        """SHA-256, in hex, of what has been read of the body."""
        return self._digest.hexdigest()

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.headers_named(name)), None)

    def headers_named(self, name: str) -> list[str]:
        """Every value of a header, in the order received."""
        return [value for each, value in self.headers if each == name.lower()]

    async def body_chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it arrives, recorded on the way. What nobody asks for stays in the caller's socket."""
        async for chunk in request.content.iter_any():
            self._record(chunk)
            yield chunk

    async def read_body(self, request: web.Request) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.body_chunks(request)])

    async def drain_body(self, request: web.Request) -> None:
        """Read the body to its end, keeping none of it."""
        async for _ in self.body_chunks(request):
            pass

    async def note_body_read_by(self, request: web.Request) -> None:
        """Record a body that a test's own answer took with `request.read()`, `.json()` or `.text()`."""
        if self.body_length == 0 and request.content.at_eof():
            self._record(await request.read())

    def _record(self, chunk: bytes) -> None:
        self.body_length += len(chunk)
        self._digest.update(chunk)
        if (room := BODY_KEPT - len(self._body)) > 0:
            self._body += chunk[:room]


class Ledger:
    """The newest requests by id, and the means to wait for one."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Received] = OrderedDict()
        self._changed = asyncio.Event()
        self.latest: Received | None = None

    @property
    def entries(self) -> Mapping[str, Received]:
        """The newest 1,000 requests, oldest first; a request id used again stands for its newest use."""
        return MappingProxyType(self._entries)

    def arrive(self, received: Received) -> None:
        """Enter a request whose head has been read."""
        self._entries[received.request_id] = received
        self._entries.move_to_end(received.request_id)
        if len(self._entries) > REQUESTS_KEPT:
            self._entries.popitem(last=False)
        self.latest = received
        self._announce()

    def end(self, received: Received, ended: Ended) -> None:
        """Say how a request ended."""
        received.ended = ended
        received.ended_at = asyncio.get_running_loop().time()
        self._announce()

    async def arrived(self, request_id: str, timeout: float) -> Received:
        """Wait until a request has arrived. Raises TimeoutError after `timeout` seconds."""
        return await self._until(request_id, lambda received: True, "arrive", timeout)

    async def ended(self, request_id: str, timeout: float) -> Received:
        """Wait until a request has arrived and ended. Raises TimeoutError after `timeout` seconds."""
        return await self._until(request_id, lambda received: received.ended is not None, "end", timeout)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(
        self, request_id: str, met: Callable[[Received], bool], verb: str, timeout: float
    ) -> Received:
        try:
            async with asyncio.timeout(timeout):
                while (received := self._entries.get(request_id)) is None or not met(received):
                    await self._changed.wait()
                return received
        except TimeoutError:
            raise TimeoutError(f"request {request_id} did not {verb} within {timeout} s") from None
