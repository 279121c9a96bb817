"""What commands on keys print. stdout is for what was asked for, stderr for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import typer

from shim.cli import output
from shim.cli.session import say
from shim.keys.admin.importing import Change
from shim.keys.admin.inventory import KeyRecord
from shim.keys.subscription import Subscription
from shim.keys.vault import SHOWN_DIGITS


def print_list(records: Sequence[KeyRecord], json: bool) -> None:
    ordered = sorted(records, key=lambda record: (record.label, record.created or _LONG_AGO))
    if json:
        output.print_json([_described(record) for record in ordered])
        return
    output.print_table(
        ["label", "owner", "source", "created", "expires", "enabled", "state", "digest"],
        [
            [
                record.label,
                record.owner,
                record.source,
                output.day(record.created),
                output.day(record.expires),
                _yes_or_no(record.enabled),
                record.state(_now()),
                record.shown,
            ]
            for record in ordered
        ],
    )
    say(f"{len(ordered)} keys")


def print_record(record: KeyRecord, json: bool) -> None:
    described = {**_described(record), "updated": output.timestamp(record.updated)}
    described |= {name: value for name, value in record.tags.items() if name not in described}
    if json:
        output.print_json(described)
    else:
        described["enabled"] = _yes_or_no(record.enabled)
        output.print_table(["", ""], [[name, str(value or "")] for name, value in described.items()])


def print_accepted(subscription: Subscription, json: bool) -> None:
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
        typer.echo(f"accepted: {subscription.label}{until(subscription.expires)}")


def print_changes(changes: Sequence[Change], json: bool) -> None:
    if json:
        fields = ("action", "label", "owner", "shown", "reason")
        output.print_json([{field: getattr(change, field) for field in fields} for change in changes])
        return
    shown = [change for change in changes if change.action != "unchanged"]
    if shown:
        output.print_table(
            ["", "label", "owner", "digest", "why"],
            [[change.action, change.label, change.owner, change.shown, change.reason] for change in shown],
        )


def until(at: datetime | None) -> str:
    return "" if at is None else f" until {output.day(at)} UTC"


def _described(record: KeyRecord) -> dict[str, str | bool | None]:
    return {
        "label": record.label,
        "owner": record.owner,
        "source": record.source,
        "created": output.timestamp(record.created),
        "expires": output.timestamp(record.expires),
        "enabled": record.enabled,
        "state": record.state(_now()),
        "digest": record.shown,
    }


def _yes_or_no(yes: bool) -> str:
    return "yes" if yes else "no"


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC)
