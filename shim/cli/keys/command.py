"""`python -m shim keys …`: subscription keys in the vault, for operators.

Exit codes: 0 done, or the key is accepted; 1 the key is not accepted, or there is none of this name; 2 wrong usage;
3 settings are missing or wrong; 4 not signed in; 5 not permitted; 6 the vault or APIM was not found, or gave no
answer; 7 a defect.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from shim.auth import MAX_KEY_LENGTH, authenticate
from shim.cli import output
from shim.cli.session import (
    NO,
    USAGE,
    Refused,
    Session,
    log_everything,
    log_little,
    refuse_arguments,
    run,
    say,
)
from shim.errors import AuthenticationFailed
from shim.keys.admin.importing import Change, Filters, Import, count
from shim.keys.admin.inventory import REVOKED, Entry, new_key
from shim.keys.scan import ScanKeyStore
from shim.keys.store import KeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.keys.vault import SHOWN_DIGITS, VaultKeyStore

# A key that is given must be as hard to guess as those of APIM are to type.
LEAST_KEY_LENGTH = 16

_KEY = re.compile(rf"[\x21-\x7e]{{{LEAST_KEY_LENGTH},{MAX_KEY_LENGTH}}}")
_DURATION = re.compile(r"(\d{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer(
    help="Subscription keys in Key Vault.",
    epilog="Exit codes: 0 done or accepted; 1 not accepted, or no such key; 2 wrong usage; 3 settings; 4 not signed in;"
    " 5 not permitted; 6 vault or APIM not found, or no answer; 7 a defect.",
    no_args_is_help=True,
)

# Click would print what it did not expect, and that might be a key: refuse_arguments does not.
_NO_ARGUMENTS = {"allow_extra_args": True}


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter("give a time like 90d, 12h or 2w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


Which = Annotated[str, typer.Argument(help="A label, or the beginning of a digest as 'list' shows it.")]
Label = Annotated[str, typer.Option(help="What the key is called in logs.")]
Owner = Annotated[str, typer.Option(help="Who answers for it.")]
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
        "--upstream", help="The key stands for another, which APIM is sent: from stdin, or asked for."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.callback()
def keys(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log everything to stderr.")] = False,
) -> None:
    if verbose:
        log_everything()
    else:
        log_little()


@app.command(context_settings=_NO_ARGUMENTS)
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
    """Make a key good: a new one, which is printed once to stdout, or one that you give."""
    refuse_arguments(context)
    given = _given_key(stdin, prompt)
    sent = _read_secret("The key that APIM is sent") if upstream else None

    async def work(session: Session) -> None:
        _refuse_upstream(session, upstream)
        key = given or new_key()
        if existing := await session.ledger.of_digest(digest_of(key)):
            state = existing.state(_now())
            raise Refused(f"the vault has this key already: {existing.shown} ({existing.label}, {state})")
        ends = _now() + expires if expires else None
        tags = {"label": label, "owner": owner, "source": "operator"}
        if not dry_run:
            await session.ledger.add(key, upstream=sent or key, tags=tags, expires=ends)
        say(f"{'Would add' if dry_run else 'Added'} {label}{_until(ends)}.")
        _hand_over(key, generated=given is None, stands_for=sent, dry_run=dry_run, json=json, label=label)

    run(context, work)


@app.command("list", context_settings=_NO_ARGUMENTS)
def list_keys(context: typer.Context, json: Json = False) -> None:
    """Show every key of the vault, but for the keys themselves."""

    async def work(session: Session) -> None:
        entries = []
        with output.progress("Reading the vault") as tick:
            async for entry in session.ledger.entries():
                entries.append(entry)
                tick(entry.shown)
        entries.sort(key=lambda entry: (entry.label, entry.created or datetime.min.replace(tzinfo=UTC)))
        if json:
            output.print_json([_described(entry) for entry in entries])
            return
        output.print_table(
            ["label", "owner", "source", "created", "expires", "enabled", "state", "digest"],
            [
                [
                    entry.label,
                    entry.tags.get("owner", ""),
                    entry.source,
                    output.day(entry.created),
                    output.day(entry.expires),
                    "yes" if entry.enabled else "no",
                    entry.state(_now()),
                    entry.shown,
                ]
                for entry in entries
            ],
        )
        say(f"{len(entries)} keys")

    run(context, work)


@app.command(context_settings=_NO_ARGUMENTS)
def show(context: typer.Context, which: Which, json: Json = False) -> None:
    """Show what is known of one key, but for the key itself."""

    async def work(session: Session) -> None:
        entry = await session.ledger.named(which)
        described = {**_described(entry), "updated": output.timestamp(entry.updated)}
        described |= {name: value for name, value in entry.tags.items() if name not in described}
        if json:
            output.print_json(described)
        else:
            output.print_table(["", ""], [[name, str(value or "")] for name, value in described.items()])

    run(context, work)


@app.command(context_settings=_NO_ARGUMENTS)
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
    """Put a new key in the place of one; the old one stays good for the grace time."""
    refuse_arguments(context)
    given = _given_key(stdin, prompt)

    async def work(session: Session) -> None:
        entry = await session.ledger.named(which)
        _refuse_rotation(entry)
        key = given or new_key()
        sent = await session.ledger.upstream_key(entry) if entry.digest else None
        lifetime = expires or _lifetime(entry)
        overlap = grace or timedelta(seconds=session.settings.key_rotation_grace)
        if dry_run:
            ends = min(_now() + overlap, entry.expires or _now() + overlap)
        else:
            ends = await session.ledger.replace(
                entry,
                key,
                upstream=sent or key,
                expires=_now() + lifetime if lifetime else None,
                grace=overlap,
            )
        done = "Would rotate" if dry_run else "Rotated"
        say(f"{done} {entry.label}: the old key {entry.shown} is good{_until(ends)}.")
        _hand_over(
            key, generated=given is None, stands_for=sent, dry_run=dry_run, json=json, label=entry.label
        )

    run(context, work)


@app.command(context_settings=_NO_ARGUMENTS)
def revoke(context: typer.Context, which: Which, dry_run: DryRun = False) -> None:
    """Disable a key. The vault keeps it, and 'az keyvault secret set-attributes --enabled true' undoes it."""

    async def work(session: Session) -> None:
        entry = await session.ledger.named(which)
        if not dry_run:
            await session.ledger.revoke(entry)
        seconds = f"{session.settings.key_cache_ttl:g}"
        say(
            f"{'Would revoke' if dry_run else 'Revoked'} {entry.label} ({entry.shown}):"
            f" every instance refuses it within {seconds} seconds."
        )

    run(context, work)


@app.command(context_settings=_NO_ARGUMENTS)
def check(context: typer.Context, json: Json = False) -> None:
    """Read a key from stdin, or ask for it, and say whether the shim would accept it, and why not."""
    refuse_arguments(context)
    key = _read_secret("Key")

    async def work(session: Session) -> None:
        digest = digest_of(key)
        # First, since the vault's own reason for giving no answer is told to operators, not to callers.
        entry = await session.ledger.of_digest(digest)
        try:
            principal = await authenticate(
                [(b"authorization", b"Bearer " + key.encode())],
                _store(session),
                session.settings.user_token_header,
            )
        except AuthenticationFailed as refusal:
            reason = await _why_not(session, entry, digest, refusal)
            if json:
                output.print_json({"accepted": False, "digest": digest[:SHOWN_DIGITS], "reason": reason})
            raise Refused(f"not accepted: {reason}", NO) from None
        _print_accepted(principal.subscription, json)

    run(context, work)


@app.command("import-apim", context_settings=_NO_ARGUMENTS)
def import_apim(
    context: typer.Context,
    resource_id: Annotated[
        str | None, typer.Option(help="The API Management service. [APIM_RESOURCE_ID]", metavar="ID")
    ] = None,
    product: Annotated[
        list[str] | None, typer.Option(help="Only subscriptions to this product. Repeatable.")
    ] = None,
    api: Annotated[
        list[str] | None, typer.Option(help="Only subscriptions that open this API. Repeatable.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Disable imported keys that APIM does not accept any more.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Bring both keys of every active APIM subscription into the vault."""

    async def work(session: Session) -> None:
        apim = session.open_apim(session.settings)
        if apim is None:
            raise Refused("say which service: set APIM_RESOURCE_ID, or give --resource-id", USAGE)
        settings = session.settings
        filters = Filters(
            tuple(product or ()) or settings.apim_import_products,
            tuple(api or ()) or settings.apim_import_apis,
        )
        with output.progress("Importing") as tick:
            async with apim:
                job = Import(
                    apim,
                    session.secrets,
                    prefix=settings.key_secret_prefix,
                    filters=filters,
                    prune=prune,
                    progress=tick,
                )
                changes = await job.plan()
                if not dry_run:
                    await job.apply(changes)
        _print_changes(changes, json)
        say(f"{'Would import' if dry_run else 'Imported'} from {apim.name}: {count(changes)}.")

    run(context, work, apim_resource_id=_checked_resource_id(resource_id))


def _print_changes(changes: list[Change], json: bool) -> None:
    if json:
        fields = ("action", "label", "owner", "shown", "reason")
        output.print_json([{field: getattr(change, field) for field in fields} for change in changes])
        return
    told = [change for change in changes if change.action != "unchanged"]
    if told:
        output.print_table(
            ["", "label", "owner", "digest", "why"],
            [[change.action, change.label, change.owner, change.shown, change.reason] for change in told],
        )


def _print_accepted(subscription: Subscription, json: bool) -> None:
    if json:
        output.print_json(
            {
                "accepted": True,
                "digest": subscription.digest[:SHOWN_DIGITS],
                "label": subscription.label,
                "owner": subscription.owner,
                "source": subscription.source,
                "expires": output.timestamp(subscription.expires),
            }
        )
    else:
        typer.echo(f"accepted: {subscription.label}{_until(subscription.expires)}")


def _hand_over(
    key: str, *, generated: bool, stands_for: str | None, dry_run: bool, json: bool, label: str
) -> None:
    """The one place where a key is printed: a new one, to stdout."""
    digest = digest_of(key)[:SHOWN_DIGITS]
    if generated and not dry_run:
        say("The key is on stdout, and nowhere else: pass it on now.")
    if not stands_for:
        say(
            "APIM must know it too: make it the primary or secondary key of an APIM subscription,"
            " or have it stand for such a key with 'add --upstream'."
        )
    if json:
        shown = {"key": key} if generated and not dry_run else {}
        output.print_json({**shown, "label": label, "digest": digest})
    elif generated and not dry_run:
        typer.echo(key)


def _described(entry: Entry) -> dict[str, str | bool | None]:
    return {
        "label": entry.label,
        "owner": entry.tags.get("owner", ""),
        "source": entry.source,
        "created": output.timestamp(entry.created),
        "expires": output.timestamp(entry.expires),
        "enabled": entry.enabled,
        "state": entry.state(_now()),
        "digest": entry.shown,
    }


def _store(session: Session) -> KeyStore:
    settings = session.settings
    if not session.scans:
        return VaultKeyStore(session.secrets, prefix=settings.key_secret_prefix)
    return ScanKeyStore(
        session.secrets,
        prefix=settings.key_secret_prefix,
        ttl=settings.key_cache_ttl,
        stale=settings.key_cache_stale,
        grace=settings.key_rotation_grace,
        patience=120.0,
    )


async def _why_not(session: Session, entry: Entry | None, digest: str, refusal: AuthenticationFailed) -> str:
    if refusal.code != "invalid_api_key":
        return refusal.message
    if entry is None and session.scans:
        entry = await _entry_with_value(session, digest)
    if entry is None:
        disabled = " (of disabled secrets, values cannot be read)" if session.scans else ""
        return f"no key of the vault has the digest {digest[:SHOWN_DIGITS]}…{disabled}"
    state = entry.state(_now())
    reasons = {
        "disabled": f"disabled{_since(entry)}",
        "expired": f"expired on {output.day(entry.expires)} UTC",
        "not yet": f"good from {output.day(entry.not_before)} UTC on",
        "good": "its secret holds nothing that could be sent as a key",
    }
    return f"{entry.label} is {reasons[state]}" if state != "good" else f"{entry.label}: {reasons[state]}"


async def _entry_with_value(session: Session, digest: str) -> Entry | None:
    with output.progress("Reading the vault") as tick:
        async for entry in session.ledger.entries():
            tick(entry.shown)
            secret = await session.secrets.get(entry.name) if entry.enabled else None
            if secret and secret.value and digest_of(secret.value.strip()) == digest:
                return entry
    return None


def _refuse_upstream(session: Session, upstream: bool) -> None:
    if upstream and session.scans:
        raise Refused(
            "--upstream needs KEY_LOOKUP=digest: a scan takes the secret's value for the key itself", USAGE
        )


def _refuse_rotation(entry: Entry) -> None:
    if entry.source.startswith("apim:"):
        raise Refused(
            f"{entry.label} is a key of {entry.source}: regenerate it there, and run 'keys import-apim --prune'"
        )
    state = entry.state(_now())
    if state != "good":
        raise Refused(
            f"{entry.label} ({entry.shown}) is {state}: there is nothing to be replaced; use 'keys add'"
        )


def _given_key(stdin: bool, prompt: bool) -> str | None:
    if stdin and prompt:
        raise typer.BadParameter("--stdin and --prompt do not go together")
    if not stdin and not prompt:
        return None
    key = _read_line() if stdin else _ask("Key", confirm=True)
    return _checked_key(key)


def _read_secret(what: str) -> str:
    """The next line of stdin; from a terminal it is asked for and not shown."""
    return _ask(what, confirm=False) if sys.stdin.isatty() else _read_line()


def _read_line() -> str:
    return sys.stdin.readline().strip()


def _ask(what: str, *, confirm: bool) -> str:
    answer: str = typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer.strip()


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        say(
            f"Error: this is no key: it must have {LEAST_KEY_LENGTH} to {MAX_KEY_LENGTH} visible ASCII characters."
        )
        raise typer.Exit(USAGE)
    return key


def _checked_resource_id(resource_id: str | None) -> str | None:
    parts = (resource_id or "").strip("/").split("/")
    if resource_id is not None and (len(parts) != 8 or parts[6].casefold() != "service"):
        raise typer.BadParameter(
            "it is like /subscriptions/…/resourceGroups/…/providers/Microsoft.ApiManagement/service/…"
        )
    return resource_id


def _lifetime(entry: Entry) -> timedelta | None:
    """How long a key was meant to last, so that its successor lasts as long."""
    return entry.expires - entry.created if entry.expires and entry.created else None


def _since(entry: Entry) -> str:
    return f": revoked at {entry.tags[REVOKED]}" if REVOKED in entry.tags else ""


def _until(at: datetime | None) -> str:
    return "" if at is None else f" until {output.day(at)} UTC"


def _now() -> datetime:
    return datetime.now(UTC)
