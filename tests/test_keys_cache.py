"""The cache in front of the vault: what it remembers and for how long, and what a flood of unknown keys costs.

It decides whether a revoked key is refused in time, and whether a good one gets in while the vault fails.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from devhost.azure.vault import START, Clock
from shim.errors import KeyStoreUnavailable
from shim.keys import cache, limits, listing
from shim.keys.cache import CachedKeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.monitoring.counts import Process
from tests.conftest import ROOT
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time, settle

TTL = 300.0
STALE = 3600.0
GOOD = digest_of("good key")
UNAVAILABLE = "The API key could not be checked just now. Try again."
BUSY = "The API key could not be checked just now, because too many unknown keys are being tried. Try again."
# Of a list, as in Key Vault.
PAGE = 25


class Script:
    """A key store that holds what tests put into it, waits where they say, and counts."""

    def __init__(self) -> None:
        self.held: dict[str, Subscription] = {}
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.listings = self.listed = 0
        self.list_failure: Exception | None = None
        self.list_gate = asyncio.Event()
        self.list_gate.set()
        self.closed = self.warmed = False

    def hold(
        self, digest: str, *, expires: datetime | None = None, not_before: datetime | None = None
    ) -> Subscription:
        subscription = Subscription(
            digest=digest, key="key", label=digest[:4], expires=expires, not_before=not_before
        )
        self.held[digest] = subscription
        return subscription

    def hold_many(self, count: int) -> list[str]:
        """Holds so many good keys, and gives their digests."""
        digests = [digest_of(f"good {number}") for number in range(count)]
        for digest in digests:
            self.hold(digest)
        return digests

    async def find(self, digest: str) -> Subscription | None:
        self.asked.append(digest)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.held.get(digest)

    async def digest_pages(self) -> AsyncIterator[list[str]]:
        held = sorted(self.held)
        self.listings += 1
        for start in range(0, max(1, len(held)), PAGE):
            self.listed += 1
            await self.list_gate.wait()
            if self.list_failure is not None:
                raise self.list_failure
            yield held[start : start + PAGE]

    async def warm(self) -> None:
        self.warmed = True

    async def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def cached(
    script: Script, clock: Clock, *, ttl: float = TTL, max_known: int = 100, max_unknown: int = 100
) -> AsyncIterator[CachedKeyStore]:
    store = CachedKeyStore(
        script,
        ttl=ttl,
        stale=STALE,
        clock=clock,
        now=clock.now,
        max_known=max_known,
        max_unknown=max_unknown,
    )
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def script() -> Script:
    return Script()


def unavailable(retry_after: int = 5) -> KeyStoreUnavailable:
    return KeyStoreUnavailable("the store is away", retry_after=retry_after)


def test_documented_bounds_are_the_bounds() -> None:
    text = " ".join((ROOT / "docs" / "keys.md").read_text().split())
    for words in (
        f"remembered as unknown for {cache.UNKNOWN_TTL:g} seconds",
        f"spend a budget: {cache.UNKNOWN_BURST} at once and five a second",
        f"holds at most {cache.MAX_KNOWN:,} known and {cache.MAX_UNKNOWN:,} unknown keys",
        f"list of digests holds at most {listing.MAX_LISTED:,}",
    ):
        assert words in text
    assert (cache.UNKNOWN_PER_SECOND, listing.CALLS_PER_SECOND) == (5, 5)


async def test_known_key_is_looked_up_once(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        assert [await store.find(GOOD) for _ in range(100)] == [subscription] * 100
        assert script.asked == [GOOD]


async def test_known_key_is_answered_without_waiting_for_the_event_loop(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        with pytest.raises(StopIteration) as finished:
            store.find(GOOD).send(None)
        assert finished.value.value is subscription
        assert store.peek(GOOD) is subscription


async def test_peek_says_nothing_of_a_key_that_was_never_looked_up(script: Script, clock: Clock) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        assert store.peek(GOOD) is None
        assert script.asked == []


async def test_known_key_is_refreshed_in_the_background_before_its_ttl_ends(
    script: Script, clock: Clock
) -> None:
    before = script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        clock.advance(TTL * cache.REFRESH_AFTER[0] - 1)
        await store.find(GOOD)
        await settle()
        assert len(script.asked) == 1

        script.gate.clear()
        after = script.hold(GOOD)
        clock.advance(TTL * (cache.REFRESH_AFTER[1] - cache.REFRESH_AFTER[0]) + 1)
        # Nothing is awaited here that the closed gate could hold up.
        assert [await store.find(GOOD) for _ in range(10)] == [before] * 10
        await settle()
        assert len(script.asked) == 2

        script.gate.set()
        await settle()
        assert await store.find(GOOD) is after


async def test_revoked_key_is_refused_when_its_ttl_ends_even_if_nobody_used_it(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        del script.held[GOOD]
        clock.advance(TTL)
        assert await store.find(GOOD) is None


async def test_revoked_key_is_refused_once_a_refresh_has_said_so(script: Script, clock: Clock) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        del script.held[GOOD]
        clock.advance(TTL * cache.REFRESH_AFTER[1])
        await store.find(GOOD)
        await settle()
        assert await store.find(GOOD) is None


async def test_ttl_counts_from_the_question_since_a_revocation_may_pass_the_answer(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        script.gate.clear()
        lookup = asyncio.create_task(store.find(GOOD))
        await settle()
        clock.advance(4)
        script.gate.set()
        await lookup
        del script.held[GOOD]
        clock.advance(TTL - 4)
        assert await store.find(GOOD) is None


async def test_known_key_stays_good_while_the_store_fails_and_no_longer_than_stale(
    script: Script, clock: Clock
) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        script.failure = unavailable()
        while clock.at < 1000 + STALE - 10:
            clock.advance(10)
            assert await store.find(GOOD) is subscription
            await settle()
        clock.advance(10)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(GOOD)


async def test_failing_store_holds_up_only_the_first_caller_after_the_ttl(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    others = script.hold_many(20)
    async with cached(script, clock) as store:
        for digest in (GOOD, *others):
            await store.find(digest)
        clock.advance(TTL)
        script.failure = unavailable()
        assert await store.find(GOOD)
        script.gate.clear()
        assert all([await store.find(digest) for digest in others])


async def test_answer_older_than_ttl_is_not_used_for_an_outage_long_past(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        script.failure = unavailable()
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("another"))
        script.failure = None
        del script.held[GOOD]
        clock.advance(TTL + limits.OUTAGE_MEMORY)
        assert await store.find(GOOD) is None


async def test_key_is_refused_soon_after_an_outage_if_it_was_revoked_meanwhile(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        script.failure = unavailable(retry_after=5)
        clock.advance(TTL)
        assert await store.find(GOOD)
        script.failure = None
        del script.held[GOOD]
        clock.advance(5)
        await store.find(GOOD)
        await settle()
        assert await store.find(GOOD) is None


async def test_unknown_key_is_never_refused_while_the_store_fails(script: Script, clock: Clock) -> None:
    script.failure = unavailable(retry_after=7)
    async with cached(script, clock) as store:
        with pytest.raises(KeyStoreUnavailable) as first:
            await store.find(GOOD)
        assert first.value.retry_after == 7
        clock.advance(3)
        with pytest.raises(KeyStoreUnavailable) as second:
            await store.find(GOOD)
        assert (second.value.message, second.value.retry_after) == (UNAVAILABLE, 4)


async def test_key_that_was_unknown_just_now_is_unknown_though_the_store_fails(
    script: Script, clock: Clock
) -> None:
    async with cached(script, clock) as store:
        assert await store.find(GOOD) is None
        script.failure = unavailable()
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("another"))
        assert await store.find(GOOD) is None


async def test_failing_store_is_left_alone_for_as_long_as_it_asks(script: Script, clock: Clock) -> None:
    script.failure = unavailable(retry_after=20)
    async with cached(script, clock) as store:
        for number in range(50):
            with pytest.raises(KeyStoreUnavailable):
                await store.find(digest_of(f"key {number}"))
        assert len(script.asked) == 1
        script.failure = None
        subscription = script.hold(GOOD)
        clock.advance(20)
        assert await store.find(GOOD) is subscription


async def test_store_that_asks_for_an_hour_is_asked_again_after_a_minute(
    script: Script, clock: Clock
) -> None:
    script.failure = unavailable(retry_after=3600)
    async with cached(script, clock) as store:
        with pytest.raises(KeyStoreUnavailable):
            await store.find(GOOD)
        script.failure = None
        script.hold(GOOD)
        clock.advance(limits.MAX_PAUSE)
        assert await store.find(GOOD)


async def test_known_key_stays_good_for_as_long_as_the_store_asks_to_be_left_alone(
    script: Script, clock: Clock
) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        clock.advance(TTL)
        script.failure = unavailable(retry_after=3600)
        assert await store.find(GOOD) is subscription
        asked = len(script.asked)
        clock.advance(limits.MAX_PAUSE - 1)
        assert limits.MAX_PAUSE - 1 > limits.OUTAGE_MEMORY
        assert await store.find(GOOD) is subscription
        await settle()
        assert len(script.asked) == asked


async def test_unknown_key_is_remembered_for_a_short_time(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        assert [await store.find(GOOD) for _ in range(10)] == [None] * 10
        assert len(script.asked) == 1
        script.hold(GOOD)
        clock.advance(cache.UNKNOWN_TTL)
        assert await store.find(GOOD)


async def test_memory_of_unknown_keys_is_bounded_and_forgets_the_oldest(script: Script, clock: Clock) -> None:
    digests = [digest_of(f"unknown {number}") for number in range(4)]
    async with cached(script, clock, max_unknown=3) as store:
        for digest in digests:
            assert await store.find(digest) is None
        script.asked.clear()
        for digest in (*digests[1:], digests[0]):
            assert await store.find(digest) is None
        assert script.asked == [digests[0]]


async def test_unknown_key_that_is_tried_again_is_not_the_first_to_be_forgotten(
    script: Script, clock: Clock
) -> None:
    first, second, third = (digest_of(f"unknown {number}") for number in range(3))
    async with cached(script, clock, max_unknown=2) as store:
        await store.find(first)
        clock.advance(cache.UNKNOWN_TTL / 2)
        await store.find(second)
        clock.advance(cache.UNKNOWN_TTL / 2)
        await store.find(first)
        await store.find(third)
        script.asked.clear()
        await store.find(first)
        assert script.asked == []


async def test_memory_of_known_keys_is_bounded_and_forgets_the_least_used(
    script: Script, clock: Clock
) -> None:
    first, second, third = script.hold_many(3)
    async with cached(script, clock, max_known=2) as store:
        for digest in (first, second, first, third):
            assert await store.find(digest)
        assert store.peek(first) is not None
        assert store.peek(second) is None


async def test_flood_of_unknown_keys_spends_a_bounded_number_of_lookups(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        script.asked.clear()
        refused = delayed = 0
        for number in range(5000):
            clock.advance(0.002)
            try:
                assert await store.find(digest_of(f"flood {number}")) is None
                refused += 1
            except KeyStoreUnavailable as error:
                delayed += 1 <= error.retry_after <= listing.MIN_INTERVAL
            assert await store.find(GOOD) is subscription
        in_ten_seconds = cache.UNKNOWN_BURST + 10 * cache.UNKNOWN_PER_SECOND
        assert in_ten_seconds - 1 <= len(script.asked) <= in_ten_seconds
        assert refused == len(script.asked)
        assert delayed == 5000 - refused
        assert script.listed == 1


async def test_lookups_of_new_keys_take_turns_and_a_refresh_does_not_wait_for_its(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        assert await store.find(GOOD)
        script.gate.clear()
        waiting = [
            asyncio.create_task(store.find(digest_of(f"new {number}")))
            for number in range(2 * cache.MAX_REFRESHES)
        ]
        await settle()
        assert len(script.asked) == 1 + cache.UNKNOWN_AT_ONCE
        clock.advance(0.9 * TTL)
        assert store.peek(GOOD)
        await settle()
        assert script.asked[-1] == GOOD
        script.failure = KeyStoreUnavailable("down", retry_after=7)
        script.gate.set()
        refusals = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(refusal) for refusal in refusals} == {KeyStoreUnavailable}
        assert {refusal.retry_after for refusal in refusals if isinstance(refusal, KeyStoreUnavailable)} == {
            7
        }
        # Those whose turn came after the failure left the store alone.
        assert len(script.asked) == 2 + cache.UNKNOWN_AT_ONCE
        # And what they had not spent is there when it can be asked again.
        script.failure = None
        clock.advance(7)
        script.asked.clear()
        await flood(store, clock)
        assert len(script.asked) == 100


def test_a_lookup_whose_turn_does_not_come_within_five_seconds_spends_nothing_and_may_be_tried_again() -> (
    None
):
    async def scenario(loop: VirtualLoop) -> None:
        script, clock = Script(), Clock()
        async with cached(script, clock) as store:
            script.gate.clear()
            asking = [asyncio.create_task(store.find(digest_of(f"new {number}"))) for number in range(3)]
            await loop.pass_until(0)
            await loop.pass_until(4.75)
            assert not any(task.done() for task in asking)
            await loop.pass_until(5)
            await settle()
            # Those whose turn has come wait for the store alone.
            assert [task.done() for task in asking] == [False, False, True]
            refusal = asking[2].exception()
            assert isinstance(refusal, KeyStoreUnavailable)
            assert (refusal.message, refusal.retry_after) == (BUSY, 1)
            await loop.pass_until(60)
            script.gate.set()
            await settle()
            assert [task.result() for task in asking[:2]] == [None, None]
            assert len(script.asked) == 2
            await flood(store, clock)
            assert len(script.asked) == 100

    run_in_virtual_time(scenario)


async def test_listed_keys_are_looked_up_four_at_once(script: Script, clock: Clock) -> None:
    digests = script.hold_many(10)
    async with cached(script, clock) as store:
        await spend_budget(store)
        script.asked.clear()
        script.gate.clear()
        asking = [asyncio.create_task(store.find(digest)) for digest in digests]
        await settle()
        assert len(script.asked) == 4
        script.gate.set()
        assert all(await asyncio.gather(*asking))


async def spend_budget(store: CachedKeyStore) -> None:
    for number in range(cache.UNKNOWN_BURST):
        assert await store.find(digest_of(f"flood {number}")) is None


async def test_good_key_in_a_flood_is_found_by_listing_the_keys_once(script: Script, clock: Clock) -> None:
    digests = script.hold_many(60)
    async with cached(script, clock) as store:
        await spend_budget(store)
        assert script.listed == 0
        script.asked.clear()
        assert all([await store.find(digest) for digest in digests])
        assert script.asked == digests
        assert (script.listings, script.listed) == (1, 3)


async def test_key_that_is_added_in_a_flood_is_accepted_when_its_retry_after_is_over(
    script: Script, clock: Clock
) -> None:
    async with cached(script, clock) as store:
        await spend_budget(store)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("one more"))
        subscription = script.hold(GOOD)
        with pytest.raises(KeyStoreUnavailable) as refused:
            await store.find(GOOD)
        assert refused.value.retry_after <= listing.MIN_INTERVAL
        clock.advance(refused.value.retry_after - 1)
        await flood(store, clock)
        clock.advance(1)
        await flood(store, clock)
        await settle()
        assert script.listings == 2
        assert await store.find(GOOD) is subscription


async def flood(store: CachedKeyStore, clock: Clock) -> None:
    """Spends what has come into the budget by now, and tries one more."""
    for number in range(cache.UNKNOWN_BURST + 1):
        with contextlib.suppress(KeyStoreUnavailable):
            await store.find(digest_of(f"flood at {clock.at}, {number}"))


async def test_callers_wait_for_the_first_listing_and_for_no_later_one(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        await spend_budget(store)
        script.list_gate.clear()
        good = asyncio.create_task(store.find(GOOD))
        unknown = asyncio.create_task(store.find(digest_of("unknown")))
        await settle()
        assert not good.done()
        script.list_gate.set()
        assert await good is subscription
        with pytest.raises(KeyStoreUnavailable) as refused:
            await unknown
        assert refused.value.message == BUSY
        clock.advance(listing.MIN_INTERVAL)
        script.list_gate.clear()
        flooding = asyncio.create_task(flood(store, clock))
        for _ in range(cache.UNKNOWN_BURST):
            await settle()
        assert flooding.done()
        assert script.listings == 2


async def test_key_on_an_early_page_does_not_wait_for_the_last(script: Script, clock: Clock) -> None:
    digests = sorted(script.hold_many(2 * PAGE))
    async with cached(script, clock) as store:
        await spend_budget(store)
        script.list_gate.clear()
        first, last = (asyncio.create_task(store.find(digests[index])) for index in (0, -1))
        await settle()
        script.list_gate.set()
        await settle()
        script.list_gate.clear()
        assert await first
        script.list_gate.set()
        assert await last


async def test_long_list_is_read_less_often_so_that_its_calls_are_few_in_the_long_run(
    script: Script, clock: Clock
) -> None:
    script.hold_many(5000)
    async with cached(script, clock) as store:
        for _ in range(600):
            clock.advance(1)
            await flood(store, clock)
            await settle()
        assert script.listed <= 600 * listing.CALLS_PER_SECOND + 5000 / PAGE
        assert script.listings == 15


async def test_store_that_may_not_be_listed_is_asked_within_the_budget_all_the_same(
    script: Script, clock: Clock
) -> None:
    subscription = script.hold(GOOD)
    script.list_failure = unavailable()
    async with cached(script, clock) as store:
        await spend_budget(store)
        for _ in range(10):
            with pytest.raises(KeyStoreUnavailable) as refused:
                await store.find(GOOD)
        assert refused.value.retry_after == 1
        assert script.listings == 1
        # A list that fails is no outage: lookups go on.
        clock.advance(1 / cache.UNKNOWN_PER_SECOND)
        assert await store.find(GOOD) is subscription
        clock.advance(listing.RETRY_AFTER_FAILURE)
        await flood(store, clock)
        assert script.listings == 2


async def test_defect_in_a_listing_is_logged_without_its_message(
    script: Script, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    script.list_failure = RuntimeError(f"cannot list {GOOD}")
    async with cached(script, clock) as store:
        await spend_budget(store)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(GOOD)
    assert "RuntimeError in Script.digest_pages" in caplog.text
    assert GOOD[:9] not in caplog.text


async def test_close_ends_a_listing_and_tells_those_who_wait(script: Script, clock: Clock) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await spend_budget(store)
        script.list_gate.clear()
        waiting = asyncio.create_task(store.find(GOOD))
        await settle()
    await settle()
    assert isinstance(waiting.exception(), KeyStoreUnavailable)


async def test_listed_key_that_is_no_longer_good_is_refused(script: Script, clock: Clock) -> None:
    script.hold(GOOD, expires=START)
    async with cached(script, clock) as store:
        await spend_budget(store)
        assert await store.find(GOOD) is None
        assert await store.find(GOOD) is None
        assert script.asked.count(GOOD) == 1


async def test_size_of_a_listing_is_bounded() -> None:
    async def pages() -> AsyncIterator[list[str]]:
        yield [digest_of(f"key {number}") for number in range(10)]

    known = listing.Listing(pages, clock=Clock(), max_listed=4)
    assert [await known.finds(digest_of(f"key {number}")) for number in range(10)] == [True] * 4 + [False] * 6
    await known.close()


async def test_number_of_those_who_wait_is_bounded(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        await spend_budget(store)
        script.list_gate.clear()
        waiting = [
            asyncio.create_task(store.find(digest_of(f"waiting {number}")))
            for number in range(listing.MAX_WAITING)
        ]
        await settle()
        assert not any(task.done() for task in waiting)
        one_too_many = asyncio.create_task(store.find(digest_of("one too many")))
        await settle()
        assert isinstance(one_too_many.exception(), KeyStoreUnavailable)
        script.list_gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)


# The budget.


def test_budget_holds_no_more_than_its_brim_however_long_it_was_left_alone() -> None:
    clock = Clock()
    budget = limits.Budget(burst=3, per_second=2, clock=clock)
    clock.advance(1000)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [budget.take() for _ in range(2)] == [True, False]


def test_refund_fills_the_budget_by_one_and_not_over_its_brim() -> None:
    budget = limits.Budget(burst=3, per_second=2, clock=Clock())
    budget.give_back()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.give_back()
    assert [budget.take() for _ in range(2)] == [True, False]


async def test_only_lookups_that_find_no_good_key_are_spent(script: Script, clock: Clock) -> None:
    async with cached(script, clock, max_known=1000) as store:
        for number in range(cache.UNKNOWN_BURST - 1):
            await store.find(digest_of(f"flood {number}"))
        # One is left, and each of these takes it and gives it back.
        for number in range(10):
            script.hold(digest_of(f"good {number}"))
            assert await store.find(digest_of(f"good {number}"))
        assert script.listings == 0
        assert await store.find(digest_of("the last")) is None
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("beyond"))
        assert script.listings == 1


async def test_listed_key_gives_back_nothing_since_it_took_nothing(script: Script, clock: Clock) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await spend_budget(store)
        assert await store.find(GOOD)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("beyond"))


async def test_failed_lookups_are_spent(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        for number in range(cache.UNKNOWN_BURST - 1):
            await store.find(digest_of(f"flood {number}"))
        script.failure = unavailable(retry_after=0)
        with pytest.raises(KeyStoreUnavailable, match="away"):
            await store.find(digest_of("the last"))
        script.failure = None
        clock.advance(1)
        script.asked.clear()
        await flood(store, clock)
        assert len(script.asked) == cache.UNKNOWN_PER_SECOND


# A flood, as it is.


class Network(Clock):
    """Simulated time in which calls to the store take a while."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def sleep(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().create_future()
        heapq.heappush(self._timers, (self.at + seconds, next(self._numbers), timer))
        await timer

    async def pass_time(self, seconds: float) -> None:
        self.advance(seconds)
        while self._timers and self._timers[0][0] <= self.at:
            timer = heapq.heappop(self._timers)[2]
            if not timer.done():
                timer.set_result(None)
        await settle()


class SlowScript(Script):
    """Answers each call after 20 ms, as Key Vault does."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    async def find(self, digest: str) -> Subscription | None:
        await self._network.sleep(0.02)
        return await super().find(digest)

    async def digest_pages(self) -> AsyncIterator[list[str]]:
        async for page in super().digest_pages():
            await self._network.sleep(0.02)
            yield page


async def test_a_thousand_unknown_keys_a_second_lock_no_good_key_out() -> None:
    network = Network()
    script = SlowScript(network)
    good = script.hold_many(5000)[:150]  # the others are idle
    async with cached(script, network, max_known=1000) as store:
        unknown: set[asyncio.Task[Subscription | None]] = set()
        tried = []
        # 15 s at 1 ms; a good key, never seen before, every 100 ms.
        for number in range(15_000):
            unknown.add(asyncio.create_task(store.find(digest_of(f"flood {number}"))))
            if number % 100 == 0:
                tried.append(asyncio.create_task(store.find(good[number // 100])))
            await network.pass_time(0.001)
        for _ in range(5000):
            await network.pass_time(0.001)
        accepted = [task for task in tried if task.exception() is None and task.result() is not None]
        refusals = [task.exception() for task in unknown]
        looked_up = [digest for digest in script.asked if digest not in good]
    assert len(accepted) >= 149
    assert len(looked_up) <= cache.UNKNOWN_BURST + 20 * cache.UNKNOWN_PER_SECOND
    assert len(script.asked) - len(looked_up) == 150
    assert script.listed == 200
    # Whatever is not known to be unknown is told to try again.
    assert sum(refusal is None for refusal in refusals) == len(looked_up)


async def test_known_keys_are_refreshed_though_a_flood_has_spent_the_budget(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        clock.advance(TTL)
        for number in range(cache.UNKNOWN_BURST):
            await store.find(digest_of(f"flood {number}"))
        assert await store.find(GOOD)


async def test_good_keys_of_a_cold_start_spend_no_budget(script: Script, clock: Clock) -> None:
    digests = script.hold_many(cache.UNKNOWN_BURST * 5)
    async with cached(script, clock, max_known=1000) as store:
        for digest in digests:
            assert await store.find(digest)


async def test_thousand_callers_with_one_new_key_share_one_lookup(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    script.gate.clear()
    async with cached(script, clock) as store:
        callers = [asyncio.create_task(store.find(GOOD)) for _ in range(1000)]
        await settle()
        script.gate.set()
        assert await asyncio.gather(*callers) == [subscription] * 1000
        assert script.asked == [GOOD]


async def test_callers_of_a_lookup_that_fails_get_an_error_each(script: Script, clock: Clock) -> None:
    script.failure = unavailable()
    async with cached(script, clock) as store:
        errors = await asyncio.gather(*(store.find(GOOD) for _ in range(10)), return_exceptions=True)
        assert {type(error) for error in errors} == {KeyStoreUnavailable}
        assert len({id(error) for error in errors}) == 10
        assert script.asked == [GOOD]


async def test_cancelled_caller_does_not_cancel_the_lookup_of_the_others(
    script: Script, clock: Clock
) -> None:
    subscription = script.hold(GOOD)
    script.gate.clear()
    async with cached(script, clock) as store:
        first, *others = [asyncio.create_task(store.find(GOOD)) for _ in range(3)]
        await settle()
        first.cancel()
        await asyncio.wait([first])
        script.gate.set()
        assert await asyncio.gather(*others) == [subscription] * 2
        assert first.cancelled()
        assert script.asked == [GOOD]


async def test_lookup_goes_on_and_is_remembered_when_all_its_callers_have_left(
    script: Script, clock: Clock
) -> None:
    subscription = script.hold(GOOD)
    script.gate.clear()
    async with cached(script, clock) as store:
        caller = asyncio.create_task(store.find(GOOD))
        await settle()
        caller.cancel()
        await asyncio.wait([caller])
        script.gate.set()
        await settle()
        assert store.peek(GOOD) is subscription


async def test_expiry_of_a_remembered_key_is_checked_at_each_use(script: Script, clock: Clock) -> None:
    script.hold(GOOD, expires=START + timedelta(seconds=60))
    async with cached(script, clock) as store:
        clock.advance(59)
        assert await store.find(GOOD)
        clock.advance(1)
        assert store.peek(GOOD) is None
        assert await store.find(GOOD) is None


async def test_renewed_key_is_good_again_at_once(script: Script, clock: Clock) -> None:
    script.hold(GOOD, expires=START + timedelta(seconds=60))
    async with cached(script, clock) as store:
        await store.find(GOOD)
        renewed = script.hold(GOOD, expires=START + timedelta(days=1))
        clock.advance(60)
        assert await store.find(GOOD) is renewed


async def test_key_is_unknown_before_its_time(script: Script, clock: Clock) -> None:
    script.hold(GOOD, not_before=START + timedelta(seconds=60))
    async with cached(script, clock) as store:
        assert await store.find(GOOD) is None
        clock.advance(60)
        assert await store.find(GOOD)


async def test_refresh_begins_between_three_and_four_fifths_of_the_ttl(script: Script, clock: Clock) -> None:
    digests = script.hold_many(30)
    async with cached(script, clock) as store:
        for digest in digests:
            await store.find(digest)
        script.asked.clear()
        for part, refreshes in ((0.599, False), (0.7, True)):
            clock.at = 1000 + TTL * part
            for digest in digests:
                assert await store.find(digest)
            await settle()
            # Of thirty moments drawn from that part of the ttl, one lies in its first half.
            assert bool(script.asked) is refreshes
        clock.at = 1000 + TTL * 0.8
        for digest in digests:
            assert store.peek(digest)
        await settle()
        assert sorted(script.asked) == sorted(digests)


async def test_calls_to_the_store_are_timed_by_what_came_of_them(script: Script, clock: Clock) -> None:
    process = Process()
    slow = itertools.count(1)

    class Slow(Script):
        async def find(self, digest: str) -> Subscription | None:
            clock.advance(next(slow))
            return await super().find(digest)

    script = Slow()
    store = CachedKeyStore(script, ttl=TTL, stale=STALE, clock=clock, now=clock.now, process=process)
    await store.find(digest_of("one"))
    for failure in (unavailable(retry_after=1), RuntimeError("a defect")):
        script.failure = failure
        clock.advance(60)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of(str(failure)))
    await store.close()
    assert {fault: calls.sum for fault, calls in process.vault.items()} == {
        "": 1,
        "key_store_unavailable": 2,
        "defect": 3,
    }


async def test_lookups_are_counted_by_where_they_were_answered(script: Script, clock: Clock) -> None:
    process = Process()
    script.hold(GOOD)
    store = CachedKeyStore(script, ttl=TTL, stale=STALE, clock=clock, now=clock.now, process=process)
    for _ in range(3):
        await store.find(GOOD)
    assert process.lookups == {"vault": 1, "cached": 2}
    await store.find(digest_of("unknown"))
    await store.find(digest_of("unknown"))
    assert process.lookups == {"vault": 1, "cached": 2, "refused": 2}
    script.failure = unavailable(retry_after=60)
    clock.advance(TTL)  # no longer fresh, and only while the store fails still good
    for _ in range(2):
        await store.find(GOOD)
    for _ in range(2):
        with pytest.raises(KeyStoreUnavailable):
            await store.find(digest_of("another"))
    await store.close()
    assert process.lookups == {"vault": 1, "cached": 2, "refused": 2, "stale": 2, "unavailable": 2}


async def test_nothing_is_refreshed_once_the_store_is_closed(script: Script, clock: Clock) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
    clock.advance(TTL * 0.9)
    assert store.peek(GOOD)
    await settle()
    assert script.asked == [GOOD]


async def test_background_refreshes_are_bounded(script: Script, clock: Clock) -> None:
    digests = script.hold_many(cache.MAX_REFRESHES * 2)
    async with cached(script, clock) as store:
        for digest in digests:
            await store.find(digest)
        script.asked.clear()
        script.gate.clear()
        clock.advance(TTL * cache.REFRESH_AFTER[1])
        for digest in digests:
            assert await store.find(digest)
        await settle()
        assert len(script.asked) == cache.MAX_REFRESHES
        # The others have their turn once these are done.
        script.gate.set()
        await settle()
        for digest in digests:
            assert await store.find(digest)
        await settle()
        assert sorted(script.asked) == sorted(digests)


async def test_defect_in_a_lookup_is_unavailable_and_its_message_is_not_logged(
    script: Script, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    script.failure = RuntimeError(f"cannot read {GOOD}")
    async with cached(script, clock) as store:
        for another in (GOOD, digest_of("another")):
            with pytest.raises(KeyStoreUnavailable) as refused:
                await store.find(another)
            assert (refused.value.message, refused.value.retry_after) == (UNAVAILABLE, 5)
        # As after any failure, the store is left alone.
        assert script.asked == [GOOD]
    assert "RuntimeError in Script.find" in caplog.text
    assert GOOD[:9] not in caplog.text


async def test_close_ends_lookups_and_tells_their_callers(script: Script, clock: Clock) -> None:
    script.gate.clear()
    async with cached(script, clock) as store:
        under_way = asyncio.create_task(store.find(GOOD))
        await settle()
    with pytest.raises(KeyStoreUnavailable) as ended:
        await under_way
    with pytest.raises(KeyStoreUnavailable) as closed:
        await store.find(GOOD)
    assert ended.value.message == closed.value.message == UNAVAILABLE
    assert script.closed
    assert script.asked == [GOOD]


async def test_warming_is_the_stores(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        await store.warm()
        assert script.warmed
        assert script.asked == []


async def test_an_outage_is_over_with_the_first_answer(script: Script, clock: Clock) -> None:
    """Only while the store fails are keys good beyond their ttl."""
    script.hold(GOOD)
    others = script.hold_many(2)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        clock.advance(TTL - 5)
        script.failure = unavailable(retry_after=4)
        with pytest.raises(KeyStoreUnavailable):
            await store.find(others[0])
        script.failure = None
        clock.advance(4)
        assert await store.find(others[0])
        del script.held[GOOD]
        script.gate.clear()
        clock.advance(1)
        assert store.peek(GOOD) is None


async def test_a_known_key_in_use_leaves_a_failing_store_alone_for_as_long_as_it_asks(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        await store.find(GOOD)
        clock.advance(TTL * 0.9)
        script.failure = unavailable(retry_after=20)
        for _ in range(5):
            assert store.peek(GOOD)
            await settle()
        assert script.asked == [GOOD] * 2


async def test_check_asks_the_store_itself(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        await store.check()
        script.failure = unavailable()
        with pytest.raises(KeyStoreUnavailable, match="the store is away"):
            await store.check()


@pytest.mark.parametrize("stale", [0, 10, TTL])
async def test_a_failing_store_ends_no_key_before_its_ttl_however_short_stale_is(
    script: Script, clock: Clock, stale: float
) -> None:
    store = CachedKeyStore(script, ttl=TTL, stale=stale, clock=clock, now=clock.now)
    script.hold(GOOD)
    assert await store.find(GOOD)
    script.failure = unavailable()
    clock.advance(TTL * 0.9)
    assert await store.find(GOOD)
    await settle()  # the refresh that began has failed
    assert await store.find(GOOD)
    clock.advance(TTL * 0.09)
    assert await store.find(GOOD)
    await store.close()
