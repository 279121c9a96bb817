"""The worker's own server: every request ends its invocation, whatever it is.

One that does not hangs until functionTimeout, and holds a place among the calls in flight all that time.
"""

import asyncio
import json
from typing import Any, cast

import pytest
from azure_functions_runtime.http_v2 import HttpCoordinator

from devhost.host import Host
from devhost.standin import Standin
from shim.asgi import Message, Request, Response
from shim.errors import IncompleteBody, InternalError, ShimError, TooBusy
from shim.headers import Headers
from shim.worker.cycle import Cycle
from shim.worker.invocations import LEG_TIMEOUT_SECONDS, Invocations
from shim.worker.server import WebApp
from tests.conftest import KEY
from tests.support.outlets import Recorded
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time
from tests.support.wire import Answer, connect, exchange, function, invoke, request


def error_of(answer: Answer) -> dict[str, str]:
    error: dict[str, str] = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/", "/openai-v1/models", "/v1x"])
async def test_a_path_of_no_api_is_answered_and_ends(host: Host, path: str) -> None:
    answer, failure = await invoke(host.worker, request("GET", path, key=KEY))
    assert (answer.status, error_of(answer)["code"], failure) == (404, "not_found", None)


UNPARSABLE = {
    "an unknown method": b"BREW /v1/models HTTP/1.1\r\nx-ms-invocation-id: {id}\r\n\r\n",
    "a garbage request line": b"\x16\x03\x01garbage\r\nx-ms-invocation-id: {id}\r\n\r\n",
    "a version that is none": b"GET /v1/models HTTP/7.3\r\nX-MS-Invocation-Id: {id}\r\n\r\n",
    "an id without a space before it": b"BREW /v1/models HTTP/1.1\r\nX-Ms-Invocation-ID:{id}\r\n\r\n",
    "an id between tabs": b"BREW /v1/models HTTP/1.1\r\nx-ms-invocation-id:\t{id}\t\r\n\r\n",
    "an id in a header's value": (
        b"BREW /v1/models HTTP/1.1\r\nx-note: x-ms-invocation-id: other\r\nx-ms-invocation-id: {id}\r\n\r\n"
    ),
    "a header without a colon": b"GET /v1/models HTTP/1.1\r\nx-ms-invocation-id: {id}\r\nnonsense\r\n\r\n",
    "a space before the colon": b"GET /v1/models HTTP/1.1\r\nx-ms-invocation-id: {id}\r\nhost : a\r\n\r\n",
    "two content-lengths": (
        b"POST /v1/files HTTP/1.1\r\nx-ms-invocation-id: {id}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
    ),
    "length and chunks": (
        b"POST /v1/files HTTP/1.1\r\nx-ms-invocation-id: {id}\r\ncontent-length: 1\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    ),
    "bytes that are not ASCII": b"GET /v1/m\xf6dels HTTP/1.1\r\nx-ms-invocation-id: {id}\r\n\r\n",
    "an absolute-form target": b"GET http://evil.example/v1/models HTTP/1.1\r\nx-ms-invocation-id: {id}\r\n\r\n",
    "an authority-form target": b"GET evil.example:443 HTTP/1.1\r\nx-ms-invocation-id: {id}\r\n\r\n",
    "an asterisk-form target": b"OPTIONS * HTTP/1.1\r\nx-ms-invocation-id: {id}\r\n\r\n",
}


@pytest.mark.parametrize("raw", UNPARSABLE.values(), ids=UNPARSABLE.keys())
async def test_what_is_not_http_is_refused_and_ends_its_invocation(host: Host, raw: bytes) -> None:
    async with asyncio.timeout(5):  # sooner than by the sweep
        answer, failure = await invoke(host.worker, raw)
    assert answer.status == 400
    assert error_of(answer)["code"] == "invalid_request"
    assert answer.named("x-shim-error-source") == ["shim"]
    assert answer.named("connection") == ["close"]
    assert failure is not None
    assert "No http request found" in failure


@pytest.mark.parametrize("line", ["CONNECT evil.example:443", "TRACE /v1/files", "TRACE *"])
async def test_connect_and_trace_are_refused_by_name_and_end_their_invocation(host: Host, line: str) -> None:
    latest = host.worker.under_way
    head = f"{line} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\nx-ms-invocation-id: {{id}}\r\n\r\n"
    async with asyncio.timeout(5):  # sooner than by the sweep
        answer, failure = await invoke(host.worker, head.encode())
    assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert "TRACE" in error_of(answer)["message"]
    assert "TRACE" not in answer.named("allow")[0]
    assert failure is not None
    assert host.worker.under_way == latest


async def test_what_is_not_http_ends_its_invocation_however_it_is_cut(host: Host) -> None:
    raw = request("GET", "/v1/files", "no colon", key=KEY)
    for cut in (10, raw.index(b"no colon"), raw.index(b"no colon") + 5):
        invocation_id, ended = host.worker.invoke(function(host.worker), {})
        sent = raw.replace(b"{id}", invocation_id.encode())
        async with connect(host.worker.http_uri) as wire:
            for piece in (sent[:cut], sent[cut:]):
                await wire.send(piece)
                await asyncio.sleep(0.02)  # or TCP would join them again
            assert (await wire.answer()).status == 400
            # What might follow on the connection could not be told apart from the rest of this.
            assert await asyncio.wait_for(wire.reader.read(), 5) == b""
        # Sooner than by the sweep.
        assert "No http request found" in (await asyncio.wait_for(ended, 5) or "")


async def test_a_broken_request_ends_its_own_invocation_on_a_connection_that_has_served_others(
    host: Host,
) -> None:
    async with connect(host.worker.http_uri) as wire:
        first, ended = host.worker.invoke(function(host.worker), {})
        body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'
        call = request("POST", "/v1/chat/completions", body=body, key=KEY)
        await wire.send(call.replace(b"{id}", first.encode()))
        assert (await wire.answer()).status == 200
        assert await ended is None
        second, ended = host.worker.invoke(function(host.worker), {})
        broken = request("GET", "/v1/files", "no colon", key=KEY)
        await wire.send(broken.replace(b"{id}", second.encode()))
        assert (await wire.answer()).status == 400
    # Sooner than by the sweep.
    assert "No http request found" in (await asyncio.wait_for(ended, 5) or "")


async def test_a_body_that_breaks_its_framing_ends_its_invocation(host: Host) -> None:
    invocation_id, ended = host.worker.invoke(function(host.worker), {})
    async with connect(host.worker.http_uri) as wire:
        head = request("POST", "/v1/files", "transfer-encoding: chunked", key=KEY)
        await wire.send(head.replace(b"{id}", invocation_id.encode()) + b"3\r\nabc\r\nnot-a-size\r\n")
        assert await wire.reader.read() == b""
    assert await asyncio.wait_for(ended, 10) is None


async def test_a_pipelined_request_ends_both(host: Host) -> None:
    """The host never sends one. Of two, only the last would be told that the caller has left."""
    invocation_id, ended = host.worker.invoke(function(host.worker), {})
    call = request("GET", "/v1/files", 'x-standin: {"delay": 60}', key=KEY).replace(
        b"{id}", invocation_id.encode()
    )
    async with connect(host.worker.http_uri) as wire:
        await wire.send(call)
        await wire.send(call)
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""
    await asyncio.wait_for(ended, 5)


async def test_a_call_past_the_host_is_refused(host: Host) -> None:
    answer = await exchange(host.worker.http_uri, b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (answer.status, error_of(answer)["code"]) == (400, "invalid_request")


async def test_connections_stay_open_and_the_server_adds_no_headers(host: Host) -> None:
    async with connect(host.worker.http_uri) as wire:
        for _ in range(3):
            invocation_id, ended = host.worker.invoke(function(host.worker, "healthz"), {})
            await wire.send(request("GET", "/healthz").replace(b"{id}", invocation_id.encode()))
            answer = await wire.answer()
            assert (answer.status, json.loads(answer.body)) == (200, {"status": "alive"})
            assert not {"date", "server", "connection"} & {name for name, _ in answer.headers}
            assert await ended is None


async def test_nothing_is_left_under_way(host: Host) -> None:
    """Last on purpose: after all of the above."""
    for _ in range(100):
        if not host.worker.under_way:
            break
        await asyncio.sleep(0.01)
    assert host.worker.under_way == frozenset()


class TestSweep:
    """Legs that never meet, on the runtime's own coordinator."""

    @pytest.fixture
    def coordinator(self) -> HttpCoordinator:
        """One of the test's own: the class makes but one, and keeps it."""

        class Coordinator(HttpCoordinator):
            pass

        return Coordinator()  # type: ignore[no-untyped-call]

    @pytest.fixture
    def invocations(self, coordinator: HttpCoordinator) -> Invocations:
        return Invocations(coordinator)

    async def test_an_invocation_whose_request_never_comes_is_ended(
        self, coordinator: HttpCoordinator, invocations: Invocations, caplog: pytest.LogCaptureFixture
    ) -> None:
        waiting = asyncio.create_task(coordinator.get_http_request_async("lone"))
        await asyncio.sleep(0)
        invocations.sweep()
        # The other leg may be on its way. What the sweep does to a waiting task shows when that runs again.
        assert not (await asyncio.wait([waiting], timeout=0.05))[0]
        invocations.sweep()
        with pytest.raises(ValueError, match="No http request found"):
            await waiting
        assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
            ("shim", "ERROR", "invocation lone was half arrived for too long; ended")
        ]
        # The runtime reports the failure to the coordinator, where nobody fetches it.
        coordinator.set_http_response("lone", ValueError())
        invocations.sweep()
        invocations.sweep()
        assert coordinator._context_references == {}

    async def test_a_request_whose_invocation_never_comes_is_ended(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        coordinator.set_http_request("lone", object())
        waiting = asyncio.create_task(coordinator.await_http_response_async("lone"))
        await asyncio.sleep(0)
        invocations.sweep()
        invocations.sweep()
        ended = await waiting
        assert isinstance(ended, InternalError)
        assert "announced no invocation for this request. Try again." in ended.message

    async def test_a_leg_waits_for_the_other_from_one_sweep_to_the_next(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        loop, interval = asyncio.get_running_loop(), 0.1
        waiting = asyncio.create_task(coordinator.get_http_request_async("lone"))
        ended = loop.create_future()
        waiting.add_done_callback(lambda _: ended.set_result(loop.time()))
        began = loop.time()
        sweeping = asyncio.create_task(invocations.sweep_forever(interval))
        try:
            assert await asyncio.wait_for(ended, 5) - began >= 2 * interval
            assert isinstance(waiting.exception(), ValueError)
        finally:
            sweeping.cancel()

    async def test_the_sweep_survives_an_entry_that_it_cannot_read(
        self, coordinator: HttpCoordinator, invocations: Invocations, caplog: pytest.LogCaptureFixture
    ) -> None:
        coordinator._context_references["odd"] = cast("Any", object())
        sweeping = asyncio.create_task(invocations.sweep_forever(0.01))
        try:
            async with asyncio.timeout(5):
                while len(caplog.messages) < 2:  # noqa: ASYNC110 - the sweep tells nobody else
                    await asyncio.sleep(0.01)
        finally:
            sweeping.cancel()
        assert caplog.messages[0].startswith("the sweep of invocations failed: AttributeError")
        assert (caplog.records[0].name, caplog.records[0].levelname) == ("shim", "ERROR")

    def test_a_leg_is_given_longer_than_the_hosts_retries_take_and_less_than_a_caller_waits(self) -> None:
        assert 2.5 < LEG_TIMEOUT_SECONDS <= 10

    async def test_a_request_that_is_being_answered_is_left_alone(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        coordinator.set_http_request("met", object())
        await coordinator.get_http_request_async("met")
        for _ in range(3):
            invocations.sweep()
        assert list(coordinator._context_references) == ["met"]

    @pytest.mark.parametrize("reported", [ValueError(), None], ids=["a failure", "nothing"])
    async def test_a_refused_request_is_over_as_soon_as_its_invocation_is(
        self, coordinator: HttpCoordinator, invocations: Invocations, reported: ValueError | None
    ) -> None:
        refusing = asyncio.create_task(invocations.refuse("broken"))
        with pytest.raises(ValueError, match="No http request found"):
            await coordinator.get_http_request_async("broken")
        # The runtime reports that to the coordinator, as the response.
        coordinator.set_http_response("broken", reported)
        await asyncio.wait_for(refusing, 1)
        assert coordinator._context_references == {}
        with pytest.raises(IncompleteBody):
            invocations.begin("broken", {})

    def test_a_refused_request_waits_no_longer_than_any_leg_for_an_invocation_that_never_comes(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            refusing = asyncio.create_task(invocations.refuse("lone"))
            await loop.pass_until(0)
            await loop.pass_until(4.9)
            assert not refusing.done()
            await loop.pass_until(5.1)
            assert refusing.done()
            assert refusing.exception() is None
            assert coordinator._context_references == {}

        run_in_virtual_time(scenario)

    async def test_a_broken_repetition_takes_nothing_from_the_request_that_is_at_work(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        first = object()
        invocations.begin("at work", {})
        coordinator.set_http_request("at work", first)
        await asyncio.wait_for(invocations.refuse("at work"), 1)
        assert await coordinator.get_http_request_async("at work") is first

    async def test_a_broken_repetition_of_what_is_over_waits_for_no_invocation(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        invocations.begin("over", {})
        invocations.release("over")
        await asyncio.wait_for(invocations.refuse("over"), 1)
        assert coordinator._context_references == {}

    async def test_what_is_over_is_forgotten_by_the_coordinator_too(
        self, coordinator: HttpCoordinator, invocations: Invocations
    ) -> None:
        """It keeps every request for ever by itself: two kilobytes each."""
        invocations.begin("served", {})
        coordinator.set_http_request("served", object())
        invocations.release("served")
        assert coordinator._context_references == {}

    async def test_a_runtime_without_a_coordinator_is_left_alone(self) -> None:
        invocations = Invocations(object())
        invocations.sweep()
        invocations.release("any")


def test_ids_that_are_over_are_remembered_for_a_while_and_not_for_ever() -> None:
    invocations = Invocations(object())
    for number in range(2_000):
        invocations.begin(str(number), {})
        invocations.release(str(number))
    for remembered in ("1999", "1000"):
        with pytest.raises(ShimError):
            invocations.begin(remembered, {})
    invocations.begin("0", {})


class Asked(Recorded):
    """A request at the app itself, and what becomes of it."""

    def __init__(self, headers: Headers) -> None:
        super().__init__()
        self.scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "state": {}}

    async def receive(self) -> Message:
        return await asyncio.Future()


async def ask(app: WebApp, *headers: tuple[bytes, bytes]) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to a request at the app itself."""
    asked = Asked(list(headers))
    await app(cast("Cycle", asked))
    assert asked.ended
    return asked.status, json.loads(b"".join(asked.pieces))


def announced(invocation_id: str) -> tuple[bytes, bytes]:
    return (b"x-ms-invocation-id", invocation_id.encode())


async def test_an_app_whose_runtime_has_no_handler_yet_refuses_and_forgets_the_call() -> None:
    app = WebApp()
    for _ in range(2):
        status, content = await ask(app, announced("early"))
        assert (status, content["error"]["code"]) == (400, "invalid_request")
        assert "Call the host instead" in content["error"]["message"]


async def test_a_refusal_that_the_coordinator_hands_over_is_the_answer() -> None:
    app = WebApp()

    async def refusing(_: Request) -> Response:
        raise TooBusy("Try again later.", retry_after=1)

    app.route(refusing)
    assert (await ask(app, announced("1")))[1]["error"]["code"] == "too_busy"


async def test_a_defect_of_the_runtime_is_a_500_that_quotes_nothing_and_names_the_invocation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = WebApp()

    async def failing(_: Request) -> Response:
        raise LookupError(f"of {KEY}")

    app.route(failing)
    status, content = await ask(app, announced("odd-one"))
    assert (status, content["error"]["code"]) == (500, "internal_error")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("shim", "ERROR")
    assert record.message.startswith("the runtime could not run invocation odd-one: LookupError in ")
    assert KEY not in caplog.text + str(content)
    # It is over: a repetition is not run again, nor left waiting.
    assert (await ask(app, announced("odd-one")))[1]["error"]["code"] == "incomplete_body"


def assert_response_lost(answer: Answer) -> None:
    assert (answer.status, error_of(answer)["code"]) == (502, "response_lost")
    assert error_of(answer)["message"].endswith("repeat it only if that does no harm.")
    # An SDK that retried it would have the model run, and billed, again.
    assert answer.named("x-should-retry") == ["false"]


async def test_a_request_that_the_host_repeats_under_an_id_that_is_over_is_not_run_again(
    host: Host, standin: Standin
) -> None:
    invocation_id, ended = host.worker.invoke(function(host.worker), {})
    call = request("GET", "/v1/files", key=KEY).replace(b"{id}", invocation_id.encode())
    assert (await exchange(host.worker.http_uri, call)).status == 200
    await ended
    ran = standin.latest
    assert_response_lost(await exchange(host.worker.http_uri, call))
    assert standin.latest is ran


async def test_a_request_that_the_host_repeats_while_the_first_is_at_work_leaves_that_alone(
    host: Host, standin: Standin
) -> None:
    invocation_id, ended = host.worker.invoke(function(host.worker), {})
    call = request("GET", "/v1/files", 'x-standin: {"delay": 0.5}', "x-request-id: repeated", key=KEY)
    call = call.replace(b"{id}", invocation_id.encode())
    async with connect(host.worker.http_uri) as first:
        await first.send(call)
        await standin.arrived("repeated")
        assert_response_lost(await exchange(host.worker.http_uri, call))
        broken = await exchange(host.worker.http_uri, call.replace(b"host:", b"no colon"))
        assert broken.status == 400
        assert (await first.answer()).status == 200
    assert await ended is None


async def test_a_request_that_the_host_repeats_because_its_body_broke_off_is_the_callers_error(
    host: Host,
) -> None:
    invocation_id, ended = host.worker.invoke(function(host.worker), {})
    head = request("POST", "/v1/files", "transfer-encoding: chunked", key=KEY)
    head = head.replace(b"{id}", invocation_id.encode())
    async with connect(host.worker.http_uri) as first:
        await first.send(head + b"3\r\nabc\r\n")
        at_work = await exchange(host.worker.http_uri, head)
    await asyncio.wait_for(ended, 5)
    over = await exchange(host.worker.http_uri, head)
    for again in (at_work, over):
        assert (again.status, error_of(again)["code"]) == (400, "incomplete_body")
        assert error_of(again)["type"] == "invalid_request_error"
        assert error_of(again)["message"].endswith("Send the call again with a complete body.")


@pytest.mark.parametrize(
    "body", [b"zz\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n"], ids=["no size", "too long a chunk"]
)
async def test_a_caller_whose_chunks_are_not_http_is_told_so_where_the_host_repeats_the_call(
    host: Host, body: bytes
) -> None:
    """It repeats the head of a request that says `Expect: 100-continue`, and takes the response to that."""
    head = request("POST", "/v1/files", "expect: 100-continue", "transfer-encoding: chunked", key=KEY)
    answer = await exchange(host.url, head + body)
    assert (answer.status, error_of(answer)["code"]) == (400, "incomplete_body")
