"""A key store's answers, remembered: known keys wait for nothing, unknown ones cost little."""

import asyncio
import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from shim.errors import KeyStoreUnavailable, describe_defect
from shim.keys.limits import Budget, Outage
from shim.keys.store import KeyStore
from shim.keys.subscription import Subscription

log = logging.getLogger(__name__)

# A known key is about 1 kB, an unknown one about 200 bytes: 100 MB and 3 MB at most.
MAX_KNOWN = 100_000
MAX_UNKNOWN = 16_384
# Seconds for which a digest that no key has is remembered, and so the longest that a key which was tried
# too early stays refused.
UNKNOWN_TTL = 10.0
# A known key is looked up again in the background when it is used and this part of its ttl is over. It is
# drawn anew each time, so that keys which were first seen together are not looked up together for ever.
REFRESH_AFTER = (0.6, 0.8)
# Background lookups at once; a key that finds no place has until the end of its ttl to find one.
MAX_REFRESHES = 32
# Lookups of digests never seen good. Key Vault allows a vault 4,000 GETs in 10 s, that is, 40 instances under
# a flood at 10 per second: https://learn.microsoft.com/azure/key-vault/general/service-limits
# A lookup that finds a key is given back, so that at a cold start only those under way at once count.
UNKNOWN_BURST = 100
UNKNOWN_PER_SECOND = 10.0
# Of those, under way at once: each costs this process some milliseconds, and a burst of them all at once would
# hold up every stream for a second. They wait for their turn so many seconds.
UNKNOWN_AT_ONCE = 2
UNKNOWN_PATIENCE = 5.0
# Seconds.
RETRY_OVER_BUDGET = 1
RETRY_AFTER_DEFECT = 5

BUSY = "The API key could not be checked just now, because too many unknown keys are being tried. Try again."
UNAVAILABLE = "The API key could not be checked just now. Try again."


@dataclass(slots=True)
class _Known:
    """A good answer, and when it is to be asked for again (seconds of the clock)."""

    subscription: Subscription
    refresh_at: float
    fresh_until: float
    stale_until: float


class CachedKeyStore:
    """Remembers the answers of `store` by digest. Times are in seconds.

    * A key that `store` takes back is refused `ttl` after the last good answer at the latest.
    * While `store` fails, known keys stay good for `stale` after their last good answer.
    * Whatever cannot be said raises KeyStoreUnavailable; only an answer of `store` makes a key unknown.

    A lookup belongs to no caller: callers with the same digest share it, and it goes on when they leave.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        ttl: float,
        stale: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_known: int = MAX_KNOWN,
        max_unknown: int = MAX_UNKNOWN,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._stale = max(ttl, stale)
        self._clock = clock
        self._now = now
        self._max_known = max_known
        self._max_unknown = max_unknown
        # Both in the order of use, the least recently used first.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unknown_until: OrderedDict[str, float] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[Subscription | KeyStoreUnavailable | None]] = {}
        self._budget = Budget(burst=UNKNOWN_BURST, per_second=UNKNOWN_PER_SECOND, clock=clock)
        self._turns = asyncio.Semaphore(UNKNOWN_AT_ONCE)
        self._outage = Outage(clock)
        self._closed = False

    def peek(self, digest: str) -> Subscription | None:
        """The subscription, if that can be said without waiting; None means that `find` must be asked."""
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
        return known.subscription

    async def find(self, digest: str) -> Subscription | None:
        """As KeyStore.find."""
        return self.peek(digest) or await self._ask(digest)

    async def warm(self) -> None:
        """As KeyStore.warm."""
        await self._store.warm()

    async def check(self) -> None:
        """As KeyStore.check, and not from memory."""
        await self._store.check()

    async def close(self) -> None:
        """Ends what is under way; its callers are told that the key could not be checked."""
        self._closed = True
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
            self._admit(digest)
            lookup = self._begin(digest)
        # Unlike await, wait does not cancel the lookup together with this caller.
        await asyncio.wait([lookup])
        answer = KeyStoreUnavailable(UNAVAILABLE) if lookup.cancelled() else lookup.result()
        if not isinstance(answer, KeyStoreUnavailable):
            return answer
        if stale := self.peek(digest):
            return stale
        # A new one for every caller: an exception that is raised twice keeps the frames of both.
        raise KeyStoreUnavailable(answer.message, retry_after=answer.retry_after)

    def _is_known_unknown(self, digest: str) -> bool:
        return self._unknown_until.get(digest, -math.inf) > self._clock()

    def _admit(self, digest: str) -> None:
        """Raises KeyStoreUnavailable if the store must not be asked for this digest now."""
        if self._closed:
            raise KeyStoreUnavailable(UNAVAILABLE)
        if pause := self._outage.pause:
            raise KeyStoreUnavailable(UNAVAILABLE, retry_after=pause)
        if digest not in self._known and not self._budget.take():
            raise KeyStoreUnavailable(BUSY, retry_after=RETRY_OVER_BUDGET)

    def _refresh(self, digest: str) -> None:
        under_way = digest in self._lookups or len(self._lookups) >= MAX_REFRESHES
        if not under_way and not self._closed and not self._outage.pause:
            self._begin(digest)

    def _begin(self, digest: str) -> asyncio.Task[Subscription | KeyStoreUnavailable | None]:
        lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest))
        return lookup

    async def _look_up(self, digest: str) -> Subscription | KeyStoreUnavailable | None:
        """Asks the store when it is this digest's turn. A failure is returned: nobody may be left to catch it."""
        try:
            if digest in self._known:
                return await self._consult(digest)
            async with asyncio.timeout(UNKNOWN_PATIENCE) as patience, self._turns:
                patience.reschedule(None)
                # Those before may have found that the store fails.
                if pause := self._outage.pause:
                    return KeyStoreUnavailable(UNAVAILABLE, retry_after=pause)
                return await self._consult(digest)
        except TimeoutError:
            return KeyStoreUnavailable(BUSY, retry_after=RETRY_OVER_BUDGET)
        finally:
            self._lookups.pop(digest, None)

    async def _consult(self, digest: str) -> Subscription | KeyStoreUnavailable | None:
        """Asks the store and remembers."""
        at = self._clock()
        try:
            found = await self._store.find(digest)
        except KeyStoreUnavailable as failure:
            return self._fail(failure)
        except Exception as defect:
            log.error("looking up a key failed: %s", describe_defect(defect))
            return self._fail(KeyStoreUnavailable(UNAVAILABLE, retry_after=RETRY_AFTER_DEFECT))
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
        if digest not in self._known:
            self._budget.give_back()
        # Counted from the question, not from the answer: the key may have been taken back in between.
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
