"""`python -m shim usage`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from shim.cli import output
from shim.cli.local_settings import environment
from shim.cli.retire.left import callers, summary, table
from shim.cli.retire.query import left_query, rows_of
from shim.cli.usage.query import usage_query
from shim.cli.usage.report import Line, lines_of, short, sparkline
from shim.cli.usage.workspace import WorkspaceError, ask, open_client
from shim.settings import Settings, SettingsError

if TYPE_CHECKING:
    from azure.monitor.query import LogsQueryClient

_NO_ANSWER, _USAGE = 1, 2
_WORKSPACE = "LOG_ANALYTICS_WORKSPACE_ID"


def usage(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=730, help="How far to look back.")] = 30,
    label: Annotated[str | None, typer.Option(help="Only calls with this label.")] = None,
    workspace: Annotated[
        str | None,
        typer.Option(metavar="ID", help=f"Id of the Log Analytics workspace, a GUID. [{_WORKSPACE}]"),
    ] = None,
    retire: Annotated[
        bool, typer.Option("--retire", help="Show what each caller still needs the shim for.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
) -> None:
    """Show who called: calls, errors and tokens by label, with the clients they use.

    Exit code 1 if the workspace gave no answer, 2 if none was named.
    """
    asked = workspace or environment().get(_WORKSPACE)
    if not asked:
        _end(
            f"say which workspace: give --workspace, or set {_WORKSPACE}"
            f" ('azd env get-value {_WORKSPACE}' shows it)",
            _USAGE,
        )
    open_: Callable[[], LogsQueryClient] = context.obj or open_client
    if retire:
        _print_who_is_left(open_, asked, days, json=json)
        return
    try:
        lines = lines_of(ask(open_(), asked, usage_query(days, label), days))
    except (WorkspaceError, ValueError) as error:
        _end(str(error), _NO_ANSWER)
    if json:
        output.print_json([line.described() for line in lines])
    elif as_csv:
        _print_csv(lines)
    elif lines:
        _print_table(lines, days)
    else:
        typer.echo(f"No calls in the last {days} days.", err=True)


def _print_who_is_left(
    open_: Callable[[], LogsQueryClient], workspace: str, days: int, *, json: bool
) -> None:
    """What each caller still needs the shim for, beside as many days before."""
    try:
        settings = Settings.from_environment(environment())
        now, before = rows_of(ask(open_(), workspace, left_query(days), 2 * days))
    except SettingsError as error:
        _end(f"who can move depends on the shim's settings: {error}", _USAGE)
    except WorkspaceError as error:
        _end(str(error), _NO_ANSWER)
    found = callers(now, settings, before=before)
    if json:
        output.print_json([asdict(caller) for caller in found])
    else:
        output.print_table(*table(found))
        typer.echo(summary(found), err=True)


def _print_table(lines: list[Line], days: int) -> None:
    now = datetime.now(UTC)
    output.print_table(
        ["label", "calls", "err.", "in/out", "last", "clients", f"{days} days"],
        [
            [
                line.label,
                short(line.calls),
                short(line.errors),
                f"{short(line.input)}/{short(line.output)}",
                f"{line.last_call:%m-%d}" if line.last_call else "",
                "\n".join([*sorted(line.clients), " ".join(sorted(line.key_headers | line.dialects))]),
                sparkline(line.at, days, now),
            ]
            for line in lines
        ],
    )


def _print_csv(lines: list[Line]) -> None:
    described = [line.described() for line in lines]
    writer = csv.DictWriter(sys.stdout, list(Line("").described()))
    writer.writeheader()
    for each in described:
        writer.writerow(
            {
                name: " ".join(value) if isinstance(value, list) else _inert(value)
                for name, value in each.items()
            }
        )


def _inert(value: object) -> object:
    """A label that begins like a formula is one for a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _end(reason: str, code: int) -> NoReturn:
    typer.echo(f"Error: {reason}", err=True)
    raise typer.Exit(code)
