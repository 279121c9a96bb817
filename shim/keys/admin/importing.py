"""Copies the keys of an APIM service into the vault, so that a key from APIM's portal works at the shim.

    active subscription, key not in the vault        added
    active subscription, key in the vault            unchanged, or changed: its label and owner
      disabled by pruning                            changed: enabled again
      revoked, or disabled by anybody else           kept
      not from this service                          kept
    with prune, a key from this service whose
      subscription is no longer active, or gone      disabled
      subscription has other keys now                disabled

Keys are this service's by their tag `source`; other keys are not touched. What pruning disables it tags as `pruned`:
whatever else is disabled was disabled by a person, whose decision stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from shim.keys.admin.inventory import REVOKED, Inventory, KeyRecord, timestamp
from shim.keys.admin.opening import open_apim, open_secrets
from shim.keys.azure.api_management import MASTER, Apim, ApimSubscription
from shim.keys.azure.writing import MAX_TAG_LENGTH, WritableSecrets
from shim.keys.subscription import digest_of
from shim.keys.vault import SHOWN_DIGITS
from shim.settings import Settings

log = logging.getLogger(__name__)

# Subscriptions whose keys are read at once, and secrets that are written at once. Azure Resource Manager refills
# ten requests per second: https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling
CONCURRENCY = 8

# Tags beside label, owner and source; the last says when pruning disabled a key.
SID = "subscription"
SLOT = "slot"
PRUNED = "pruned"

type Action = Literal["added", "changed", "unchanged", "disabled", "kept"]


@dataclass(frozen=True, slots=True)
class Change:
    """What is done about one key, or would be. `write` does it; a repr shows nothing of it."""

    action: Action
    label: str
    owner: str
    shown: str
    reason: str
    write: Write | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Write:
    name: str = field(repr=False)
    tags: dict[str, str]
    enabled: bool | None = None
    value: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Filters:
    """Ids of products and APIs; empty for all. A subscription that gives access to any of them is imported."""

    products: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()


class Import:
    """One run. `progress` is called with the label for every subscription and every write."""

    def __init__(
        self,
        apim: Apim,
        secrets: WritableSecrets,
        *,
        prefix: str,
        filters: Filters,
        prune: bool,
        progress: Callable[[str], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._apim = apim
        self._secrets = secrets
        self._prefix = prefix
        self._filters = filters
        self._prune = prune
        self._progress = progress
        self._now = now
        self._source = f"apim:{apim.name}"

    async def plan(self) -> list[Change]:
        """What there is to do, once both sides have been read completely. Raises ApimError, VaultError."""
        inventory = Inventory(self._secrets, prefix=self._prefix)
        records = {record.digest: record async for record in inventory.records() if record.digest}
        subscriptions = {found.sid: found async for found in self._apim.subscriptions()}
        scopes = await self._scopes()
        chosen = [found for found in subscriptions.values() if _is_chosen(found, scopes)]
        changes: list[Change] = []
        current: set[str] = set()
        async for subscription, slot, key in self._keys(chosen):
            current.add(digest_of(key))
            changes.append(self._change(subscription, slot, key, records.get(digest_of(key))))
        if self._prune:
            read = {found.sid for found in chosen}
            gone = [record for digest, record in records.items() if digest not in current]
            changes += self._pruned(gone, subscriptions, read)
        return sorted(changes, key=lambda change: (change.label, change.shown))

    async def apply(self, changes: Iterable[Change]) -> None:
        """Writes what `plan` returned. Raises VaultError; what was written stays, and a new run completes it."""
        writes = iter([change.write for change in changes if change.write])

        async def work() -> None:
            for write in writes:
                await self._write(write)

        await _side_by_side(work)

    async def _scopes(self) -> frozenset[str] | None:
        """The scopes that give access to what the filters name; None for every scope."""
        if not self._filters.products and not self._filters.apis:
            return None
        scopes = {f"products/{product}".casefold() for product in self._filters.products}
        for api in self._filters.apis:
            scopes |= {f"apis/{api}".casefold(), "apis"}
            scopes |= {f"products/{product}" for product in await self._apim.products_of(api)}
        return frozenset(scopes)

    async def _keys(self, chosen: list[ApimSubscription]) -> AsyncIterator[tuple[ApimSubscription, str, str]]:
        subscriptions = iter(chosen)
        found: list[tuple[ApimSubscription, str, str]] = []

        async def work() -> None:
            for subscription in subscriptions:
                keys = await self._apim.keys(subscription.sid)
                self._progress(subscription.label)
                slots = {"primary": keys.primary, "secondary": keys.secondary}
                found.extend((subscription, slot, key) for slot, key in slots.items() if key)

        await _side_by_side(work)
        for item in found:
            yield item

    def _change(
        self, subscription: ApimSubscription, slot: str, key: str, record: KeyRecord | None
    ) -> Change:
        tags = {
            "label": subscription.label[:MAX_TAG_LENGTH],
            "owner": subscription.owner,
            "source": self._source,
            SID: subscription.sid,
            SLOT: slot,
        }
        tags = {name: value for name, value in tags.items() if value}
        action, reason = self._verdict(tags, record)
        write = None
        if action == "added":
            write = Write(self._prefix + digest_of(key), tags, value=key)
        elif action == "changed" and record:
            kept = {name: value for name, value in record.tags.items() if name != PRUNED}
            # None where it is enabled: an operator may disable it between the plan and this write.
            write = Write(record.name, {**kept, **tags}, enabled=None if record.enabled else True)
        digits = digest_of(key)[:SHOWN_DIGITS]
        return Change(action, subscription.label, subscription.owner, digits, f"{slot} key; {reason}", write)

    def _verdict(self, tags: dict[str, str], record: KeyRecord | None) -> tuple[Action, str]:
        if record is None:
            return "added", "new"
        if record.source != self._source:
            return "kept", f"in the vault from {record.source or 'elsewhere'}"
        if REVOKED in record.tags:
            return "kept", "revoked by an operator"
        if not record.enabled and PRUNED not in record.tags:
            return "kept", "disabled by an operator"
        if not record.enabled:
            return "changed", "enabled again"
        if PRUNED in record.tags:
            # Enabled by hand: if it is disabled by hand later, the tag must not say that pruning did it.
            return "changed", "enabled by an operator"
        if any(record.tags.get(name) != value for name, value in tags.items()):
            return "changed", "label or owner"
        return "unchanged", "as it was"

    def _pruned(
        self, gone: list[KeyRecord], subscriptions: dict[str, ApimSubscription], read: set[str]
    ) -> Iterable[Change]:
        """Disables keys of this service that APIM no longer accepts.

        An active subscription outside the filters is left alone, since its keys were not read. Nor is anything
        disabled if the service lists no subscription at all: every service has one that is built in.
        """
        for record in gone if subscriptions else []:
            subscription = subscriptions.get(record.tags.get(SID, ""))
            if record.source != self._source or not record.enabled:
                continue
            if subscription is None:
                reason = "subscription gone"
            elif not subscription.is_active:
                reason = f"subscription {subscription.state}"
            elif subscription.sid in read:
                reason = "key regenerated"
            else:
                continue
            tags = {**record.tags, PRUNED: timestamp(self._now())}
            write = Write(record.name, tags, enabled=False)
            yield Change("disabled", record.label, record.owner, record.shown, reason, write)

    async def _write(self, write: Write) -> None:
        if write.value is not None:
            await self._secrets.put(write.name, write.value, tags=write.tags)
        else:
            await self._secrets.change(write.name, enabled=write.enabled, tags=write.tags)
        self._progress(write.tags.get("label", ""))


async def import_keys(
    settings: Settings,
    *,
    open_apim: Callable[[Settings], Apim | None] = open_apim,
    open_secrets: Callable[[Settings], WritableSecrets | None] = open_secrets,
) -> None:
    """One run as the settings say, reported in the log. Raises ApimError, VaultError."""
    apim, secrets = open_apim(settings), open_secrets(settings)
    if apim is None or secrets is None:
        return
    filters = Filters(settings.apim_import_products, settings.apim_import_apis)
    async with secrets, apim:
        run = Import(
            apim,
            secrets,
            prefix=settings.key_secret_prefix,
            filters=filters,
            prune=settings.apim_import_prune,
        )
        changes = await run.plan()
        await run.apply(changes)
    for change in changes:
        if change.write:
            log.info("key %s… of %s: %s, %s", change.shown, change.label, change.action, change.reason)
    log.info("import from API Management %s: %s", apim.name, count(changes))


def count(changes: Iterable[Change]) -> str:
    """In words: `2 added, 40 unchanged`."""
    counted = Counter(change.action for change in changes)
    return ", ".join(f"{number} {action}" for action, number in sorted(counted.items())) or "nothing to do"


def _is_chosen(subscription: ApimSubscription, scopes: frozenset[str] | None) -> bool:
    in_scope = scopes is None or subscription.scope in scopes
    # The key of the built-in subscription opens everything: no caller should have it.
    return in_scope and subscription.is_active and subscription.sid != MASTER


async def _side_by_side(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs `work` CONCURRENCY times at once, and raises the first failure as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(work())
    except* Exception as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        failure = first
    else:
        return
    raise failure
