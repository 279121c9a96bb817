"""Histograms, and the counts that concern no one call. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

# Seconds and tokens: the bounds that the semantic conventions advise.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**exponent for exponent in range(14))


class Histogram:
    __slots__ = ("bounds", "buckets", "count", "max", "min", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0
        self.min = float("inf")
        self.max = float("-inf")

    def add(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value
        if value < self.min:
            self.min = value
        if value > self.max:
            self.max = value

    def merge(self, other: Histogram) -> None:
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)


class Process:
    """What concerns no one call, added up since the last export; `streams` is how many are in flight."""

    def __init__(self) -> None:
        self.streams = 0
        self.heartbeats = 0
        self.lookups: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.vault: dict[str, Histogram] = {}
        self.starts = 1

    def vault_call(self, seconds: float, fault: str = "") -> None:
        self.vault.setdefault(fault, Histogram(SECONDS)).add(seconds)

    def merge(self, other: Process) -> None:
        self.streams = other.streams
        self.heartbeats += other.heartbeats
        self.lookups.update(other.lookups)
        self.connections.update(other.connections)
        self.starts += other.starts
        for fault, seconds in other.vault.items():
            self.vault[fault] = merged(self.vault.get(fault), seconds) or seconds

    def take(self) -> Process:
        """What has come together, which begins anew here."""
        taken = Process()
        taken.starts = 0
        taken.merge(self)
        self.heartbeats = self.starts = 0
        self.lookups, self.connections, self.vault = Counter(), Counter(), {}
        return taken


def merged(mine: Histogram | None, its: Histogram | None) -> Histogram | None:
    """Both together, in `mine` or in a new one; `its` stays as it is."""
    if its is None:
        return mine
    if mine is None:
        mine = Histogram(its.bounds)
    mine.merge(its)
    return mine
