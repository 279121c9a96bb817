"""What goes to the transport, which of its errors become which of the shim's, and when a response is late."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shim.asgi import Message
from shim.call.body import Body, open_body
from shim.call.caller import Caller
from shim.call.rewrite import UpstreamRequest
from shim.call.spool import SpoolSpace
from shim.errors import (
    CallerGone,
    InvalidRequest,
    ShimError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from shim.headers import Headers
from shim.transport.direct import ShimTransport
from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    Origin,
    ReadTimeout,
    RemoteProtocolError,
    Transport,
    TransportError,
    WireRequest,
    WireResponse,
    WriteError,
)
from shim.upstream import Upstream, UpstreamResponse
from tests.support.outlets import relayed
from tests.support.transports import MadeUp, Scripted, body_of, pieces
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time


class Sending:
    """A caller's `receive`: these pieces, each when it is let go, and then silence."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.let_go = asyncio.Event()

    async def __call__(self) -> Message:
        if not self.chunks:
            await asyncio.Event().wait()
        await self.let_go.wait()
        self.let_go.clear()
        chunk = self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}


def response(*body: bytes, status: int = 200) -> MadeUp:
    return MadeUp(status, [(b"a", b"1")], pieces(*body))


def upstream(transport: Transport, idle: float = 0) -> Upstream:
    return Upstream(transport, connect_timeout=3, first_byte_timeout=5, idle_timeout=idle)


async def call(
    transport: Transport,
    method: str = "GET",
    headers: Headers | None = None,
    content: bytes | None = None,
    *,
    idle: float = 0,
) -> UpstreamResponse:
    framing: Headers = [] if content is None else [(b"transfer-encoding", b"chunked")]
    sending = Sending(content or b"")
    sending.let_go.set()
    caller = Caller(sending)
    body = await open_body(framing, caller, model="unread", max_bytes=1, space=SpoolSpace(1))
    request = UpstreamRequest(method, "https://a.example:8443", "/x?y=%20", headers or [], body)
    return await upstream(transport, idle).send(request, caller)


@pytest.mark.parametrize(
    ("method", "given", "content", "framing"),
    [
        ("GET", [], None, []),
        ("DELETE", [], None, []),
        ("POST", [], None, [(b"content-length", b"0")]),
        ("PUT", [], None, [(b"content-length", b"0")]),
        ("PATCH", [], None, [(b"content-length", b"0")]),
        ("POST", [], b"abc", [(b"content-length", b"3")]),
        ("DELETE", [], b"abc", [(b"content-length", b"3")]),
        ("POST", [(b"content-length", b"3")], b"abc", [(b"content-length", b"3")]),
        ("POST", [], b"x" * (64 * 1024 + 1), [(b"transfer-encoding", b"chunked")]),
        ("POST", [(b"content-length", b"65537")], b"x" * 65537, [(b"content-length", b"65537")]),
    ],
)
async def test_a_request_has_the_host_first_and_one_header_that_frames_its_body(
    method: str, given: Headers, content: bytes | None, framing: Headers
) -> None:
    transport = Scripted(response())
    await call(transport, method, [(b"b", b"2"), *given], content)
    [request] = transport.requests
    assert request.method == method
    assert request.headers == [(b"host", b"a.example:8443"), (b"b", b"2"), *framing]
    assert request.target == b"/x?y=%20"
    assert request.origin == Origin("https", "a.example", 8443, b"a.example:8443")
    assert b"".join(await body_of(request)) == (content or b"")


@pytest.mark.parametrize(("idle", "read"), [(0, None), (300, 300)])
async def test_times_are_handed_on_and_no_idle_timeout_is_any_silence(
    idle: float, read: float | None
) -> None:
    transport = Scripted(response())
    await call(transport, idle=idle)
    [request] = transport.requests
    assert (request.connect_timeout, request.read_timeout) == (3, read)


# What each becomes, after how many attempts, and what the caller is to do.
ERRORS: list[tuple[Exception, type[ShimError], int, str]] = [
    (LocalProtocolError("no"), InvalidRequest, 1, "The call could not be sent on: no."),
    (
        ConnectError("no"),
        UpstreamUnreachable,
        2,
        "reached (no), and nothing was sent to it. Try again shortly.",
    ),
    (ConnectTimeout("no"), UpstreamUnreachable, 2, "nothing was sent to it. Try again shortly."),
    (
        ReadTimeout("no"),
        UpstreamTimeout,
        1,
        '5 s. For responses that take longer, stream ("stream": true),',
    ),
    (RemoteProtocolError("no"), UpstreamBroken, 1, "broke before it answered (no). Try again."),
    (WriteError("no"), UpstreamBroken, 1, "broke before it answered (no). Try again."),
    (TransportError("no"), UpstreamBroken, 1, "broke before it answered (no). Try again."),
]


@pytest.mark.parametrize(
    ("raised", "kind", "attempts", "words"), ERRORS, ids=[type(e[0]).__name__ for e in ERRORS]
)
async def test_an_error_of_the_transport_becomes_one_of_the_shims(
    raised: Exception, kind: type[ShimError], attempts: int, words: str
) -> None:
    transport = Scripted(raised)
    with pytest.raises(kind) as error:
        await call(transport)
    assert error.type is kind
    assert words in error.value.message
    assert len(transport.requests) == attempts
    if kind is not InvalidRequest:
        with pytest.raises(kind):
            await upstream(Scripted(raised)).check("https://a.example/openai")


async def test_a_connection_that_failed_once_is_tried_again() -> None:
    transport = Scripted(ConnectError("no"), response(status=201))
    assert (await call(transport)).status == 201
    assert len(transport.requests) == 2


@pytest.mark.parametrize(("limit", "read"), [(6, b"abcdef"), (7, b"abcdef"), (5, None), (0, None)])
async def test_what_was_read_of_a_response_can_be_relayed_all_the_same(
    limit: int, read: bytes | None
) -> None:
    answer = await call(Scripted(response(b"abc", b"def")))
    assert await answer.read(limit) == read
    assert b"".join(await relayed(answer)) == b"abcdef"


async def test_a_response_may_be_replaced() -> None:
    answer = await call(Scripted(response(b"abc")))
    answer.replace(404, [(b"b", b"2")], b"other")
    assert (answer.status, answer.headers) == (404, [(b"b", b"2")])
    assert await relayed(answer) == [b"other"]


async def test_a_response_that_breaks_off_is_broken() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise RemoteProtocolError("reset")

    answer = await call(Scripted(MadeUp(body=broken())))
    with pytest.raises(UpstreamBroken, match="reset"):
        await answer.read(10)


async def test_a_check_asks_without_a_key_and_closes_the_response_whatever_it_is() -> None:
    answer = response(status=401)
    transport = Scripted(answer)
    await upstream(transport).check("https://a.example:8443/openai")
    [request] = transport.requests
    assert (request.method, request.headers) == ("GET", [(b"host", b"a.example:8443")])
    assert request.origin == Origin("https", "a.example", 8443, b"a.example:8443")
    assert (request.target, request.body) == (b"/openai", b"")
    assert request.connect_timeout == 3
    assert answer.closed == 1


async def test_connections_are_counted_where_the_transport_counts_them() -> None:
    assert upstream(Scripted(response())).connections == {}
    counted = upstream(ShimTransport()).connections
    assert counted == {"opened": 0, "reused": 0, "stale": 0, "repeated": 0}


async def _never(_: WireRequest) -> WireResponse:
    return await asyncio.Future[WireResponse]()


def test_no_response_within_the_time_is_a_timeout_that_is_not_to_be_repeated() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        calling = asyncio.create_task(call(Scripted(_never)))
        await loop.pass_until(0)
        await loop.pass_until(4.9)
        assert not calling.done()
        await loop.pass_until(5)
        with pytest.raises(UpstreamTimeout, match="within 5 s") as raised:
            await calling
        assert (b"x-should-retry", b"false") in raised.value.headers

    run_in_virtual_time(scenario)


def test_an_error_that_stalls_is_a_timeout_and_its_response_closed() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    async def scenario(loop: VirtualLoop) -> None:
        stalled = MadeUp(429, body=stalling())
        sending = Sending()
        caller = Caller(sending)
        client = upstream(Scripted(response()))
        answer = UpstreamResponse(stalled, Body(caller, caller.body()))
        reading = asyncio.create_task(client.read(answer, 100, caller))
        await loop.pass_until(0)
        await loop.pass_until(4.9)
        assert not reading.done()
        await loop.pass_until(5)
        with pytest.raises(UpstreamTimeout):
            await reading
        assert stalled.closed == 1

    run_in_virtual_time(scenario)


def test_a_slow_upload_is_no_late_response() -> None:
    got = []

    async def take_all(request: WireRequest) -> WireResponse:
        assert not isinstance(request.body, bytes)
        async for chunk in request.body:
            got.append(chunk)
        return await asyncio.Future[WireResponse]()

    async def scenario(loop: VirtualLoop) -> None:
        sending = Sending(b"a", b"b", b"c")
        caller = Caller(sending)
        framing = [(b"transfer-encoding", b"chunked")]
        opening = asyncio.create_task(
            open_body(framing, caller, model="unread", max_bytes=1, space=SpoolSpace(1))
        )
        sending.let_go.set()
        await loop.pass_until(0)
        request = UpstreamRequest("POST", "https://a.example", "/", framing, await opening)
        calling = asyncio.create_task(upstream(Scripted(take_all)).send(request, caller))
        await loop.pass_until(0)
        for now in (4, 8):
            await loop.pass_until(now)
            sending.let_go.set()
            await loop.pass_until(now)
            assert not calling.done()
        assert got == [b"a", b"b", b"c"]
        await loop.pass_until(12.9)
        assert not calling.done()
        await loop.pass_until(13)
        with pytest.raises(UpstreamTimeout):
            await calling

    run_in_virtual_time(scenario)


def test_once_upstream_has_answered_the_rest_of_an_upload_has_all_its_time() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        uploads: list[AsyncIterator[bytes]] = []

        async def answer_early(request: WireRequest) -> WireResponse:
            assert not isinstance(request.body, bytes)
            uploads.append(request.body)
            assert await anext(uploads[0]) == b"a"
            return response()

        sending = Sending(b"a", b"b")
        caller = Caller(sending)
        sending.let_go.set()
        framing = [(b"transfer-encoding", b"chunked")]
        body = await open_body(framing, caller, model="unread", max_bytes=1, space=SpoolSpace(1))
        request = UpstreamRequest("POST", "https://a.example", "/", framing, body)
        await upstream(Scripted(answer_early)).send(request, caller)
        await loop.pass_until(60)
        sending.let_go.set()
        assert [piece async for piece in uploads[0]] == [b"b"]

    run_in_virtual_time(scenario)


class Leaving:
    """A caller who has sent all, and leaves when told."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_a_caller_who_leaves_before_the_response_has_the_request_cancelled() -> None:
    """A completion that nobody waits for would run on, and be billed."""

    async def waiting(_: WireRequest) -> WireResponse:
        leaving.left.set()
        try:
            return await _never(_)
        finally:
            cancelled.set()

    leaving, cancelled = Leaving(), asyncio.Event()
    caller = Caller(leaving)
    body = await open_body([], caller, model="unread", max_bytes=1, space=SpoolSpace(1))
    request = UpstreamRequest("GET", "https://a.example", "/", [], body)
    async with asyncio.timeout(4):  # less than the first byte has
        with pytest.raises(CallerGone):
            await upstream(Scripted(waiting)).send(request, caller)
    assert cancelled.is_set()


async def test_a_caller_who_leaves_while_an_error_is_read_has_its_response_closed() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        leaving.left.set()
        yield b"a"
        await asyncio.Event().wait()

    leaving, stalled = Leaving(), MadeUp(429, body=stalling())
    caller = Caller(leaving)
    caller.sent_nothing()
    answer = UpstreamResponse(stalled, Body(caller, caller.body()))
    async with asyncio.timeout(4):
        with pytest.raises(CallerGone):
            await upstream(Scripted(response())).read(answer, 100, caller)
    assert stalled.closed == 1
