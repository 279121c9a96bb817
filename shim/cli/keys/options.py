"""The arguments and options that commands on keys share."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from shim.keys.text import printable

_DURATION = re.compile(r"(\d{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

# Click would print an argument that it did not expect, and that might be a key: session.refuse_arguments does not.
NO_ARGUMENTS = {"allow_extra_args": True}


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter("use a time like 90d, 12h or 2w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _printable(text: str) -> str:
    if text != printable(text):
        raise typer.BadParameter("use visible characters only")
    return text


Which = Annotated[str, typer.Argument(help="A label, or the start of a digest as 'list' shows it.")]
Label = Annotated[str, typer.Option(callback=_printable, help="What the key is called in logs.")]
Owner = Annotated[str, typer.Option(callback=_printable, help="Who is responsible for it.")]
Expires = Annotated[
    timedelta | None,
    typer.Option(parser=_duration, metavar="TIME", help="Refuse it after this time: 90d, 12h, 2w."),
]
Grace = Annotated[
    timedelta | None,
    typer.Option(
        parser=_duration, metavar="TIME", help="How long the old key stays good. [KEY_ROTATION_GRACE]"
    ),
]
Stdin = Annotated[bool, typer.Option("--stdin", help="Take the key from the first line of stdin.")]
Prompt = Annotated[bool, typer.Option("--prompt", help="Ask for the key.")]
Upstream = Annotated[
    bool,
    typer.Option(
        "--upstream", help="The key stands for another one, which APIM is sent: from stdin, or asked for."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def checked_resource_id(resource_id: str | None) -> str | None:
    """Raises BadParameter if it is not that of an API Management service."""
    parts = (resource_id or "").strip("/").split("/")
    if resource_id is not None and (len(parts) != 8 or parts[6].casefold() != "service"):
        raise typer.BadParameter(
            "it looks like /subscriptions/…/resourceGroups/…/providers/Microsoft.ApiManagement/service/…"
        )
    return resource_id
