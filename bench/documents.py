"""The figures in the documents, written from bench/results/latest.json: `make figures`.

A figure stands between `<!--figure: NAME-->` and `<!--/-->`, and whatever stands there is replaced.
"""

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench import figures
from bench.figures import ROW
from bench.places import RESULTS, ROOT

DOCUMENTS = ("README.md", "README.ja.md", "docs/benchmarks.md")

_FIGURE = re.compile(r"(<!--figure: ([\w/+]+)-->)(.*?)(<!--/-->)", re.DOTALL)
# What a reader knows peers as.
_PEERS = {
    "shim": "shim",
    "nginx": "nginx",
    "envoy": "Envoy",
    "portkey": "Portkey",
    "litellm": "LiteLLM",
    "naive": "naive shim",
}
# The columns of the table as far as the run has them; of several peers the best counts, row by row.
_COLUMNS = {
    "shim": ("shim",),
    "nginx": ("nginx", "nginx-64k"),
    "Envoy": ("envoy",),
    "Portkey": ("portkey",),
    "LiteLLM": ("litellm",),
    "naive shim": ("naive",),
    "shim, TLS": ("shim+tls",),
    "nginx, TLS": ("nginx+tls", "nginx-64k+tls"),
    "Portkey, TLS": ("portkey+tls",),
    "LiteLLM, TLS": ("litellm+tls",),
}
_MORE_IS_BETTER = frozenset(["json_32", "sse_chunks", "streams_delivered", "upload", "download"])
_ROWS = {
    "json_32": "small JSON, 32 connections, requests/s",
    "json_1_p50_added": "time added at 1 connection, p50, ms",
    "cpu": "CPU per 1,000 small requests, s",
    "first_byte_added": "time added to the first byte of a stream, p50, ms",
    "sse_chunks": "SSE, 16 connections, chunks/s",
    "sse_cpu": "CPU per 1,000 chunks, ms",
    "streams_delivered": "1,000 streams of 20 chunks/s: chunks/s delivered",
    "streams_p99_added": "… delay added to a chunk, p99, ms",
    "streams_cpu": "… CPU per chunk, µs",
    "streams_memory": "… peak memory, MiB",
    "upload": "20 MiB up, MB/s",
    "download": "20 MiB down, MB/s",
}
_NOT_MEASURED = "n/a"


class Missing(Exception):
    """The latest run did not measure something that the documents quote."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the latest run has no {what}: run `make bench` with all peers and measures")


def shown(value: float) -> str:
    """A figure to as many digits as a benchmark on one machine can stand for."""
    if abs(value) >= 1000:
        return f"{round(value, 3 - len(str(int(abs(value))))):,.0f}"
    return f"{value:.0f}" if abs(value) >= 8 else f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def filled(document: str, content: Mapping[str, Any]) -> str:
    """The document with the figures of a run. Raises Missing, or KeyError for a figure that there is not."""
    return _FIGURE.sub(lambda figure: f"{figure[1]}{text(content, figure[2])}{figure[4]}", document)


def text(content: Mapping[str, Any], name: str) -> str:
    """What stands for `name`: `table`, `run` or `goals`; a figure of the shim's; or `figure/peer`, how many times the
    peer's it is, compared within each round.
    """
    whole = {"table": _table, "run": _run, "goals": _goals}
    if name in whole:
        return f"\n{whole[name](content)}\n"
    figure, _, peer = name.partition("/")
    if figure == "cold_start":
        value = _cold_start(content, peer or "shim")
    elif peer:
        spread = figures.ratio(content["measures"], ROW[figure], peer)
        value = spread.median if spread else None
    else:
        value = _median(content, ROW[figure].name, "shim")
    if value is None:
        raise Missing(name)
    return shown(value)


def latest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / "latest.json").read_text())
    return content


def _median(content: Mapping[str, Any], row: str, peer: str) -> float | None:
    found = content["figures"].get(row, {}).get(peer)
    return found["median"] if found else None


def _best(content: Mapping[str, Any], row: str, peers: Sequence[str]) -> float | None:
    choose = max if row in _MORE_IS_BETTER else min
    found = (_median(content, row, peer) for peer in peers)
    return choose((value for value in found if value is not None), default=None)


def _cold_start(content: Mapping[str, Any], peer: str) -> float | None:
    seconds = content["cold_start"].get(peer)
    return statistics.median(seconds) if seconds else None


def _table(content: Mapping[str, Any]) -> str:
    columns = {title: peers for title, peers in _COLUMNS.items() if peers[0] in content["peers"]}
    rows = [
        (title, [_best(content, row, peers) for peers in columns.values()]) for row, title in _ROWS.items()
    ]
    starts = [_cold_start(content, peers[0]) for peers in columns.values()]
    rows.append(("cold start to the first proxied byte, s", starts))
    lines = [("median", list(columns)), ("---", ["---:"] * len(columns))]
    lines += [
        (title, [_NOT_MEASURED if each is None else shown(each) for each in values]) for title, values in rows
    ]
    return "\n".join(f"| {title} | {' | '.join(cells)} |" for title, cells in lines)


def _run(content: Mapping[str, Any]) -> str:
    machine, versions = content["machine"], content["versions"]
    peers = [
        f"{_PEERS[name]} {version}"
        for name, version in versions["peers"].items()
        if name in _PEERS and name != "shim"
    ]
    return (
        f"Run of {content['when'][:10]}, pace `{content['pace']}`, {content['rounds']} rounds, on"
        f" {machine['cores']} cores of {machine['cpu']}, {machine['system']}, Python {versions['python'].split()[0]},"
        f" azure-functions-runtime {versions['azure-functions-runtime']}. Peers: {', '.join(peers)}."
    )


def _goals(content: Mapping[str, Any]) -> str:
    goals = content["goals"]
    missed = {name: goal for name, goal in goals.items() if not goal["met"]}
    if not missed:
        return f"All {len(goals)} goals of the benchmark are met in this run."
    named = "; ".join(
        f"`{name}` is {goal['value']:,.4g}, the goal {goal['goal']}" for name, goal in missed.items()
    )
    met = len(goals) - len(missed)
    return f"{met} of the benchmark's {len(goals)} goals are met in this run. Not met: {named}."


def main() -> int:
    content = latest()
    for name in DOCUMENTS:
        file = ROOT / name
        before = file.read_text()
        try:
            after = filled(before, content)
        except Missing as reason:
            print(f"{name} is left as it is: {reason}", file=sys.stderr)
            return 1
        if after != before:
            file.write_text(after)
            print(f"{name}: figures written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
