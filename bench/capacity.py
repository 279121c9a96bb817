"""How many paced streams one process carries: the largest number of them with little delay.

Each stream is a chunk of about 240 bytes every 50 ms, which is how fast a model writes. All of it runs on one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measures
from bench.measures import CHUNKS_PER_SECOND, Pace
from bench.peers import Running
from bench.processes import run_load

COUNTS = (250, 500, 750, 1000, 1250, 1500, 2000, 2500, 3000, 3500)
MOST_DELAY_MS = 50.0
LEAST_DELIVERED = 0.98


@dataclass(frozen=True)
class Step:
    """What came of so many streams at once."""

    streams: int
    delivered: float
    p50: float
    p99: float
    cpu_us_per_chunk: float
    busy: float
    peak_memory_mib: float
    stolen: float

    @property
    def is_good(self) -> bool:
        return self.delivered >= LEAST_DELIVERED and self.p99 <= MOST_DELAY_MS

    def as_json(self) -> dict[str, Any]:
        return {name: round(value, 3) for name, value in vars(self).items()}


def climb(running: Running, load: Path, pace: Pace) -> Iterator[Step]:
    """More and more streams, until it is too many twice in a row: a disturbance is not the end. Raises Failed."""
    missed = 0
    for count in COUNTS:
        result = run_load(load, measures.paced_spec(running, pace, count))
        events = result["events"]
        step = Step(
            count,
            events / result["seconds"] / (count * CHUNKS_PER_SECOND),
            result["delay"]["p50"],
            result["delay"]["p99"],
            (measures.cpu_per_thousand_events(result) or 0.0),
            measures.busy(result),
            result["memory_mib"][2],
            result["stolen"],
        )
        yield step
        missed = 0 if step.is_good else missed + 1
        if missed == 2:
            return


def largest(steps: list[dict[str, Any]]) -> int:
    good = [step["streams"] for step in steps if Step(**step).is_good]
    return max(good, default=0)
