"""The figures for people: a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import figures, process_count
from bench.figures import ROW, ROWS, Rounds, Spread


def show(console: Console, report: Mapping[str, Any], rounds: Rounds) -> None:
    peers = [name for name in report["peers"] if name not in report["missing"]]
    console.print(_main_table(peers, rounds, report))
    console.print("Medians, with the lowest and highest round below them.", style="dim")
    console.print(
        "* its core was not used up: load and upstream were the limit, it could do more.", style="dim"
    )
    console.print(_ratios(peers, rounds))
    if report["workers"]:
        console.print(_workers(report["workers"]))
        console.print("Load and upstream share these cores: with one more, 2 would gain more.", style="dim")
    console.print(_goals(report["goals"]))
    stolen = report["stolen"]
    if stolen and stolen["most"] > 0.05:
        console.print(
            f"[red]disturbed:[/] the machine's host kept up to {stolen['most']:.0%} of its cores to itself (median of"
            f" the measures: {stolen['median']:.0%}); per measure it is in the JSON as `stolen`."
        )
    waited = report["waited"]
    if waited and waited["most"] > 0.05:
        console.print(
            f"[red]disturbed:[/] other processes kept a proxy waiting for its core for up to {waited['most']:.0%} of a"
            f" measure (median: {waited['median']:.0%}); per measure it is in the JSON as `waited`."
        )
    for name, reason in report["missing"].items():
        console.print(f"[bold red]missing:[/] {name}: {reason}")
    for fault in report["faults"]:
        console.print(f"[red]fault:[/] {fault}")


def _main_table(peers: Sequence[str], rounds: Rounds, report: Mapping[str, Any]) -> Table:
    table = Table(title="apim-openai-shim and its peers, one core each", title_justify="left")
    table.add_column("")
    for peer in [*peers, *report["missing"]]:
        table.add_column(peer, justify="right", style="bold" if peer == "shim" else "")
    missing = ["missing"] * len(report["missing"])
    for row in ROWS:
        cells = [_cell(figures.spread(rounds, row, peer), row.form) for peer in peers]
        stars = ["*" if figures.was_limited(rounds, row, peer) else "" for peer in peers]
        table.add_row(row.title, *(cell + star for cell, star in zip(cells, stars, strict=True)), *missing)
    cold = report["cold_start"]
    table.add_row("cold start, s", *(_cell(Spread.of(cold.get(peer, [])), ".2f") for peer in peers), *missing)
    if "shim+vault" in cold:
        vault = _cell(Spread.of(cold["shim+vault"]), ".2f")
        cells = [vault if peer == "shim" else "" for peer in peers]
        table.add_row("… with the Key Vault client", *cells, *missing)
    soaks = [report["soak"].get(peer) for peer in peers]
    table.add_row(
        "memory after the soak, MiB",
        *(
            f"{soak['memory_mib'][-1]:.0f}\nof {soak['requests']:,}" if soak and soak["memory_mib"] else "-"
            for soak in soaks
        ),
        *missing,
    )
    return table


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return format(spread.median, form)
    return f"{spread.median:{form}}\n{spread.low:{form}}…{spread.high:{form}}"


def _ratios(peers: Sequence[str], rounds: Rounds) -> Table:
    table = Table(title="The shim over each peer, round by round", title_justify="left")
    others = [peer for peer in peers if peer not in ("shim", "direct")]
    table.add_column("")
    for peer in others:
        table.add_column(f"/ {peer}", justify="right")
    for name in (
        "json_1",
        "json_32",
        "json_256",
        "cpu",
        "sse_streams",
        "sse_chunks",
        "sse_cpu",
        "upload",
        "download",
    ):
        row = ROW[name]
        table.add_row(row.title, *(_cell(figures.ratio(rounds, row, peer), ".2f") for peer in others))
    return table


def _workers(measured: Mapping[str, Any]) -> Table:
    fewest, most = map(str, process_count.COUNTS)
    title = f"The shim as {fewest} and {most} worker processes on two cores"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in (fewest, most, f"{most} / {fewest}"):
        table.add_column(column, justify="right")
    for row in process_count.ROWS:
        found = [measured[count][row.name] for count in (fewest, most)]
        cells = [_cell(Spread.of([value for value in each if value is not None]), row.form) for each in found]
        table.add_row(row.title, *cells, _cell(figures.quotient(found[1], found[0]), ".2f"))
    return table


def _goals(goals: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Goals", title_justify="left")
    for title in ("", "value", "goal", "met"):
        table.add_column(title)
    for name, goal in goals.items():
        value = "not measured" if goal["value"] is None else f"{goal['value']:,.3g}"
        table.add_row(name, value, goal["goal"], "[green]yes[/]" if goal["met"] else "[red]no[/]")
    return table
