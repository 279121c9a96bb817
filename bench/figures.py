"""From rounds to figures: medians with their spread, ratios of the same round, and the goals."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import measures
from bench.capacity import largest
from bench.measures import CHUNKS_PER_SECOND, STREAMS, Result
from bench.mixed import p99_added

# measure -> peer -> a result for each round
type Rounds = Mapping[str, Mapping[str, list[Result]]]
type Figure = Callable[[Result], float | None]


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def as_json(self) -> dict[str, float]:
        return {"median": round(self.median, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


@dataclass(frozen=True)
class Row:
    """One line of the table. `added`: less what it is without a proxy, in the same round."""

    name: str
    title: str
    measure: str
    figure: Figure
    form: str = ",.0f"
    added: bool = False
    limited: bool = False  # say where load and upstream were the limit


ROWS = [
    Row("json_1", "small JSON, 1 connection: requests/s", "json_1", measures.per_second),
    Row("json_1_p50", "… p50, ms", "json_1", measures.quantile("latency", "p50"), ".2f"),
    Row("json_1_p99", "… p99, ms", "json_1", measures.quantile("latency", "p99"), ".2f"),
    Row("json_1_p50_added", "… p50 added, ms", "json_1", measures.quantile("latency", "p50"), ".2f", added=True),
    Row("json_32", "small JSON, 32 connections: requests/s", "json_32", measures.per_second, limited=True),
    Row("json_32_p50", "… p50, ms", "json_32", measures.quantile("latency", "p50"), ".2f"),
    Row("json_32_p99", "… p99, ms", "json_32", measures.quantile("latency", "p99"), ".2f"),
    Row("json_256", "small JSON, 256 connections: requests/s", "json_256", measures.per_second, limited=True),
    Row("json_256_p50", "… p50, ms", "json_256", measures.quantile("latency", "p50"), ".2f"),
    Row("json_256_p99", "… p99, ms", "json_256", measures.quantile("latency", "p99"), ".2f"),
    Row("cpu", "CPU seconds per 1,000 requests", "json_32", measures.cpu_per_thousand, ".3f"),
    Row("first_byte_added", "first byte of a stream, p50 added, ms", "first_byte",
        measures.quantile("first_byte", "p50"), ".2f", added=True),
    Row("sse_streams", "SSE, 16 connections: streams/s", "sse_16", measures.per_second, limited=True),
    Row("sse_chunks", "… chunks/s", "sse_16", measures.events_per_second, limited=True),
    Row("sse_cpu", "… CPU ms per 1,000 chunks", "sse_16", measures.cpu_per_thousand_events, ".2f"),
    Row("streams_delivered", "1,000 streams: chunks/s, of 20,000", "streams_1000", measures.events_per_second),
    Row("streams_p50_added", "… delay added to a chunk, p50, ms", "streams_1000",
        measures.quantile("delay", "p50"), ".2f", added=True),
    Row("streams_p99_added", "… p99, ms", "streams_1000", measures.quantile("delay", "p99"), ".2f", added=True),
    Row("streams_cpu", "… CPU µs per chunk", "streams_1000", measures.cpu_per_thousand_events, ".1f"),
    Row("streams_memory", "… peak memory, MiB", "streams_1000", measures.peak_memory, ".0f"),
    Row("streams_busy", "… share of the core used", "streams_1000", measures.busy, ".0%"),
    Row("upload", "20 MiB up: MB/s", "upload", measures.megabytes_per_second, limited=True),
    Row("upload_growth", "… peak memory grown by, MiB", "upload", measures.peak_growth, ".1f"),
    Row("download", "20 MiB down: MB/s", "download", measures.megabytes_per_second, limited=True),
    Row("download_growth", "… peak memory grown by, MiB", "download", measures.peak_growth, ".1f"),
]  # fmt: skip
ROW = {row.name: row for row in ROWS}
# Below this share of its core, it was not the proxy that could do no more.
SATURATED = 0.9


def values(rounds: Rounds, row: Row, peer: str) -> list[float | None]:
    """The figure of each round; None where a result is faulty or has none."""
    found: list[float | None] = []
    without = rounds.get(row.measure, {}).get("direct", [])
    for number, result in enumerate(rounds.get(row.measure, {}).get(peer, [])):
        value = None if measures.is_faulty(result) else row.figure(result)
        if row.added and value is not None:
            base = row.figure(without[number]) if number < len(without) else None
            value = None if base is None or peer == "direct" else value - base
        found.append(value)
    return found


def spread(rounds: Rounds, row: Row, peer: str) -> Spread | None:
    return Spread.of([value for value in values(rounds, row, peer) if value is not None])


def ratio(rounds: Rounds, row: Row, over: str, peer: str = "shim") -> Spread | None:
    """The peer's figure over the other's, round by round."""
    return quotient(values(rounds, row, peer), values(rounds, row, over))


def quotient(values: Sequence[float | None], bases: Sequence[float | None]) -> Spread | None:
    pairs = zip(values, bases, strict=False)
    return Spread.of([value / base for value, base in pairs if value is not None and base])


def was_limited(rounds: Rounds, row: Row, peer: str) -> bool:
    """Whether the load was the limit, so that the proxy could have done more."""
    results = rounds.get(row.measure, {}).get(peer, [])
    return row.limited and peer != "direct" and bool(results) and max(map(measures.busy, results)) < SATURATED


def best(rounds: Rounds, row: Row, over: Sequence[str], peer: str, *, lowest: bool = False) -> Spread | None:
    """The peer's figure over the best of the others', round by round."""
    columns = [values(rounds, row, other) for other in over]
    choose = min if lowest else max
    bases = [
        choose((value for value in found if value), default=None) for found in itertools.zip_longest(*columns)
    ]
    return quotient(values(rounds, row, peer), bases)


def goals(
    rounds: Rounds,
    cold: Mapping[str, list[float]],
    soak: Mapping[str, Any],
    capacity: Mapping[str, list[dict[str, Any]]],
    mixed: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Name -> value, goal, met. What was not measured is left out."""
    found: dict[str, dict[str, Any]] = {}

    def goal(name: str, value: float | None, sign: str, bound: float, unit: str) -> None:
        if value is not None:
            met = value >= bound if sign == ">=" else value <= bound
            found[name] = {
                "value": round(value, 4),
                "goal": f"{sign} {bound:g} {unit}".strip(),
                "met": met,
            }

    def median(found: Spread | None) -> float | None:
        return found.median if found else None

    json = ROW["json_32"]
    for peer, bound in (("litellm", 30), ("portkey", 10), ("naive", 7), ("floor", 0.45)):
        goal(f"json_32_over_{peer}", median(ratio(rounds, json, peer)), ">=", bound, "x")
        over = peer if peer == "floor" else f"{peer}+tls"
        goal(f"json_32_over_{peer}_tls", median(ratio(rounds, json, over, "shim+tls")), ">=", bound, "x")
    due = STREAMS * CHUNKS_PER_SECOND
    for peer, others, added in (
        ("shim", ["nginx", "nginx-64k"], 0.45),
        ("shim+tls", ["nginx+tls", "nginx-64k+tls"], 0.55),
    ):
        tls = peer.removeprefix("shim").replace("+", "_")
        goal(
            f"json_1_p50_added{tls}", median(spread(rounds, ROW["json_1_p50_added"], peer)), "<=", added, "ms"
        )
        for name in ("sse_chunks", "upload", "download"):
            goal(f"{name}_over_nginx{tls}", median(best(rounds, ROW[name], others, peer)), ">=", 1, "x")
        cpu = best(rounds, ROW["streams_cpu"], others, peer, lowest=True)
        goal(f"streams_1000_cpu_over_nginx{tls}", median(cpu), "<=", 2.5, "x")
        delivered = median(spread(rounds, ROW["streams_delivered"], peer))
        goal(f"streams_1000_delivered{tls}", delivered and delivered / due, ">=", 0.98, "of what was sent")
        goal(
            f"streams_1000_p99_added{tls}",
            median(spread(rounds, ROW["streams_p99_added"], peer)),
            "<=",
            50,
            "ms",
        )
        goal(
            f"streams_1000_memory{tls}", median(spread(rounds, ROW["streams_memory"], peer)), "<=", 200, "MiB"
        )
        if peer in capacity:
            goal(f"streams_at_most{tls}", largest(capacity[peer]), ">=", 2500, "streams")
        goal(f"mixed_p99_added{tls}", p99_added(mixed, peer), "<=", 25, "ms")
        grown = [spread(rounds, ROW[name], peer) for name in ("upload_growth", "download_growth")]
        worst = max((each.high for each in grown if each), default=None) if all(grown) else None
        goal(f"bodies_memory_growth{tls}", worst, "<=", 16, "MiB")
        for name, soaked in (("memory_growth", peer), ("memory_growth_abandoned", f"{peer}, abandoned")):
            goal(f"{name}{tls}", soak.get(soaked, {}).get("grown_over_last_half"), "<=", 4, "MiB")
    for name, start, bound in (
        ("local", "shim", 0.22),
        ("key_vault", "shim+vault", 0.40),
        ("local_quarter", "shim@quarter", 0.9),
        ("key_vault_quarter", "shim+vault@quarter", 1.6),
    ):
        goal(f"cold_start_{name}", median(Spread.of(cold.get(start, []))), "<=", bound, "s")
    return found
