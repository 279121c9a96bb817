"""Bytes move as they come, in both directions; an end, a death and a disconnect are told apart.

A proxy that buffers makes a model look slow, and one that misses a disconnect bills for what nobody reads.
"""

import asyncio
import json
import socket
import uuid

import pytest
from aiohttp import web

from devhost.host import Host
from devhost.platform import NONE
from devhost.standin import Received, Standin
from shim.answer.events import EventStream
from tests.conftest import KEY, StartHost
from tests.support.outlets import Recorded
from tests.support.wire import Wire, connect, exchange, function, request

# As the product promises it; what the tests wait for comes in a few milliseconds.
NOTICED_SECONDS = 0.2

REFLECT = 'x-standin: {"reflect": true}'


@pytest.fixture
def request_id() -> str:
    """By which the stand-in finds the answer that a test has for it."""
    return str(uuid.uuid4())


@pytest.fixture(scope="session")
async def impatient(start_host: StartHost) -> Host:
    """Waits a short time for the first byte, and sends heartbeats soon."""
    return await start_host(UPSTREAM_FIRST_BYTE_TIMEOUT="0.4", SSE_HEARTBEAT="0.1")


@pytest.fixture(scope="session")
async def unplatformed(start_host: StartHost) -> Host:
    """For what the app can do and the platform does not let through: heads and refusals at once, uploads meanwhile."""
    return await start_host(platform=NONE)


def upload(request_id: str) -> bytes:
    """The head of an upload that the host forwards as it arrives."""
    return request("POST", "/v1/files", f"x-request-id: {request_id}", "transfer-encoding: chunked", key=KEY)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def chat(request_id: str, *headers: str) -> bytes:
    body = b'{"model": "gpt-4o", "stream": true, "messages": []}'
    target = "/openai/v1/chat/completions"
    return request("POST", target, f"x-request-id: {request_id}", *headers, body=body, key=KEY)


async def event_stream(http_request: web.Request, **headers: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", **headers})
    await response.prepare(http_request)
    return response


async def read_until(wire: Wire, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        chunk = await wire.chunk()
        assert chunk is not None, received
        received += chunk
    return received


async def test_the_first_chunk_arrives_before_upstream_finishes(
    host: Host, standin: Standin, request_id: str
) -> None:
    first_was_read = asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await response.write(b"data: 1\n\n")
        await asyncio.wait_for(first_was_read.wait(), 5)
        await response.write(b"data: 2\n\n")
        return response

    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(chat(request_id))
        assert (await wire.head()).status == 200
        assert await wire.chunk() == b"data: 1\n\n"
        first_was_read.set()
        assert await wire.chunk() == b"data: 2\n\n"
        assert await wire.chunk() is None


async def test_the_head_arrives_before_the_first_chunk(
    unplatformed: Host, standin: Standin, request_id: str
) -> None:
    head_was_read = asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await asyncio.wait_for(head_was_read.wait(), 5)
        return response

    standin.answers[request_id] = answer
    async with connect(unplatformed.url) as wire:
        await wire.send(chat(request_id))
        assert (await wire.head()).status == 200
        head_was_read.set()
        assert await wire.chunk() is None


async def test_an_upload_is_forwarded_while_it_arrives(host: Host, standin: Standin, request_id: str) -> None:
    first_arrived = asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        assert await upstream.content.readexactly(5) == b"first"
        first_arrived.set()
        assert await upstream.content.read() == b"second"
        return web.Response(text="both")

    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(upload(request_id) + chunk(b"first"))
        await asyncio.wait_for(first_arrived.wait(), 5)
        await wire.send(chunk(b"second") + b"0\r\n\r\n")
        assert (await wire.answer()).body == b"both"


async def test_an_answer_may_come_before_the_upload_is_over(
    unplatformed: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        await upstream.content.readexactly(5)
        return web.Response(status=413, text="too much")

    standin.answers[request_id] = answer
    async with connect(unplatformed.url) as wire:
        await wire.send(
            request("POST", "/v1/files", f"x-request-id: {request_id}", "content-length: 99", key=KEY)
            + b"first"
        )
        answer_ = await wire.answer()
        assert (answer_.status, answer_.body) == (413, b"too much")


async def test_an_upload_goes_on_while_the_answer_streams(
    unplatformed: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        for _piece in range(3):
            await response.write(b"data: %s\n\n" % await upstream.content.readexactly(5))
        return response

    standin.answers[request_id] = answer
    async with connect(unplatformed.url) as wire:
        length = "content-length: 15"
        await wire.send(
            request("POST", "/v1/files", f"x-request-id: {request_id}", length, key=KEY) + b"first"
        )
        assert (await wire.head()).status == 200
        assert await wire.chunk() == b"data: first\n\n"
        for sent in (b"again", b"third"):
            await wire.send(sent)
            assert await wire.chunk() == b"data: %s\n\n" % sent
        assert await wire.chunk() is None


async def test_a_refusal_does_not_wait_for_the_upload(unplatformed: Host) -> None:
    async with connect(unplatformed.url) as wire:
        await wire.send(request("POST", "/v1/files", "content-length: 1000000", key="unknown") + b"first")
        answer = await wire.answer()
        assert (answer.status, answer.whole) == (401, True)


async def test_on_the_platform_an_early_answer_comes_after_the_upload(
    host: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        await upstream.content.readexactly(5)
        answered.set()
        return web.Response(status=413, text="too much")

    answered = asyncio.Event()
    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(upload(request_id) + chunk(b"first"))
        await asyncio.wait_for(answered.wait(), 5)
        await wire.send(chunk(bytes(1_000_000)) + b"0\r\n\r\n")
        answer_ = await wire.answer()
        assert (answer_.status, answer_.body) == (413, b"too much")


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
async def test_on_the_platform_a_refusal_comes_after_the_upload(host: Host, framing: str) -> None:
    length = "transfer-encoding: chunked" if framing == "chunked" else "content-length: 1000000"
    async with connect(host.url) as wire:
        await wire.send(request("POST", "/v1/files", length, key="unknown"))
        body = bytes(1_000_000)
        await wire.send(body if framing == "content-length" else chunk(body) + b"0\r\n\r\n")
        answer = await wire.answer()
        assert (answer.status, answer.whole) == (401, True)


async def test_a_caller_who_waits_for_100_continue_gets_it(host: Host) -> None:
    async with connect(host.worker.http_uri) as wire:
        invocation_id, ended = host.worker.invoke(function(host.worker), {})
        head = request("POST", "/v1/files", "content-length: 4", "expect: 100-continue", REFLECT, key=KEY)
        await wire.send(head.replace(b"{id}", invocation_id.encode()))
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"body")
        assert json.loads((await wire.answer()).body)["body_length"] == 4
        assert await ended is None


async def test_a_caller_who_leaves_mid_stream_is_noticed_upstream(
    host: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(chat(request_id))
        await wire.head()
        await wire.chunk()
        await assert_noticed(wire, standin, request_id)
    await assert_nothing_under_way(host)


async def test_a_caller_who_leaves_before_the_first_byte_is_noticed_upstream(
    host: Host, standin: Standin, request_id: str
) -> None:
    async with connect(host.url) as wire:
        await wire.send(chat(request_id, 'x-standin: {"hang": true}'))
        await standin.arrived(request_id)
        await assert_noticed(wire, standin, request_id)
    await assert_nothing_under_way(host)


async def test_a_caller_who_leaves_while_waiting_without_a_body_is_noticed_upstream(
    host: Host, standin: Standin, request_id: str
) -> None:
    async with connect(host.url) as wire:
        await wire.send(
            request("GET", "/v1/models", f"x-request-id: {request_id}", 'x-standin: {"hang": true}', key=KEY)
        )
        await standin.arrived(request_id)
        await assert_noticed(wire, standin, request_id)


async def test_a_caller_who_leaves_in_the_middle_of_an_upload_is_noticed_upstream(
    host: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        await upstream.content.readexactly(5)
        first_arrived.set()
        await upstream.content.read()
        raise AssertionError("the upload never ends")

    first_arrived = asyncio.Event()
    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(upload(request_id) + chunk(b"first"))
        await asyncio.wait_for(first_arrived.wait(), 5)
        await assert_noticed(wire, standin, request_id)


async def assert_noticed(wire: Wire, standin: Standin, request_id: str) -> None:
    left_at = asyncio.get_running_loop().time()
    wire.abort()
    received = await standin.ended(request_id)
    assert received.ended == "caller gone"
    assert received.ended_at is not None
    assert received.ended_at - left_at < NOTICED_SECONDS


async def assert_nothing_under_way(host: Host) -> None:
    async with asyncio.timeout(5):
        while host.worker.under_way:  # noqa: ASYNC110 - its end comes from another process
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("framing", ["chunked", "content-length"])
async def test_upstream_death_is_not_a_clean_end(
    host: Host, standin: Standin, request_id: str, framing: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        length = {} if framing == "chunked" else {"content-length": "100"}
        response = await event_stream(upstream, **length)
        await response.write(b"data: 1\n\n")
        await asyncio.wait_for(first_was_read.wait(), 5)
        assert upstream.transport is not None
        upstream.transport.abort()
        return response

    first_was_read = asyncio.Event()
    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        await wire.send(chat(request_id))
        assert (await wire.head()).status == 200
        assert await wire.chunk() == b"data: 1\n\n"
        first_was_read.set()
        with pytest.raises(EOFError):
            await wire.chunk()


async def test_upstream_death_before_an_answer_is_a_502(
    host: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        assert upstream.transport is not None
        upstream.transport.abort()
        return web.Response()

    standin.answers[request_id] = answer
    answered = await exchange(host.url, chat(request_id))
    assert answered.status == 502
    assert json.loads(answered.body)["error"]["code"] == "upstream_broken"


async def test_an_answer_that_is_not_http_is_a_502(host: Host, standin: Standin, request_id: str) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        assert upstream.transport is not None
        upstream.transport.write(b"SMTP ready\r\n\r\n")
        upstream.transport.close()
        return web.Response()

    standin.answers[request_id] = answer
    answered = await exchange(host.url, chat(request_id))
    assert answered.status == 502
    assert json.loads(answered.body)["error"]["code"] == "upstream_broken"


async def test_an_upstream_that_cannot_be_reached_is_a_502(start_host: StartHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    host = await start_host(APIM_BASE_URL=f"http://127.0.0.1:{port}/openai")
    answered = await exchange(host.url, chat("unreachable"))
    assert answered.status == 502
    error = json.loads(answered.body)["error"]
    assert error["code"] == "upstream_unreachable"
    assert str(port) not in error["message"]


async def test_no_answer_in_time_is_a_504_that_is_not_to_be_repeated(
    impatient: Host, standin: Standin, request_id: str
) -> None:
    answered = await exchange(impatient.url, chat(request_id, 'x-standin: {"hang": true}'))
    assert answered.status == 504
    error = json.loads(answered.body)["error"]
    assert error["code"] == "upstream_timeout"
    assert '"stream": true' in error["message"]
    assert '"background": true' in error["message"]
    assert answered.named("x-should-retry") == ["false"]
    assert (await standin.ended(request_id)).ended == "caller gone"


async def test_a_slow_upload_is_no_late_answer(impatient: Host, standin: Standin, request_id: str) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        arrived.set()
        return web.Response(body=await upstream.read())

    arrived = asyncio.Event()
    standin.answers[request_id] = answer
    async with connect(impatient.url) as wire:
        await wire.send(upload(request_id))
        for byte in b"upload":
            await asyncio.sleep(0.12)  # six times this is more than the time for the first byte
            await wire.send(chunk(bytes([byte])))
        await wire.send(b"0\r\n\r\n")
        assert (await wire.answer()).body == b"upload"


async def test_silence_between_events_is_filled_with_comments(
    impatient: Host, standin: Standin, request_id: str
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await response.write(b"id: 1\ndata: 1\n\n")
        await asyncio.wait_for(heartbeats_were_read.wait(), 5)
        await response.write(b"id: 2\nda")
        await response.write(b"ta: 2\n\n")
        return response

    heartbeats_were_read = asyncio.Event()
    standin.answers[request_id] = answer
    async with connect(impatient.url) as wire:
        await wire.send(chat(request_id))
        await wire.head()
        await read_until(wire, b"\n\n: heartbeat\n: heartbeat\n")
        heartbeats_were_read.set()
        rest = await read_until(wire, b"id: 2\ndata: 2\n\n")
        assert rest.replace(b": heartbeat\n", b"") == b"id: 2\ndata: 2\n\n"
        assert await wire.chunk() is None


async def test_no_heartbeat_falls_into_an_event(impatient: Host, standin: Standin, request_id: str) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await response.write(b"id: 1\ndata: 1\n")
        await asyncio.sleep(0.35)  # three heartbeats' time
        await response.write(b"\n")
        return response

    standin.answers[request_id] = answer
    answered = await exchange(impatient.url, chat(request_id))
    assert answered.body.startswith(b"id: 1\ndata: 1\n\n")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "audio/mpeg"},
        {"content-encoding": "gzip"},
        {"content-length": "80"},
    ],
    ids=["JSON", "audio", "compressed", "of a stated length"],
)
async def test_no_heartbeat_where_it_would_be_part_of_the_body(
    impatient: Host, standin: Standin, request_id: str, headers: dict[str, str]
) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream, **headers)
        for piece in pieces:
            await asyncio.sleep(0.35)  # three heartbeats' time, before the first piece too
            await response.write(piece)
        return response

    pieces = [b"%038d\n\n" % number for number in range(2)]
    standin.answers[request_id] = answer
    assert (await exchange(impatient.url, chat(request_id))).body == b"".join(pieces)


@pytest.mark.parametrize("heartbeat", ["0.1", "15"], ids=["soon", "rarely"])
async def test_a_stream_that_begins_with_silence_begins_with_a_heartbeat(
    start_host: StartHost, standin: Standin, request_id: str, heartbeat: str
) -> None:
    """It brings the response's head to the caller, so that it comes soon whatever the interval is."""
    heartbeat_was_read = asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = await event_stream(upstream)
        await asyncio.wait_for(heartbeat_was_read.wait(), 5)
        await response.write(b"data: 1\n\n")
        return response

    standin.answers[request_id] = answer
    host = await start_host(SSE_HEARTBEAT=heartbeat)
    async with connect(host.url) as wire:
        await wire.send(chat(request_id))
        assert (await wire.head()).status == 200
        await read_until(wire, b": heartbeat\n")
        heartbeat_was_read.set()
        await read_until(wire, b"data: 1\n\n")
        assert await wire.chunk() is None


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
async def test_a_heartbeat_follows_an_event_whatever_its_lines_end_in(line_break: bytes) -> None:
    sent: asyncio.Queue[bytes] = asyncio.Queue()
    events = EventStream(Recorded(written_at=sent.put_nowait))
    event = b"data: 1" + 2 * line_break
    events.write(event)
    beating = asyncio.create_task(events.beat(0.01))
    async with asyncio.timeout(5):
        assert await sent.get() == event
        assert (await sent.get()).startswith(b":")
    beating.cancel()
