"""A cache in front of a key store: known keys wait for nothing, unknown ones cost little."""

import asyncio
import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import NamedTuple

from shim.errors import KeyStoreUnavailable, describe_defect
from shim.keys.limits import Budget, Outage
from shim.keys.listing import Listing
from shim.keys.store import ListableKeyStore
from shim.keys.subscription import Subscription
from shim.monitoring.counts import Process

log = logging.getLogger(__name__)

# A known key is about 1 kB, an unknown one about 200 bytes: 100 MB and 3 MB at most.
MAX_KNOWN = 100_000
MAX_UNKNOWN = 16_384
# Seconds for which a digest that no key has is remembered, and so the longest that a key stays refused if it was
# tried before it was added.
UNKNOWN_TTL = 10.0
# A known key is looked up again in the background when it is used after this part of its ttl. The part is drawn
# anew each time, so that keys first seen together are not looked up together for ever.
REFRESH_AFTER = (0.6, 0.8)
# Background lookups at once; a key beyond that is tried again whenever it is used before its ttl ends.
MAX_REFRESHES = 32
# Lookups of digests that are neither known nor listed. Key Vault allows a vault 4,000 calls in 10 s, that is, 40
# instances under a flood at 10 per second, five for lookups and five for listings:
# https://learn.microsoft.com/azure/key-vault/general/service-limits
# A lookup that finds a key is given back, so that at a cold start only those in flight at once count.
UNKNOWN_BURST = 100
UNKNOWN_PER_SECOND = 5.0
# Lookups in flight at once: each costs this process some milliseconds, and a burst of them would hold up every
# stream for a second. They wait this many seconds for their turn.
UNKNOWN_AT_ONCE = 2
LISTED_AT_ONCE = 4
TURN_PATIENCE = 5.0
# Seconds.
RETRY_AFTER_DEFECT = 5

BUSY = "The API key could not be checked just now, because too many unknown keys are being tried. Try again."
UNAVAILABLE = "The API key could not be checked just now. Try again."


class _Known(NamedTuple):
    """A good key, and until when that may be relied on (seconds of the clock)."""

    subscription: Subscription
    refresh_at: float
    fresh_until: float
    stale_until: float


type _Outcome = Subscription | KeyStoreUnavailable | None


class _Lane(NamedTuple):
    """How lookups of one kind are rationed: so many at once, and each from a budget if there is one."""

    turns: AbstractAsyncContextManager[object]
    budget: Budget | None = None


class CachedKeyStore:
    """Remembers what `store` says about each digest. Times are in seconds.

    * A key that is revoked in `store` is refused at most `ttl` after it was last found good.
    * While `store` fails, known keys stay good for `stale` after they were last found good.
    * A failure raises KeyStoreUnavailable; only a response of `store` makes a key unknown.
    * Unknown keys call `store` UNKNOWN_BURST times at once and UNKNOWN_PER_SECOND times a second. Beyond that the keys
      are listed, by at most listing.CALLS_PER_SECOND calls a second, and those that exist are looked up all the same:
      a flood of unknown keys locks none of them out, and costs one more call for each.

    A lookup belongs to no caller: callers with the same digest share it, and it goes on when they disconnect.
    """

    def __init__(
        self,
        store: ListableKeyStore,
        *,
        ttl: float,
        stale: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_known: int = MAX_KNOWN,
        max_unknown: int = MAX_UNKNOWN,
        process: Process | None = None,
    ) -> None:
        self._store = store
        self._process = process or Process()
        self._ttl = ttl
        self._stale = max(ttl, stale)
        self._clock = clock
        self._now = now
        self._max_known = max_known
        self._max_unknown = max_unknown
        # Both in the order of use, the least recently used first.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unknown_until: OrderedDict[str, float] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[_Outcome]] = {}
        self._refreshes: set[str] = set()
        self._budget = Budget(burst=UNKNOWN_BURST, per_second=UNKNOWN_PER_SECOND, clock=clock)
        self._listing = Listing(store.digest_pages, clock=clock)
        self._known_lane = _Lane(nullcontext())
        self._listed_lane = _Lane(asyncio.Semaphore(LISTED_AT_ONCE))
        self._unknown_lane = _Lane(asyncio.Semaphore(UNKNOWN_AT_ONCE), self._budget)
        self._outage = Outage(clock)
        self._closed = False

    def peek(self, digest: str) -> Subscription | None:
        """The subscription, if that can be told without waiting; None means that `find` must be called."""
        known = self._known.get(digest)
        if known is None:
            return None
        at = self._clock()
        if at >= known.refresh_at:
            if at >= (known.stale_until if self._outage.lasts else known.fresh_until):
                return None
            self._refresh(digest)
        if not known.subscription.is_valid_at(self._now()):
            return None
        self._known.move_to_end(digest)
        self._process.lookups["cached" if at < known.fresh_until else "stale"] += 1
        return known.subscription

    async def find(self, digest: str) -> Subscription | None:
        """As KeyStore.find."""
        if known := self.peek(digest):
            return known
        try:
            found = await self._ask(digest)
        except KeyStoreUnavailable:
            if stale := self.peek(digest):
                return stale
            self._process.lookups["unavailable"] += 1
            raise
        self._process.lookups["vault" if found else "refused"] += 1
        return found

    async def warm(self) -> None:
        """As KeyStore.warm."""
        await self._store.warm()

    async def check(self) -> None:
        """As KeyStore.check, and not from memory."""
        await self._store.check()

    async def close(self) -> None:
        """Ends what is in flight; its callers are told that the key could not be checked."""
        self._closed = True
        await self._listing.close()
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        if lookups:
            await asyncio.wait(lookups)
        await self._store.close()

    async def _ask(self, digest: str) -> Subscription | None:
        lookup = self._lookups.get(digest)
        if lookup is None:
            if self._is_known_unknown(digest):
                return None
            self._refuse_while_unavailable()
            lane = self._lane_of(digest)
            if lane is None:
                if await self._listing.finds(digest):
                    return self.peek(digest) or await self._ask(digest)
                raise KeyStoreUnavailable(BUSY, retry_after=self._listing.retry_after)
            lookup = self._begin(digest, lane)
        # Unlike await, wait does not cancel the lookup together with this caller.
        await asyncio.wait([lookup])
        outcome = KeyStoreUnavailable(UNAVAILABLE) if lookup.cancelled() else lookup.result()
        if not isinstance(outcome, KeyStoreUnavailable):
            return outcome
        # A new one for every caller: an exception that is raised twice keeps the frames of both.
        raise KeyStoreUnavailable(outcome.message, retry_after=outcome.retry_after)

    def _is_known_unknown(self, digest: str) -> bool:
        return self._unknown_until.get(digest, -math.inf) > self._clock()

    def _refuse_while_unavailable(self) -> None:
        """Raises KeyStoreUnavailable if the store must not be called now."""
        if self._closed:
            raise KeyStoreUnavailable(UNAVAILABLE)
        if pause := self._outage.pause:
            raise KeyStoreUnavailable(UNAVAILABLE, retry_after=pause)

    def _lane_of(self, digest: str) -> _Lane | None:
        """How this digest may be looked up now; None if it is not known to exist, and the budget is spent."""
        if digest in self._known:
            return self._known_lane
        if digest in self._listing:
            return self._listed_lane
        return self._unknown_lane if self._budget.take() else None

    def _refresh(self, digest: str) -> None:
        if digest in self._lookups or len(self._refreshes) >= MAX_REFRESHES:
            return
        if not self._closed and not self._outage.pause:
            self._refreshes.add(digest)
            self._begin(digest, self._known_lane)

    def _begin(self, digest: str, lane: _Lane) -> asyncio.Task[_Outcome]:
        lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest, lane))
        return lookup

    async def _look_up(self, digest: str, lane: _Lane) -> _Outcome:
        """Asks the store when it is this digest's turn. A failure is returned: nobody may be left to catch it."""
        spent = False
        try:
            async with asyncio.timeout(TURN_PATIENCE) as patience, lane.turns:
                patience.reschedule(None)
                # An earlier lookup may have found that the store fails.
                if pause := self._outage.pause:
                    return KeyStoreUnavailable(UNAVAILABLE, retry_after=pause)
                outcome = await self._consult(digest)
                spent = not isinstance(outcome, Subscription)
                return outcome
        except TimeoutError:
            return KeyStoreUnavailable(BUSY, retry_after=self._listing.retry_after)
        finally:
            if lane.budget is not None and not spent:
                lane.budget.give_back()
            self._lookups.pop(digest, None)
            self._refreshes.discard(digest)

    async def _consult(self, digest: str) -> _Outcome:
        """Asks the store, and remembers what it says."""
        at = self._clock()
        try:
            found = await self._store.find(digest)
        except KeyStoreUnavailable as failure:
            self._process.vault_call(self._clock() - at, failure.code)
            return self._fail(failure)
        except Exception as defect:
            log.error("looking up a key failed: %s", describe_defect(defect))
            self._process.vault_call(self._clock() - at, "defect")
            return self._fail(KeyStoreUnavailable(UNAVAILABLE, retry_after=RETRY_AFTER_DEFECT))
        self._process.vault_call(self._clock() - at)
        self._outage.end()
        if found is not None and found.is_valid_at(self._now()):
            self._remember_known(digest, found, at)
            return found
        self._remember_unknown(digest)
        return None

    def _fail(self, failure: KeyStoreUnavailable) -> KeyStoreUnavailable:
        self._outage.begin(failure.retry_after)
        return failure

    def _remember_known(self, digest: str, subscription: Subscription, at: float) -> None:
        # Counted from the request, not from the response: the key may have been revoked in between.
        self._known[digest] = _Known(
            subscription,
            refresh_at=at + self._ttl * random.uniform(*REFRESH_AFTER),  # noqa: S311 - spreads load, guards nothing
            fresh_until=at + self._ttl,
            stale_until=at + self._stale,
        )
        self._known.move_to_end(digest)
        self._unknown_until.pop(digest, None)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def _remember_unknown(self, digest: str) -> None:
        self._known.pop(digest, None)
        self._unknown_until[digest] = self._clock() + UNKNOWN_TTL
        self._unknown_until.move_to_end(digest)
        if len(self._unknown_until) > self._max_unknown:
            self._unknown_until.popitem(last=False)
