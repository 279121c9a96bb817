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
LEAST_DIGITS = 4
# Tags beside label, owner and source: when an operator revoked a key, which no import undoes.
REVOKED = "revoked"

_DIGEST = re.compile(r"[0-9a-f]{64}")

type State = Literal["good", "disabled", "expired", "not yet"]


class NoSuchKeyError(Exception):
    """No key, or more than one, is called so."""


@dataclass(frozen=True, slots=True)
class Entry:
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
    def source(self) -> str:
        return self.tags.get("source", "")

    def state(self, now: datetime) -> State:
        if not self.enabled:
            return "disabled"
        if self.expires is not None and self.expires <= now:
            return "expired"
        return "not yet" if self.not_before is not None and self.not_before > now else "good"


def new_key() -> str:
    """A key nobody can guess, of characters that need no quoting anywhere."""
    return secrets.token_hex(KEY_BYTES)


class Ledger:
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

    async def entries(self) -> AsyncIterator[Entry]:
        """Every key, in the vault's order; no value is read."""
        async for item in self._secrets.list():
            name = item.name or ""
            if name.casefold().startswith(self._prefix.casefold()) and not item.managed:
                yield self._entry(name, item)

    async def named(self, name: str) -> Entry:
        """The key whose digest begins so (LEAST_DIGITS at least), or whose label is this. Raises NoSuchKeyError."""
        found = [entry async for entry in self.entries() if _is_called(entry, name)]
        if len(found) == 1:
            return found[0]
        # What was asked for is not quoted: it may have been a key.
        if not found:
            raise NoSuchKeyError("no key has this label, or a digest that begins so: 'keys list' shows all")
        # After a rotation the old key keeps the label: while it is good too, who asks must say which.
        good = [entry for entry in found if entry.state(self._now()) == "good"]
        if len(good) == 1:
            return good[0]
        several = ", ".join(entry.shown for entry in found[:5])
        raise NoSuchKeyError(f"{len(found)} keys are called so: say which by its digest ({several})")

    async def of_digest(self, digest: str) -> Entry | None:
        """The key with this digest, whether it is good or not."""
        name = self._prefix + digest
        versions = [item async for item in self._secrets.versions(name)]
        if not versions:
            return None
        return self._entry(name, max(versions, key=lambda item: item.created_on or _LONG_AGO))

    async def add(
        self, key: str, *, upstream: str, tags: Mapping[str, str], expires: datetime | None = None
    ) -> None:
        """Makes `key` good; `upstream` is the key that APIM is sent for it, which may be the same."""
        await self._secrets.put(self._prefix + digest_of(key), upstream, tags=tags, expires=expires)

    async def upstream_key(self, entry: Entry) -> str | None:
        """The key that APIM is sent for this one, if that is another; None where both are the same."""
        secret = await self._secrets.get(entry.name)
        value = (secret.value or "").strip() if secret else ""
        return value if value and digest_of(value) != entry.digest else None

    async def replace(
        self, entry: Entry, key: str, *, upstream: str, expires: datetime | None, grace: timedelta
    ) -> datetime:
        """Makes `key` good in the place of another, which ends after `grace`; gives the time when."""
        now = self._now()
        ends = min(now + grace, entry.expires or now + grace)
        tags = {name: value for name, value in entry.tags.items() if name != REVOKED}
        if entry.digest is None:
            # A new version; that the one before it stays good for a while is the scan's rule.
            await self._secrets.put(entry.name, key, tags=tags, expires=expires)
            return ends
        # The new one first: whatever fails after that, a caller has a key that is good.
        await self.add(key, upstream=upstream, tags=tags, expires=expires)
        await self._secrets.change(entry.name, expires=ends)
        return ends

    async def revoke(self, entry: Entry) -> None:
        """Disables a key, and notes when; the vault keeps it."""
        tags = {**entry.tags, REVOKED: f"{self._now():%Y-%m-%dT%H:%M:%SZ}"}
        await self._secrets.change(entry.name, enabled=False, tags=tags)

    async def close(self) -> None:
        await self._secrets.close()

    def _entry(self, name: str, item: SecretProperties) -> Entry:
        return Entry(
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


def _is_called(entry: Entry, name: str) -> bool:
    if name in (entry.tags.get("label"), shown(entry.name), entry.name):
        return True
    digits = name.casefold().rstrip("…")
    return len(digits) >= LEAST_DIGITS and entry.digest is not None and entry.digest.startswith(digits)
