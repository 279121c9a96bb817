"""`python -m shim keys rotate`, which can be interrupted after either of its writes and run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from shim.cli import output
from shim.cli.keys.new_key import NewKey, store
from shim.cli.keys.rendering import until
from shim.cli.session import CommandRefused, Session, say
from shim.keys.admin.inventory import KeyRecord, new_key
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import digest_of


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Replaces the key that goes by `which`; None for `lifetime` and `grace` is the old key's, and the setting's."""

    which: str
    given: str | None = field(repr=False)
    lifetime: timedelta | None
    grace: timedelta | None
    dry_run: bool
    json: bool

    async def __call__(self, session: Session) -> None:
        rotation = await session.inventory.rotation(self.which)
        old = rotation.old
        _refuse_rotation(old)
        grace = self.grace or timedelta(seconds=session.settings.key_rotation_grace)
        ends = session.inventory.end_of(old, grace)
        if rotation.successor is None:
            await self._rotate(session, old, ends)
        else:
            await self._finish(session, old, rotation.successor, ends)

    async def _rotate(self, session: Session, old: KeyRecord, ends: datetime) -> None:
        key = self.given or new_key()
        sent = await session.inventory.upstream_key(old) if old.digest else None
        lifetime = self.lifetime or old.lifetime
        expires = datetime.now(UTC) + lifetime if lifetime else None
        new = NewKey(key, old.label, generated=self.given is None, stands_for=sent, json=self.json)
        if self.dry_run:
            say(f"Would rotate {old.label}: the old key {old.shown} would be good{until(ends)}.")
            new.print_dry_run()
            return
        await store(new, session.inventory.add_successor(old, key, upstream=sent or key, expires=expires))
        await _retire(session, old, new.digest, ends)

    async def _finish(self, session: Session, old: KeyRecord, successor: KeyRecord, ends: datetime) -> None:
        if self.given is not None and digest_of(self.given) != successor.digest:
            raise CommandRefused(
                f"an earlier rotation of {old.label} stored the key {successor.shown} and was interrupted:"
                " finish it without a key of your own, or revoke that key first"
            )
        say(f"An earlier rotation stored the key {successor.shown} and showed it then.")
        if self.dry_run:
            say(f"Would finish it: the old key {old.shown} would be good{until(ends)}.")
        else:
            await _retire(session, old, successor.digest or "", ends)
        if self.json:
            output.print_json({"label": successor.label, "digest": successor.shown})


async def _retire(session: Session, old: KeyRecord, successor_digest: str, ends: datetime) -> None:
    try:
        await session.inventory.retire(old, successor_digest, ends=ends)
    except VaultError as error:
        error.add_note(
            f"The new key is stored and good, but the old key {old.shown} has not been given its end:"
            " run the same command again to finish."
        )
        raise
    say(f"Rotated {old.label}: the old key {old.shown} is good{until(ends)}.")


def _refuse_rotation(record: KeyRecord) -> None:
    if record.source.startswith("apim:"):
        raise CommandRefused(
            f"{record.label} is a key of {record.source}: regenerate it there, and run 'keys import-apim --prune'"
        )
    state = record.state(datetime.now(UTC))
    if state != "good":
        raise CommandRefused(
            f"{record.label} ({record.shown}) is {state}: there is nothing to replace; use 'keys add'"
        )
