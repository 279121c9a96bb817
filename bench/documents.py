"""The figures in the documents, written from bench/results/latest.json: `make figures`.

A document holds them between `<!-- figures: NAME -->` and `<!-- end of figures -->`; whatever stands there is replaced.
"""

import json
import re
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from bench import figures
from bench.figures import ROW
from bench.places import RESULTS, ROOT

DOCUMENTS = ("README.md", "README.ja.md", "docs/benchmarks.md")

_BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)
# Columns of the table, as far as the run has them, and what a reader knows them as.
_PEERS = {
    "shim": "shim",
    "nginx": "nginx",
    "envoy": "Envoy",
    "portkey": "Portkey",
    "litellm": "LiteLLM",
    "naive": "naive shim",
}
_ROWS = {
    "json_32": "small JSON, 32 connections, requests/s",
    "json_1_p50_added": "time added at 1 connection, p50, ms",
    "cpu": "CPU per 1,000 small requests, s",
    "first_byte_added": "time added to the first byte of a stream, p50, ms",
    "sse_chunks": "SSE, 16 connections, chunks/s",
    "sse_cpu": "CPU per 1,000 chunks, ms",
    "streams_delivered": "1,000 streams of 20 chunks/s: chunks delivered, of 20,000/s",
    "streams_p99_added": "… delay added to a chunk, p99, ms",
    "streams_memory": "… peak memory, MiB",
    "upload": "20 MiB up, MB/s",
    "download": "20 MiB down, MB/s",
}


class Missing(Exception):
    """The latest run did not measure something that the documents quote."""


class Report:
    """What the documents quote of a run; every figure is a median."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def figure(self, row: str, peer: str = "shim") -> float | None:
        found = self.content["figures"].get(row, {}).get(peer)
        return found["median"] if found else None

    def needed(self, row: str) -> str:
        if (value := self.figure(row)) is None:
            raise Missing(f"the latest run has no {row} of the shim: run `make bench` without a choice of measures")
        return shown(value)

    def times(self, row: str, peer: str) -> str:
        """How many times the peer's figure the shim's is, compared within each round."""
        spread = figures.ratio(self.content["measures"], ROW[row], peer)
        if spread is None:
            raise Missing(f"the latest run has no {row} of {peer}: run `make bench` with all peers")
        return shown(spread.median)

    def cold_start(self, peer: str) -> str:
        seconds = self.content["cold_start"].get(peer)
        if not seconds:
            raise Missing(f"the latest run has no cold start of {peer}: run `make bench` without a choice of measures")
        return shown(statistics.median(seconds))


def shown(value: float) -> str:
    """A figure to as many digits as a benchmark on one machine can stand for."""
    if abs(value) >= 1000:
        return f"{round(value, -len(str(int(abs(value)))) + 3):,.0f}"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def blocks(content: Mapping[str, Any]) -> dict[str, str]:
    """The text of each block by its name. Raises Missing."""
    report = Report(content)
    return {
        "speed": _speed(report),
        "speed-ja": _speed_ja(report),
        "run": _run(content),
        "table": _table(report),
        "goals": _goals(content),
    }


def filled(document: str, texts: Mapping[str, str]) -> str:
    """The document with its blocks filled in. Raises KeyError for a block that there is not."""
    return _BLOCK.sub(lambda block: f"{block[1]}{texts[block[2]]}\n{block[4]}", document)


def latest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / "latest.json").read_text())
    return content


def _speed(report: Report) -> str:
    needed, times = report.needed, partial(report.times, "json_32")
    return (
        f"* **{needed('json_32')} small calls a second** on one core: {times('litellm')} × LiteLLM's proxy and"
        f" {times('portkey')} × Portkey's gateway; {needed('json_1_p50_added')} ms added to a single call (p50).\n"
        f"* **1,000 streams at once** of 20 chunks a second each: {needed('streams_p99_added')} ms added to a chunk (p99),"
        f" {needed('streams_memory')} MiB of memory.\n"
        f"* **Cold start {report.cold_start('shim')} s** from process start to the first proxied byte;"
        f" {report.cold_start('shim+vault')} s with Key Vault."
    )


def _speed_ja(report: Report) -> str:
    needed, times = report.needed, partial(report.times, "json_32")
    return (
        f"* **小さな呼び出しを毎秒 {needed('json_32')} 件**（1 コア）。LiteLLM プロキシの {times('litellm')} 倍、Portkey"
        f" ゲートウェイの {times('portkey')} 倍です。1 回の呼び出しに加わる時間は {needed('json_1_p50_added')} ms（p50）です。\n"
        f"* **同時 1,000 ストリーム**（それぞれ毎秒 20 チャンク）で、チャンクに加わる遅延は"
        f" {needed('streams_p99_added')} ms（p99）、メモリは {needed('streams_memory')} MiB です。\n"
        f"* **コールドスタート {report.cold_start('shim')} 秒**（プロセス起動から最初のバイトを中継するまで）。Key Vault"
        f" を使う場合は {report.cold_start('shim+vault')} 秒です。"
    )


def _run(content: Mapping[str, Any]) -> str:
    machine, versions = content["machine"], content["versions"]
    peers = ", ".join(
        f"{_PEERS[name]} {version}"
        for name, version in versions["peers"].items()
        if name in _PEERS and name != "shim"
    )
    return (
        f"Run of {content['when'][:10]}, pace `{content['pace']}`, {content['rounds']} rounds, on {machine['cores']} cores of"
        f" {machine['cpu']}, {machine['system']}, Python {versions['python'].split()[0]},"
        f" azure-functions-runtime {versions['azure-functions-runtime']}. Peers: {peers}."
    )


def _table(report: Report) -> str:
    peers = [name for name in _PEERS if name in report.content["peers"]]
    lines = [
        f"| median | {' | '.join(_PEERS[name] for name in peers)} |",
        f"|---|{'---:|' * len(peers)}",
    ]
    for row, title in _ROWS.items():
        values = (report.figure(row, name) for name in peers)
        cells = ["–" if value is None else shown(value) for value in values]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    cold = report.content["cold_start"]
    cells = [shown(statistics.median(cold[name])) if cold.get(name) else "–" for name in peers]
    lines.append(f"| cold start to the first proxied byte, s | {' | '.join(cells)} |")
    return "\n".join(lines)


def _goals(content: Mapping[str, Any]) -> str:
    goals = content["goals"]
    missed = {name: goal for name, goal in goals.items() if not goal["met"]}
    if not missed:
        return f"All {len(goals)} goals of the benchmark are met in this run."
    named = "; ".join(f"`{name}` is {goal['value']}, the goal {goal['goal']}" for name, goal in missed.items())
    return f"{len(goals) - len(missed)} of the benchmark's {len(goals)} goals are met in this run. Not met: {named}."


def main() -> int:
    try:
        texts = blocks(latest())
    except Missing as reason:
        print(f"The documents are left as they are: {reason}", file=sys.stderr)
        return 1
    for name in DOCUMENTS:
        file = ROOT / name
        before = file.read_text()
        after = filled(before, texts)
        if after != before:
            file.write_text(after)
            print(f"{name}: figures written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
