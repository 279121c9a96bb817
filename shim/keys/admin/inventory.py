"""The keys of a vault as operators see them: what is known of each but the key itself, and how to change it."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from shim.keys.azure.writing import WritableSecrets
from shim.keys.subscription import digest_of
from shim.keys.vault import SHOWN_DIGITS, shown

if TYPE_CHECKING:
    from azure.keyvault.secrets import SecretProperties

# 256 bits.
KEY_BYTES = 32
# Hex digits of a digest that name a key, at least.
MIN_DIGITS = 4
# Tags beside label, owner and source: when an operator revoked a key, which no import undoes.
REVOKED = "revoked"

_DIGEST = re.compile(r"[0-9a-f]{64}")

type State = Literal["good", "disabled", "expired", "not yet"]


class NoSuchKeyError(Exception):
    """No key, or more than one, is called so."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's secret, without its value. `name` holds the whole digest, so that it is not shown."""

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
        """The key's digest, if the secret is named by it."""
        rest = self.name[len(self.prefix) :].casefold()
        return rest if _DIGEST.fullmatch(rest) else None

    @property
    def shown(self) -> str:
        """The beginning of the digest; for a secret with a name of its own, that."""
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


def new_key() -> str:
    """A key nobody can guess, of characters that need no quoting anywhere."""
    return secrets.token_hex(KEY_BYTES)


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
            if name.casefold().startswith(self._prefix.casefold()) and not item.managed:
                yield self._record(name, item)

    async def find(self, name: str) -> KeyRecord:
        """The key whose digest begins so (MIN_DIGITS at least), or whose label is this. Raises NoSuchKeyError."""
        found = [record async for record in self.records() if _is_called(record, name)]
        if len(found) == 1:
            return found[0]
        # What was asked for is not quoted: it may have been a key.
        if not found:
            raise NoSuchKeyError("no key has this label, or a digest that begins so: 'keys list' shows all")
        # After a rotation the old key keeps the label: while it is good too, who asks must say which.
        good = [record for record in found if record.state(self._now()) == "good"]
        if len(good) == 1:
            return good[0]
        several = ", ".join(record.shown for record in found[:5])
        raise NoSuchKeyError(f"{len(found)} keys are called so: say which by its digest ({several})")

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
        """The key that APIM is sent for this one, if that is another; None where both are the same."""
        secret = await self._secrets.get(record.name)
        value = (secret.value or "").strip() if secret else ""
        return value if value and digest_of(value) != record.digest else None

    async def replace(
        self, record: KeyRecord, key: str, *, upstream: str, expires: datetime | None, grace: timedelta
    ) -> datetime:
        """Makes `key` good in the place of another, which ends after `grace`; gives the time when."""
        now = self._now()
        ends = min(now + grace, record.expires or now + grace)
        tags = {name: value for name, value in record.tags.items() if name != REVOKED}
        if record.digest is None:
            # A new version; that the one before it stays good for a while is the scan's rule.
            await self._secrets.put(record.name, key, tags=tags, expires=expires)
            return ends
        # The new one first: whatever fails after that, a caller has a key that is good.
        await self.add(key, upstream=upstream, tags=tags, expires=expires)
        await self._secrets.change(record.name, expires=ends)
        return ends

    async def revoke(self, record: KeyRecord) -> None:
        """Disables a key, and notes when; the vault keeps it."""
        tags = {**record.tags, REVOKED: f"{self._now():%Y-%m-%dT%H:%M:%SZ}"}
        await self._secrets.change(record.name, enabled=False, tags=tags)

    def _record(self, name: str, item: SecretProperties) -> KeyRecord:
        return KeyRecord(
            name=name,
            prefix=self._prefix,
            enabled=item.enabled is not False,
            created=item.created_on,
            updated=item.updated_on,
            not_before=item.not_before,
            expires=item.expires_on,
            tags=item.tags or {},
        )


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _is_called(record: KeyRecord, name: str) -> bool:
    if name in (record.tags.get("label"), shown(record.name), record.name):
        return True
    digits = name.casefold().rstrip("…")
    return len(digits) >= MIN_DIGITS and record.digest is not None and record.digest.startswith(digits)
