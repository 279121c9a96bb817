"""`python -m shim keys …`: subscription keys in the vault, for operators. Exit codes: session.ExitCode."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shim.cli import output
from shim.cli.keys import rendering
from shim.cli.keys.checking import verdict_on
from shim.cli.keys.import_command import import_apim
from shim.cli.keys.key_input import given_key, read_secret
from shim.cli.keys.new_key import NewKey, store
from shim.cli.keys.options import (
    NO_ARGUMENTS,
    DryRun,
    Expires,
    Grace,
    Json,
    Label,
    Owner,
    Prompt,
    Stdin,
    Upstream,
    Which,
)
from shim.cli.keys.rotation import RotateKey
from shim.cli.session import (
    CommandRefused,
    ExitCode,
    Session,
    log_everything,
    log_little,
    refuse_arguments,
    run,
    say,
)
from shim.keys.admin.inventory import new_key
from shim.keys.subscription import digest_of
from shim.keys.vault import SHOWN_DIGITS

app = typer.Typer(
    help="Subscription keys in Key Vault.",
    epilog="Exit codes: 0 done or accepted; 1 not accepted, or no such key; 2 wrong usage; 3 settings; 4 not signed in;"
    " 5 not permitted; 6 vault or APIM not found, or no response; 7 a defect.",
    no_args_is_help=True,
)


app.command("import-apim", context_settings=NO_ARGUMENTS)(import_apim)


@app.callback()
def keys(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log everything to stderr.")] = False,
) -> None:
    if verbose:
        log_everything()
    else:
        log_little()


@app.command(context_settings=NO_ARGUMENTS)
def add(
    context: typer.Context,
    label: Label,
    owner: Owner = "",
    expires: Expires = None,
    stdin: Stdin = False,
    prompt: Prompt = False,
    upstream: Upstream = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a key good: a new one, which is printed once to stdout, or your own."""
    refuse_arguments(context)
    given = given_key(stdin, prompt)
    sent = read_secret("The key that APIM is sent") if upstream else None

    async def work(session: Session) -> None:
        if upstream and session.scans:
            raise CommandRefused(
                "--upstream needs KEY_LOOKUP=digest: a scan takes the secret's value for the key itself",
                ExitCode.USAGE,
            )
        key = given or new_key()
        if existing := await session.inventory.by_digest(digest_of(key)):
            state = existing.state(_now())
            raise CommandRefused(
                f"the vault has this key already: {existing.shown} ({existing.label}, {state})"
            )
        ends = _now() + expires if expires else None
        tags = {"label": label, "owner": owner, "source": "operator"}
        new = NewKey(key, label, generated=given is None, stands_for=sent, json=json)
        if dry_run:
            say(f"Would add {label}{rendering.until(ends)}.")
            new.print_dry_run()
        else:
            await store(new, session.inventory.add(key, upstream=sent or key, tags=tags, expires=ends))
            say(f"Added {label}{rendering.until(ends)}.")

    run(context, work)


@app.command("list", context_settings=NO_ARGUMENTS)
def list_keys(context: typer.Context, json: Json = False) -> None:
    """List every key in the vault, but never the keys themselves."""

    async def work(session: Session) -> None:
        records = []
        with output.progress("Reading the vault") as tick:
            async for record in session.inventory.records():
                records.append(record)
                tick(record.shown)
        rendering.print_list(records, json)

    run(context, work)


@app.command(context_settings=NO_ARGUMENTS)
def show(context: typer.Context, which: Which, json: Json = False) -> None:
    """Show what is known about one key, but never the key itself."""

    async def work(session: Session) -> None:
        rendering.print_record(await session.inventory.find(which), json)

    run(context, work)


@app.command(context_settings=NO_ARGUMENTS)
def rotate(
    context: typer.Context,
    which: Which,
    expires: Expires = None,
    grace: Grace = None,
    stdin: Stdin = False,
    prompt: Prompt = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Replace a key by a new one; the old one stays good for the grace period."""
    refuse_arguments(context)
    given = given_key(stdin, prompt)
    run(context, RotateKey(which, given, lifetime=expires, grace=grace, dry_run=dry_run, json=json))


@app.command(context_settings=NO_ARGUMENTS)
def revoke(context: typer.Context, which: Which, dry_run: DryRun = False) -> None:
    """Disable a key. The vault keeps it; 'az keyvault secret set-attributes --enabled true' undoes this."""

    async def work(session: Session) -> None:
        record = await session.inventory.find(which)
        if not dry_run:
            await session.inventory.revoke(record)
        seconds = f"{session.settings.key_cache_ttl:g}"
        say(
            f"{'Would revoke' if dry_run else 'Revoked'} {record.label} ({record.shown}):"
            f" every instance refuses it within {seconds} seconds."
        )

    run(context, work)


@app.command(context_settings=NO_ARGUMENTS)
def check(context: typer.Context, json: Json = False) -> None:
    """Read a key from stdin, or ask for it, and say whether the shim would accept it, and if not, why."""
    refuse_arguments(context)
    key = read_secret("Key")

    async def work(session: Session) -> None:
        verdict = await verdict_on(session, key)
        if isinstance(verdict, str):
            if json:
                digest = digest_of(key)[:SHOWN_DIGITS]
                output.print_json({"accepted": False, "digest": digest, "reason": verdict})
            raise CommandRefused(f"not accepted: {verdict}")
        rendering.print_accepted(verdict, json)

    run(context, work)


def _now() -> datetime:
    return datetime.now(UTC)
