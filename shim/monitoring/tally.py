"""Measurements added up, bounded in memory however many calls, labels and models there are.

Not OpenTelemetry's instruments, which would take as long as a third of a small call (docs/observability.md); points of
its data model are made of this once per export (points.py).
"""

from __future__ import annotations

from typing import NamedTuple

from shim.monitoring.counts import SECONDS, TOKENS, Histogram, merged
from shim.monitoring.record import CallRecord

OTHER = "other"
MAX_LABELS = 1_000
MAX_MODELS = 200
# Of labels with all else that is known of a call. Calls beyond are counted by label and status class alone.
MAX_SERIES = 4_000


class Key(NamedTuple):
    """What calls are told apart by."""

    label: str
    operation: str
    model: str
    status: str
    code: str
    scheme: str
    dialect: str
    client: str


class Series:
    """What calls of one key have come to."""

    __slots__ = ("absent", "duration", "first_event", "head", "received", "sent", "tokens")

    def __init__(self) -> None:
        self.duration = Histogram(SECONDS)
        self.head: Histogram | None = None
        self.first_event: Histogram | None = None
        self.tokens: dict[str, Histogram] = {}
        self.absent = self.received = self.sent = 0

    def add(self, record: CallRecord) -> None:
        began, usage = record.began, record.usage
        self.duration.add((record.over or began) - began)
        if record.head is not None:
            self.head = self.head or Histogram(SECONDS)
            self.head.add(record.head - began)
        if record.first_event is not None:
            self.first_event = self.first_event or Histogram(SECONDS)
            self.first_event.add(record.first_event - began)
        self.received += record.received
        self.sent += record.sent
        if usage is None:
            self.absent += record.has_usage and 200 <= record.status < 300
            return
        for kind, count in zip(usage._fields, usage, strict=True):
            if count or kind == "input":
                tokens = self.tokens.get(kind)
                if tokens is None:
                    tokens = self.tokens[kind] = Histogram(TOKENS)
                tokens.add(count)

    def merge(self, other: Series) -> None:
        self.duration.merge(other.duration)
        self.head = merged(self.head, other.head)
        self.first_event = merged(self.first_event, other.first_event)
        for kind, tokens in other.tokens.items():
            self.tokens[kind] = merged(self.tokens.get(kind), tokens) or tokens
        self.absent += other.absent
        self.received += other.received
        self.sent += other.sent


class Tally:
    """Calls added up by key. Labels and models are bounded for the life of the process, series for each export."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self.series: dict[Key, Series] = {}
        self._max_series = max_series
        self._labels: set[str] = set()
        self._models: set[str] = set()

    def add(self, record: CallRecord) -> None:
        key = Key(
            _bounded(record.label, self._labels, MAX_LABELS),
            record.operation or OTHER,
            self.model_of(record.model, record.status),
            f"{record.status // 100}xx",
            record.code,
            record.scheme,
            record.dialect,
            record.client,
        )
        series = self.series.get(key)
        if series is None:
            series = self._new(key)
        series.add(record)

    def take(self) -> dict[Key, Series]:
        taken, self.series = self.series, {}
        return taken

    def merge(self, taken: dict[Key, Series]) -> None:
        for key, series in taken.items():
            held = self.series.get(key)
            if held is None:
                # A series of its own: the other tally's are its own business.
                held = self._new(key)
            held.merge(series)

    def _new(self, key: Key) -> Series:
        if len(self.series) >= self._max_series:
            key = Key(key.label, OTHER, OTHER, key.status, "", "", "", "")
        return self.series.setdefault(key, Series())

    def model_of(self, model: str, status: int) -> str:
        """A model is one once upstream has accepted it: what callers make up makes no series."""
        if not model or model in self._models:
            return model
        if 200 <= status < 300 and len(self._models) < MAX_MODELS:
            self._models.add(model)
            return model
        return OTHER


def _bounded(name: str, known: set[str], limit: int) -> str:
    if name in known or not name:
        return name
    if len(known) >= limit:
        return OTHER
    known.add(name)
    return name
