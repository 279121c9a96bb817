"""What is known of a secret that may hold a key, from one scan of the vault to the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from shim.keys.subscription import Subscription, digest_of
from shim.keys.vault import key_in, subscription_of

if TYPE_CHECKING:
    from azure.keyvault.secrets import KeyVaultSecret, SecretProperties


@dataclass(slots=True)
class SecretState:
    """What is known about one secret. `stamp` changes whenever the latest version does."""

    stamp: tuple[datetime | None, ...]
    version: str
    created: datetime
    # By version, each read once, since the value of a version never changes; None where it holds no key.
    versions: dict[str, Subscription | None]
    # Earlier versions within the grace period, whose expiry is its end.
    previous: list[Subscription] = field(default_factory=list)
    # Whether there are any. A change to an earlier version changes no stamp, so it is looked for in every scan.
    rotating: bool = False

    def subscriptions(self) -> list[Subscription]:
        latest = self.versions[self.version]
        return [latest, *self.previous] if latest else self.previous


def index_of(secrets: Iterable[SecretState]) -> dict[str, list[Subscription]]:
    """Subscriptions by digest: two secrets may hold the same key, and one may outlive the other."""
    index: dict[str, list[Subscription]] = {}
    for read in secrets:
        for subscription in read.subscriptions():
            index.setdefault(subscription.digest, []).append(subscription)
    return index


def name_of(item: SecretProperties) -> str:
    return item.name or ""


def stamp_of(item: SecretProperties) -> tuple[datetime | None, ...]:
    # A list does not name the version, but gives the times of the latest one.
    return item.created_on, item.updated_on, item.not_before, item.expires_on


def subscription_in(secret: KeyVaultSecret) -> Subscription | None:
    key = key_in(secret)
    return subscription_of(secret, digest=digest_of(key), label=secret.name or "") if key else None
