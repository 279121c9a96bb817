"""Metrics from calls over real sockets, through the worker and the real exporters, to receivers that decode them.

Alerts, bills and the decision to retire the shim rest on these numbers.
"""

import asyncio
import json
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from aiohttp import web
from openai import APIError, AsyncAzureOpenAI, AsyncOpenAI
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from devhost.host import Host
from devhost.standin import Received, Standin
from shim.monitoring import exporters
from shim.monitoring.counts import Process
from shim.monitoring.exporting import Destination, Telemetry
from shim.monitoring.record import Meter
from shim.monitoring.tally import Tally
from shim.monitoring.trace_export import SpanDestination, Tracing
from shim.monitoring.tracing import sampler
from shim.monitoring.usage import Usage
from shim.settings import Settings
from tests.conftest import API_VERSION, KEY, StartHost
from tests.support.telemetry_doubles import TOKEN, Receiver, receiving
from tests.support.wire import connect, exchange, request

CALLS = "gen_ai.server.request.duration"
TOKENS = "gen_ai.client.token.usage"
type Running = tuple[Host, Receiver, Receiver]


@pytest.fixture(scope="module")
async def running(start_host: StartHost, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with receiving(tmp_path_factory.mktemp("telemetry")) as (otlp, insights, settings):
        host = await start_host(
            **settings, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta", SSE_HEARTBEAT="0.05"
        )
        yield host, otlp, insights


async def test_calls_are_told_apart_by_all_that_is_known_of_them(running: Running) -> None:
    host, otlp, insights = running
    async with AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key=KEY) as client:
        await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    for receiver in (otlp, insights):
        [point] = await receiver.until(CALLS, operation="POST /chat/completions", key_header="bearer")
        assert dict(point.attributes) == {
            "apim_shim.subscription": "team-a",
            "apim_shim.operation": "POST /chat/completions",
            "gen_ai.request.model": "gpt-4o",
            "apim_shim.status_class": "2xx",
            "apim_shim.key_header": "bearer",
            "apim_shim.dialect": "v1",
            "apim_shim.client": "openai-python/3",
        }
        assert point.count == 1
        assert 0 < point.value < 10
        [head] = await receiver.until("apim_shim.time_to_head", key_header="bearer")
        assert 0 < head.value <= point.value
    assert set(insights.authorizations) == {f"Bearer {TOKEN}"}


async def test_refusals_are_counted_by_their_code_and_made_up_models_as_other(running: Running) -> None:
    host, otlp, insights = running
    await exchange(host.url, request("GET", "/v1/models", key="x" * 32))
    async with AsyncAzureOpenAI(
        azure_endpoint=host.url, api_key=KEY, api_version=API_VERSION, max_retries=0
    ) as client:
        for _ in range(3):
            with pytest.raises(Exception, match=r"404|NotFound"):
                await client.embeddings.create(model=f"made-up-{uuid.uuid4()}", input="x")
    for receiver in (otlp, insights):
        [unknown] = await receiver.until(CALLS, type="invalid_api_key")
        assert unknown.has(status_class="4xx", operation="GET /models", subscription="", model="")
        points = await receiver.until(CALLS, 3, operation="POST /embeddings")
        assert {point.attributes["gen_ai.request.model"] for point in points} == {"other"}
        assert all(point.has(key_header="api-key", dialect="legacy", status_class="4xx") for point in points)


async def test_streams_tell_their_first_event_their_bytes_and_that_they_are_in_flight(
    running: Running, standin: Standin
) -> None:
    host, otlp, insights = running
    request_id, gate = str(uuid.uuid4()), asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await response.write(b"data: 1\n\n")
        await gate.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    standin.answers[request_id] = answer
    body = b'{"model": "gpt-4o", "stream": true, "messages": []}'
    async with connect(host.url) as wire:
        await wire.send(
            request(
                "POST",
                "/v1/chat/completions",
                f"x-request-id: {request_id}",
                "user-agent: curl/8.1",
                body=body,
                key=KEY,
            )
        )
        await wire.head()
        for receiver in (otlp, insights):
            while not [p for p in receiver.points if p.name == "apim_shim.streams" and p.value == 1]:
                receiver.arrived.clear()
                await receiver.arrived.wait()
            await receiver.until("apim_shim.heartbeats", 0)
        gate.set()
        while await wire.chunk() is not None:
            pass
    for receiver in (otlp, insights):
        [first] = await receiver.until("gen_ai.server.time_to_first_token", client="curl/8")
        [whole] = await receiver.until(CALLS, client="curl/8")
        assert 0 < first.value < whole.value
        await receiver.until("apim_shim.io", 2, client="curl/8")
        assert receiver.total("apim_shim.io", client="curl/8", direction="receive") == len(body)
        assert receiver.total("apim_shim.io", client="curl/8", direction="transmit") == len(
            b"data: 1\n\ndata: [DONE]\n\n"
        )
        await receiver.until("apim_shim.usage.absent", client="curl/8")
        await receiver.until("apim_shim.heartbeats")


async def test_callers_who_leave_early_are_counted_as_such(running: Running, standin: Standin) -> None:
    host, otlp, insights = running
    request_id, started = str(uuid.uuid4()), asyncio.Event()

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await response.write(b"data: 1\n\n")
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    standin.answers[request_id] = answer
    body = b'{"model": "gpt-4o", "stream": true, "messages": []}'
    async with connect(host.url) as wire:
        await wire.send(
            request("POST", "/v1/chat/completions", f"x-request-id: {request_id}", body=body, key=KEY)
        )
        await wire.head()
        await started.wait()
        wire.abort()
    for receiver in (otlp, insights):
        [point] = await receiver.until(CALLS, type="caller_gone")
        assert point.has(status_class="2xx", model="gpt-4o")


async def test_what_concerns_the_process_is_counted_too(running: Running) -> None:
    host, otlp, insights = running
    await exchange(host.url, request("GET", "/v1/models", key=KEY))
    for receiver in (otlp, insights):
        await receiver.until("apim_shim.starts")
        assert receiver.total("apim_shim.starts") == 1
        await receiver.until("apim_shim.upstream.connections", connection="opened")
        await receiver.until("apim_shim.upstream.connections", connection="reused")


TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"usage": {"type": "string"}}}},
}  # fmt: skip


# Long enough to be cached, and for a model that reasons.
LONG: Any = {"model": "o4-mini", "text": "Why is the weather in Paris as it is? " * 200}
RESPONSES_TOOL: Any = {"type": "function", "strict": False, **TOOL["function"]}


def _chat(usage: Any) -> Usage:
    """As the SDK has it; what a usage leaves out is none."""
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.completion_tokens_details.reasoning_tokens,
    )


def _response(usage: Any) -> Usage:
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.input_tokens_details.cached_tokens,
        usage.output_tokens_details.reasoning_tokens,
    )


def _messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def _plain_chat(client: AsyncOpenAI, *, model: str, text: str, **more: Any) -> Usage:
    return _chat((await client.chat.completions.create(model=model, messages=_messages(text), **more)).usage)


async def _streamed_chat(client: AsyncOpenAI, *, model: str, text: str, **more: Any) -> Usage:
    stream = await client.chat.completions.create(
        model=model, messages=_messages(text), stream=True, stream_options={"include_usage": True}, **more
    )
    return _chat([chunk.usage async for chunk in stream][-1])


async def _plain_response(client: AsyncOpenAI, *, model: str, text: str, **more: Any) -> Usage:
    return _response((await client.responses.create(model=model, input=text, **more)).usage)


async def _streamed_response(client: AsyncOpenAI, *, model: str, text: str, **more: Any) -> Usage:
    stream = await client.responses.create(model=model, input=text, stream=True, **more)
    [last] = [event async for event in stream if event.type == "response.completed"]
    return _response(last.response.usage)


async def _embedding(client: AsyncOpenAI, **asked: Any) -> Usage:
    done = await client.embeddings.create(model="text-embedding-3-small", input=["one", "two words"])
    return Usage(done.usage.prompt_tokens, 0)


async def _image(client: AsyncOpenAI, **asked: Any) -> Usage:
    usage = (await client.images.generate(model="gpt-image-1", prompt="A cat", quality="low")).usage
    assert usage is not None
    return Usage(usage.input_tokens, usage.output_tokens)


SHORT: Any = {"model": "gpt-4o", "text": "What is the weather in Paris, and why?"}
WAYS: dict[str, Any] = {
    "chat": (_plain_chat, SHORT),
    "chat-streamed": (_streamed_chat, SHORT),
    "chat-tools": (_plain_chat, SHORT | {"tools": [TOOL]}),
    "chat-tools-streamed": (_streamed_chat, SHORT | {"tools": [TOOL]}),
    "chat-cached-reasoning": (_plain_chat, LONG),
    "chat-cached-reasoning-streamed": (_streamed_chat, LONG),
    "responses": (_plain_response, SHORT),
    "responses-streamed": (_streamed_response, SHORT),
    "responses-tools": (_plain_response, SHORT | {"tools": [RESPONSES_TOOL]}),
    "responses-tools-streamed": (_streamed_response, SHORT | {"tools": [RESPONSES_TOOL]}),
    "responses-cached-reasoning": (_plain_response, LONG),
    "responses-cached-reasoning-streamed": (_streamed_response, LONG),
    "embeddings": (_embedding, {}),
    "images": (_image, {}),
}


def _client(host: Host, language: str, major: int) -> AsyncOpenAI:
    """A client of its own in the series, so that its tokens stand alone."""
    return AsyncOpenAI(
        base_url=f"{host.url}/openai/v1",
        api_key=KEY,
        max_retries=0,
        default_headers={"x-stainless-lang": language, "x-stainless-package-version": str(major)},
    )


def _tokens(receiver: Receiver, client: str) -> dict[str, float]:
    return {kind: receiver.total(TOKENS, client=client, type=kind) for kind in Usage._fields}


@pytest.mark.parametrize("way", WAYS)
async def test_tokens_are_those_that_the_official_client_reports(running: Running, way: str) -> None:
    host, otlp, insights = running
    call, asked = WAYS[way]
    major = list(WAYS).index(way)
    async with _client(host, "go", major) as client:
        reported = await call(client, **asked)
    assert reported.input > 0
    is_long = "cached-reasoning" in way
    assert (reported.cached > 0, reported.reasoning > 0) == (is_long, is_long)
    for receiver in (otlp, insights):
        # All the tokens of a call are sent together, with the call itself.
        await receiver.until(CALLS, client=f"openai-go/{major}")
        assert _tokens(receiver, f"openai-go/{major}") == reported._asdict()
        assert receiver.total("apim_shim.usage.absent", client=f"openai-go/{major}") == 0


async def _usages_of(events: Any) -> list[Usage]:
    """What the SDK has told of tokens by the time its stream ends or breaks."""
    told = []
    with suppress(APIError, httpx2.HTTPError):
        async for event in events:
            if usage := getattr(event, "usage", None):
                told.append(_chat(usage))
            elif (response := getattr(event, "response", None)) and response.usage:
                told.append(_response(response.usage))
    return told


CUTS: dict[str, tuple[Callable[[bytes], int], bool]] = {
    # Where the stream breaks off, and whether its usage has come by then.
    "before its usage": (lambda body: body.rindex(b"data: ", 0, body.rindex(b'"usage":{')), False),
    "within its usage": (lambda body: body.rindex(b"_tokens_details"), False),
    "after its usage": (lambda body: body.index(b"\n\n", body.rindex(b'"usage":{')) + 2, True),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("api", ["chat/completions", "responses"])
async def test_a_stream_that_is_cut_counts_the_tokens_that_the_official_client_was_told(
    running: Running, standin: Standin, api: str, cut: str
) -> None:
    host, otlp, insights = running
    asked: dict[str, Any] = {"model": "o4-mini", "stream": True}
    of_chat = {"messages": _messages(LONG["text"]), "stream_options": {"include_usage": True}}
    asked |= of_chat if api == "chat/completions" else {"input": LONG["text"]}
    whole = await exchange(host.url, request("POST", f"/v1/{api}", body=json.dumps(asked).encode(), key=KEY))
    # As upstream sent it: less the shim's heartbeats.
    body = b"".join(event + b"\n\n" for event in whole.body.split(b"\n\n") if event and event[:1] != b":")
    find, told = CUTS[cut]
    request_id, end = str(uuid.uuid4()), find(body)

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await response.write(body[:end])
        assert upstream.transport is not None
        upstream.transport.close()
        return response

    standin.answers[request_id] = answer
    major = list(CUTS).index(cut) + (len(CUTS) if api == "responses" else 0)
    async with _client(host, "ruby", major) as client:
        resource: Any = client.responses if api == "responses" else client.chat.completions
        reported = await _usages_of(
            await resource.create(**asked, extra_headers={"x-request-id": request_id})
        )
    assert len(reported) == told
    expected = reported[0] if told else Usage(0, 0)
    for receiver in (otlp, insights):
        [point] = await receiver.until(CALLS, client=f"openai-ruby/{major}")
        assert point.has(type="upstream_broken", status_class="2xx")
        assert _tokens(receiver, f"openai-ruby/{major}") == expected._asdict()
        absent = receiver.total("apim_shim.usage.absent", client=f"openai-ruby/{major}")
        assert absent == (0 if told else 1)


async def test_what_could_not_be_sent_is_sent_later(running: Running) -> None:
    host, _, insights = running
    insights.fails = True
    insights.refused.clear()
    for _ in range(4):
        await exchange(host.url, request("GET", "/v1/models", "user-agent: okhttp/4", key=KEY))
    await asyncio.wait_for(insights.refused.wait(), 30)
    assert insights.total(CALLS, client="okhttp/4") == 0
    insights.fails = False
    points = await insights.until(CALLS, 4, client="okhttp/4")
    assert sum(point.count for point in points) == 4


class _Exporter:
    """Takes everything; `starts` are those of the points of each export."""

    def __init__(self) -> None:
        self.starts: list[set[int]] = []

    def export(self, data: MetricsData) -> MetricExportResult:
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        points = [point for scope in scopes for metric in scope.metrics for point in metric.data.data_points]
        self.starts.append({point.start_time_unix_nano for point in points})
        return MetricExportResult.SUCCESS


@pytest.mark.parametrize("cumulative", [True, False])
def test_totals_are_since_the_start_and_all_else_is_since_the_last_export(cumulative: bool) -> None:
    exporter = _Exporter()
    destination = Destination("test", lambda: cast("MetricExporter", exporter), cumulative=cumulative)
    for _ in range(3):
        destination.export({}, Process())
    assert len(exporter.starts) == 3
    assert all(len(starts) == 1 for starts in exporter.starts)
    assert len(set.union(*exporter.starts)) == (1 if cumulative else 3)


QUIET = (
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
)


async def _export_one_call(settings: Settings) -> None:
    """By exporters of its own, whose connections are closed when this returns."""
    metrics: Any = exporters.azure_monitor_metrics(settings)
    traces: Any = exporters.azure_monitor_spans(settings)
    tally, spans = Tally(), SpanDestination("Azure Monitor", lambda: traces, with_url=True)
    tracing = Tracing([spans], lambda record: record.model, interval=60)
    meter = Meter([tally.add, tracing.add], begin_span=sampler("always_on"))
    call = meter.begin([], b"id")
    call.operation = "GET /models"
    call.begin_span([], "GET", "https://apim.example")
    call.end()
    destination = Destination("Azure Monitor", lambda: metrics, cumulative=False)
    try:
        await Telemetry(meter, tally, [destination]).export()
        await spans.export()
    finally:
        for exporter in (metrics, traces):
            exporter.client.close()


def test_in_azure_the_apps_identity_sends_and_the_exporter_does_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word to Microsoft about itself, no bound on what it sends, and nothing on the disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(
        "azure.monitor.opentelemetry.exporter.export._base._DEFAULT_MAX_ENVELOPES_PER_SECOND", 1
    )

    async def received() -> Receiver:
        async with receiving(tmp_path) as (_, insights, environ):
            environ |= {
                "WEBSITE_SITE_NAME": "contoso-shim",
                "WEBSITE_INSTANCE_ID": "instance-1",
                # Of another app, for the developer's tools: in Azure nobody but the managed identity is asked.
                "AZURE_TENANT_ID": "22222222-2222-4333-8444-555555555555",
                "AZURE_CLIENT_SECRET": "not-a-secret",
            }
            for name in QUIET:
                monkeypatch.setenv(name, "unset at the end")
                monkeypatch.delenv(name)
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            # The settings have it: the exporter need not look for it.
            monkeypatch.delenv("APPLICATIONINSIGHTS_CONNECTION_STRING")
            settings = Settings.from_environment(
                {
                    **environ,
                    "APIM_BASE_URL": "https://apim.example/openai",
                    "KEY_VAULT_URL": "https://v.vault.azure.net",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
                    "OTEL_TRACES_EXPORTER": "azure_monitor_opentelemetry_exporter",
                }
            )
            await _export_one_call(settings)
        return insights

    # A loop of asyncio's own: uvloop's waits at its end for TLS connections whose exporter is not done with them.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        insights = runner.run(received())
    assert {point.name for point in insights.points} == {CALLS, "apim_shim.streams", "apim_shim.starts"}
    [sent] = insights.spans
    assert (sent.name, sent.attributes["target"]) == ("GET /models", "apim.example:443")
    assert set(insights.authorizations) == {f"Bearer {TOKEN}"}
    assert {name: os.environ.get(name) for name in QUIET} == dict.fromkeys(QUIET, "true")
    assert list(disk.rglob("*")) == []
    envelopes = [envelope for raw in insights.raw for envelope in json.loads(raw)]
    assert {
        (envelope["tags"]["ai.cloud.role"], envelope["tags"]["ai.cloud.roleInstance"])
        for envelope in envelopes
    } == {("contoso-shim", "instance-1")}
