"""devhost treats requests and responses as the Functions host does; each fact's source is in docs/platform.md.

Limits, retries and empty 500s of the platform are found here, or by the first caller in production.
"""

import asyncio
import json
import re
from dataclasses import replace

import pytest

from devhost.host import Host
from devhost.limits import NO_LIMITS, Limits
from devhost.platform_cors import PlatformCors
from tests.support.wire import Wire, connect, exchange, request
from tests.support.worker_double import Arrived, hosted

PATIENT = Limits(first_delay=0)
OK = "content-length: 2"


async def ok(arrived: Arrived) -> None:
    """Reads the whole request, and answers."""
    await read_body(arrived)
    await arrived.respond(OK, body=b"ok")


async def read_body(arrived: Arrived) -> bytes:
    if length := arrived.named("content-length"):
        return await arrived.reader.readexactly(int(length[0]))
    if arrived.named("transfer-encoding"):
        return (await arrived.reader.readuntil(b"0\r\n\r\n"))[:-5]
    return b""


async def no_content(arrived: Arrived) -> None:
    await arrived.respond(status="204 No Content")


async def stream(arrived: Arrived) -> None:
    await arrived.respond("transfer-encoding: chunked", body=chunk(b"piece") + b"0\r\n\r\n")


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


CHUNKED = request("POST", "/upload", "transfer-encoding: chunked")


async def fence(host: Host) -> None:
    """A round trip beside the call that a test looks at: what was on its way has arrived by then."""
    assert (await exchange(host.url, request("PATCH", "/no-such-method"))).status == 404


def nothing_has_come(wire: Wire) -> bool:
    return not wire.reader._buffer  # type: ignore[attr-defined]


class TestRequestBodies:
    async def test_one_of_known_length_is_read_whole_before_the_function_is_invoked(self) -> None:
        async with hosted(ok) as (host, worker), connect(host.url) as wire:
            await wire.send(request("POST", "/upload", "content-length: 9") + b"first")
            await fence(host)
            assert (worker.announced, worker.connections) == ({}, 0)
            await wire.send(b"last")
            assert (await wire.answer()).status == 200
            assert len(worker.announced) == 1

    async def test_a_chunked_one_is_forwarded_as_it_arrives(self) -> None:
        first_arrived = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            assert await arrived.reader.readexactly(10) == chunk(b"first")
            first_arrived.set()
            await read_body(arrived)
            await arrived.respond(OK, body=b"ok")

        async with hosted(handle) as (host, worker), connect(host.url) as wire:
            await wire.send(CHUNKED + chunk(b"first"))
            await asyncio.wait_for(first_arrived.wait(), 5)
            assert len(worker.announced) == 1
            await wire.send(chunk(b"last") + b"0\r\n\r\n")
            assert (await wire.answer()).body == b"ok"

    async def test_the_host_itself_tells_a_caller_to_go_on_with_one_of_known_length(self) -> None:
        async with (
            hosted(ok, replace(PATIENT, wait_for_continue=0)) as (host, worker),
            connect(host.url) as wire,
        ):
            await wire.send(request("POST", "/upload", "expect: 100-continue", "content-length: 4"))
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert worker.announced == {}
            await wire.send(b"body")
            assert (await wire.answer()).status == 200

    async def test_a_json_bodys_top_level_goes_with_the_invocation_and_so_do_query_and_headers(self) -> None:
        body = b'{"model": "gpt-4o", "n": 2, "stream": true, "none": null, "list": [1], "object": {"a": 1}}'
        async with hosted(ok) as (host, worker):
            sent = request("POST", "/v1/chat?a=1&a=2&code=secret", "x-one: 1", "x-one: 2", body=body)
            assert (await exchange(host.url, sent)).status == 200
            [(params, metadata)] = worker.announced.values()
        assert params == {"path": "v1/chat"}
        query, headers = metadata.pop("Query"), metadata.pop("Headers")
        assert metadata == {
            "model": ("string", "gpt-4o"),
            "n": ("string", "2"),
            "stream": ("string", "True"),
            "object": ("json", '{"a": 1}'),
            "a": ("string", "2"),
            "path": ("string", "v1/chat"),
        }
        assert json.loads(query[1]) == {"a": "2", "code": "secret"}
        assert json.loads(headers[1])["x-one"] == "1,2"

    async def test_of_a_chunked_body_nothing_goes_with_the_invocation(self) -> None:
        async with hosted(ok) as (host, worker):
            await exchange(host.url, CHUNKED + chunk(b'{"model": "gpt-4o"}') + b"0\r\n\r\n")
            [(_, metadata)] = worker.announced.values()
        assert "model" not in metadata

    async def test_one_announced_to_be_too_large_is_an_empty_500_and_never_reaches_the_worker(self) -> None:
        async with hosted(ok, replace(PATIENT, body=10)) as (host, worker):
            answer = await exchange(host.url, request("POST", "/upload", "content-length: 11"))
            assert (answer.status, answer.body) == (500, b"")
            assert (worker.announced, worker.connections) == ({}, 0)

    async def test_one_that_turns_out_too_large_is_an_empty_500_after_the_function_was_invoked(self) -> None:
        async with hosted(ok, replace(PATIENT, body=10)) as (host, worker):
            answer = await exchange(host.url, CHUNKED + chunk(b"too much of it") + b"0\r\n\r\n")
            assert (answer.status, answer.body) == (500, b"")
            assert len(worker.announced) == 1

    async def test_the_limit_is_the_apps_setting(self) -> None:
        assert Limits.of({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "5"}).body == 5
        assert Limits.of({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "5 MB"}).body == 100 * 2**20
        assert Limits.of({}).body == 100 * 2**20

    @pytest.mark.parametrize("head", [request("POST", "/upload", "content-length: 100"), CHUNKED])
    async def test_one_sent_too_slowly_is_an_empty_500(self, head: bytes) -> None:
        async with hosted(ok, replace(PATIENT, grace=0.02)) as (host, _), connect(host.url) as wire:
            await wire.send(head)
            answer = await wire.answer()
            assert (answer.status, answer.body) == (500, b"")


class TestResponses:
    async def test_one_waits_for_the_end_of_the_upload(self) -> None:
        responded = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond(OK, body=b"ok")
            responded.set()
            await read_body(arrived)

        async with hosted(handle) as (host, _), connect(host.url) as wire:
            await wire.send(CHUNKED + chunk(b"first"))
            await asyncio.wait_for(responded.wait(), 5)
            await fence(host)
            assert nothing_has_come(wire)
            await wire.send(b"0\r\n\r\n")
            assert (await wire.answer()).body == b"ok"

    async def test_one_that_closes_the_connection_during_the_upload_is_lost(self) -> None:
        closed = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond(
                "content-length: 2", "connection: close", body=b"no", status="401 Unauthorized"
            )
            arrived.writer.transport.abort()
            closed.set()

        async with hosted(handle) as (host, worker), connect(host.url) as wire:
            await wire.send(CHUNKED + chunk(b"first"))
            await asyncio.wait_for(closed.wait(), 5)
            await wire.send(chunk(b"second"))
            await wire.send(chunk(b"third") + b"0\r\n\r\n")
            answer = await wire.answer()
            assert (answer.status, answer.body) == (500, b"")
            assert len(worker.arrived) == 1

    async def test_a_refusal_is_not_lost_on_an_upload_that_expects_to_be_told(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(
                "content-length: 2", "connection: close", body=b"no", status="401 Unauthorized"
            )
            arrived.writer.close()

        async with hosted(handle) as (host, _), connect(host.url) as wire:
            await wire.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
            answer = await wire.answer()
            assert (answer.status, answer.body) == (401, b"no")

    async def test_an_upload_that_expects_to_be_told_goes_on_once_the_worker_says_so(self) -> None:
        async def handle(arrived: Arrived) -> None:
            arrived.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await read_body(arrived) == chunk(b"body")
            await arrived.respond(OK, body=b"ok")

        async with (
            hosted(handle, replace(PATIENT, wait_for_continue=100)) as (host, _),
            connect(host.url) as wire,
        ):
            await wire.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await wire.send(chunk(b"body") + b"0\r\n\r\n")
            assert (await wire.answer()).body == b"ok"

    async def test_the_head_is_held_back_until_the_first_byte_and_then_nothing_is(self) -> None:
        head_sent, go_on = asyncio.Event(), asyncio.Queue[None]()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond("transfer-encoding: chunked", "content-type: text/event-stream")
            head_sent.set()
            for piece in (b"data: 1\n\n", b"data: 2\n\n"):
                await go_on.get()
                arrived.writer.write(chunk(piece))
            arrived.writer.write(b"0\r\n\r\n")

        async with hosted(handle) as (host, _), connect(host.url) as wire:
            await wire.send(request("GET", "/stream"))
            await asyncio.wait_for(head_sent.wait(), 5)
            await fence(host)
            assert nothing_has_come(wire)
            go_on.put_nowait(None)
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"data: 1\n\n"
            go_on.put_nowait(None)
            assert await wire.chunk() == b"data: 2\n\n"
            assert await wire.chunk() is None

    async def test_one_without_a_body_begins_when_the_invocation_has_ended(self) -> None:
        async with hosted(no_content) as (host, worker), connect(host.url) as wire:
            worker.holds_invocations = True
            await wire.send(request("GET", "/x"))
            await asyncio.wait_for(worker.reached.wait(), 5)
            await fence(host)
            assert nothing_has_come(wire)
            worker.ended.set_result(None)
            assert (await wire.answer()).status == 204

    @pytest.mark.parametrize(("method", "length"), [("GET", ["0"]), ("HEAD", [])])
    async def test_one_that_ends_without_a_body_says_so_but_to_head(
        self, method: str, length: list[str]
    ) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(
                "transfer-encoding: chunked", body=b"" if method == "HEAD" else b"0\r\n\r\n"
            )

        async with hosted(handle) as (host, _):
            answer = await exchange(host.url, request(method, "/x"))
            assert (answer.status, answer.named("content-length"), answer.whole) == (200, length, True)

    async def test_one_that_breaks_off_breaks_the_callers_connection(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond("content-length: 100", body=b"begun")
            arrived.writer.close()

        async with hosted(handle) as (host, _):
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body, answer.whole) == (200, b"begun", False)

    async def test_one_that_breaks_off_before_its_first_byte_is_an_empty_500(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond("content-length: 100")
            arrived.writer.close()

        async with hosted(handle) as (host, _):
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body, answer.whole) == (500, b"", True)

    async def test_one_whose_invocation_fails_breaks_off_once_begun(self) -> None:
        async with hosted(stream) as (host, worker), connect(host.url) as wire:
            worker.holds_invocations = True
            await wire.send(request("GET", "/x"))
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"piece"
            worker.ended.set_result("the function raised")
            with pytest.raises(EOFError):
                await wire.chunk()

    async def test_one_with_a_head_above_64_kb_is_an_empty_500_and_asked_for_ten_times(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(OK, f"x-large: {'x' * 65_536}", body=b"ok")

        async with hosted(handle) as (host, worker):
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body) == (500, b"")
            assert len(worker.arrived) == 10
            assert len({arrived.named("x-ms-invocation-id")[0] for arrived in worker.arrived}) == 1

    async def test_one_with_a_head_just_below_64_kb_comes_through(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(OK, f"x-large: {'x' * 65_400}", body=b"ok")

        async with hosted(handle) as (host, _):
            assert (await exchange(host.url, request("GET", "/x"))).named("x-large") == ["x" * 65_400]

    @pytest.mark.parametrize("value", ["caf\u00e9", "\x7f", "a\x01b"])
    async def test_one_with_a_header_that_is_not_plain_ascii_is_an_empty_500(self, value: str) -> None:
        broken = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond("transfer-encoding: chunked", f"x-name: {value}")
            await arrived.until_broken()
            broken.set()

        async with hosted(handle) as (host, _):
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body) == (500, b"")
            await asyncio.wait_for(broken.wait(), 5)

    async def test_a_reader_who_takes_nothing_is_cut_off(self) -> None:
        broken = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond("transfer-encoding: chunked")
            try:
                while True:
                    arrived.writer.write(chunk(bytes(65_536)))
                    await arrived.writer.drain()
            except ConnectionError:
                broken.set()

        limits = replace(PATIENT, minimum_rate=1e9, grace=0.02)
        async with hosted(handle, limits) as (host, _), connect(host.url) as wire:
            await wire.send(request("GET", "/x"))
            await asyncio.wait_for(broken.wait(), 20)

    async def test_silence_before_or_within_one_costs_nothing_but_yarps_patience(self) -> None:
        silent = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond("transfer-encoding: chunked", body=chunk(b"piece"))
            await silent.wait()
            await arrived.until_broken()

        limits = replace(PATIENT, activity=0.05, grace=0.01)
        async with hosted(handle, limits) as (host, _), connect(host.url) as wire:
            await wire.send(request("GET", "/x"))
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"piece"
            silent.set()
            with pytest.raises(EOFError):
                await wire.chunk()

    async def test_no_response_in_time_is_an_empty_500(self) -> None:
        async with hosted(Arrived.until_broken, replace(PATIENT, activity=0.05)) as (host, _):
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body) == (500, b"")

    async def test_the_host_says_when_and_who_where_the_worker_does_not(self) -> None:
        async def handle(arrived: Arrived) -> None:
            own = [] if "/bare" in arrived.line else ["date: then", "server: me"]
            await arrived.respond(OK, *own, body=b"ok")

        async with hosted(handle) as (host, _):
            bare = await exchange(host.url, request("GET", "/bare"))
            assert bare.named("server") == ["Kestrel"]
            assert bare.named("date")
            own = await exchange(host.url, request("GET", "/own"))
            assert (own.named("server"), own.named("date")) == (["me"], ["then"])


class TestRetries:
    async def test_a_worker_that_cannot_be_reached_is_an_empty_500(self) -> None:
        async with hosted(ok) as (host, worker):
            worker._server.close()
            answer = await exchange(host.url, request("GET", "/x"))
            assert (answer.status, answer.body) == (500, b"")

    async def test_a_request_without_a_body_is_sent_until_it_is_answered(self) -> None:
        async def handle(arrived: Arrived) -> None:
            if len(worker.arrived) < 12:
                arrived.writer.close()
            else:
                await ok(arrived)

        async with hosted(handle) as (host, worker):
            assert (await exchange(host.url, request("GET", "/x"))).status == 200

    async def test_but_not_more_than_forty_times(self) -> None:
        async def handle(arrived: Arrived) -> None:
            arrived.writer.close()

        async with hosted(handle) as (host, worker):
            assert (await exchange(host.url, request("GET", "/x"))).status == 500
            assert len(worker.arrived) == 40

    async def test_a_body_that_has_begun_is_not_sent_again(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.reader.readexactly(1)
            arrived.writer.close()

        async with hosted(handle) as (host, worker):
            answer = await exchange(host.url, request("POST", "/x", body=b"body"))
            assert (answer.status, answer.body) == (500, b"")
            assert len(worker.arrived) == 1
            assert worker.connections == 10

    def test_pauses_grow_to_a_quarter_of_a_second(self) -> None:
        assert (Limits().first_delay, Limits().longest_delay, Limits().attempts) == (0.05, 0.25, 10)


class TestHeaders:
    async def test_repeated_ones_arrive_joined_and_empty_ones_empty(self) -> None:
        async with hosted(ok) as (host, worker):
            lines = [
                "x-a: 1",
                "cookie: a=1",
                "user-agent: a/1",
                "x-a: 2",
                "cookie: b=2",
                "user-agent: b/2",
                "x-empty:",
            ]
            await exchange(host.url, request("GET", "/x", *lines))
            [arrived] = worker.arrived
        assert arrived.named("x-a") == ["1, 2"]
        assert arrived.named("cookie") == ["a=1; b=2"]
        assert arrived.named("user-agent") == ["a/1 b/2"]
        assert arrived.named("x-empty") == [""]

    async def test_those_of_the_connection_stay_behind_but_not_those_that_it_names(self) -> None:
        gone = [
            "te",
            "keep-alive",
            "proxy-authorization",
            "http2-settings",
            "upgrade-insecure-requests",
            "alt-svc",
        ]
        kept = ["trailer", "x-named"]
        lines = [f"{name}: here" for name in [*gone, *kept]]
        async with hosted(ok) as (host, worker):
            await exchange(host.url, request("GET", "/x", "connection: x-named", *lines))
            [arrived] = worker.arrived
        assert not [name for name in [*gone, "connection"] if arrived.named(name)]
        assert [arrived.named(name) for name in kept] == [["here"], ["here"]]

    async def test_the_host_speaks_for_the_caller(self) -> None:
        lines = ["x-forwarded-for: 9.9.9.9", "x-forwarded-prefix: /p", "x-ms-invocation-id: mine"]
        async with hosted(ok) as (host, worker):
            await exchange(host.url, request("GET", "/x", *lines))
            [arrived], [invocation_id] = worker.arrived, worker.announced
        assert arrived.named("host") == [worker.http_uri.removeprefix("http://")]
        assert arrived.named("x-forwarded-host") == ["shim.example.com"]
        assert arrived.named("x-forwarded-for") == ["127.0.0.1"]
        assert arrived.named("x-forwarded-prefix") == []
        assert arrived.named("x-ms-invocation-id") == [invocation_id]

    async def test_a_traceparent_is_added_to_a_request_without_one(self) -> None:
        own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with hosted(ok) as (host, worker):
            await exchange(host.url, request("GET", "/x"))
            await exchange(host.url, request("GET", "/x", f"traceparent: {own}"))
            made, kept = (arrived.named("traceparent") for arrived in worker.arrived)
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", made[0])  # not sampled: ASP.NET Core's own
        assert kept == [own]

    async def test_a_websockets_upgrade_is_put_back_and_no_others(self) -> None:
        async with hosted(ok) as (host, worker):
            await exchange(host.url, request("GET", "/x", "connection: upgrade", "upgrade: websocket"))
            await exchange(host.url, request("GET", "/x", "connection: upgrade", "upgrade: h2c"))
            websocket, other = worker.arrived
        assert (websocket.named("connection"), websocket.named("upgrade")) == (["Upgrade"], ["websocket"])
        assert (other.named("connection"), other.named("upgrade")) == ([], [])

    @pytest.mark.parametrize(
        ("method", "headers", "length"),
        [
            ("GET", [], []),
            ("POST", [], ["0"]),
            ("PUT", [], ["0"]),
            ("DELETE", [], []),
            ("GET", ["content-type: a/b"], ["0"]),
        ],
    )
    async def test_a_request_without_a_body_says_so_where_httpclient_does(
        self, method: str, headers: list[str], length: list[str]
    ) -> None:
        async with hosted(ok) as (host, worker):
            await exchange(host.url, request(method, "/x", *headers))
            assert worker.arrived[0].named("content-length") == length

    async def test_one_that_is_not_ascii_is_announced_and_never_sent(self) -> None:
        async with hosted(ok) as (host, worker), connect(host.url) as wire:
            worker.holds_invocations = True
            await wire.send(request("GET", "/x", "x-name: caf\u00c3\u00a9"))
            await asyncio.wait_for(worker.invoked.wait(), 5)
            await fence(host)
            assert worker.arrived == []
            worker.ended.set_result("No http request found")
            answer = await wire.answer()
            assert (answer.status, answer.body) == (500, b"")

    async def test_one_that_is_not_even_utf_8_is_a_400(self) -> None:
        async with hosted(ok) as (host, _):
            assert (await exchange(host.url, request("GET", "/x", "x-name: caf\u00e9"))).status == 400


def padded(target: str = "/x", *, line: int = 0, headers: int = 0, count: int = 0) -> bytes:
    """A request whose line, or all of whose headers, have exactly that many bytes; or with so many headers."""
    if line:
        target += "?" + "x" * (line - len(f"GET {target}? HTTP/1.1\r\n"))
    lines = ["host: a", *(f"x-{number}: 1" for number in range(count - 1))]
    if headers:
        lines.append("x-large: " + "x" * (headers - len("host: a\r\nx-large: \r\n")))
    return "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode()


HEADS = {
    "a request line of 8 KB": (padded(line=8192), 200),
    "a longer one": (padded(line=8194), 414),
    "one that does not end": (b"GET /" + b"x" * 9000, 414),
    "32 KB of headers": (padded(headers=32_768), 200),
    "more of them": (padded(headers=32_769), 431),
    "headers that do not end": (b"GET / HTTP/1.1\r\nhost: " + b"x" * 33_000, 431),
    "100 headers": (padded(count=100), 200),
    "101 headers": (padded(count=101), 431),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "no Host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "an upgrade with a body": (
        request("POST", "/x", "connection: upgrade", "upgrade: websocket", body=b"body"),
        400,
    ),
}


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=HEADS.keys())
async def test_a_requests_head_has_kestrels_limits(head: bytes, status: int) -> None:
    async with hosted(ok) as (host, _):
        answer = await exchange(host.url, head)
        assert (answer.status, answer.body) == (status, b"ok" if status == 200 else b"")
        assert answer.named("connection") == ([] if status == 200 else ["close"])


async def test_a_connection_serves_one_request_after_another() -> None:
    async with hosted(ok) as (host, worker), connect(host.url) as wire:
        for sent in (request("GET", "/a"), request("POST", "/b", body=b"body"), CHUNKED + b"0\r\n\r\n"):
            await wire.send(sent)
            assert (await wire.answer()).body == b"ok"
        assert worker.connections == 1


async def test_requests_may_be_sent_before_their_turn() -> None:
    async with hosted(ok) as (host, worker), connect(host.url) as wire:
        await wire.send(request("GET", "/a") + request("POST", "/b", body=b"body") + request("GET", "/c"))
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(b"ok"):
            received += await asyncio.wait_for(wire.reader.read(65_536), 5)
        assert [arrived.line.split()[1] for arrived in worker.arrived] == ["/a", "/b", "/c"]


@pytest.mark.parametrize("how", ["abort", "half-close"])
async def test_a_caller_who_leaves_breaks_the_workers_connection_and_not_the_invocation(how: str) -> None:
    arrived_once, broken = asyncio.Event(), asyncio.Event()

    async def handle(arrived: Arrived) -> None:
        arrived_once.set()
        await arrived.until_broken()
        broken.set()

    async with hosted(handle) as (host, worker), connect(host.url) as wire:
        worker.holds_invocations = True
        await wire.send(request("GET", "/x"))
        await asyncio.wait_for(arrived_once.wait(), 5)
        if how == "abort":
            wire.abort()
        else:
            wire.writer.write_eof()
        await asyncio.wait_for(broken.wait(), 5)
        assert not worker.ended.done()
        worker.ended.set_result(None)


async def test_cors_headers_go_on_a_bare_500_too() -> None:
    async def handle(arrived: Arrived) -> None:
        arrived.writer.close()

    async with hosted(handle, cors=PlatformCors(("https://app.example",))) as (host, _):
        answer = await exchange(host.url, request("GET", "/x", "origin: https://app.example"))
        assert answer.status == 500
        assert answer.named("access-control-allow-origin") == ["https://app.example"]


class TestWithoutLimits:
    async def test_a_body_of_known_length_is_forwarded_as_it_arrives(self) -> None:
        async with hosted(ok, NO_LIMITS) as (host, worker), connect(host.url) as wire:
            await wire.send(request("POST", "/upload", "content-length: 9") + b"first")
            await asyncio.wait_for(worker.reached.wait(), 5)
            await wire.send(b"last")
            assert (await wire.answer()).body == b"ok"

    async def test_a_response_may_come_before_the_upload_has_ended(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(OK, body=b"ok")
            await read_body(arrived)

        async with hosted(handle, NO_LIMITS) as (host, _), connect(host.url) as wire:
            await wire.send(CHUNKED + chunk(b"first"))
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"ok"

    async def test_a_head_does_not_wait_for_its_body(self) -> None:
        go_on = asyncio.Event()

        async def handle(arrived: Arrived) -> None:
            await arrived.respond("transfer-encoding: chunked")
            await go_on.wait()
            arrived.writer.write(b"0\r\n\r\n")

        async with hosted(handle, NO_LIMITS) as (host, _), connect(host.url) as wire:
            await wire.send(request("GET", "/x"))
            assert (await wire.head()).status == 200
            go_on.set()
            assert await wire.chunk() is None

    async def test_nothing_is_too_large(self) -> None:
        async def handle(arrived: Arrived) -> None:
            await arrived.respond(OK, f"x-large: {'x' * 100_000}", body=b"ok")

        async with hosted(handle, NO_LIMITS) as (host, _), connect(host.url) as wire:
            await wire.send(padded(headers=100_000))
            assert await wire.reader.readline() == b"HTTP/1.1 200 OK\r\n"
