"""Keys that an operator passes in: on stdin or at a prompt, never as arguments."""

from __future__ import annotations

import re
import sys

import typer

from shim.auth import MAX_KEY_LENGTH
from shim.cli.session import ExitCode, say

# A key that an operator chooses must be as hard to guess as APIM's are.
MIN_KEY_LENGTH = 16

_KEY = re.compile(rf"[\x21-\x7e]{{{MIN_KEY_LENGTH},{MAX_KEY_LENGTH}}}")


def given_key(stdin: bool, prompt: bool) -> str | None:
    """The operator's own key; None if one is to be generated. Exits if it cannot be a key."""
    if stdin and prompt:
        raise typer.BadParameter("use either --stdin or --prompt")
    if not stdin and not prompt:
        return None
    key = _read_line() if stdin else _ask("Key", confirm=True)
    if not _KEY.fullmatch(key):
        say(
            "Error: this is not a key: it must have"
            f" {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} visible ASCII characters."
        )
        raise typer.Exit(ExitCode.USAGE)
    return key


def read_secret(what: str) -> str:
    """The next line of stdin; at a terminal it is asked for and not shown."""
    return _ask(what, confirm=False) if sys.stdin.isatty() else _read_line()


def _read_line() -> str:
    return sys.stdin.readline().strip()


def _ask(what: str, *, confirm: bool) -> str:
    typed: str = typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return typed.strip()
