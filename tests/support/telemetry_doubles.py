"""Receivers of metrics: an OTLP receiver, Application Insights' ingestion endpoint, and the identity endpoint."""

import asyncio
import functools
import gzip
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

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


@dataclass(slots=True)
class Receiver:
    """Where metrics arrive. While it `fails`, it answers 503."""

    url: str = ""
    points: list[Point] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    fails: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, raw: bytes, points: list[Point]) -> None:
        self.raw.append(raw)
        self.points += points
        self.arrived.set()

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
    """POST /v2.1/track: envelopes of the type MetricData, one point each."""
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
    points = []
    for item in items:
        assert item["iKey"] == INSTRUMENTATION_KEY
        base = item["data"]["baseData"]
        [metric] = base["metrics"]
        points.append(Point(metric["name"], base["properties"], metric["value"], metric["count"]))
    receiver.take(raw, points)
    return web.json_response({"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []})


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
