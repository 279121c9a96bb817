"""Idle connections: how long they are kept, and which of them is handed out again."""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import pytest

from shim.upstream.connection import Connection
from shim.upstream.pool import Counts, Pool


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def pass_until(self, now: float) -> None:
        self.now = now
        await asyncio.sleep(0)  # timers that are due run
        await asyncio.sleep(0)


class Idle(Connection):
    """As much of a connection as a pool sees, and no socket."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.fresh = True
        self.closed = False

    def is_fresh(self) -> bool:
        return self.fresh

    def close(self) -> None:
        self.closed = True


def release(pool: Pool, count: int = 1) -> list[Idle]:
    connections = [Idle() for _ in range(count)]
    for connection in connections:
        pool.release(connection)
    return connections


@pytest.fixture
def run() -> Callable[..., None]:
    def run(scenario: Callable[..., object]) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            loop = cast("Loop", runner.get_loop())

            async def main() -> None:
                counts = Counts()
                await scenario(loop, Pool(counts), counts)  # type: ignore[misc]

            runner.run(main())

    return run


type Run = Callable[..., None]


def test_a_pool_has_counted_nothing_at_first() -> None:
    assert Counts() == Counts(opened=0, reused=0, stale=0, repeated=0)


def test_the_connection_used_last_is_handed_out_first(run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        first, last = release(pool, 2)
        assert pool.take() is last
        assert pool.take() is first
        assert pool.take() is None
        assert counts == Counts(reused=2)

    run(scenario)


def test_a_connection_found_dead_is_closed_and_the_next_one_taken(run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        good, *dead = release(pool, 3)
        for connection in dead:
            connection.fresh = False
        assert pool.take() is good
        assert [connection.closed for connection in (good, *dead)] == [False, True, True]
        assert counts == Counts(reused=1, stale=2)

    run(scenario)


@pytest.mark.parametrize(("seconds", "reused"), [(89.9, True), (90, False), (91, False)])
def test_a_connection_is_reused_within_ninety_seconds(seconds: float, reused: bool, run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        loop.now = 1000
        [connection] = release(pool)
        loop.now += seconds
        assert pool.take() is (connection if reused else None)

    run(scenario)


def test_idle_connections_are_closed_at_most_a_third_of_their_time_late(run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        [early] = release(pool)
        loop.now = 60
        [late] = release(pool)
        await loop.pass_until(89.9)
        assert (early.closed, late.closed) == (False, False)
        await loop.pass_until(90)
        assert (early.closed, late.closed) == (True, False)
        await loop.pass_until(120)
        await loop.pass_until(150)
        assert late.closed
        assert pool.idle == []
        # The next connection is looked after like the first.
        [next_one] = release(pool)
        await loop.pass_until(240)
        assert next_one.closed

    run(scenario)


def test_after_a_response_that_nobody_asked_for_nothing_is_kept_for_a_minute(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        loop.now = 1000
        [idle] = release(pool)
        pool.distrust()
        assert (idle.closed, pool.idle) == (True, [])
        loop.now = 1059.9
        [refused] = release(pool)
        assert (refused.closed, pool.idle) == (True, [])
        loop.now = 1060
        [kept] = release(pool)
        assert (kept.closed, pool.idle) == (False, [kept])

    run(scenario)


def test_an_upstream_that_goes_on_so_is_logged_once_a_minute(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        for now in (1000, 1059, 1118.9, 1178.9, 1200):
            loop.now = now
            pool.distrust()

    with caplog.at_level(logging.ERROR, logger="shim"):
        run(scenario)
    assert len(caplog.messages) == 2  # at 1000 s and at 1178.9 s
    assert caplog.messages[0].endswith("its connections are not reused for 60 s")


def test_a_machine_that_has_just_started_keeps_connections_too(run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        loop.now = 0.5
        [connection] = release(pool)
        assert pool.take() is connection

    run(scenario)


def test_a_closed_pool_holds_nothing_and_watches_nothing(run: Run) -> None:
    async def scenario(loop: Loop, pool: Pool, counts: Counts) -> None:
        connections = release(pool, 2)
        pool.close()
        assert all(connection.closed for connection in connections)
        assert pool.idle == []
        [later] = release(pool)
        loop.now = 60
        later.idle_since = 60
        await loop.pass_until(90)
        assert not later.closed

    run(scenario)
