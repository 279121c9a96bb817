"""Sends spans every few seconds, from a thread: to Azure Monitor, to an OTLP receiver, or to both."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
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

    `with_url` is for a receiver that cannot do without `url.full`.
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
        self._dropped = 0
        self._failing = False

    @property
    def waits(self) -> bool:
        """Whether there is something for it that it has not taken."""
        return bool(self._waiting)

    def export(self, spans: Sequence[SpanRecord], dropped: int = 0) -> None:
        """Sends what is new and what waits; `dropped` were lost before they got here. Blocks; never raises."""
        self._waiting += spans
        over = max(0, len(self._waiting) - self._max_queue)
        for _ in range(over):
            # The oldest: what a receiver refuses for good does not stay in the way of all that comes after it.
            self._waiting.popleft()
        self._drop(dropped + over)
        try:
            while self._waiting:
                batch = list(islice(self._waiting, MAX_BATCH))
                if not self._takes(batch):
                    self._fail("it did not take them")
                    return
                for _ in batch:
                    self._waiting.popleft()
        except Exception as defect:
            self._fail(describe_defect(defect))
        else:
            self._recover()

    def _takes(self, batch: list[SpanRecord]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        from shim.monitoring.spans import readable

        if self._exporter is None:
            self._exporter = self._open()
        spans = readable(batch, exporters.resource(), with_url=self._with_url)
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def _drop(self, count: int) -> None:
        """Said when it begins, and in sum when the receiver takes spans again."""
        if count and not self._dropped:
            log.warning("spans for %s are dropped: more come than it takes", self.name)
        self._dropped += count

    def _fail(self, reason: str) -> None:
        if not self._failing:
            log.warning(
                "spans cannot be sent to %s (%s); up to %d of them are kept and sent later",
                self.name, reason, self._max_queue,
            )  # fmt: skip
        self._failing = True

    def _recover(self) -> None:
        if self._failing or self._dropped:
            log.warning("spans reach %s again; %d were dropped meanwhile", self.name, self._dropped)
        self._failing, self._dropped = False, 0


class Tracing:
    """The spans of calls that are over, until they are exported; without destinations there are none.

    `model_of` gives the model as metrics have it: one that upstream has accepted.
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
        self._ended: list[SpanRecord] = []
        self._dropped = 0
        self._batch_is_full = asyncio.Event()

    def add(self, record: CallRecord) -> None:
        """A meter's sink."""
        if record.span is None:
            return
        if len(self._ended) >= MAX_QUEUE:
            self._dropped += 1
            return
        self._ended.append(_ended(record, self._model_of(record)))
        if len(self._ended) == MAX_BATCH:
            self._batch_is_full.set()

    async def run(self) -> None:
        """Exports for ever, every `interval` seconds, or as soon as there is a batch."""
        while self._destinations:
            try:
                async with asyncio.timeout(self._interval):
                    await self._batch_is_full.wait()
            except TimeoutError:
                """Then it is time."""
            await self.export()

    async def export(self) -> None:
        """Sends what has ended since the last time, and what had to wait, from a thread of its own."""
        ended, self._ended = self._ended, []
        dropped, self._dropped = self._dropped, 0
        self._batch_is_full.clear()
        if ended or dropped or any(destination.waits for destination in self._destinations):
            await asyncio.to_thread(self._export, ended, dropped)

    def _export(self, ended: list[SpanRecord], dropped: int) -> None:
        for destination in self._destinations:
            destination.export(ended, dropped)


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
