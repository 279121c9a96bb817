"""The shim as 1 and as 2 worker processes, which is what Azure's `FUNCTIONS_WORKER_PROCESS_COUNT` gives.

Each process has a server and a port of its own. In place of the host, which spreads requests over them, there is a load
for each process, with its share of the connections.

Unlike all other measures, none of this is pinned to one core: the processes, their loads and upstream share two. A
single process leaves the second core to load and upstream, two processes do not, so the growth is less than it is on a
machine with a core more.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench import measures
from bench.figures import Row
from bench.measures import MEASURES, Pace, Result
from bench.peers import Launch, Peer, Running, Upstream
from bench.processes import BOTH_CORES, run_load

COUNTS = (1, 2)
CORES = f"{BOTH_CORES}, which the processes share with load and upstream: with one more, 2 would gain more"
ROWS = [
    Row("json_per_second", "small JSON, 32 connections in all: requests/s", "json_32", measures.per_second),
    Row("sse_chunks_per_second", "SSE, 16 connections in all: chunks/s", "sse_16",
        measures.events_per_second),
]  # fmt: skip
_MEASURES = {measure.name: measure for measure in MEASURES}


@contextlib.contextmanager
def started(peer: Peer, upstream: Upstream, load: Path, pace: Pace) -> Iterator[list[Running]]:
    """As many processes as are ever measured; one that has no load takes nothing from the others. Raises Failed."""
    unpinned = replace(peer, launch=lambda to: _on_both_cores(peer, to))
    with contextlib.ExitStack() as stack:
        running: list[Running] = []
        for number in range(max(COUNTS)):
            running.append(Running.start(unpinned, upstream, log=f"{peer.name}-worker-{number + 1}"))
            stack.callback(running[-1].stop)
        for row in ROWS:  # first calls of a kind import and compile
            measure(row, running, load, replace(pace, warmup=0.0, json=0.5, sse=0.5))
        yield running


def measure(row: Row, running: Sequence[Running], load: Path, pace: Pace) -> list[Result]:
    """A result for each process, of loads at the same time. Raises Failed."""
    specs = [measures.spec_for(_MEASURES[row.measure], each, pace) for each in running]
    divided = [{**spec, "connections": spec["connections"] // len(running)} for spec in specs]
    with ThreadPoolExecutor(len(running)) as threads:
        return list(threads.map(lambda spec: run_load(load, spec, BOTH_CORES), divided))


def rate(row: Row, results: Sequence[Result]) -> float | None:
    """Of all processes together; None where the answers of one were faulty."""
    rates = [None if measures.is_faulty(result) else row.figure(result) for result in results]
    good = [each for each in rates if each is not None]
    return round(sum(good), 1) if len(good) == len(results) else None


def _on_both_cores(peer: Peer, upstream: Upstream) -> Launch:
    launch = peer.launch(upstream)
    assert launch is not None
    return replace(launch, cores=BOTH_CORES)
