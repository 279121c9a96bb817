"""Receivers of metrics and spans: an OTLP receiver, and Application Insights' ingestion endpoint with an identity's."""

import asyncio
import functools
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from devhost.azure.tls import server_tls, write_authority

TOKEN = "a-token-of-the-managed-identity"
CLIENT_ID = "11111111-2222-4333-8444-555555555555"
INSTRUMENTATION_KEY = "00000000-0000-4000-8000-000000000001"


@dataclass(frozen=True, slots=True)
class Point:
    """A point as it was received; `value` is a sum, `count` that of a histogram, else 1."""

    name: str
    attributes: Mapping[str, str]
    value: float
    count: int = 1
    temporality: int = 0

    def has(self, **attributes: str) -> bool:
        """Whether its attributes are these, named by their last part."""
        mine = {name.rpartition(".")[2]: value for name, value in self.attributes.items()}
        return all(mine.get(name, "") == value for name, value in attributes.items())


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as it was received, its ids in hex; `began` is in nanoseconds since 1970, -1 where that is not told."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    is_client: bool
    failed: bool
    began: int
    ended: int
    attributes: Mapping[str, str | int]


@dataclass(slots=True)
class Receiver:
    """Where metrics and spans arrive. While it `fails`, it answers 503."""

    url: str = ""
    points: list[Point] = field(default_factory=list)
    spans: list[SeenSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    fails: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, raw: bytes, points: Iterable[Point] = (), spans: Iterable[SeenSpan] = ()) -> None:
        self.raw.append(raw)
        self.points += points
        self.spans += spans
        self.arrived.set()

    async def span(self, timeout: float = 30, **known: object) -> SeenSpan:
        """The one span whose fields are `known`, once it is there. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                self.arrived.clear()
                found = [
                    span
                    for span in self.spans
                    if all(getattr(span, name) == value for name, value in known.items())
                ]
                if found:
                    [span] = found
                    return span
                await self.arrived.wait()

    async def until(self, name: str, count: int = 1, timeout: float = 30, **attributes: str) -> list[Point]:
        """The points of an instrument, once their counts have come to `count`. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                self.arrived.clear()
                found = [point for point in self.points if point.name == name and point.has(**attributes)]
                if sum(point.count for point in found) >= count:
                    return found
                await self.arrived.wait()

    def total(self, name: str, **attributes: str) -> float:
        return sum(point.value for point in self.points if point.name == name and point.has(**attributes))


async def _take_otlp_spans(receiver: Receiver, request: web.Request) -> web.Response:
    raw = await request.read()
    if receiver.fails:
        receiver.refused.set()
        return web.Response(status=503)
    asked = ExportTraceServiceRequest.FromString(raw)
    spans = [
        _span_of(span) for resource in asked.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]  # fmt: skip
    receiver.take(raw, spans=spans)
    return web.Response(
        body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
    )


def _span_of(span: trace_pb2.Span) -> SeenSpan:
    return SeenSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind == trace_pb2.Span.SPAN_KIND_CLIENT,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        {each.key: each.value.string_value or each.value.int_value for each in span.attributes},
    )


async def _take_otlp(receiver: Receiver, request: web.Request) -> web.Response:
    raw = await request.read()  # aiohttp undoes the compression
    if receiver.fails:
        receiver.refused.set()
        return web.Response(status=503)
    receiver.authorizations.append(request.headers.get("authorization", ""))
    asked = ExportMetricsServiceRequest.FromString(raw)
    points = [
        point
        for resource in asked.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in _points_of(metric)
    ]
    receiver.take(raw, points)
    return web.Response(
        body=ExportMetricsServiceResponse().SerializeToString(), content_type="application/x-protobuf"
    )


def _points_of(metric: Any) -> list[Point]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    found = []
    for point in data.data_points:
        attributes = {each.key: each.value.string_value for each in point.attributes}
        value, count = (
            (point.sum, point.count) if kind == "histogram" else (point.as_int or point.as_double, 1)
        )
        found.append(Point(metric.name, attributes, value, count, data.aggregation_temporality))
    return found


async def _take_track(receiver: Receiver, request: web.Request) -> web.Response:
    """POST /v2.1/track: envelopes, of the type MetricData with one point each, or of RemoteDependencyData."""
    raw = await request.read()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    receiver.authorizations.append(request.headers.get("authorization", ""))
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        return web.json_response({"errors": [{"index": 0, "statusCode": 401, "message": "no"}]}, status=401)
    if receiver.fails:
        receiver.refused.set()
        return web.Response(status=503)
    items = json.loads(raw)
    points, spans = [], []
    for item in items:
        assert item["iKey"] == INSTRUMENTATION_KEY
        base = item["data"]["baseData"]
        if item["data"]["baseType"] == "RemoteDependencyData":
            spans.append(_dependency_of(item, base))
            continue
        [metric] = base["metrics"]
        points.append(Point(metric["name"], base["properties"], metric["value"], metric["count"]))
    receiver.take(raw, points, spans)
    return web.json_response({"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []})


def _dependency_of(item: dict[str, Any], base: dict[str, Any]) -> SeenSpan:
    """https://learn.microsoft.com/azure/azure-monitor/app/data-model-complete#dependency-telemetry"""
    about = {name: base[name] for name in ("type", "target", "data", "resultCode")}
    return SeenSpan(
        base["name"],
        item["tags"]["ai.operation.id"],
        base["id"],
        item["tags"].get("ai.operation.parentId", ""),
        base["type"] == "HTTP",
        not base["success"],
        -1,
        -1,
        {**base["properties"], **about},
    )


async def _give_token(_: Receiver, request: web.Request) -> web.Response:
    """https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference"""
    assert request.headers["x-identity-header"] == "the-identity-header"
    assert request.query["client_id"] == CLIENT_ID
    assert request.query["resource"] == "https://monitor.azure.com/"
    expires = int(time.time()) + 3600
    return web.json_response(
        {
            "access_token": TOKEN,
            "expires_on": str(expires),
            "resource": request.query["resource"],
            "token_type": "Bearer",
        }
    )


@asynccontextmanager
async def receiving(folder: Path) -> AsyncIterator[tuple[Receiver, Receiver, dict[str, str]]]:
    """The OTLP receiver, the ingestion endpoint, and the settings of an app that sends to both.

    The ingestion endpoint speaks TLS, since the SDK sends tokens over nothing else; `folder` gets its authority.
    """
    otlp, insights = Receiver(), Receiver()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/metrics", functools.partial(_take_otlp, otlp))
    app.router.add_post("/v1/traces", functools.partial(_take_otlp_spans, otlp))
    # Azure's connection strings end with a slash, before which the SDK puts another.
    app.router.add_post("/{slash:/?}v2.1/track", functools.partial(_take_track, insights))
    app.router.add_get("/msi/token", functools.partial(_give_token, insights))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    secure = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls())
    await secure.start()
    authority = folder / "authority.pem"
    write_authority(authority)
    assert site._server is not None
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    otlp.url, insights.url = url, f"https://127.0.0.1:{runner.addresses[1][1]}"
    connection = f"InstrumentationKey={INSTRUMENTATION_KEY};IngestionEndpoint={insights.url}/"
    try:
        yield otlp, insights, {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "APPLICATIONINSIGHTS_CONNECTION_STRING": connection,
            "AZURE_CLIENT_ID": CLIENT_ID,
            "IDENTITY_ENDPOINT": f"{url}/msi/token",
            "REQUESTS_CA_BUNDLE": str(authority),
            "IDENTITY_HEADER": "the-identity-header",
        }  # fmt: skip
    finally:
        await runner.cleanup()
