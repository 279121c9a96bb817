import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from devhost.azure.vault import START, Clock
from shim.errors import KeyStoreUnavailable
from shim.keys import cache, limits
from shim.keys.cache import CachedKeyStore
from shim.keys.subscription import Subscription, digest_of

TTL = 300.0
STALE = 3600.0
GOOD = digest_of("good key")


class Script:
    """A key store that holds what tests put into it, waits where they say, and counts."""

    def __init__(self) -> None:
        self.held: dict[str, Subscription] = {}
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    def hold(
        self, digest: str, *, expires: datetime | None = None, not_before: datetime | None = None
    ) -> Subscription:
        subscription = Subscription(
            digest=digest, key="key", label=digest[:4], expires=expires, not_before=not_before
        )
        self.held[digest] = subscription
        return subscription

    async def find(self, digest: str) -> Subscription | None:
        self.asked.append(digest)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.held.get(digest)

    async def warm(self) -> None:
        pass

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


async def settled() -> None:
    """Lets every task run until it waits for something else."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def script() -> Script:
    return Script()


async def settle() -> None:
    """Lets tasks go on until they wait for something that a test controls."""
    for _ in range(5):
        await asyncio.sleep(0)


def unavailable(retry_after: int = 5) -> KeyStoreUnavailable:
    return KeyStoreUnavailable("the store is away", retry_after=retry_after)


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
    others = [digest_of(f"other {number}") for number in range(20)]
    for digest in (GOOD, *others):
        script.hold(digest)
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
        assert second.value.retry_after == 4


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
    first, second, third = (digest_of(f"known {number}") for number in range(3))
    for digest in (first, second, third):
        script.hold(digest)
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
                delayed += error.retry_after == cache.RETRY_OVER_BUDGET
            assert await store.find(GOOD) is subscription
        in_ten_seconds = cache.UNKNOWN_BURST + 10 * cache.UNKNOWN_PER_SECOND
        assert in_ten_seconds - 1 <= len(script.asked) <= in_ten_seconds
        assert refused == len(script.asked)
        assert delayed == 5000 - refused


async def test_lookups_of_new_keys_take_turns_and_a_refresh_does_not_wait_for_its(
    script: Script, clock: Clock
) -> None:
    script.hold(GOOD)
    async with cached(script, clock) as store:
        assert await store.find(GOOD)
        script.gate.clear()
        waiting = [asyncio.create_task(store.find(digest_of(f"new {number}"))) for number in range(10)]
        await settled()
        assert len(script.asked) == 1 + cache.UNKNOWN_AT_ONCE
        clock.advance(0.9 * TTL)
        assert store.peek(GOOD)
        await settled()
        assert script.asked[-1] == GOOD
        script.failure = KeyStoreUnavailable("down", retry_after=7)
        script.gate.set()
        refusals = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(refusal) for refusal in refusals} == {KeyStoreUnavailable}
        # Those whose turn came after the failure left the store alone.
        assert len(script.asked) == 2 + cache.UNKNOWN_AT_ONCE


async def test_new_good_key_in_a_flood_is_delayed_and_not_refused(script: Script, clock: Clock) -> None:
    subscription = script.hold(GOOD)
    async with cached(script, clock) as store:
        for number in range(cache.UNKNOWN_BURST):
            await store.find(digest_of(f"flood {number}"))
        with pytest.raises(KeyStoreUnavailable):
            await store.find(GOOD)
        clock.advance(cache.RETRY_OVER_BUDGET)
        assert await store.find(GOOD) is subscription


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
    digests = [digest_of(f"good {number}") for number in range(cache.UNKNOWN_BURST * 5)]
    for digest in digests:
        script.hold(digest)
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


async def test_background_refreshes_are_bounded(script: Script, clock: Clock) -> None:
    digests = [digest_of(f"good {number}") for number in range(cache.MAX_REFRESHES * 2)]
    for digest in digests:
        script.hold(digest)
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


async def test_defect_in_a_lookup_is_unavailable_and_its_message_is_not_logged(
    script: Script, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    script.failure = RuntimeError(f"cannot read {GOOD}")
    async with cached(script, clock) as store:
        with pytest.raises(KeyStoreUnavailable):
            await store.find(GOOD)
    assert "RuntimeError in Script.find" in caplog.text
    assert GOOD[:9] not in caplog.text


async def test_close_ends_lookups_and_tells_their_callers(script: Script, clock: Clock) -> None:
    script.gate.clear()
    async with cached(script, clock) as store:
        under_way = asyncio.create_task(store.find(GOOD))
        await settle()
    with pytest.raises(KeyStoreUnavailable):
        await under_way
    with pytest.raises(KeyStoreUnavailable):
        await store.find(GOOD)
    assert script.closed
    assert script.asked == [GOOD]


async def test_check_asks_the_store_itself(script: Script, clock: Clock) -> None:
    async with cached(script, clock) as store:
        await store.check()
        script.failure = unavailable()
        with pytest.raises(KeyStoreUnavailable, match="the store is away"):
            await store.check()
