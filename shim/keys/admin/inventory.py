"""The keys of a vault as operators see them: everything about each but the key itself, and how to change it."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from shim.keys.azure.writing import WritableSecrets
from shim.keys.subscription import digest_of
from shim.keys.text import printable
from shim.keys.vault import SHOWN_DIGITS, shown

if TYPE_CHECKING:
    from azure.keyvault.secrets import SecretProperties

# 256 bits.
KEY_BYTES = 32
# The fewest hex digits of a digest that name a key.
MIN_DIGITS = 4

# Tags beside label, owner and source. When an operator revoked a key, which no import undoes:
REVOKED = "revoked"
# The first digits of the key that a rotation replaced, on the new key; and those of the new key, on the old one,
# which is written last. A new key without its counterpart is that of a rotation that was interrupted.
REPLACES = "replaces"
REPLACED_BY = "replaced-by"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

type State = Literal["good", "disabled", "expired", "not yet"]


class NoSuchKeyError(Exception):
    """No key, or more than one, has this name."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's secret, without its value. `name` holds the whole digest, so it is never shown."""

    name: str = field(repr=False)
    prefix: str
    enabled: bool
    created: datetime | None
    updated: datetime | None
    not_before: datetime | None
    expires: datetime | None
    tags: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str | None:
        """The key's digest, if the secret is named for it."""
        rest = self.name[len(self.prefix) :].casefold()
        return rest if _DIGEST.fullmatch(rest) else None

    @property
    def shown(self) -> str:
        """The start of the digest; the name of a secret that is not named for its key's digest."""
        return self.digest[:SHOWN_DIGITS] if self.digest else shown(self.name)

    @property
    def label(self) -> str:
        return self.tags.get("label") or (f"key-{self.shown}" if self.digest else shown(self.name))

    @property
    def owner(self) -> str:
        return self.tags.get("owner", "")

    @property
    def source(self) -> str:
        return self.tags.get("source", "")

    @property
    def lifetime(self) -> timedelta | None:
        """How long the key was meant to last, so that its successor lasts as long."""
        return self.expires - self.created if self.expires and self.created else None

    def state(self, now: datetime) -> State:
        if not self.enabled:
            return "disabled"
        if self.expires is not None and self.expires <= now:
            return "expired"
        return "not yet" if self.not_before is not None and self.not_before > now else "good"

    def goes_by(self, name: str) -> bool:
        """Whether `name` is this key's label, its secret's name, or at least MIN_DIGITS of its digest."""
        if name in (self.tags.get("label"), shown(self.name), self.name):
            return True
        digits = name.casefold().rstrip("…")
        return len(digits) >= MIN_DIGITS and self.digest is not None and self.digest.startswith(digits)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A key to be replaced. `successor` is the one stored already, if an earlier rotation was interrupted."""

    old: KeyRecord
    successor: KeyRecord | None


def new_key() -> str:
    """A key nobody can guess, of characters that need no quoting anywhere."""
    return secrets.token_hex(KEY_BYTES)


def timestamp(at: datetime) -> str:
    """A time as tags carry it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


class Inventory:
    """Lists and changes the keys of one vault. Every method raises VaultError."""

    def __init__(
        self,
        secrets: WritableSecrets,
        *,
        prefix: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secrets = secrets
        self._prefix = prefix
        self._now = now

    async def records(self) -> AsyncIterator[KeyRecord]:
        """Every key, in the vault's order; no value is read."""
        async for item in self._secrets.list():
            name = item.name or ""
            # A managed secret is the private key of a certificate.
            if name.casefold().startswith(self._prefix.casefold()) and not item.managed:
                yield self._record(name, item)

    async def find(self, name: str) -> KeyRecord:
        """The key that goes by this name, as KeyRecord.goes_by has it. Raises NoSuchKeyError."""
        return self._only([record async for record in self.records() if record.goes_by(name)])

    async def rotation(self, name: str) -> Rotation:
        """The key that goes by this name, to be replaced. Raises NoSuchKeyError."""
        records = [record async for record in self.records()]
        named = [record for record in records if record.goes_by(name)]
        # The successor of an interrupted rotation has the label of the key that it is to replace.
        successors = [self._successor(record, named) for record in named]
        old = self._only([record for record in named if record not in successors])
        return Rotation(old, self._successor(old, records))

    async def by_digest(self, digest: str) -> KeyRecord | None:
        """The key with this digest, whether it is good or not."""
        name = self._prefix + digest
        versions = [item async for item in self._secrets.versions(name)]
        if not versions:
            return None
        return self._record(name, max(versions, key=lambda item: item.created_on or _LONG_AGO))

    async def add(
        self, key: str, *, upstream: str, tags: Mapping[str, str], expires: datetime | None = None
    ) -> None:
        """Makes `key` good; `upstream` is the key that APIM is sent for it, which may be the same."""
        await self._secrets.put(self._prefix + digest_of(key), upstream, tags=tags, expires=expires)

    async def upstream_key(self, record: KeyRecord) -> str | None:
        """The key that APIM is sent for this one; None where both are the same."""
        secret = await self._secrets.get(record.name)
        value = (secret.value or "").strip() if secret else ""
        return value if value and digest_of(value) != record.digest else None

    async def add_successor(
        self, old: KeyRecord, key: str, *, upstream: str, expires: datetime | None
    ) -> None:
        """Makes `key` good beside `old`: the first half of a rotation, after which a caller has a good key."""
        dropped = (REVOKED, REPLACES, REPLACED_BY)
        tags = {name: value for name, value in old.tags.items() if name not in dropped}
        if old.digest is None:
            # A new version; how long the one before it stays good is up to the scan.
            await self._secrets.put(old.name, key, tags=tags, expires=expires)
        else:
            tags[REPLACES] = old.shown
            await self.add(key, upstream=upstream, tags=tags, expires=expires)

    async def retire(self, old: KeyRecord, successor_digest: str, *, ends: datetime) -> None:
        """Gives a key that was replaced its end: the second half of a rotation."""
        if old.digest is not None:
            tags = {**old.tags, REPLACED_BY: successor_digest[:SHOWN_DIGITS]}
            await self._secrets.change(old.name, expires=ends, tags=tags)

    def end_of(self, old: KeyRecord, grace: timedelta) -> datetime:
        """When a key that is replaced now ends: after `grace`, but no later than it would have anyway."""
        ends = self._now() + grace
        return min(ends, old.expires or ends)

    async def revoke(self, record: KeyRecord) -> None:
        """Disables a key, and notes when; the vault keeps it."""
        tags = {**record.tags, REVOKED: timestamp(self._now())}
        await self._secrets.change(record.name, enabled=False, tags=tags)

    def _only(self, named: Sequence[KeyRecord]) -> KeyRecord:
        if len(named) == 1:
            return named[0]
        # The name is not quoted: it may have been a key.
        if not named:
            raise NoSuchKeyError("no key has this label, or a digest that starts so: 'keys list' shows all")
        # After a rotation the old key keeps the label: while both are good, the name must tell them apart.
        good = [record for record in named if record.state(self._now()) == "good"]
        if len(good) == 1:
            return good[0]
        several = ", ".join(record.shown for record in named[:5])
        raise NoSuchKeyError(f"{len(named)} keys have this name: name one by its digest ({several})")

    def _successor(self, old: KeyRecord, records: Sequence[KeyRecord]) -> KeyRecord | None:
        """The key that an interrupted rotation stored in place of `old`, if both are good."""
        if old.state(self._now()) != "good":
            return None
        for record in records:
            replaces_it = record.tags.get(REPLACES) == old.shown and record.name != old.name
            done = old.tags.get(REPLACED_BY) == record.shown
            if replaces_it and not done and record.state(self._now()) == "good":
                return record
        return None

    def _record(self, name: str, item: SecretProperties) -> KeyRecord:
        return KeyRecord(
            name=name,
            prefix=self._prefix,
            enabled=item.enabled is not False,
            created=item.created_on,
            updated=item.updated_on,
            not_before=item.not_before,
            expires=item.expires_on,
            tags={printable(tag): printable(value) for tag, value in (item.tags or {}).items()},
        )
