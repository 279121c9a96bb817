"""A span for each request upstream: through the worker and the real exporters, to receivers that decode them."""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from queue import SimpleQueue

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from devhost.host import Host
from devhost.logs import Record
from devhost.platform import CORE_TOOLS
from devhost.standin import Received, Standin
from shim.headers import Headers
from shim.monitoring.exporting import Telemetry, tracing_of
from shim.monitoring.record import CallRecord, Meter
from shim.monitoring.tally import Tally
from shim.monitoring.trace_export import MAX_BATCH, SpanDestination, Tracing
from shim.monitoring.tracing import Span, SpanRecord, parent_of, sampler
from shim.settings import Settings
from tests.conftest import KEY, StartHost
from tests.support.telemetry_doubles import Receiver, receiving
from tests.support.upstream import broken_off
from tests.support.wire import connect, exchange, invoke, request

EXPORTERS = "otlp,azure_monitor_opentelemetry_exporter"
REFLECT = 'x-standin: {"reflect": true}'
STATE = "congo=t61rcWkgMzE"
type Running = tuple[Host, Receiver, Receiver]


@pytest.fixture(scope="module")
async def traced(start_host: StartHost, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with receiving(tmp_path_factory.mktemp("telemetry")) as (otlp, insights, settings):
        host = await start_host(
            **settings,
            OTEL_TRACES_EXPORTER=EXPORTERS,
            OTEL_TRACES_SAMPLER="parentbased_always_on",
            OTEL_BSP_SCHEDULE_DELAY="100",
            UPSTREAM_IDLE_TIMEOUT="30",
            MODELS="gpt-4o",
        )
        yield host, otlp, insights


def caller(flags: str = "01") -> tuple[str, str, str]:
    """A caller's `traceparent`, and the ids in it."""
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return f"00-{trace_id}-{span_id}-{flags}", trace_id, span_id


def has(text: str) -> Callable[[Record], bool]:
    return lambda record: text in record.message


def reflected(body: bytes) -> dict[str, str]:
    """The headers that upstream received; those that came twice would be joined, and are in no test."""
    headers: list[tuple[str, str]] = json.loads(body)["headers"]
    names = [name.lower() for name, _ in headers]
    assert names.count("traceparent") <= 1
    return {name.lower(): value for name, value in headers}


async def reflect(host: Host, *headers: str) -> dict[str, str]:
    """What upstream received of a call with these headers."""
    body = b'{"model": "gpt-4o", "messages": []}'
    call = request("POST", "/v1/chat/completions?x=1", REFLECT, *headers, body=body, key=KEY)
    answer = await exchange(host.url, call)
    assert answer.status == 200, answer.body
    return reflected(answer.body)


async def test_a_callers_trace_goes_on_through_the_span_of_the_request_upstream(traced: Running) -> None:
    host, otlp, insights = traced
    traceparent, trace_id, parent_id = caller()
    async with AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key=KEY) as client:
        done = await client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"traceparent": traceparent},
        )
    assert done.usage is not None
    shared = {
        "gen_ai.request.model": "gpt-4o",
        "apim_shim.subscription": "team-a",
        "apim_shim.operation": "POST /chat/completions",
    }
    span = await otlp.span(trace_id=trace_id)
    port = span.attributes["server.port"]
    assert span.name == "POST /chat/completions"
    assert (span.parent_id, span.is_client, span.failed) == (parent_id, True, False)
    assert span.attributes == {
        **shared,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.template": "/chat/completions",
        "server.address": "127.0.0.1",
        "server.port": port,
        "gen_ai.usage.input_tokens": done.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": done.usage.completion_tokens,
    }
    dependency = await insights.span(trace_id=trace_id)
    assert (dependency.name, dependency.span_id) == (span.name, span.span_id)
    assert (dependency.parent_id, dependency.is_client, dependency.failed) == (parent_id, True, False)
    assert dependency.attributes == {
        **shared,
        "type": "HTTP",
        "target": f"127.0.0.1:{port}",
        "data": f"http://127.0.0.1:{port}/chat/completions",
        "resultCode": "200",
        "gen_ai.usage.input_tokens": str(done.usage.prompt_tokens),
        "gen_ai.usage.output_tokens": str(done.usage.completion_tokens),
    }


async def test_upstream_is_told_our_span_and_the_callers_state(traced: Running) -> None:
    host, otlp, _ = traced
    traceparent, trace_id, parent_id = caller("03")
    sent = await reflect(host, f"traceparent: {traceparent}", f"tracestate: {STATE}")
    span = await otlp.span(trace_id=trace_id)
    assert span.span_id != parent_id
    # With the flag of ids drawn at random, as the caller set it.
    assert sent["traceparent"] == f"00-{trace_id}-{span.span_id}-03"
    assert sent["tracestate"] == STATE


async def test_a_call_that_its_caller_does_not_sample_goes_through_unchanged_without_a_span(
    traced: Running,
) -> None:
    host, otlp, insights = traced
    unsampled, trace_id, _ = caller("00")
    sent = await reflect(host, f"traceparent: {unsampled}", f"tracestate: {STATE}")
    assert (sent["traceparent"], sent["tracestate"]) == (unsampled, STATE)
    # Spans are exported in the order in which they end: that of this later call would have come after it.
    later, later_id, _ = caller()
    await reflect(host, f"traceparent: {later}")
    for receiver in (otlp, insights):
        await receiver.span(trace_id=later_id)
        assert [span for span in receiver.spans if span.trace_id == trace_id] == []


@pytest.mark.parametrize(
    "headers",
    [
        ["traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01", f"tracestate: {STATE}"],
        ["traceparent: hello", f"tracestate: {STATE}"],
        [f"tracestate: {STATE}"],
        [],
    ],
    ids=["of no trace", "malformed", "state alone", "none"],
)
async def test_what_cannot_be_made_out_begins_a_new_trace_without_the_old_ones_state(
    traced: Running, headers: list[str]
) -> None:
    host, otlp, _ = traced
    body = b'{"model": "gpt-4o", "messages": []}'
    call = request("POST", "/v1/chat/completions", REFLECT, *headers, body=body, key=KEY)
    # To the worker itself: the host would have put a traceparent of its own where there is none.
    answer, _ = await invoke(host.worker, call)
    sent = reflected(answer.body)
    version, trace_id, span_id, flags = sent["traceparent"].split("-")
    assert (version, flags) == ("00", "01")
    assert "tracestate" not in sent
    span = await otlp.span(trace_id=trace_id)
    assert (span.span_id, span.parent_id) == (span_id, "")


async def test_while_tracing_is_off_the_callers_trace_goes_through_unchanged(host: Host) -> None:
    for flags in ("00", "01"):
        traceparent, _, _ = caller(flags)
        sent = await reflect(host, f"traceparent: {traceparent}", f"tracestate: {STATE}")
        assert (sent["traceparent"], sent["tracestate"]) == (traceparent, STATE)


async def test_with_always_on_every_call_has_a_span_though_the_functions_host_says_unsampled(
    start_host: StartHost, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with receiving(tmp_path_factory.mktemp("telemetry")) as (otlp, _, settings):
        host = await start_host(
            platform=CORE_TOOLS,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{settings['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        _, trace_id, span_id, flags = (await reflect(host))["traceparent"].split("-")
        span = await otlp.span(trace_id=trace_id)
        assert flags == "01"
        assert span.span_id == span_id
        assert span.parent_id != ""  # the host's
        # That endpoint is for spans alone.
        assert otlp.points == []


async def test_a_span_lasts_from_before_the_request_to_the_end_of_the_responses_body(
    traced: Running, standin: Standin
) -> None:
    host, otlp, insights = traced
    request_id, gate, times = str(uuid.uuid4()), asyncio.Event(), []
    traceparent, trace_id, _ = caller()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        times.append(time.time_ns())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await response.write(b"data: 1\n\n")
        await gate.wait()
        times.append(time.time_ns())
        await response.write(b"data: [DONE]\n\n")
        return response

    standin.answers[request_id] = answer
    called = time.time_ns()
    async with connect(host.url) as wire:
        head = f"x-request-id: {request_id}", f"traceparent: {traceparent}"
        await wire.send(
            request(
                "POST", "/v1/chat/completions", *head, body=b'{"model": "gpt-4o", "stream": true}', key=KEY
            )
        )
        await wire.head()
        # Another call's span is exported meanwhile, and this one's is not.
        other, other_id, _ = caller()
        await reflect(host, f"traceparent: {other}")
        for receiver in (otlp, insights):
            await receiver.span(trace_id=other_id)
            assert [span for span in receiver.spans if span.trace_id == trace_id] == []
        gate.set()
        while await wire.chunk() is not None:
            pass
    span = await otlp.span(trace_id=trace_id)
    assert called <= span.began <= times[0] < times[1] <= span.ended <= time.time_ns()
    await insights.span(trace_id=trace_id)


async def test_what_upstream_refuses_and_what_breaks_off_is_an_error(
    traced: Running, standin: Standin
) -> None:
    host, otlp, insights = traced
    refused, refused_id, _ = caller()
    body = b'{"model": "gpt-4o", "messages": [], "stream": true}'
    call = request(
        "POST", "/v1/chat/completions", 'x-standin: {"status": 429}', f"traceparent: {refused}", body=body, key=KEY
    )  # fmt: skip
    assert (await exchange(host.url, call)).status == 429
    broken, broken_id, _ = caller()
    request_id = str(uuid.uuid4())

    standin.answers[request_id] = broken_off
    head = f"x-request-id: {request_id}", f"traceparent: {broken}"
    assert not (
        await exchange(host.url, request("POST", "/v1/chat/completions", *head, body=body, key=KEY))
    ).whole
    for trace_id, status, error in ((refused_id, 429, "429"), (broken_id, 200, "upstream_broken")):
        span = await otlp.span(trace_id=trace_id)
        assert span.failed
        assert span.attributes["http.response.status_code"] == status
        assert span.attributes["error.type"] == error
        assert "gen_ai.usage.input_tokens" not in span.attributes
        assert (await insights.span(trace_id=trace_id)).failed
        # Whoever reads the log finds the trace.
        line = await host.logs.first(has(f'"trace_id": "{trace_id}"'))
        assert error in line.message


async def test_a_span_names_no_model_that_upstream_does_not_have(traced: Running) -> None:
    host, otlp, _ = traced
    traceparent, trace_id, _ = caller()
    body = b'{"model": "made-up", "messages": [{"role": "user", "content": "Hi"}]}'
    call = request("POST", "/v1/chat/completions", f"traceparent: {traceparent}", body=body, key=KEY)
    assert (await exchange(host.url, call)).status == 404
    assert (await otlp.span(trace_id=trace_id)).attributes["gen_ai.request.model"] == "other"


async def test_a_span_has_upstreams_own_status_where_the_shim_answers_in_its_place(traced: Running) -> None:
    host, otlp, _ = traced
    traceparent, trace_id, _ = caller()
    call = request("GET", "/v1/models", 'x-standin: {"status": 404}', f"traceparent: {traceparent}", key=KEY)
    assert (await exchange(host.url, call)).status == 200
    span = await otlp.span(trace_id=trace_id)
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (404, "404")
    assert span.failed


async def test_an_upstream_that_cannot_be_reached_has_no_status(
    start_host: StartHost, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with receiving(tmp_path_factory.mktemp("telemetry")) as (otlp, insights, settings):
        host = await start_host(
            **settings,
            APIM_BASE_URL="http://127.0.0.1:1/openai",
            OTEL_TRACES_EXPORTER="OTLP",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        traceparent, trace_id, _ = caller()
        call = request("GET", "/v1/files/file-1", f"traceparent: {traceparent}", key=KEY)
        assert (await exchange(host.url, call)).status == 502
        span = await otlp.span(trace_id=trace_id)
        assert (span.name, span.failed) == ("GET /files/…", True)
        assert span.attributes["error.type"] == "upstream_unreachable"
        assert "http.response.status_code" not in span.attributes
        # Only metrics go there: it is not named for spans.
        await insights.until("gen_ai.server.request.duration")
        assert insights.spans == []


async def test_a_caller_who_leaves_ends_the_span(traced: Running, standin: Standin) -> None:
    host, otlp, _ = traced
    request_id, started = str(uuid.uuid4()), asyncio.Event()
    traceparent, trace_id, _ = caller()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await response.write(b"data: 1\n\n")
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    standin.answers[request_id] = answer
    async with connect(host.url) as wire:
        head = f"x-request-id: {request_id}", f"traceparent: {traceparent}"
        body = b'{"model": "gpt-4o", "stream": true}'
        await wire.send(request("POST", "/v1/chat/completions", *head, body=body, key=KEY))
        await wire.head()
        await started.wait()
        wire.abort()
    span = await otlp.span(trace_id=trace_id)
    assert span.attributes["error.type"] == "caller_gone"
    assert span.attributes["http.response.status_code"] == 200


async def test_what_the_shim_refuses_itself_has_no_span(traced: Running) -> None:
    host, otlp, _ = traced
    refused, refused_id, _ = caller()
    call = request("GET", "/v1/models", f"traceparent: {refused}", key="x" * 32)
    assert (await exchange(host.url, call)).status == 401
    later, later_id, _ = caller()
    await reflect(host, f"traceparent: {later}")
    await otlp.span(trace_id=later_id)
    assert [span for span in otlp.spans if span.trace_id == refused_id] == []


async def test_spans_that_could_not_be_sent_are_sent_later(traced: Running) -> None:
    host, otlp, insights = traced
    traceparent, trace_id, _ = caller()
    insights.fails = True
    insights.refused.clear()
    await reflect(host, f"traceparent: {traceparent}")
    await asyncio.wait_for(insights.refused.wait(), 30)
    # What one receiver does not take keeps the other waiting for nothing.
    await otlp.span(trace_id=trace_id)
    assert [span for span in insights.spans if span.trace_id == trace_id] == []
    insights.fails = False
    await insights.span(trace_id=trace_id)


# The span of a call, and what is exported of it.


class Taking(SpanExporter):
    """Takes every span."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


ORIGIN = "https://apim.example"
CALLER = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03")]
USAGE = b'{"usage":{"prompt_tokens":5,"completion_tokens":6}}'


async def exported(
    *,
    status: int = 200,
    operation: str = "GET /files/…",
    method: str = "GET",
    origin: str = ORIGIN,
    headers: Headers = CALLER,
    code: str = "",
    content: bytes = b"",
    with_url: bool = False,
) -> tuple[ReadableSpan, CallRecord]:
    """The span of a call that lasts from 100 to 107.5, and was sent upstream at 103."""
    exporter, now = Taking(), [100.0]
    destination = SpanDestination("a receiver", lambda: exporter, with_url=with_url)
    tracing = Tracing([destination], lambda record: f"{record.model} of {record.status}", interval=60)
    meter = Meter([tracing.add], clock=lambda: now[0], begin_span=sampler("parentbased_always_on"))
    call = meter.begin([], b"id")
    call.label, call.operation, call.model, call.has_usage = "team-a", operation, "gpt-4o", True
    now[0] = 103.0
    span = call.begin_span(headers, method, origin)
    assert span is not None
    if status:
        span.status = status
        call.answered(status, [(b"content-type", b"application/json")])
        call.passed(content)
    now[0] = 107.5
    call.end(code)
    await destination.export()
    [found] = exporter.spans
    return found, call


async def test_a_span_has_the_ids_and_times_of_its_request_and_the_attributes_of_its_call() -> None:
    found, call = await exported(content=USAGE)
    assert call.span is not None
    assert found.attributes == {
        "http.request.method": "GET",
        "server.address": "apim.example",
        "server.port": 443,
        "url.template": "/files/…",
        "http.response.status_code": 200,
        "gen_ai.request.model": "gpt-4o of 200",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 6,
        "apim_shim.subscription": "team-a",
        "apim_shim.operation": "GET /files/…",
    }
    assert (found.name, found.kind, found.status.status_code) == (
        "GET /files/…",
        trace.SpanKind.CLIENT,
        trace.StatusCode.UNSET,
    )
    context, parent = found.context, found.parent
    assert context is not None
    assert parent is not None
    assert f"{context.trace_id:032x}" == f"{parent.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert (f"{context.span_id:016x}", f"{parent.span_id:016x}") == (call.span.span_id, "b7ad6b7169203331")
    assert (context.is_remote, parent.is_remote) == (False, True)
    # Sampled, and of an id that was drawn at random.
    assert context.trace_flags == parent.trace_flags == 3
    assert found.start_time is not None
    assert found.end_time is not None
    assert found.start_time == call.span.began
    assert found.end_time - found.start_time == 4_500_000_000
    assert found.instrumentation_scope is not None
    assert found.instrumentation_scope.name == "apim_shim"
    assert found.resource.attributes["service.name"] == "apim-openai-shim"


async def test_a_span_of_a_new_trace_has_no_parent() -> None:
    found, _ = await exported(headers=[])
    assert found.parent is None
    assert found.context is not None
    assert found.context.trace_flags == 1


@pytest.mark.parametrize(
    ("origin", "address", "port"),
    [
        ("https://apim.example", "apim.example", 443),
        ("http://apim.example", "apim.example", 80),
        ("https://apim.example:8443", "apim.example", 8443),
        ("http://[::1]:8080", "::1", 8080),
    ],
)
async def test_a_span_names_the_server_that_was_asked(origin: str, address: str, port: int) -> None:
    found, _ = await exported(origin=origin)
    assert found.attributes is not None
    assert (found.attributes["server.address"], found.attributes["server.port"]) == (address, port)


@pytest.mark.parametrize(
    ("operation", "name", "template", "url"),
    [
        ("PUT /files/…", "PUT /files/…", "/files/…", "https://apim.example/files/…"),
        # Its path may hold the name of a person or a file.
        ("other", "PUT", None, "https://apim.example/…"),
    ],
)
async def test_what_is_in_no_list_is_named_by_its_method_alone(
    operation: str, name: str, template: str | None, url: str
) -> None:
    for with_url in (False, True):
        found, _ = await exported(operation=operation, method="PUT", with_url=with_url)
        assert found.attributes is not None
        assert (found.name, found.attributes["http.request.method"]) == (name, "PUT")
        assert found.attributes.get("url.template") == template
        assert found.attributes.get("url.full") == (url if with_url else None)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (200, "", None),
        (302, "", None),
        (399, "", None),
        (400, "", "400"),
        (503, "", "503"),
        (200, "upstream_broken", "upstream_broken"),
        (429, "caller_gone", "caller_gone"),
        (0, "upstream_unreachable", "upstream_unreachable"),
    ],
)
async def test_a_span_has_failed_where_upstream_refused_or_the_exchange_broke_off(
    status: int, code: str, error: str | None
) -> None:
    found, _ = await exported(status=status, code=code)
    assert found.attributes is not None
    assert found.attributes.get("error.type") == error
    assert found.attributes.get("http.response.status_code") == (status or None)
    assert (found.status.status_code is trace.StatusCode.ERROR) is (error is not None)
    assert "gen_ai.usage.input_tokens" not in found.attributes


async def test_a_call_that_is_not_traced_gives_no_span() -> None:
    exporter = Taking()
    destination = SpanDestination("a receiver", lambda: exporter)
    tracing = Tracing([destination], lambda _: "", interval=60)
    Meter([tracing.add]).begin([], b"id").end()
    await destination.export()
    assert exporter.spans == []


# The queue.


class Exporter(SpanExporter):
    """Takes spans, or not."""

    def __init__(self) -> None:
        self.taken: list[ReadableSpan] = []
        self.sizes: SimpleQueue[int] = SimpleQueue()
        self.fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.fails:
            return SpanExportResult.FAILURE
        self.taken += spans
        self.sizes.put(len(spans))
        return SpanExportResult.SUCCESS


def ended(count: int, *, first: int = 1) -> list[SpanRecord]:
    return [
        SpanRecord(
            trace_id="1" * 32, span_id=f"{number:016x}", parent_id="", flags=1, start=0, end=1, method="GET",
            origin="https://a.example", operation="other", label="", model="", status=200, error="",
            input_tokens=None, output_tokens=None,
        )
        for number in range(first, first + count)
    ]  # fmt: skip


def ids(exporter: Exporter) -> list[int]:
    return [span.context.span_id for span in exporter.taken if span.context]


async def test_the_oldest_spans_are_dropped_beyond_the_limit_and_their_number_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter = Exporter()
    destination = SpanDestination("a receiver", lambda: exporter, max_queue=10)
    exporter.fails = True
    for at in range(0, 40, 4):
        for span in ended(4, first=at + 1):
            destination.offer(span)
        await destination.export()
    exporter.fails = False
    await destination.export()
    assert ids(exporter) == list(range(31, 41))
    assert [record.message for record in caplog.records] == [
        "spans cannot be sent to a receiver (it did not take them); up to 10 of them are kept and sent later",
        "spans for a receiver are dropped: more come than it takes",
        "spans reach a receiver again; 30 were dropped meanwhile",
    ]
    await destination.export()
    assert len(exporter.taken) == 10


async def test_no_more_spans_wait_for_an_export_than_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Which may be long in coming: a receiver that hangs holds it up."""
    exporter = Exporter()
    destination = SpanDestination("a receiver", lambda: exporter, max_queue=10)
    for span in ended(10):
        destination.offer(span)
    assert caplog.messages == []
    for span in ended(2, first=11):
        destination.offer(span)
    assert caplog.messages == ["spans for a receiver are dropped: more come than it takes"]
    await destination.export()
    assert ids(exporter) == list(range(3, 13))
    assert caplog.messages[1:] == ["spans reach a receiver again; 2 were dropped meanwhile"]
    # What is over is told no more, and what comes next is counted anew.
    for span in ended(1):
        destination.offer(span)
    await destination.export()
    assert len(caplog.messages) == 2
    for span in ended(11):
        destination.offer(span)
    await destination.export()
    assert caplog.messages[2:] == [
        "spans for a receiver are dropped: more come than it takes",
        "spans reach a receiver again; 1 were dropped meanwhile",
    ]


async def test_spans_that_come_while_others_are_refused_wait_within_the_limit() -> None:
    class Refusing(Exporter):
        """While it refuses a batch, more spans come."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if self.fails:
                for span in ended(5, first=11):
                    destination.offer(span)
            return super().export(spans)

    exporter = Refusing()
    exporter.fails = True
    destination = SpanDestination("a receiver", lambda: exporter, max_queue=10)
    for span in ended(10):
        destination.offer(span)
    await destination.export()
    exporter.fails = False
    await destination.export()
    assert ids(exporter) == list(range(6, 16))


async def test_spans_that_a_receiver_does_not_take_keep_their_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter, openings = Exporter(), []

    def open_exporter() -> SpanExporter:
        openings.append(exporter)
        return exporter

    destination = SpanDestination("a receiver", open_exporter)
    for number, fails in enumerate((True, True, False, True, False)):
        exporter.fails = fails
        for span in ended(600, first=600 * number + 1):
            destination.offer(span)
        await destination.export()
    assert ids(exporter) == list(range(1, 3001))
    assert len(openings) == 1
    begun = "spans cannot be sent to a receiver (it did not take them); up to 2048 of them are kept and sent later"
    over = "spans reach a receiver again; 0 were dropped meanwhile"
    assert caplog.messages == [begun, over, begun, over]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_an_exporter_that_raises_loses_no_span_and_its_fault_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter, openings = Exporter(), iter([False, True])

    def open_exporter() -> SpanExporter:
        if next(openings):
            return exporter
        raise ValueError("a connection string with a secret in it")

    destination = SpanDestination("a receiver", open_exporter)
    for span in ended(3):
        destination.offer(span)
    await destination.export()
    assert exporter.taken == []
    await destination.export()
    assert ids(exporter) == [1, 2, 3]
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_spans_are_sent_from_a_thread_so_that_no_call_waits_for_a_receiver() -> None:
    threads = []

    class Watched(Taking):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            threads.append(threading.current_thread())
            return super().export(spans)

    destination = SpanDestination("a receiver", Watched)
    for span in ended(1):
        destination.offer(span)
    await destination.export()
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_a_full_batch_is_sent_at_once_and_the_rest_when_it_is_time() -> None:
    exporter = Exporter()
    destination = SpanDestination("a receiver", lambda: exporter)
    running = asyncio.create_task(destination.run(3600))
    for span in ended(MAX_BATCH - 1):
        destination.offer(span)
    await asyncio.sleep(0)
    assert exporter.sizes.empty()
    for span in ended(4):
        destination.offer(span)
    assert [await asyncio.to_thread(exporter.sizes.get, timeout=30) for _ in range(2)] == [MAX_BATCH, 3]
    running.cancel()


async def test_what_comes_after_a_full_batch_waits_until_it_is_time() -> None:
    exporter = Exporter()
    destination = SpanDestination("a receiver", lambda: exporter)
    for span in ended(512):
        destination.offer(span)
    await destination.export()
    running = asyncio.create_task(destination.run(3600))
    for span in ended(2):
        destination.offer(span)
        await asyncio.sleep(0)  # the first would be gone by now, had it not waited
    running.cancel()
    await destination.export()
    assert [exporter.sizes.get_nowait() for _ in range(exporter.sizes.qsize())] == [512, 2]


def test_the_sdks_own_switch_turns_spans_off_too() -> None:
    environ = {
        "APIM_BASE_URL": "https://a.example/openai",
        "KEY_VAULT_URL": "https://v.vault.azure.net",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_TRACES_EXPORTER": "otlp",
    }
    assert tracing_of(Settings.from_environment(environ), Tally()) is not None
    disabled = Settings.from_environment({**environ, "OTEL_SDK_DISABLED": "true"})
    assert tracing_of(disabled, Tally()) is None
    assert Telemetry.of(disabled).meter.begin_span is None


# The rules.

_HEX = st.text("0123456789abcdef", min_size=1)


def _of(length: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdefgA", min_size=length, max_size=length)


@given(
    st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
        st.builds(
            "{}-{}-{}-{}{}".format, _of(2), _of(32), _of(16), _of(2), st.sampled_from(["", "-", "-x", "x"])
        ),
        st.builds(
            "{}-{}-{}-{}{}".format,
            st.sampled_from(["00", "01", "fe", "ff"]),
            st.sampled_from(["0" * 32, "0af7651916cd43dd8448eb211c80319c"]),
            st.sampled_from(["0" * 16, "b7ad6b7169203331"]),
            st.sampled_from(["00", "01", "02", "03", "ff"]),
            st.sampled_from(["", "-", "-x", "x"]),
        ),
    )
)
@example("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
def test_a_traceparent_is_understood_as_opentelemetry_understands_it(value: str) -> None:
    found = parent_of([(b"traceparent", value.encode())])
    context = TraceContextTextMapPropagator().extract({"traceparent": value})
    theirs = trace.get_current_span(context).get_span_context()
    if theirs.is_valid:
        assert found is not None
        assert int(found.trace_id, 16) == theirs.trace_id
        assert int(found.span_id, 16) == theirs.span_id
        assert found.flags == theirs.trace_flags
    else:
        assert found is None


def test_two_traceparents_are_none() -> None:
    header = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert parent_of([header]) is not None
    assert parent_of([header, header]) is None


def test_our_own_traceparent_is_a_valid_one_and_ids_are_new_each_time() -> None:
    spans = [Span(None) for _ in range(1000)]
    assert len({span.trace_id for span in spans} | {span.span_id for span in spans}) == 2000
    for span in spans:
        parent = parent_of([(b"traceparent", span.traceparent)])
        assert parent == (span.trace_id, span.span_id, 1)


@pytest.mark.parametrize(
    ("flags", "ours"), [("00", "01"), ("01", "01"), ("02", "03"), ("03", "03"), ("ff", "03"), (None, "01")]
)
def test_of_a_callers_flags_only_that_of_random_ids_goes_on(flags: str | None, ours: str) -> None:
    headers = [(b"traceparent", caller(flags)[0].encode())] if flags else []
    span = sampler("always_on")(headers)
    assert span is not None
    assert span.traceparent.decode().rpartition("-")[2] == ours


@pytest.mark.parametrize(
    ("name", "flags", "sampled"),
    [
        ("parentbased_always_on", "01", True),
        ("parentbased_always_on", "02", False),
        ("parentbased_always_on", None, True),
        ("always_on", "00", True),
        ("always_on", None, True),
    ],
)
def test_who_decides_whether_a_call_is_sampled(name: str, flags: str | None, sampled: bool) -> None:
    headers = [(b"traceparent", caller(flags)[0].encode())] if flags else []
    assert (sampler(name)(headers) is not None) == sampled  # type: ignore[arg-type]
