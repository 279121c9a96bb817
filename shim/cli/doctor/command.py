"""`python -m shim doctor`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shim.cli.doctor.examination import Finding, Patient


def doctor(
    base_url: Annotated[
        str | None, typer.Option(help="Base URL of the APIM API, in place of APIM_BASE_URL.")
    ] = None,
    shim_url: Annotated[
        str | None, typer.Option(help="URL of a running shim, to examine it from outside.")
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
        typer.Option(help="A local.settings.json to read; the environment wins over it.", exists=True),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Examine settings, identity, vault, network, the APIM API, CORS and streaming, in words.

    Exit code 1 if anything failed, 2 if there is nothing to examine.
    """
    from shim.cli.doctor.examination import Patient, exit_code
    from shim.cli.doctor.examination import as_json as rendered
    from shim.settings import SettingsError

    # azure-identity warns at length of every credential that it tried; the finding says what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    values = json.loads(settings.read_text()).get("Values", {}) if settings else {}
    try:
        patient = Patient.read(
            {**values, **os.environ},
            base_url=base_url,
            shim_url=shim_url and shim_url.rstrip("/"),
            origin=origin,
            model=model,
            key=_key() if key_stdin else None,
        )
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(f"failed  settings: {problem}", err=True)
        typer.echo("Name at least the APIM API: python -m shim doctor --base-url https://…", err=True)
        raise typer.Exit(2) from None
    findings = asyncio.run(_examined(patient, silently=as_json))
    if as_json:
        typer.echo(rendered(findings))
    raise typer.Exit(exit_code(findings))


async def _examined(patient: Patient, *, silently: bool) -> list[Finding]:
    from shim.cli.doctor.examination import examine

    findings = []
    async for finding in examine(patient):
        findings.append(finding)
        if not silently:
            typer.echo(str(finding))
    return findings


def _key() -> str | None:
    """Never an argument, which every user of the machine could read in the list of processes."""
    if sys.stdin.isatty():
        return str(typer.prompt("Subscription key", hide_input=True)).strip() or None
    return sys.stdin.readline().strip() or None
