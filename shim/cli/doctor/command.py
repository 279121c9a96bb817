"""`python -m shim doctor`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shim.cli.local_settings import LOCAL_SETTINGS, environment
from shim.settings import SettingsError

if TYPE_CHECKING:
    from shim.cli.doctor.finding import Finding
    from shim.cli.doctor.target import Target


def doctor(
    base_url: Annotated[
        str | None, typer.Option(help="Base URL of the APIM API, in place of APIM_BASE_URL.")
    ] = None,
    shim_url: Annotated[
        str | None, typer.Option(help="URL of a running shim, to check from outside.")
    ] = None,
    origin: Annotated[str | None, typer.Option(help="Web origin whose preflight is tried.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model for the streaming check; a few tokens are billed.")
    ] = None,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Take a subscription key from standard input, or ask for it.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(help="Another local.settings.json; the environment wins over it.", exists=True),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check settings, identity, vault, network, the APIM API, CORS and streaming, and say what to fix.

    Exit code 1 if anything failed, 2 if there is nothing to check.
    """
    from shim.cli.doctor.finding import as_json, exit_code
    from shim.cli.doctor.target import Target

    # azure-identity warns at length about every credential that it tried; the finding says what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    try:
        target = Target.read(
            environment(settings or LOCAL_SETTINGS),
            base_url=base_url,
            shim_url=shim_url and shim_url.rstrip("/"),
            origin=origin,
            model=model,
            key=_read_key() if key_stdin else None,
        )
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(f"failed  settings: {problem}", err=True)
        typer.echo("Name at least the APIM API: python -m shim doctor --base-url https://…", err=True)
        raise typer.Exit(2) from None
    findings = asyncio.run(_run(target, silently=json))
    if json:
        typer.echo(as_json(findings))
    raise typer.Exit(exit_code(findings))


async def _run(target: Target, *, silently: bool) -> list[Finding]:
    from shim.cli.doctor.checks import run_checks

    findings = []
    async for finding in run_checks(target):
        findings.append(finding)
        if not silently:
            typer.echo(str(finding))
    return findings


def _read_key() -> str | None:
    """Never an argument, which every user of the machine could read in the list of processes."""
    if sys.stdin.isatty():
        return str(typer.prompt("Subscription key", hide_input=True)).strip() or None
    return sys.stdin.readline().strip() or None
