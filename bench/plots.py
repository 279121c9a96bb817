"""The figures as SVG, beside the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench import figures
from bench.figures import ROW, Rounds, Spread

_GREY, _OWN = "#9aa4b2", "#0b6bcb"
# The same input gives the same file.
mpl.rcParams.update(
    {
        "svg.hashsalt": "bench",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw(report: Mapping[str, Any], rounds: Rounds, folder: Path) -> list[Path]:
    """Writes the plots that the measured allows."""
    peers = [name for name in report["peers"] if name not in report["missing"] and name != "direct"]
    machine = report["machine"]
    note = f"{machine['cpu']}, one core per proxy · {report['when'][:10]} · median, lowest and highest of the rounds"
    drawn = []
    for name, figure in (
        ("requests", _requests(peers, rounds)),
        ("streams", _streams(peers, rounds)),
        ("bodies", _bodies(peers, rounds)),
        ("cold-start", _cold_start(report)),
        ("memory", _memory(report["soak"])),
    ):
        if figure is None:
            continue
        figure.text(0.01, 0.005, note, fontsize=7, color="#667085")
        figure.tight_layout(rect=(0, 0.035, 1, 1))
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        drawn.append(path)
    return drawn


def _bars(axes: Axes, peers: Sequence[str], spreads: Sequence[Spread | None], title: str, form: str) -> None:
    """Lying bars, the shim's in its own colour; on a logarithmic scale where they are far apart."""
    medians = [spread.median for spread in spreads if spread]
    if medians and min(medians) > 0 and max(medians) > 30 * min(medians):
        axes.set_xscale("log")
        axes.set_xlim(min(medians) / 3, max(medians) * 12)
        title += " (log)"
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for place, (peer, spread) in enumerate(zip(peers, spreads, strict=True)):
        if spread is None:
            axes.text(0.01, place, "-", transform=axes.get_yaxis_transform(), va="center", color="#667085")
            continue
        error = [[spread.median - spread.low], [spread.high - spread.median]]
        colour = _OWN if peer.startswith("shim") else _GREY
        axes.barh(place, spread.median, xerr=error, color=colour, ecolor="#344054", height=0.65)
        axes.text(spread.high, place, f"  {spread.median:{form}}", va="center", fontsize=8)
    axes.set_yticks(range(len(peers)), peers)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_title(title, loc="left", fontsize=10)


def _panels(peers: Sequence[str], rounds: Rounds, rows: Sequence[tuple[str, str, str]]) -> Figure | None:
    """A panel for each (row, title, form)."""
    spreads = [[figures.spread(rounds, ROW[name], peer) for peer in peers] for name, _, _ in rows]
    if not any(any(each) for each in spreads):
        return None
    figure, axes = plt.subplots(
        1, len(rows), figsize=(3.7 * len(rows), 0.34 * len(peers) + 1.1), squeeze=False
    )
    for panel, each, (_, title, form) in zip(axes[0], spreads, rows, strict=True):
        _bars(panel, peers, each, title, form)
    return figure


def _requests(peers: Sequence[str], rounds: Rounds) -> Figure | None:
    rows = [
        (f"json_{n}", f"small JSON, {n} connection{'s' * (n > 1)}: requests/s", ",.0f") for n in (1, 32, 256)
    ]
    return _panels(peers, rounds, rows)


def _streams(peers: Sequence[str], rounds: Rounds) -> Figure | None:
    rows = [
        ("sse_chunks", "SSE, 16 connections: chunks/s", ",.0f"),
        ("streams_delivered", "1,000 streams: chunks/s of 20,000", ",.0f"),
        ("streams_p99_added", "1,000 streams: p99 delay added, ms", ",.1f"),
    ]
    return _panels(peers, rounds, rows)


def _bodies(peers: Sequence[str], rounds: Rounds) -> Figure | None:
    rows = [("upload", "20 MiB up: MB/s", ",.0f"), ("download", "20 MiB down: MB/s", ",.0f")]
    return _panels(peers, rounds, rows)


def _cold_start(report: Mapping[str, Any]) -> Figure | None:
    """Beside it what the imports of the shim's take, by package."""
    cold, imports = report["cold_start"], report["imports"].get("shim+vault") or report["imports"].get("shim")
    if not cold:
        return None
    figure, axes = plt.subplots(1, 2 if imports else 1, figsize=(9, 2.9), squeeze=False)
    _bars(axes[0][0], list(cold), [Spread.of(each) for each in cold.values()], "cold start, s", ".2f")
    if imports:
        top = list(imports["packages"].items())[:10]
        spreads = [Spread(value, value, value) for _, value in top]
        _bars(axes[0][1], [name for name, _ in top], spreads, "imports with the Key Vault client, ms", ".0f")
    return figure


def _memory(soak: Mapping[str, Any]) -> Figure | None:
    if "shim" not in soak:
        return None
    figure, axes = plt.subplots(figsize=(7.5, 2.9))
    for peer, each in soak.items():
        if each["memory_mib"]:
            done = [(number + 1) * each["sample_every"] for number in range(len(each["memory_mib"]))]
            colour = _OWN if peer.startswith("shim") else None
            axes.plot(done, each["memory_mib"], label=peer, color=colour, linewidth=2 if colour else 1)
    axes.set_ylim(bottom=0)
    axes.set_title("resident memory, MiB, by requests served", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, ncols=3)
    return figure
