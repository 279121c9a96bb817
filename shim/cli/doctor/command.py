"""`python -m shim doctor`."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from shim.cli.local_settings import LOCAL_SETTINGS, environment
from shim.settings import SettingsError
from shim.settings.reader import Reader

if TYPE_CHECKING:
    from shim.cli.doctor.finding import Finding


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
    native: Annotated[
        str | None,
        typer.Option(
            help="Base URL of an APIM API: only try whether a caller with this key and model needs the shim there."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check settings, identity, vault, network, the APIM API, CORS and streaming, and say what to fix.

    Exit code 1 if anything failed, 2 if there is nothing to check.
    """
    from shim.cli.doctor.checks import run_checks
    from shim.cli.doctor.target import Target

    # azure-identity warns at length about every credential that it tried; the finding says what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    if native is not None:
        checks = _native_checks(
            _checked_url("--native", native), model, origin, _read_key() if key_stdin else None
        )
        _report(asyncio.run(_print(checks, silently=json)), as_json=json)
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
    _report(asyncio.run(_print(run_checks(target), silently=json)), as_json=json)


def _report(findings: list[Finding], *, as_json: bool) -> NoReturn:
    from shim.cli.doctor import finding

    if as_json:
        typer.echo(finding.as_json(findings))
    raise typer.Exit(finding.exit_code(findings))


async def _print(checks: AsyncIterator[Finding], *, silently: bool) -> list[Finding]:
    """Every finding, each printed as soon as it is made."""
    findings = []
    async for finding in checks:
        findings.append(finding)
        if not silently:
            typer.echo(str(finding))
    return findings


def _checked_url(option: str, value: str) -> str:
    """Where a key may be sent to. Exits if it is no such URL."""
    read = Reader({option: value})
    url = read.url(option)
    for problem in read.problems:
        typer.echo(problem, err=True)
    if read.problems or not url:
        raise typer.Exit(2)
    return url


async def _native_checks(
    url: str, model: str | None, origin: str | None, key: str | None
) -> AsyncIterator[Finding]:
    from shim.cli.doctor.client import open_client
    from shim.cli.doctor.finding import failed
    from shim.cli.doctor.native import NativeCaller, check

    if key is None or model is None:
        yield failed(
            "native", "not tried", "pass the caller's key (--key-stdin) and its model (--model gpt-4o)"
        )
        return
    async with open_client(ssl.create_default_context()) as client:
        async for finding in check(NativeCaller(url, model, key, origin), client):
            yield finding


def _read_key() -> str | None:
    """Never an argument, which every user of the machine could read in the list of processes."""
    if sys.stdin.isatty():
        return str(typer.prompt("Subscription key", hide_input=True)).strip() or None
    return sys.stdin.readline().strip() or None
