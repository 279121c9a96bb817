"""Small calls beside everything else: streams, images in JSON, audio uploads, and callers who disconnect.

All of it goes on at once, at fixed rates that leave the core time to spare. What it tells is how long the small calls
wait for the large ones.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measures
from bench.peers import CHAT, Running
from bench.processes import run_load

_IMAGE_BYTES = 2 * 1024 * 1024
_IMAGE_BEGIN = (
    '{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
)
_IMAGE_END = '"}}]}],"model":"gpt-4o"}'
_WARMUP = 2.0
_PATIENCE = 10.0


@dataclass(frozen=True)
class Part:
    """Calls of one kind: `connections`, each of which begins one every `interval` seconds."""

    name: str
    kind: str
    connections: int
    interval: float
    body: Callable[[], dict[str, Any]]


PARTS = (
    # 100 a second.
    Part("small", "chat", 20, 0.2, lambda: {"body": CHAT}),
    # 200 at any time, 20 chunks a second each.
    Part("streams", "chat", 200, 5.0, lambda: {"body": measures.stream(90, 50)}),
    Part(
        "images", "chat", 4, 1.0, lambda: {"body": _IMAGE_BEGIN, "filler": _IMAGE_BYTES, "tail": _IMAGE_END}
    ),
    Part("audio", "audio", 1, 1.0, lambda: measures.form(model="gpt-4o-transcribe", name="speech.wav")),
    # One in a hundred of all calls.
    Part("leavers", "chat", 1, 0.7, lambda: {"body": measures.stream(90, 50), "abandon": 3}),
)


def measure(running: Running, load: Path, seconds: float) -> dict[str, Any]:
    """Every part at once; for each its calls, errors and times in milliseconds. Raises Failed."""
    with ThreadPoolExecutor(len(PARTS)) as pool:
        results = list(pool.map(lambda part: run_load(load, _spec(part, running, seconds)), PARTS))
    told: dict[str, Any] = {
        part.name: {
            "calls": result["requests"],
            "errors": result["errors"],
            "p50": result["latency"]["p50"],
            "p99": result["latency"]["p99"],
        }
        for part, result in zip(PARTS, results, strict=True)
    }
    first = results[0]
    return {
        "seconds": seconds,
        "busy": round(measures.busy(first), 3),
        "stolen": round(first["stolen"], 3),
        "memory_mib": first["memory_mib"],
        "parts": told,
    }


def p99_added(mixed: Mapping[str, Any], peer: str) -> float | None:
    """Of the small calls, in milliseconds, over those that go to upstream directly; None if either is missing."""
    if "direct" not in mixed or peer not in mixed:
        return None
    through, direct = (mixed[name]["parts"]["small"]["p99"] for name in (peer, "direct"))
    return float(through - direct)


def _spec(part: Part, running: Running, seconds: float) -> dict[str, Any]:
    pace = {"ramp": part.interval, "warmup": _WARMUP, "duration": seconds, "patience": _PATIENCE}
    return {
        **measures.call(running, part.kind),
        **pace,
        "connections": part.connections,
        "interval": part.interval,
        **part.body(),
    }
