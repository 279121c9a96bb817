"""Sends spans every few seconds, from a thread: to Azure Monitor, to an OTLP receiver, or to both."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from shim.errors import describe_defect
from shim.monitoring import exporters
from shim.monitoring.record import CallRecord
from shim.monitoring.tracing import SpanRecord
from shim.settings import AZURE_MONITOR_TRACES, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("shim")

# Of spans that wait, for each destination: some 2 MB, and what is over is dropped. OpenTelemetry's own defaults:
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#batch-span-processor
MAX_QUEUE = 2_048
MAX_BATCH = 512


class SpanDestination:
    """One receiver, and the spans that it has not taken yet.

    `with_url` is for a receiver that cannot do without `url.full`. Only `_send` runs in a thread, on its own batch.
    """

    def __init__(
        self,
        name: str,
        open_exporter: Callable[[], SpanExporter],
        *,
        with_url: bool = False,
        max_queue: int = MAX_QUEUE,
    ) -> None:
        self.name = name
        self._open = open_exporter
        self._with_url = with_url
        self._exporter: SpanExporter | None = None
        self._waiting: deque[SpanRecord] = deque()
        self._max_queue = max_queue
        self._batch_is_full = asyncio.Event()
        self._dropped = 0
        self._failing = False

    def offer(self, span: SpanRecord) -> None:
        self._waiting.append(span)
        self._drop_oldest()
        if len(self._waiting) == MAX_BATCH:
            self._batch_is_full.set()

    async def run(self, interval: float) -> None:
        """Exports for ever, every `interval` seconds, or as soon as there is a batch."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._batch_is_full.wait()
            await self.export()

    async def export(self) -> None:
        """Sends what waits, batch by batch, until the receiver takes no more."""
        self._batch_is_full.clear()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            if fault := await asyncio.to_thread(self._send, batch):
                self._waiting.extendleft(reversed(batch))
                self._fail(fault)
                self._drop_oldest()
                return
            self._recover()

    def _send(self, batch: list[SpanRecord]) -> str:
        """What went wrong, if anything did. Blocks; never raises."""
        try:
            from opentelemetry.sdk.trace.export import SpanExportResult

            from shim.monitoring.spans import readable

            if self._exporter is None:
                self._exporter = self._open()
            spans = readable(batch, exporters.resource(), with_url=self._with_url)
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as defect:
            return describe_defect(defect)
        return "" if taken else "it did not take them"

    def _drop_oldest(self) -> None:
        """Not the newest: what a receiver refuses for good does not stay in the way of all that comes after it."""
        while len(self._waiting) > self._max_queue:
            self._waiting.popleft()
            self._dropped += 1
            if self._dropped == 1:
                log.warning("spans for %s are dropped: more come than it takes", self.name)

    def _fail(self, fault: str) -> None:
        """Said once for each outage."""
        if not self._failing:
            log.warning(
                "spans cannot be sent to %s (%s); up to %d of them are kept and sent later",
                self.name, fault, self._max_queue,
            )  # fmt: skip
        self._failing = True

    def _recover(self) -> None:
        if self._failing or self._dropped:
            log.warning("spans reach %s again; %d were dropped meanwhile", self.name, self._dropped)
        self._failing, self._dropped = False, 0


class Tracing:
    """Hands the spans of calls that are over to `destinations`, each of which exports at a pace of its own.

    `model_of` gives the model as metrics have it: one that upstream has accepted. `interval` is in seconds.
    """

    def __init__(
        self,
        destinations: Sequence[SpanDestination],
        model_of: Callable[[CallRecord], str],
        *,
        interval: float,
    ) -> None:
        self._destinations = destinations
        self._model_of = model_of
        self._interval = interval

    def add(self, record: CallRecord) -> None:
        """A meter's sink."""
        if record.span is not None:
            ended = _ended(record, self._model_of(record))
            for destination in self._destinations:
                destination.offer(ended)

    async def run(self) -> None:
        """Exports for ever."""
        await asyncio.gather(*(destination.run(self._interval) for destination in self._destinations))


def span_destinations_of(settings: Settings) -> list[SpanDestination]:
    """Where the settings say that spans go. Imports nothing, connects to nothing."""
    if settings.otel_sdk_disabled:
        return []
    found = []
    if AZURE_MONITOR_TRACES in settings.otel_traces_exporters:
        # It calls a dependency after the path of its URL: without one, all are `POST /`.
        found.append(
            SpanDestination("Azure Monitor", lambda: exporters.azure_monitor_spans(settings), with_url=True)
        )
    if "otlp" in settings.otel_traces_exporters:
        found.append(SpanDestination("the OTLP receiver", exporters.otlp_spans))
    return found


def _ended(record: CallRecord, model: str) -> SpanRecord:
    span, usage = record.span, record.usage
    assert span is not None
    took = (record.over or span.started) - span.started
    own = "" if record.code.isdigit() else record.code
    return SpanRecord(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        flags=span.flags,
        start=span.began,
        end=span.began + round(took * 1e9),
        method=span.method,
        origin=span.origin,
        operation=record.operation,
        label=record.label,
        model=model,
        status=span.status,
        error=own or (str(span.status) if span.status >= 400 else ""),
        input_tokens=usage.input if usage else None,
        output_tokens=usage.output if usage else None,
    )
