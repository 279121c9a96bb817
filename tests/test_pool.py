"""Idle connections: how long they are kept, and which of them is handed out again."""

import asyncio
import logging
import weakref
from collections.abc import Callable

import pytest

from shim.transport.connection import Connection
from shim.transport.pool import Counts, Pool
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time


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


def test_a_pool_has_counted_nothing_at_first() -> None:
    assert Counts() == Counts(opened=0, reused=0, stale=0, repeated=0)


def test_the_connection_used_last_is_handed_out_first() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", counts := Counts())
        first, last = release(pool, 2)
        assert pool.take() is last
        assert pool.take() is first
        assert pool.take() is None
        assert counts == Counts(reused=2)

    run_in_virtual_time(scenario)


def test_a_connection_found_dead_is_closed_and_the_next_one_taken() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", counts := Counts())
        good, *dead = release(pool, 3)
        for connection in dead:
            connection.fresh = False
        assert pool.take() is good
        assert [connection.closed for connection in (good, *dead)] == [False, True, True]
        assert counts == Counts(reused=1, stale=2)

    run_in_virtual_time(scenario)


@pytest.mark.parametrize(("seconds", "reused"), [(89.9, True), (90, False), (91, False)])
def test_a_connection_is_reused_within_ninety_seconds(seconds: float, reused: bool) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        loop.now = 1000
        [connection] = release(pool)
        loop.now += seconds
        assert pool.take() is (connection if reused else None)

    run_in_virtual_time(scenario)


def test_idle_connections_are_closed_at_most_a_third_of_their_time_late() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        [early] = release(pool)
        loop.now = 60
        [late] = release(pool)
        await loop.pass_until(89.9)
        assert (early.closed, late.closed) == (False, False)
        await loop.pass_until(90)
        assert (early.closed, late.closed) == (True, False)
        for second in range(91, 151):
            await loop.pass_until(second)
        assert late.closed
        assert pool.idle == []
        # The next connection is looked after like the first.
        [next_one] = release(pool)
        await loop.pass_until(240)
        assert next_one.closed

    run_in_virtual_time(scenario)


def test_after_a_response_that_nobody_asked_for_nothing_is_kept_for_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
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

    run_in_virtual_time(scenario)


def test_an_upstream_that_goes_on_so_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        for now in (1000, 1059, 1118.9, 1178.9, 1200):
            loop.now = now
            pool.distrust()

    with caplog.at_level(logging.ERROR, logger="shim"):
        run_in_virtual_time(scenario)
    assert len(caplog.messages) == 2  # at 1000 s and at 1178.9 s
    assert caplog.messages[0].endswith("its connections are not reused for 60 s")


def test_a_machine_that_has_just_started_keeps_connections_too() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        loop.now = 0.5
        [connection] = release(pool)
        assert pool.take() is connection

    run_in_virtual_time(scenario)


def test_a_busy_pool_has_one_timer_for_all_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each call would be kept for 90 s, a thousand calls a second."""
    timers = []

    def call_later(loop: VirtualLoop, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timers.append(delay)
        return loop.call_at(loop.time() + delay, callback)

    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        for _ in range(100):
            release(pool)
            pool.take()
        assert timers == [90]

    with monkeypatch.context() as counting:
        counting.setattr(VirtualLoop, "call_later", call_later)
        run_in_virtual_time(scenario)


def test_a_closed_pool_is_let_go_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        release(pool)
        pool.close()
        closed = weakref.ref(pool)
        del pool
        assert closed() is None

    run_in_virtual_time(scenario)


def test_a_closed_pool_holds_nothing_and_watches_nothing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool = Pool("a.example", Counts())
        connections = release(pool, 2)
        pool.close()
        assert all(connection.closed for connection in connections)
        assert pool.idle == []
        [later] = release(pool)
        assert later.closed
        assert pool.idle == []

    run_in_virtual_time(scenario)


def test_a_connection_that_was_opened_for_nobody_is_kept_if_it_could_be_opened() -> None:
    async def opening(outcome: Connection | OSError) -> Connection:
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    async def scenario(loop: VirtualLoop) -> None:
        pool, opened = Pool("a.example", Counts()), Idle()
        tasks = [asyncio.ensure_future(opening(each)) for each in (opened, OSError("refused"), Idle())]
        tasks[2].cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            pool.keep_opened(task)
        assert pool.idle == [opened]
        pool.close()

    run_in_virtual_time(scenario)
