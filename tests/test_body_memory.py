"""What was read of a body is let go while its response streams.

A response may stream for minutes, and an instance holds a hundred of them: their bodies would fill its memory.
"""

import asyncio
from collections.abc import Iterable

import pytest

from shim.asgi import Message, Receive
from shim.call.body import open_body
from shim.call.caller import Caller
from shim.call.rewrite import UpstreamRequest
from shim.call.spool import SpoolSpace
from shim.headers import Headers
from shim.transport.wire import WireRequest, WireResponse
from shim.upstream import Upstream, UpstreamResponse
from tests.support.memory import traced
from tests.support.transports import MadeUp, Scripted, Unconnected, pieces

MIB = 1024 * 1024
SPACE = 100 * MIB
JSON: Headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]


class Answering(Unconnected):
    """Takes whatever is sent, keeps nothing of it, and answers with a body that would stream for a long time."""

    async def send(self, request: WireRequest) -> WireResponse:
        if not isinstance(request.body, bytes):
            async for _ in request.body:
                pass
        return MadeUp(body=pieces(b"first"))


@pytest.mark.parametrize(("size", "calls"), [(48 * 1024, 64), (4 * MIB, 2)], ids=["sent whole", "streamed"])
async def test_what_was_read_is_let_go_while_the_response_streams(size: int, calls: int) -> None:
    upstream = Upstream(Answering(), connect_timeout=1, first_byte_timeout=5, idle_timeout=0)

    left, space = asyncio.Event(), SpoolSpace(SPACE, total=SPACE)

    async def call() -> UpstreamResponse:
        caller = Caller(staying(left, [b'{"model": "m", "input": "', b"x" * size, b'"}']))
        body = await open_body(JSON, caller, model="required", max_bytes=SPACE, space=space)
        return await upstream.send(UpstreamRequest("POST", "https://a.example", "/", JSON, body), caller)

    await (await call()).close()  # what is made once for all calls
    with traced() as held:
        streaming = [await call() for _ in range(calls)]
        assert held() < size * calls / 4
    assert space.free == SPACE
    left.set()
    for response in streaming:
        await response.close()


async def test_what_upstream_did_not_want_is_let_go_with_its_response() -> None:
    refusing = Scripted(MadeUp(413, body=pieces(b"too much")))  # before it has taken anything
    upstream = Upstream(refusing, connect_timeout=1, first_byte_timeout=5, idle_timeout=0)
    space = SpoolSpace(SPACE)
    caller = Caller(staying(asyncio.Event(), [b'{"input": "', b"x" * 4 * MIB, b'", "model": "m"}']))
    before = space.free
    body = await open_body(JSON, caller, model="required", max_bytes=SPACE, space=space)
    response = await upstream.send(UpstreamRequest("POST", "https://a.example", "/", JSON, body), caller)
    assert space.free < before
    await response.close()
    assert space.free == before


def staying(left: asyncio.Event, chunks: Iterable[bytes]) -> Receive:
    """A caller who sends these and stays until `left`; it keeps no chunk that it has sent."""
    unsent = list(chunks)

    async def receive() -> Message:
        if not unsent:
            await left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": unsent.pop(0), "more_body": bool(unsent)}

    return receive
