"""What commands print: a table or JSON to stdout, progress to a terminal's stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

# Columns of output that is not for a terminal, where nothing needs to fit.
WIDE = 200


def print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE)
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Labels are other people's text, not markup.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows a count, on a terminal only. Yields a function to call for each item."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    done = 0
    with Console(file=sys.stderr).status(f"{what} …") as status:

        def tick(_: str) -> None:
            nonlocal done
            done += 1
            status.update(f"{what} … {done}")

        yield tick


def day(at: datetime | None) -> str:
    """For people, in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def timestamp(at: datetime | None) -> str | None:
    """For programs."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
