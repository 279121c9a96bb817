"""What commands print: a table or JSON to stdout, progress to a terminal's stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

# Where the output is no terminal, nothing needs to fit.
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
        # Labels come from elsewhere: they are text, not markup.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows how many of something are done, on a terminal only. Call what it gives for each."""
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
    """As people read it, in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def timestamp(at: datetime | None) -> str | None:
    """As programs read it."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
