"""When the keys of a store are listed, how many are held, and who waits. As docs/keys.md has it; no store runs here."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from devhost.azure.vault import Clock
from shim.errors import KeyStoreUnavailable
from shim.keys.listing import Listing
from shim.keys.subscription import digest_of
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time, settle

DIGESTS = [digest_of(f"key {number}") for number in range(200)]
OTHER = digest_of("another key")


class Store:
    """Lists what it is given, a page at a time."""

    def __init__(self, *pages: list[str]) -> None:
        self.pages = list(pages)
        self.listings = 0
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> AsyncIterator[list[str]]:
        self.listings += 1
        for page in self.pages:
            await self.gate.wait()
            yield page
        if self.failure is not None:
            raise self.failure


async def listings_within(listing: Listing, store: Store, clock: Clock, seconds: float) -> int:
    """How many listings begin if a digest that is not listed is asked for now and after `seconds`."""
    before = store.listings
    assert not await listing.finds(OTHER)
    clock.advance(seconds)
    assert not await listing.finds(OTHER)
    await asyncio.sleep(0)
    return store.listings - before


@pytest.mark.parametrize(("seconds", "listings"), [(29.9, 1), (30, 2)])
async def test_a_short_list_is_read_again_after_thirty_seconds(seconds: float, listings: int) -> None:
    store, clock = Store(DIGESTS[:25]), Clock()
    listing = Listing(store, clock=clock)
    assert await listings_within(listing, store, clock, seconds) == listings
    await listing.close()


@pytest.mark.parametrize(("pages", "seconds"), [(150, 30), (151, 30.2), (200, 40)])
async def test_a_long_list_takes_five_calls_a_second_in_the_long_run(pages: int, seconds: float) -> None:
    for begins, after in ((1, seconds - 0.05), (2, seconds + 0.001)):
        store, clock = Store(*([digest] for digest in DIGESTS[:pages])), Clock()
        listing = Listing(store, clock=clock)
        assert await listings_within(listing, store, clock, after) == begins
        await listing.close()


@pytest.mark.parametrize(
    ("failure", "pages", "seconds"),
    [
        (KeyStoreUnavailable("away", retry_after=1), 0, 30),
        (KeyStoreUnavailable("away", retry_after=45), 0, 45),
        (KeyStoreUnavailable("away", retry_after=1), 200, 40),
        (RuntimeError("defect"), 0, 30),
    ],
    ids=["unavailable", "with a time of its own", "after many pages", "a defect"],
)
async def test_a_list_that_failed_is_tried_again_after_thirty_seconds_or_as_the_store_asks(
    failure: Exception, pages: int, seconds: float
) -> None:
    for begins, after in ((1, seconds - 0.5), (2, seconds)):
        store, clock = Store(*([digest] for digest in DIGESTS[:pages])), Clock()
        store.failure = failure
        listing = Listing(store, clock=clock)
        assert await listings_within(listing, store, clock, after) == begins
        assert listing.retry_after == 1  # none has been complete yet: it may be listed at any time
        await listing.close()


async def test_the_time_until_the_next_listing_is_told_in_whole_seconds() -> None:
    store, clock = Store([DIGESTS[0]]), Clock()
    listing = Listing(store, clock=clock)
    assert listing.retry_after == 1
    await listing.finds(OTHER)
    told = []
    for passed in (0, 0.5, 28.5, 0.5, 0.5, 60):
        clock.advance(passed)
        told.append(listing.retry_after)
    assert told == [30, 30, 1, 1, 1, 1]
    await listing.close()


@pytest.mark.parametrize("pages", [[6], [4, 2], [3, 3], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
async def test_of_a_list_that_is_too_long_the_first_are_held_however_it_is_cut(pages: list[int]) -> None:
    digests = iter(DIGESTS)
    store = Store(*([next(digests) for _ in range(size)] for size in pages))
    listing = Listing(store, clock=Clock(), max_listed=4)
    assert [await listing.finds(digest) for digest in DIGESTS[:6]] == [True] * 4 + [False] * 2
    await listing.close()


async def test_nothing_is_listed_anymore_once_it_is_closed() -> None:
    store = Store([DIGESTS[0]])
    listing = Listing(store, clock=Clock())
    await listing.close()
    assert not await listing.finds(DIGESTS[0])
    assert store.listings == 0


async def test_what_is_no_longer_listed_is_forgotten_by_the_next_listing() -> None:
    store, clock = Store([DIGESTS[0], DIGESTS[1]]), Clock()
    listing = Listing(store, clock=clock, max_listed=2)
    assert await listing.finds(DIGESTS[0])
    await settle()
    store.pages = [[DIGESTS[1], DIGESTS[2]]]
    clock.advance(30)
    await listing.finds(OTHER)
    await settle()
    assert [digest in listing for digest in DIGESTS[:3]] == [False, True, True]
    await listing.close()


async def test_the_time_between_two_listings_counts_from_the_beginning_of_the_first() -> None:
    store, clock = Store([DIGESTS[0]]), Clock()
    listing = Listing(store, clock=clock)
    store.gate.clear()
    asking = asyncio.create_task(listing.finds(OTHER))
    await settle()
    clock.advance(20)
    store.gate.set()
    assert not await asking
    assert listing.retry_after == 10
    await listing.close()


async def test_after_a_listing_that_failed_callers_wait_for_the_next_one() -> None:
    store, clock = Store(), Clock()
    listing = Listing(store, clock=clock)
    store.failure = KeyStoreUnavailable("away", retry_after=1)
    assert not await listing.finds(DIGESTS[0])
    clock.advance(30)
    store.failure, store.pages = None, [[DIGESTS[0]]]
    store.gate.clear()
    asking = asyncio.create_task(listing.finds(DIGESTS[0]))
    await settle()
    assert not asking.done()
    store.gate.set()
    assert await asking
    await listing.close()


def test_a_caller_waits_ten_seconds_for_the_first_listing_at_most() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        store = Store([DIGESTS[0]])
        store.gate.clear()
        listing = Listing(store, clock=loop.time)
        asking = asyncio.create_task(listing.finds(DIGESTS[0]))
        await loop.pass_until(0)
        await loop.pass_until(9.75)
        assert not asking.done()
        await loop.pass_until(10)
        assert not asking.result()
        await listing.close()

    run_in_virtual_time(scenario)
