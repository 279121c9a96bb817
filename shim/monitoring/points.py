"""What was added up, as points of OpenTelemetry's data model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import batched
from typing import Literal, NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Sum as SumData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from shim.monitoring.counts import Histogram, Process
from shim.monitoring.tally import Key, Series

# Of the points in one request to an exporter: some 3 MB to Azure Monitor, which takes no more than 64 MB.
_SERIES_AT_ONCE = 500

type Value = float | Histogram
type Attributes = dict[str, str]


class Instrument(NamedTuple):
    """`kind` is a histogram, a counter, or a level, which goes up and down."""

    name: str
    unit: str
    description: str
    kind: Literal["histogram", "counter", "level"] = "counter"


# Not `http.server.request.duration`: Azure Monitor's exporter takes that for its own, and drops its attributes.
DURATION = Instrument(
    "gen_ai.server.request.duration",
    "s",
    "From the call's arrival to its response's last byte; its count is the number of calls.",
    "histogram",
)
FIRST_EVENT = Instrument(
    "gen_ai.server.time_to_first_token", "s", "To a stream's first event, heartbeats aside.", "histogram"
)
HEAD = Instrument("apim_shim.time_to_head", "s", "To the head of upstream's response.", "histogram")
TOKENS = Instrument(
    "gen_ai.client.token.usage", "{token}", "Tokens, as the response's `usage` says.", "histogram"
)
ABSENT = Instrument("apim_shim.usage.absent", "{call}", "Good calls whose response says no usage.")
IO = Instrument("apim_shim.io", "By", "Bytes of bodies, received from callers and transmitted to them.")
STREAMS = Instrument("apim_shim.streams", "{stream}", "Streams in flight.", "level")
HEARTBEATS = Instrument("apim_shim.heartbeats", "{heartbeat}", "Heartbeats sent into silent streams.")
STARTS = Instrument("apim_shim.starts", "{process}", "Worker processes started.")
LOOKUPS = Instrument("apim_shim.key.lookups", "{lookup}", "Key lookups, by what came of them.")
VAULT = Instrument(
    "apim_shim.vault.duration", "s", "Questions to the key store behind the cache.", "histogram"
)
CONNECTIONS = Instrument("apim_shim.upstream.connections", "{connection}", "Connections to upstream.")

OF_CALLS = (DURATION, FIRST_EVENT, HEAD, TOKENS, ABSENT, IO)
OF_PROCESS = (STREAMS, HEARTBEATS, STARTS, LOOKUPS, VAULT, CONNECTIONS)
INSTRUMENTS = (*OF_CALLS, *OF_PROCESS)

# The attributes of calls, in the order of Key.
ATTRIBUTES = Key(
    label="apim_shim.subscription",
    operation="apim_shim.operation",
    model="gen_ai.request.model",
    status="apim_shim.status_class",
    code="error.type",
    scheme="apim_shim.key_header",
    dialect="apim_shim.dialect",
    client="apim_shim.client",
)


class Span(NamedTuple):
    """The time that points are of, in nanoseconds since 1970; `cumulative` if it began with the process."""

    start: int
    end: int
    cumulative: bool


def of_calls(
    series: Mapping[Key, Series], span: Span, resource: Resource
) -> Iterator[tuple[tuple[Key, ...], MetricsData]]:
    """The series in portions, each with its keys."""
    for keys in batched(series, _SERIES_AT_ONCE, strict=False):
        values = (value for key in keys for value in _values(key, series[key]))
        yield keys, _data(OF_CALLS, values, span, resource)


def of_process(process: Process, span: Span, resource: Resource) -> MetricsData:
    values: list[tuple[Instrument, Attributes, Value]] = [(STREAMS, {}, process.streams)]
    values += [(HEARTBEATS, {}, process.heartbeats)] if process.heartbeats else []
    values += [(STARTS, {}, process.starts)] if process.starts else []
    values += [(LOOKUPS, {"apim_shim.outcome": outcome}, count) for outcome, count in process.lookups.items()]
    values += [(VAULT, {"error.type": fault} if fault else {}, took) for fault, took in process.vault.items()]
    values += [
        (CONNECTIONS, {"apim_shim.connection": what}, count) for what, count in process.connections.items()
    ]
    return _data(OF_PROCESS, values, span, resource)


def _values(key: Key, series: Series) -> Iterator[tuple[Instrument, Attributes, Value]]:
    attributes = {name: value for name, value in zip(ATTRIBUTES, key, strict=True) if value}
    yield DURATION, attributes, series.duration
    if series.head is not None:
        yield HEAD, attributes, series.head
    if series.first_event is not None:
        yield FIRST_EVENT, attributes, series.first_event
    for kind, tokens in series.tokens.items():
        yield TOKENS, {**attributes, "gen_ai.token.type": kind}, tokens
    if series.absent:
        yield ABSENT, attributes, series.absent
    if series.received:
        yield IO, {**attributes, "network.io.direction": "receive"}, series.received
    if series.sent:
        yield IO, {**attributes, "network.io.direction": "transmit"}, series.sent


def _data(
    instruments: Iterable[Instrument],
    values: Iterable[tuple[Instrument, Attributes, Value]],
    span: Span,
    resource: Resource,
) -> MetricsData:
    by_instrument: dict[Instrument, list[tuple[Attributes, Value]]] = {one: [] for one in instruments}
    for instrument, attributes, value in values:
        by_instrument[instrument].append((attributes, value))
    metrics = [_metric(one, found, span) for one, found in by_instrument.items() if found]
    scope = ScopeMetrics(InstrumentationScope("apim_shim"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(instrument: Instrument, values: Iterable[tuple[Attributes, Value]], span: Span) -> Metric:
    cumulative = span.cumulative or instrument.kind == "level"
    temporality = AggregationTemporality.CUMULATIVE if cumulative else AggregationTemporality.DELTA
    data: HistogramData | SumData
    if instrument.kind == "histogram":
        points = [_point(attributes, value, span) for attributes, value in values]
        data = HistogramData(points, temporality)
    else:
        numbers = [
            NumberDataPoint(attributes, span.start, span.end, value)
            for attributes, value in values
            if not isinstance(value, Histogram)
        ]
        data = SumData(numbers, temporality, is_monotonic=instrument.kind == "counter")
    return Metric(instrument.name, instrument.description, instrument.unit, data)


def _point(attributes: Attributes, value: Value, span: Span) -> HistogramDataPoint:
    assert isinstance(value, Histogram)
    return HistogramDataPoint(
        attributes, span.start, span.end, value.count, value.sum, value.buckets, value.bounds, value.min, value.max
    )  # fmt: skip
