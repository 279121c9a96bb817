"""Subscription keys in Key Vault under arbitrary names: all are read once, and after that what has changed.

A new version of a secret is a new key; the version before it stays good for the grace period.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from shim.errors import KeyStoreUnavailable, describe_defect
from shim.keys.azure.key_vault import CALL_BUDGET, UNAVAILABLE, VaultSecrets
from shim.keys.azure.vault_errors import RETRY_LATER, VaultError
from shim.keys.limits import Outage
from shim.keys.secret_state import SecretState, index_of, name_of, stamp_of, subscription_in
from shim.keys.subscription import Subscription
from shim.keys.vault import check_reading
from shim.monitoring.counts import Process

if TYPE_CHECKING:
    from azure.keyvault.secrets import KeyVaultSecret, SecretProperties

# Secrets read at once. At about 20 ms each this is 400 per second, which is what Key Vault allows a vault.
CONCURRENCY = 8
# Seconds after a scan in which an unknown key does not begin another.
RESCAN_INTERVAL = 10.0
# An index that is used after this part of its ttl is refreshed in the background.
REFRESH_AFTER = 0.7
# Seconds for one scan. What it has read by then is kept, and the next one continues.
SCAN_BUDGET = 120.0
LONG_AGO = datetime.min.replace(tzinfo=UTC)
# Ten years: more could exceed what datetime can represent.
MAX_GRACE = 10 * 365 * 86400.0


class ScanKeyStore:
    """An index of the vault's keys by digest, which is its own cache. Times are in seconds.

    * A key that is revoked in the vault is refused after `ttl` at the latest, or RESCAN_INTERVAL after a scan that has
      taken longer than that.
    * While the vault fails, the index stays good for `stale` after it was last complete.
    * An unknown key causes a new scan, RESCAN_INTERVAL after the last one at the earliest; until that is complete,
      and while the vault fails, looking it up raises KeyStoreUnavailable.
    """

    def __init__(
        self,
        secrets: VaultSecrets,
        *,
        prefix: str,
        ttl: float,
        stale: float,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience: float = CALL_BUDGET,
        process: Process | None = None,
    ) -> None:
        self._secrets = secrets
        self._process = process or Process()
        self._prefix = prefix.casefold()
        self._ttl = ttl
        self._stale = max(ttl, stale)
        self._grace = timedelta(seconds=min(grace, MAX_GRACE))
        self._clock = clock
        self._now = now
        self._patience = patience
        self._read: dict[str, SecretState] = {}
        self._index: dict[str, list[Subscription]] = {}
        # When the first scan began; when the last complete one began, and when it ended.
        self._first_at: float | None = None
        self._complete_at: float | None = None
        self._ended_at = -math.inf
        self._scan: asyncio.Task[None] | None = None
        self._outage = Outage(clock)
        self._closed = False

    def peek(self, digest: str) -> Subscription | None:
        """The subscription, if that can be told without waiting; None means that `find` must be called."""
        if found := self._indexed(digest):
            self._process.lookups["cached" if self._age() < self._ttl else "stale"] += 1
        return found

    async def find(self, digest: str) -> Subscription | None:
        """As KeyStore.find. Waits at most `patience` for a scan, which goes on after that."""
        if found := self.peek(digest):
            return found
        try:
            found = await self._scanned(digest)
        except KeyStoreUnavailable:
            self._process.lookups["unavailable"] += 1
            raise
        self._process.lookups["vault" if found else "refused"] += 1
        return found

    def _indexed(self, digest: str) -> Subscription | None:
        """What the index has, while it may be relied on."""
        if digest not in self._index:
            return None
        age = self._age()
        if age >= self._ttl * REFRESH_AFTER:
            if age >= (self._stale if self._outage.lasts else self._ttl):
                return None
            self._begin()
        return self._valid(digest)

    def _valid(self, digest: str) -> Subscription | None:
        """What the index has, however old it is."""
        now = self._now()
        candidates = self._index.get(digest, [])
        return next((candidate for candidate in candidates if candidate.is_valid_at(now)), None)

    async def _scanned(self, digest: str) -> Subscription | None:
        """What a scan finds, or has found just now, though it took longer than `ttl`. Raises KeyStoreUnavailable."""
        if self._has_just_read():
            return self._valid(digest)
        scan = self._begin()
        if scan is not None:
            # Unlike await, wait does not cancel the scan together with this caller.
            await asyncio.wait([scan], timeout=self._patience)
            if found := self._indexed(digest):
                return found
            if scan.done() and self._has_just_read():
                return self._valid(digest)
        raise KeyStoreUnavailable(UNAVAILABLE, retry_after=self._outage.pause or 1)

    async def warm(self) -> None:
        """As KeyStore.warm."""
        await self._secrets.warm()

    async def check(self) -> None:
        """As KeyStore.check: lists secrets, and reads one that does not exist."""
        try:
            async for _ in self._secrets.list():
                break
        except VaultError as failure:
            raise KeyStoreUnavailable(failure.reason, retry_after=failure.retry_after) from None
        await check_reading(self._secrets, self._prefix)

    async def close(self) -> None:
        """Ends a scan in progress."""
        self._closed = True
        if self._scan is not None:
            self._scan.cancel()
            await asyncio.wait([self._scan])
        await self._secrets.close()

    def _age(self) -> float:
        """Seconds since the index was known to be up to date; during the first scan, since that began."""
        since = self._first_at if self._complete_at is None else self._complete_at
        return math.inf if since is None else self._clock() - since

    def _has_just_read(self) -> bool:
        """Whether a key that is missing in the index is missing in the vault, too."""
        return self._clock() < self._ended_at + min(RESCAN_INTERVAL, self._ttl)

    def _begin(self) -> asyncio.Task[None] | None:
        """The scan in progress, or a new one; None if the vault is to be left alone."""
        if self._scan is None and not self._closed and not self._outage.pause:
            self._scan = asyncio.create_task(self._scan_vault())
        return self._scan

    async def _scan_vault(self) -> None:
        begun_at = self._clock()
        self._first_at = begun_at if self._first_at is None else self._first_at
        try:
            async with asyncio.timeout(SCAN_BUDGET):
                await self._read_changes()
        except TimeoutError:
            failure = VaultError(f"Key Vault {self._secrets.url} was not read within {SCAN_BUDGET:g} seconds")
            self._fail(failure, begun_at)
        except VaultError as failure:
            self._fail(failure, begun_at)
        except Exception as defect:
            reason = f"reading the vault failed: {describe_defect(defect)}"
            self._fail(VaultError(reason, retry_after=RETRY_LATER), begun_at)
        else:
            self._process.vault_call(self._clock() - begun_at)
            self._outage.end()
            self._complete_at = begun_at
            self._ended_at = self._clock()
        finally:
            self._index = index_of(self._read.values())
            self._scan = None

    def _fail(self, failure: VaultError, begun_at: float) -> None:
        unavailable = self._secrets.unavailable(failure)
        self._process.vault_call(self._clock() - begun_at, unavailable.code)
        self._outage.begin(unavailable.retry_after)

    async def _read_changes(self) -> None:
        """Updates what is known. Raises VaultError; what could be read before that is kept."""
        listed = [item async for item in self._secrets.list() if self._is_key(item)]
        names = {name_of(item) for item in listed}
        self._read = {name: read for name, read in self._read.items() if name in names}
        items = iter(listed)
        failures: list[VaultError] = []

        async def work() -> None:
            for item in items:
                try:
                    await self._read_secret(item)
                except VaultError as failure:
                    failures.append(failure)
                if failures:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(work())
        if failures:
            raise failures[0]

    def _is_key(self, item: SecretProperties) -> bool:
        # A managed secret is the private key of a certificate. If the latest version is disabled, so are the others.
        return (
            name_of(item).casefold().startswith(self._prefix)
            and item.enabled is not False
            and not item.managed
        )

    async def _read_secret(self, item: SecretProperties) -> None:
        name, stamp = name_of(item), stamp_of(item)
        read = self._read.get(name)
        if read is None or read.stamp != stamp:
            secret = await self._secrets.get(name)
            if secret is None:
                self._read.pop(name, None)
                return
            read = self._read_latest(secret, stamp, {} if read is None else read.versions)
        elif not read.rotating:
            return
        if read.created + self._grace > self._now():
            await self._read_previous(name, read)
        else:
            latest = {read.version: read.versions[read.version]}
            read = replace(read, versions=latest, previous=[], rotating=False)
        self._read[name] = read
        # Indexed before the scan is complete: the first one may take longer than a caller waits.
        for subscription in read.subscriptions():
            self._index.setdefault(subscription.digest, []).append(subscription)

    def _read_latest(
        self,
        secret: KeyVaultSecret,
        stamp: tuple[datetime | None, ...],
        versions: dict[str, Subscription | None],
    ) -> SecretState:
        version = secret.properties.version or ""
        return SecretState(
            stamp=stamp,
            version=version,
            created=secret.properties.created_on or LONG_AGO,
            versions={**versions, version: subscription_in(secret)},
        )

    async def _read_previous(self, name: str, read: SecretState) -> None:
        listed = [item async for item in self._secrets.versions(name)]
        # Times are in whole seconds: among versions of the same second, the latest comes last.
        listed.sort(key=lambda item: (item.version == read.version, item.created_on or LONG_AGO))
        previous = []
        rotating = False
        for older, newer in pairwise(listed):
            ends = (newer.created_on or LONG_AGO) + self._grace
            if ends <= self._now():
                continue
            rotating = True
            if older.enabled is not False and (found := await self._version(name, older, read)):
                expires = min(ends, older.expires_on or ends)
                previous.append(replace(found, not_before=older.not_before, expires=expires))
        read.previous, read.rotating = previous, rotating

    async def _version(self, name: str, item: SecretProperties, read: SecretState) -> Subscription | None:
        version = item.version or ""
        if version not in read.versions:
            secret = await self._secrets.get(name, version)
            if secret is None:
                return None
            read.versions[version] = subscription_in(secret)
        return read.versions[version]
