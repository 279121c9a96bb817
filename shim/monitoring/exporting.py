"""Sends what was added up, once a minute, from a thread: to Azure Monitor, to an OTLP receiver, or to both.

OpenTelemetry is imported there and nowhere else, when there is something to send for the first time: more than a second
of imports, which no cold start waits for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from shim.errors import describe_defect
from shim.monitoring import exporters
from shim.monitoring.call_log import CallLog
from shim.monitoring.counts import Process
from shim.monitoring.record import Meter, Sink
from shim.monitoring.tally import Key, Series, Tally
from shim.monitoring.trace_export import Tracing, span_destinations_of
from shim.monitoring.tracing import sampler
from shim.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

log = logging.getLogger("shim")


class Destination:
    """One receiver, and what it has not been given yet: what could not be sent goes with the next export.

    A `cumulative` receiver is given the totals since the start, as Prometheus wants them; others what is new.
    """

    def __init__(self, name: str, open_exporter: Callable[[], MetricExporter], *, cumulative: bool) -> None:
        self.name = name
        self._open = open_exporter
        self._exporter: MetricExporter | None = None
        self._cumulative = cumulative
        self._tally = Tally()
        self._process = Process()
        self._process.starts = 0
        self._since = time.time_ns()
        self._failing = False

    def export(self, calls: dict[Key, Series], process: Process) -> None:
        """Adds what is new, and sends it all. Blocks; never raises."""
        self._tally.merge(calls)
        self._process.merge(process)
        try:
            self._send()
        except Exception as defect:
            self._fail(describe_defect(defect))

    def _send(self) -> None:
        from shim.monitoring.points import Span, of_calls, of_process

        if self._exporter is None:
            self._exporter = self._open()
        now = time.time_ns()
        span, resource = Span(self._since, now, self._cumulative), exporters.resource()
        for keys, data in list(of_calls(self._tally.series, span, resource)):
            if not self._deliver(data):
                return
            for key in () if self._cumulative else keys:
                del self._tally.series[key]
        if self._deliver(of_process(self._process, span, resource)) and not self._cumulative:
            self._process.take()
            self._since = now

    def _deliver(self, data: MetricsData) -> bool:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        assert self._exporter is not None
        if self._exporter.export(data) is not MetricExportResult.SUCCESS:
            self._fail("it did not take them")
            return False
        if self._failing:
            log.warning("metrics reach %s again; nothing was lost meanwhile", self.name)
            self._failing = False
        return True

    def _fail(self, reason: str) -> None:
        """Said once for each outage: the same line each minute would tell nothing new."""
        if not self._failing:
            log.warning("metrics cannot be sent to %s (%s); they are kept and sent later", self.name, reason)
        self._failing = True


class Telemetry:
    """A meter, and where it is exported to; without destinations nothing is added up.

    `connections` gives the totals since the start of what has become of connections to upstream.
    """

    def __init__(
        self,
        meter: Meter,
        tally: Tally | None = None,
        destinations: Sequence[Destination] = (),
        *,
        interval: float = 60,
        connections: Callable[[], Mapping[str, int]] = dict,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.meter = meter
        self._tally = tally or Tally()
        self._destinations = destinations
        self._interval = interval
        self._connections = connections
        self._seen: Counter[str] = Counter()

    @classmethod
    def of(cls, settings: Settings, *, connections: Callable[[], Mapping[str, int]] = dict) -> Self:
        """As the settings say."""
        tally, destinations = Tally(), destinations_of(settings)
        tracing = tracing_of(settings, tally)
        sinks: list[Sink] = [CallLog(settings.log_calls), *([tally.add] if destinations else [])]
        sinks += [tracing.add] if tracing else []
        return cls(
            Meter(sinks, begin_span=sampler(settings.otel_traces_sampler) if tracing else None),
            tally,
            destinations,
            interval=settings.otel_metric_export_interval,
            connections=connections,
            tracing=tracing,
        )

    async def run(self) -> None:
        """Exports for ever: metrics each `interval` seconds, spans at intervals of their own."""
        await asyncio.gather(self._run_metrics(), *([self._tracing.run()] if self._tracing else []))

    async def _run_metrics(self) -> None:
        while self._destinations:
            await asyncio.sleep(self._interval)
            await self.export()

    async def export(self) -> None:
        """Sends what has come since the last time, from a thread of its own; an idle instance sends nothing."""
        if not self._tally.series and not self.meter.process.streams:
            return
        totals = Counter(self._connections())
        self.meter.process.connections.update(totals - self._seen)
        self._seen = totals
        calls, process = self._tally.take(), self.meter.process.take()
        await asyncio.to_thread(self._export, calls, process)

    def _export(self, calls: dict[Key, Series], process: Process) -> None:
        for destination in self._destinations:
            destination.export(calls, process)


def destinations_of(settings: Settings) -> list[Destination]:
    """Where the settings say that metrics go. Imports nothing, connects to nothing."""
    if settings.otel_sdk_disabled:
        return []
    found = []
    if settings.applicationinsights_connection_string:
        found.append(
            Destination("Azure Monitor", lambda: exporters.azure_monitor_metrics(settings), cumulative=False)
        )
    if settings.otel_exporter_otlp_endpoint:
        cumulative = settings.otel_metrics_temporality == "cumulative"
        found.append(Destination("the OTLP receiver", exporters.otlp_metrics, cumulative=cumulative))
    return found


def tracing_of(settings: Settings, tally: Tally) -> Tracing | None:
    """None where no spans are asked for, so that calls make none."""
    destinations = span_destinations_of(settings)
    if not destinations:
        return None
    return Tracing(
        destinations,
        lambda record: tally.model_of(record.model, record.status),
        interval=settings.otel_bsp_schedule_delay,
    )
