"""An outlet that keeps what is sent to it: what shim/asgi.py asks of one, and no network."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shim.headers import Headers
from shim.upstream import UpstreamResponse


@dataclass
class Recorded:
    """A response as the caller gets it. A caller who reads slowly is one whose `room` is not set.

    `written_at` tells each piece to whoever wants to know when it came.
    """

    status: int = 0
    headers: Headers = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    room: asyncio.Event = field(default_factory=asyncio.Event)
    written_at: Callable[[bytes], None] = lambda _: None

    def __post_init__(self) -> None:
        self.room.set()

    @property
    def is_writable(self) -> bool:
        return self.room.is_set()

    def begin(self, status: int, headers: Headers) -> None:
        assert self.status == 0
        self.status, self.headers = status, headers

    def write(self, body: bytes) -> bool:
        assert not self.ended
        if body:
            self.pieces.append(body)
            self.written_at(body)
        return self.is_writable

    async def drain(self) -> None:
        await self.room.wait()

    def end(self) -> None:
        assert self.status != 0
        assert not self.ended
        self.ended = True


async def relayed(response: UpstreamResponse) -> list[bytes]:
    """The pieces of a response's body, as they go on to the caller."""
    outlet = Recorded()
    await response.relay(outlet.write, outlet.drain)
    return outlet.pieces
