"""Calls added up, as points of OpenTelemetry's data model, and which receiver is given which of them when.

Bills, alerts and the workbook are made of these points. A point that is given twice, or not again after a failure, is a
wrong number for good: nobody compares it with anything.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from shim.monitoring import exporters
from shim.monitoring.counts import Process
from shim.monitoring.exporting import Destination, Telemetry, destinations_of
from shim.monitoring.points import Span, of_calls, of_process
from shim.monitoring.record import CallRecord, Meter
from shim.monitoring.tally import Tally
from shim.settings import Settings

CALLS = "gen_ai.server.request.duration"
TOKENS = "gen_ai.client.token.usage"
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]
USAGE = b'{"usage":{"prompt_tokens":%d,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":4}}}'
SPAN = Span(start=5, end=9, cumulative=False)
# As the semantic conventions advise.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BOUNDS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

type Attributes = Mapping[str, Any]
type Points = list[tuple[Attributes, Any]]


def metrics_of(*exports: MetricsData) -> dict[str, Any]:
    return {
        metric.name: metric
        for data in exports
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def points_of(*exports: MetricsData) -> dict[str, Points]:
    """By instrument: attributes and values, which are count and sum of a histogram."""
    found: dict[str, Points] = {}
    for data in exports:
        for name, metric in metrics_of(data).items():
            found.setdefault(name, []).extend(
                (
                    point.attributes,
                    (point.count, round(point.sum, 6)) if hasattr(point, "count") else point.value,
                )
                for point in metric.data.data_points
            )
    return found


class Calls:
    """Calls as they are when they are over, added up in `tally`."""

    def __init__(self, tally: Tally | None = None) -> None:
        self.now = 0.0
        self.tally = tally or Tally()
        self.meter = Meter([self.tally.add], clock=lambda: self.now)

    def add(
        self,
        seconds: float = 1.0,
        *,
        status: int = 200,
        content: bytes = b"",
        received: bytes = b"",
        headers: list[tuple[bytes, bytes]] = JSON,
        code: str = "",
        **known: str | bool,
    ) -> None:
        self.now = 0.0
        call: CallRecord = self.meter.begin([], b"id")
        for name, value in known.items():
            setattr(call, name, value)
        call.arrived(received)
        call.answered(status, headers)
        call.passed(content)
        self.now = seconds
        call.end(code)

    def data(self) -> MetricsData:
        [(_, data)] = of_calls(self.tally.take(), SPAN, Resource({}))
        return data


def test_a_call_becomes_a_point_of_each_instrument_that_has_something_to_say_of_it() -> None:
    tally, now = Tally(), [100.0]
    call = Meter([tally.add], clock=lambda: now[0]).begin([(b"user-agent", b"curl/8.5.0")], b"id")
    call.label, call.operation, call.model = "team-a", "POST /chat/completions", "gpt-4o"
    call.scheme, call.dialect, call.has_usage = "bearer", "v1", True
    call.arrived(b"x" * 30)
    now[0] += 1
    call.answered(200, EVENTS)
    now[0] += 1
    call.passed(USAGE % 5)
    now[0] += 1
    call.end("upstream_broken")
    [(keys, data)] = of_calls(tally.take(), SPAN, Resource({}))
    assert len(keys) == 1
    of_call = {
        "apim_shim.subscription": "team-a",
        "apim_shim.operation": "POST /chat/completions",
        "gen_ai.request.model": "gpt-4o",
        "apim_shim.status_class": "2xx",
        "error.type": "upstream_broken",
        "apim_shim.key_header": "bearer",
        "apim_shim.dialect": "v1",
        "apim_shim.client": "curl/8",
    }
    assert points_of(data) == {
        CALLS: [(of_call, (1, 3.0))],
        "gen_ai.server.time_to_first_token": [(of_call, (1, 2.0))],
        "apim_shim.time_to_head": [(of_call, (1, 1.0))],
        TOKENS: [
            ({**of_call, "gen_ai.token.type": "input"}, (1, 5)),
            ({**of_call, "gen_ai.token.type": "output"}, (1, 6)),
            ({**of_call, "gen_ai.token.type": "cached"}, (1, 4)),
        ],
        "apim_shim.io": [
            ({**of_call, "network.io.direction": "receive"}, 30),
            ({**of_call, "network.io.direction": "transmit"}, len(USAGE % 5)),
        ],
    }


def test_a_call_that_upstream_never_saw_has_a_duration_and_nothing_else() -> None:
    calls = Calls()
    calls.meter.begin([], b"id").refused(404, "not_found")
    attributes = {
        "apim_shim.operation": "other",
        "apim_shim.status_class": "4xx",
        "error.type": "not_found",
        "apim_shim.client": "other",
    }
    assert points_of(calls.data()) == {CALLS: [(attributes, (1, 0.0))]}


def process() -> Process:
    made = Process()
    made.streams, made.heartbeats, made.starts = 3, 4, 1
    made.lookups.update({"cached": 5, "vault": 6})
    made.connections.update({"opened": 7, "reused": 8})
    made.vault_call(0.25)
    made.vault_call(0.5)
    made.vault_call(2.0, "key_store_unavailable")
    return made


OF_PROCESS: dict[str, Points] = {
    "apim_shim.streams": [({}, 3)],
    "apim_shim.heartbeats": [({}, 4)],
    "apim_shim.starts": [({}, 1)],
    "apim_shim.key.lookups": [({"apim_shim.outcome": "cached"}, 5), ({"apim_shim.outcome": "vault"}, 6)],
    "apim_shim.vault.duration": [({}, (2, 0.75)), ({"error.type": "key_store_unavailable"}, (1, 2.0))],
    "apim_shim.upstream.connections": [
        ({"apim_shim.connection": "opened"}, 7),
        ({"apim_shim.connection": "reused"}, 8),
    ],
}


def test_what_concerns_the_process_becomes_points_where_there_was_any() -> None:
    assert points_of(of_process(process(), SPAN, Resource({}))) == OF_PROCESS
    idle = Process()
    idle.starts = 0
    assert points_of(of_process(idle, SPAN, Resource({}))) == {"apim_shim.streams": [({}, 0)]}


# Unit, and whether it is a histogram, a sum that only grows, or a level.
INSTRUMENTS = {
    CALLS: ("s", "histogram"),
    "gen_ai.server.time_to_first_token": ("s", "histogram"),
    "apim_shim.time_to_head": ("s", "histogram"),
    TOKENS: ("{token}", "histogram"),
    "apim_shim.usage.absent": ("{call}", "counter"),
    "apim_shim.io": ("By", "counter"),
    "apim_shim.streams": ("{stream}", "level"),
    "apim_shim.heartbeats": ("{heartbeat}", "counter"),
    "apim_shim.starts": ("{process}", "counter"),
    "apim_shim.key.lookups": ("{lookup}", "counter"),
    "apim_shim.vault.duration": ("s", "histogram"),
    "apim_shim.upstream.connections": ("{connection}", "counter"),
}


@pytest.mark.parametrize("cumulative", [False, True])
def test_receivers_are_told_what_kind_of_number_each_is(cumulative: bool) -> None:
    calls, span = Calls(), Span(start=5, end=9, cumulative=cumulative)
    calls.add(headers=EVENTS, content=USAGE % 5, has_usage=True)
    calls.add(content=b"no usage", has_usage=True)
    exports = [data for _, data in of_calls(calls.tally.take(), span, Resource({}))]
    metrics = metrics_of(*exports, of_process(process(), span, Resource({})))
    kinds = {}
    for name, metric in metrics.items():
        monotonic = getattr(metric.data, "is_monotonic", None)
        kind = {None: "histogram", True: "counter", False: "level"}[monotonic]
        kinds[name] = (metric.unit, kind)
        # AggregationTemporality: delta, or cumulative. How many streams there are is nothing to add up.
        assert metric.data.aggregation_temporality == (2 if cumulative or kind == "level" else 1)
        assert metric.description
        for point in metric.data.data_points:
            assert (point.start_time_unix_nano, point.time_unix_nano) == (5, 9)
    assert kinds == INSTRUMENTS


@pytest.mark.parametrize(
    ("name", "bounds", "values"),
    [
        (CALLS, SECONDS, (0.25, 0.005, 0.01, 81.92, 100.0, 2.56)),
        (TOKENS, TOKEN_BOUNDS, (0, 1, 2, 64, 65, 67108865)),
    ],
)
def test_buckets_least_and_most_are_as_opentelemetrys_own_histograms_have_them(
    name: str, bounds: tuple[float, ...], values: tuple[float, ...]
) -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name="theirs", aggregation=ExplicitBucketHistogramAggregation(bounds))
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    theirs = provider.get_meter("test").create_histogram("theirs")
    # What came together in two exports, the first of which could not be sent.
    calls, later, held = Calls(), Calls(), Tally()
    for number, value in enumerate(values):
        theirs.record(value)
        seconds, tokens = (value, 0) if name == CALLS else (1, int(value))
        (calls if number % 2 else later).add(seconds, content=USAGE % tokens, has_usage=True)
    held.merge(calls.tally.take())
    held.merge(later.tally.take())
    [(_, data)] = of_calls(held.take(), SPAN, Resource({}))
    mine = metrics_of(data)[name].data.data_points[0]
    expected: Any = reader.get_metrics_data()
    [point] = metrics_of(expected)["theirs"].data.data_points
    assert tuple(mine.explicit_bounds) == tuple(point.explicit_bounds) == bounds
    assert tuple(mine.bucket_counts) == tuple(point.bucket_counts)
    assert (mine.count, mine.min, mine.max) == (point.count, point.min, point.max)
    assert mine.sum == pytest.approx(point.sum)
    provider.shutdown()


@pytest.mark.parametrize(
    ("status", "has_usage", "content", "absent"),
    [
        (200, True, b"{}", 1),
        (299, True, b"{}", 1),
        (300, True, b"{}", 0),
        (199, True, b"{}", 0),
        (429, True, b"{}", 0),
        (200, False, b"{}", 0),
        (200, True, USAGE % 0, 0),
    ],
)
def test_absent_is_the_usage_of_good_calls_that_should_have_one(
    status: int, has_usage: bool, content: bytes, absent: int
) -> None:
    calls = Calls()
    calls.add(status=status, has_usage=has_usage, content=content)
    points = points_of(calls.data())
    assert sum(value for _, value in points.get("apim_shim.usage.absent", [])) == absent


def test_tokens_that_a_call_did_not_use_are_no_point_but_those_of_its_input() -> None:
    calls = Calls()
    calls.add(content=b'{"usage":{"input_tokens":0,"output_tokens":0}}', has_usage=True)
    [(attributes, value)] = points_of(calls.data())[TOKENS]
    assert (attributes["gen_ai.token.type"], value) == ("input", (1, 0))


def test_calls_beyond_the_bound_are_counted_by_label_and_status_class() -> None:
    calls = Calls(Tally(max_series=1))
    calls.add(label="team-a", operation="GET /models")
    for operation, model, code in (("GET /files", "gpt-4o", ""), ("POST /files", "o3", "503")):
        status = 503 if code else 200
        calls.add(
            label="team-b", operation=operation, model=model, status=status, code=code, dialect="v1", scheme="bearer"
        )  # fmt: skip
        calls.add(label="team-b", operation=operation, status=status, code=code)
    assert [attributes for attributes, _ in points_of(calls.data())[CALLS]] == [
        {
            "apim_shim.subscription": "team-a",
            "apim_shim.operation": "GET /models",
            "apim_shim.status_class": "2xx",
            "apim_shim.client": "other",
        },
        *(
            {
                "apim_shim.subscription": "team-b",
                "apim_shim.operation": "other",
                "gen_ai.request.model": "other",
                "apim_shim.status_class": status,
            }
            for status in ("2xx", "5xx")
        ),
    ]


def test_a_model_is_one_once_upstream_has_accepted_it() -> None:
    tally = Tally()
    assert tally.model_of("gpt-4o", 404) == "other"
    assert tally.model_of("gpt-4o", 300) == "other"
    assert tally.model_of("gpt-4o", 0) == "other"
    assert tally.model_of("gpt-4o", 200) == "gpt-4o"
    assert tally.model_of("gpt-4o", 429) == "gpt-4o"
    assert tally.model_of("o3", 299) == "o3"
    assert tally.model_of("", 404) == ""


# Receivers.


class Exporter:
    """Takes what it is given, unless it is to fail: with a result, or with an exception."""

    def __init__(self) -> None:
        self.given: list[MetricsData] = []
        self.failure: Exception | None = None
        self.refuses: Callable[[], bool] = lambda: False
        self.opened = 0
        self.exported = asyncio.Event()

    def open(self) -> MetricExporter:
        self.opened += 1
        return cast("MetricExporter", self)

    def export(self, data: MetricsData) -> MetricExportResult:
        if self.failure is not None:
            raise self.failure
        if self.refuses():
            return MetricExportResult.FAILURE
        self.given.append(data)
        return MetricExportResult.SUCCESS

    def taken(self) -> dict[str, Points]:
        """What has come since this was asked last."""
        given, self.given = self.given, []
        return points_of(*given)

    def counts(self) -> list[int]:
        return [value[0] for _, value in self.taken().get(CALLS, [])]


def made(exporter: Exporter, *, cumulative: bool = False, name: str = "a receiver") -> Destination:
    return Destination(name, exporter.open, cumulative=cumulative)


def some(count: int = 1, **known: Any) -> Any:
    calls = Calls()
    for _ in range(count):
        calls.add(**known)
    return calls.tally.take()


STREAMED: Any = {"headers": EVENTS, "content": USAGE % 5, "received": b"x" * 30, "has_usage": True}


def test_one_receiver_is_given_what_is_new_and_another_the_totals_of_the_same_calls() -> None:
    delta, cumulative = Exporter(), Exporter()
    destinations = [made(delta), made(cumulative, cumulative=True)]
    for new, total in ((2, 2), (3, 5), (0, 5)):
        calls, since = some(new), process()
        for destination in destinations:
            destination.export(calls, since)
        of_new, of_all = delta.taken(), cumulative.taken()
        assert [value for _, value in of_new.get(CALLS, [])] == ([(new, float(new))] if new else [])
        assert [value for _, value in of_all[CALLS]] == [(total, float(total))]
        assert {name: of_new[name] for name in OF_PROCESS} == OF_PROCESS
        assert of_all["apim_shim.streams"] == [({}, 3)]
    assert of_all["apim_shim.heartbeats"] == [({}, 12)]
    assert of_all["apim_shim.starts"] == [({}, 3)]
    assert [value for _, value in of_all["apim_shim.key.lookups"]] == [15, 18]
    assert [value for _, value in of_all["apim_shim.vault.duration"]] == [(6, 2.25), (3, 6.0)]
    assert [value for _, value in of_all["apim_shim.upstream.connections"]] == [21, 24]
    assert (delta.opened, cumulative.opened) == (1, 1)


def values_of(points: Mapping[str, Points]) -> dict[str, list[Any]]:
    return {name: [value for _, value in found] for name, found in points.items()}


@pytest.mark.parametrize("cumulative", [False, True])
def test_what_two_receivers_did_not_take_comes_with_the_next_export_once(cumulative: bool) -> None:
    exporters = [Exporter(), Exporter()]
    destinations = [made(exporter, cumulative=cumulative) for exporter in exporters]

    def export(calls: int, absent: int) -> None:
        new, since = Calls(), process()
        for _ in range(calls):
            new.add(**STREAMED)
        for _ in range(absent):
            new.add(has_usage=True, operation="GET /models")
        taken = new.tally.take()
        for destination in destinations:
            destination.export(taken, since)

    for exporter in exporters:
        exporter.refuses = lambda: True
    export(2, 1)
    for exporter in exporters:
        exporter.refuses, exporter.failure = lambda: False, OSError("no route")
    export(3, 2)
    assert [exporter.taken() for exporter in exporters] == [{}, {}]
    for exporter in exporters:
        exporter.failure = None
    export(4, 0)
    for exporter in exporters:
        expected = {
            CALLS: [(9, 9.0), (3, 3.0)],
            "apim_shim.time_to_head": [(9, 0.0), (3, 0.0)],
            "gen_ai.server.time_to_first_token": [(9, 0.0)],
            TOKENS: [(9, 45), (9, 54), (9, 36)],
            "apim_shim.io": [270, 9 * len(USAGE % 5)],
            "apim_shim.usage.absent": [3],
            "apim_shim.streams": [3],
            "apim_shim.heartbeats": [12],
            "apim_shim.starts": [3],
            "apim_shim.key.lookups": [15, 18],
            "apim_shim.vault.duration": [(6, 2.25), (3, 6.0)],
            "apim_shim.upstream.connections": [21, 24],
        }
        assert values_of(exporter.taken()) == expected
    for destination in destinations:
        destination.export({}, Process())
    for exporter in exporters:
        again = values_of(exporter.taken())
        assert again.get(CALLS, []) == ([(9, 9.0), (3, 3.0)] if cumulative else [])
        assert again.get("apim_shim.heartbeats", []) == ([12] if cumulative else [])


def test_many_series_go_in_portions_and_only_those_not_taken_go_again() -> None:
    exporter, answers = Exporter(), iter([False, True, False, False, False])
    destination = made(exporter)
    exporter.refuses = lambda: next(answers)
    calls = Calls()
    for number in range(501):
        calls.add(label=f"team-{number}")
    destination.export(calls.tally.take(), process())
    first = exporter.taken()
    assert [attributes["apim_shim.subscription"] for attributes, _ in first[CALLS]] == [
        f"team-{number}" for number in range(500)
    ]
    assert "apim_shim.heartbeats" not in first
    destination.export({}, Process())
    second = exporter.taken()
    assert [attributes["apim_shim.subscription"] for attributes, _ in second[CALLS]] == ["team-500"]
    assert second["apim_shim.heartbeats"] == [({}, 4)]


def starts(data: MetricsData) -> set[int]:
    return {
        point.start_time_unix_nano
        for metric in metrics_of(data).values()
        for point in metric.data.data_points
    }


def test_what_comes_late_is_of_all_the_time_since_the_last_good_export() -> None:
    exporter, answers = Exporter(), iter([False, False, False, True, False, False, False, False])
    destination = made(exporter)
    exporter.refuses = lambda: next(answers)
    for _ in range(4):
        destination.export(some(), Process())
    # The first two, the calls of the next two, and of the process what the third could not give.
    times = [starts(data) for data in exporter.given]
    assert times[0] == times[1]
    assert times[1] != times[2]
    assert times[2] == times[3] == times[4]
    assert times[4] != times[5]


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter()
    destination = made(exporter, name="the OTLP receiver")

    def export(*, fails: bool) -> None:
        exporter.refuses = lambda: fails
        destination.export(some(), Process())

    export(fails=False)
    assert caplog.messages == []
    for fails in (True, True, False, False, True):
        export(fails=fails)
    begun = "metrics cannot be sent to the OTLP receiver (it did not take them); they are kept and sent later"
    over = "metrics reach the OTLP receiver again; nothing was lost meanwhile"
    assert caplog.messages == [begun, over, begun]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_an_exporters_own_words_are_not_told_and_it_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """They may quote the connection string."""
    exporter = Exporter()
    opened = iter([ValueError("a connection string with a secret in it"), None])

    def open_exporter() -> MetricExporter:
        if fault := next(opened):
            raise fault
        return exporter.open()

    destination = Destination("a receiver", open_exporter, cumulative=False)
    destination.export(some(2), Process())
    destination.export(some(1), Process())
    assert exporter.counts() == [3]
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_one_receivers_failure_keeps_nothing_from_the_other() -> None:
    failing, working, tally = Exporter(), Exporter(), Tally()
    failing.failure = OSError("no route")
    calls = Calls(tally)
    telemetry = Telemetry(calls.meter, tally, [made(failing), made(working)])
    calls.add()
    await telemetry.export()
    assert (failing.counts(), working.counts()) == ([], [1])
    failing.failure = None
    calls.add()
    await telemetry.export()
    assert (failing.counts(), working.counts()) == ([2], [1])


async def test_an_instance_sends_nothing_until_it_has_a_call_or_a_stream_in_flight() -> None:
    exporter, tally = Exporter(), Tally()
    calls = Calls(tally)
    telemetry = Telemetry(calls.meter, tally, [made(exporter)])
    await telemetry.export()
    assert exporter.given == []
    stream = calls.meter.begin([], b"id")
    stream.answered(200, EVENTS)
    stream.passed(b"data: {}\n\n")
    await telemetry.export()
    assert exporter.taken() == {"apim_shim.streams": [({}, 1)], "apim_shim.starts": [({}, 1)]}
    await telemetry.export()
    assert exporter.taken() == {"apim_shim.streams": [({}, 1)]}
    stream.end()
    await telemetry.export()
    taken = exporter.taken()
    assert taken["apim_shim.streams"] == [({}, 0)]
    assert [value[0] for _, value in taken[CALLS]] == [1]
    await telemetry.export()
    assert exporter.given == []


async def test_of_connections_each_export_has_those_that_are_new() -> None:
    exporter, tally = Exporter(), Tally()
    calls, connections = Calls(tally), {"opened": 0, "reused": 0}
    telemetry = Telemetry(calls.meter, tally, [made(exporter)], connections=lambda: connections)
    found = []
    for opened, reused in ((2, 0), (2, 3), (3, 7)):
        connections.update(opened=opened, reused=reused)
        calls.add()
        await telemetry.export()
        points = exporter.taken()["apim_shim.upstream.connections"]
        found.append({attributes["apim_shim.connection"]: value for attributes, value in points})
    assert found == [{"opened": 2}, {"reused": 3}, {"opened": 1, "reused": 4}]


async def test_metrics_are_sent_each_interval_from_a_thread() -> None:
    """So that no call waits for an exporter, which may take its time."""
    exporter, tally, loop = Exporter(), Tally(), asyncio.get_running_loop()
    exported: asyncio.Queue[bool] = asyncio.Queue()

    def refuses() -> bool:
        try:
            asyncio.get_running_loop()
            in_thread = False
        except RuntimeError:
            in_thread = True
        loop.call_soon_threadsafe(exported.put_nowait, in_thread)
        return False

    exporter.refuses = refuses
    calls = Calls(tally)
    telemetry = Telemetry(calls.meter, tally, [made(exporter)], interval=0.001)
    calls.add()
    running = asyncio.create_task(telemetry.run())
    for _ in range(3):
        async with asyncio.timeout(30):
            assert await exported.get()
        calls.add()
    running.cancel()


ENVIRON = {"APIM_BASE_URL": "https://a.example/openai", "KEY_VAULT_URL": "https://v.vault.azure.net"}
INSIGHTS = {
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=00000000-0000-4000-8000-000000000001"
}
OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, []),
        (INSIGHTS, ["Azure Monitor"]),
        (OTLP, ["the OTLP receiver"]),
        ({**INSIGHTS, **OTLP}, ["Azure Monitor", "the OTLP receiver"]),
        ({**INSIGHTS, **OTLP, "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_metrics_go_where_the_settings_say(environ: dict[str, str], names: list[str]) -> None:
    settings = Settings.from_environment({**ENVIRON, **environ})
    assert [destination.name for destination in destinations_of(settings)] == names


@pytest.mark.parametrize(
    ("asked", "counts"),
    [({}, [1, 2]), ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, [1, 1])],
    ids=["totals", "what is new"],
)
async def test_an_otlp_receiver_is_given_totals_unless_it_asks_for_what_is_new(
    asked: dict[str, str], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter()
    monkeypatch.setattr(exporters, "otlp_metrics", exporter.open)
    monkeypatch.setattr(exporters, "azure_monitor_metrics", lambda _: exporter.open())
    telemetry = Telemetry.of(Settings.from_environment({**ENVIRON, **OTLP, **asked}))
    # Azure Monitor adds up what it is given, whatever the other receiver asks for.
    azure = Telemetry.of(Settings.from_environment({**ENVIRON, **INSIGHTS, **asked}))
    for chosen, expected in ((telemetry, counts), (azure, [1, 1])):
        found = []
        for _ in range(2):
            chosen.meter.begin([], b"id").end()
            await chosen.export()
            found += exporter.counts()
        assert found == expected


async def test_without_a_receiver_nothing_is_added_up_and_nothing_runs() -> None:
    telemetry = Telemetry.of(Settings.from_environment(ENVIRON))
    telemetry.meter.begin([], b"id").end()
    async with asyncio.timeout(5):
        await telemetry.run()
        # Had a call been added up, this would take it, and set the process's counts back.
        await telemetry.export()
    assert telemetry.meter.process.starts == 1


# The resource.

SITE = {"WEBSITE_SITE_NAME": "contoso-shim"}


@pytest.mark.parametrize(
    ("environ", "name", "instance"),
    [
        ({}, "apim-openai-shim", "a-machine"),
        ({**SITE, "WEBSITE_INSTANCE_ID": "instance-1"}, "contoso-shim", "instance-1"),
        (
            {**SITE, "WEBSITE_INSTANCE_ID": "instance-1", "WEBSITE_POD_NAME": "pod-1"},
            "contoso-shim",
            "pod-1",
        ),
        (
            {**SITE, "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,team=a"},
            "mine",
            "a-machine",
        ),
    ],
)
def test_telemetry_names_the_site_and_the_instance(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str, instance: str
) -> None:
    for each in (
        "WEBSITE_SITE_NAME",
        "WEBSITE_INSTANCE_ID",
        "WEBSITE_POD_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SERVICE_NAME",
    ):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr("platform.node", lambda: "a-machine")
    for each, value in environ.items():
        monkeypatch.setenv(each, value)
    exporter = Exporter()
    made(exporter).export(some(), Process())
    for data in exporter.given:
        [of_resource] = data.resource_metrics
        attributes = of_resource.resource.attributes
        assert (attributes["service.name"], attributes["service.instance.id"]) == (name, instance)
        assert attributes.get("team") == ("a" if "OTEL_RESOURCE_ATTRIBUTES" in environ else None)
        assert [scope.scope.name for scope in of_resource.scope_metrics] == ["apim_shim"]
    assert len(exporter.given) == 2
