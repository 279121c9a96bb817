"""Responses and transports that a test makes up: what shim/transport/wire.py asks of them, and no network."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from shim.headers import Headers
from shim.transport.wire import WireRequest, WireResponse

type Reply = Callable[[WireRequest], Awaitable[WireResponse]]


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


@dataclass
class MadeUp(WireResponse):
    """A response whose body can be read once. `closed` counts how often it has been closed."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: AsyncIterator[bytes] = field(default_factory=pieces)
    closed: int = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.body

    async def aclose(self) -> None:
        self.closed += 1


class Unconnected:
    """A transport that has no connections. Each call gets what `send` makes of it."""

    async def send(self, request: WireRequest) -> WireResponse:
        raise NotImplementedError

    async def aclose(self) -> None: ...


class Scripted(Unconnected):
    """Answers each request with the next of its replies, the last again and again."""

    def __init__(self, *replies: WireResponse | Exception | Reply) -> None:
        self.replies = list(replies)
        self.requests: list[WireRequest] = []

    async def send(self, request: WireRequest) -> WireResponse:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return await reply(request) if callable(reply) else reply


async def body_of(request: WireRequest) -> list[bytes]:
    """The request's body, piece by piece, as it arrives."""
    if isinstance(request.body, bytes):
        return [request.body] if request.body else []
    return [piece async for piece in request.body]
