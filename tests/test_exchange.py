"""A response on its way to its caller: pieces, silences, the end. In virtual time, with no connection."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shim.transport.exchange import Exchange
from shim.transport.wire import ReadTimeout, RemoteProtocolError, WriteError
from tests.support.outlets import Recorded
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time


class Carrier:
    """As much of a connection as an exchange needs."""

    def __init__(self) -> None:
        self.closed = 0
        self.resumed = 0

    def close(self) -> None:
        self.closed += 1

    def read_on(self) -> None:
        self.resumed += 1


type Scenario = Callable[[VirtualLoop, Exchange, Carrier], Awaitable[None]]


def run(scenario: Scenario, read_timeout: float | None = None) -> None:
    async def main(loop: VirtualLoop) -> None:
        loop.now = 100
        carrier = Carrier()
        await scenario(loop, Exchange(carrier, loop, read_timeout), carrier)

    run_in_virtual_time(main)


async def read(exchange: Exchange) -> list[bytes]:
    return [piece async for piece in exchange]


def test_an_exchange_knows_nothing_at_first() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        assert (exchange.status, exchange.headers, exchange.answered.done()) == (0, [], False)
        assert not exchange.is_far_ahead
        exchange.begin(200, [(b"a", b"1")])
        assert (exchange.status, exchange.headers, exchange.answered.done()) == (200, [(b"a", b"1")], True)
        exchange.begin(200, [])  # no second answer

    run(scenario)


def test_pieces_that_arrived_together_come_as_one_and_reading_goes_on() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        pieces = aiter(exchange)
        exchange.add(b"a")
        assert await anext(pieces) == b"a"
        exchange.add(b"b")
        exchange.add(b"c")
        assert await anext(pieces) == b"bc"
        assert carrier.resumed == 2
        exchange.add(b"d")
        exchange.end()
        assert await anext(pieces) == b"d"
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        assert carrier.resumed == 2  # the connection may be another exchange's by now

    run(scenario)


def test_a_reader_who_waits_is_woken_by_what_arrives() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        reading = asyncio.create_task(read(exchange))
        await loop.pass_until(101)
        exchange.add(b"a")
        exchange.deliver()
        exchange.deliver()
        await loop.pass_until(102)
        exchange.add(b"b")
        exchange.end()
        assert await reading == [b"a", b"b"]

    run(scenario)


def test_more_than_64_kib_unread_are_far_ahead() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        ahead = []
        for size in (1024, 63 * 1024, 1):
            exchange.add(b"x" * size)
            ahead.append(exchange.is_far_ahead)
        await anext(aiter(exchange))
        ahead.append(exchange.is_far_ahead)
        for size in (64 * 1024, 1):
            exchange.add(b"x" * size)
            ahead.append(exchange.is_far_ahead)
        assert ahead == [False, False, True, False, False, True]

    run(scenario)


def test_an_error_comes_after_what_had_arrived() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        exchange.add(b"a")
        exchange.end(RemoteProtocolError("cut"))
        await exchange.begun()
        pieces = aiter(exchange)
        assert await anext(pieces) == b"a"
        with pytest.raises(RemoteProtocolError, match="cut"):
            await anext(pieces)
        with pytest.raises(RemoteProtocolError, match="cut"):
            await exchange.begun()

    run(scenario)


def test_an_error_before_the_head_is_the_answer() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.end(RemoteProtocolError("cut"))
        with pytest.raises(RemoteProtocolError, match="cut"):
            await exchange.answered

    run(scenario)


def test_a_response_that_ended_well_is_not_broken() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(204, [])
        exchange.end()
        await exchange.begun()
        assert await read(exchange) == []

    run(scenario)


def test_closed_before_its_end_it_closes_its_connection_once_and_gives_nothing_more() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.add(b"a")
        await exchange.aclose()
        await exchange.aclose()
        assert carrier.closed == 1
        assert await read(exchange) == []

    run(scenario)


def test_closed_after_its_end_it_leaves_the_connection_alone() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.add(b"a")
        exchange.end()
        await exchange.aclose()
        assert carrier.closed == 0
        assert await read(exchange) == []

    run(scenario)


def test_the_end_cancels_the_upload_but_not_from_within() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        async def upload() -> None:
            await asyncio.sleep(1)
            exchange.end(WriteError("gone"))
            await asyncio.sleep(0)

        exchange.upload = asyncio.create_task(upload())
        await loop.pass_until(100)
        await loop.pass_until(101)
        await exchange.upload
        assert not exchange.upload.cancelled()

    async def other(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.upload = asyncio.create_task(asyncio.sleep(1))
        exchange.begin(200, [])
        exchange.end()
        await loop.pass_until(100)
        assert exchange.upload.cancelled()

    run(scenario)
    run(other)


def test_silence_while_a_reader_waits_is_given_up_after_the_timeout() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        reading = asyncio.create_task(read(exchange))
        await loop.pass_until(100)
        await loop.pass_until(109.9)
        assert not reading.done()
        await loop.pass_until(110)
        with pytest.raises(ReadTimeout, match="it sent nothing for 10 s"):
            await reading
        assert carrier.closed == 1

    run(scenario, read_timeout=10)


def test_each_piece_begins_the_silence_anew() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        reading = asyncio.create_task(read(exchange))
        await loop.pass_until(100)
        for now in (109.0, 118.0):
            await loop.pass_until(now)
            exchange.add(b"x")
            exchange.deliver()
            await loop.pass_until(now)
        await loop.pass_until(119)
        for now in (125.0, 127.9):
            await loop.pass_until(now)
            assert not reading.done()
        await loop.pass_until(128)
        assert reading.done()
        with pytest.raises(ReadTimeout):
            await reading

    run(scenario, read_timeout=10)


def test_a_slow_reader_is_no_silence() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        pieces = aiter(exchange)
        first = asyncio.ensure_future(anext(pieces))
        await loop.pass_until(100)
        exchange.add(b"a")
        exchange.deliver()
        assert await first == b"a"
        for now in range(110, 200, 5):  # while it is busy with that
            await loop.pass_until(now)
        assert carrier.closed == 0
        second = asyncio.ensure_future(anext(pieces))
        await loop.pass_until(204.9)
        assert not second.done()
        for now in (205, 210, 215):
            await loop.pass_until(now)
        with pytest.raises(ReadTimeout):
            await second

    run(scenario, read_timeout=10)


def test_after_its_end_nothing_is_timed_anymore() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        reading = asyncio.create_task(read(exchange))
        await loop.pass_until(100)
        exchange.end()
        assert await reading == []
        await loop.pass_until(200)
        assert carrier.closed == 0

    run(scenario, read_timeout=10)


def relaying(exchange: Exchange, outlet: Recorded) -> asyncio.Task[None]:
    return asyncio.create_task(exchange.relay(outlet.write, outlet.drain))


def test_a_piece_is_relayed_in_the_turn_in_which_it_arrives() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        exchange.add(b"with the head")
        outlet = Recorded()
        relay = relaying(exchange, outlet)
        await loop.pass_until(100)
        for piece in (b"a", b"b"):
            exchange.add(piece)
            assert outlet.pieces[-1] != piece  # more of it may have come together
            exchange.deliver()
            assert outlet.pieces[-1] == piece
        exchange.add(b"with the end")
        exchange.end()
        await relay
        assert outlet.pieces == [b"with the head", b"a", b"b", b"with the end"]

    run(scenario)


def test_what_the_caller_is_too_slow_for_is_held_back_and_comes_in_order() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        outlet = Recorded()
        relay = relaying(exchange, outlet)
        await loop.pass_until(100)
        outlet.room.clear()
        for piece in (b"a", b"b", b"c"):
            exchange.add(piece)
            exchange.deliver()
            await loop.pass_until(100)
        assert outlet.pieces == [b"a"]
        exchange.add(b"x" * 64 * 1024)
        assert exchange.is_far_ahead
        outlet.room.set()
        await loop.pass_until(100)
        assert [piece[:3] for piece in outlet.pieces] == [b"a", b"bcx"]
        exchange.add(b"d")
        exchange.deliver()
        assert outlet.pieces[-1] == b"d"
        exchange.end()
        await relay

    run(scenario)


def test_an_error_is_the_relays_once_all_that_had_arrived_is_written() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        outlet = Recorded()
        relay = relaying(exchange, outlet)
        await loop.pass_until(100)
        exchange.add(b"a")
        exchange.end(RemoteProtocolError("cut"))
        with pytest.raises(RemoteProtocolError, match="cut"):
            await relay
        assert outlet.pieces == [b"a"]

    run(scenario)


def test_what_cannot_be_written_is_no_defect_of_the_connections() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        def fail(_: bytes) -> bool:
            raise ValueError("too long")

        exchange.begin(200, [])
        relay = asyncio.create_task(exchange.relay(fail, Recorded().drain))
        await loop.pass_until(100)
        for _ in range(2):
            exchange.add(b"a")
            exchange.deliver()
        with pytest.raises(ValueError, match="too long"):
            await relay

    run(scenario)


def test_nothing_is_written_for_a_relay_that_was_cancelled() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        outlet = Recorded()
        relay = relaying(exchange, outlet)
        await loop.pass_until(100)
        relay.cancel()
        await loop.pass_until(100)
        exchange.add(b"a")
        exchange.deliver()
        assert outlet.pieces == []

    run(scenario)


def test_while_it_is_relayed_each_piece_begins_the_silence_anew_and_a_slow_caller_is_none() -> None:
    async def scenario(loop: VirtualLoop, exchange: Exchange, carrier: Carrier) -> None:
        exchange.begin(200, [])
        outlet = Recorded()
        relay = relaying(exchange, outlet)
        await loop.pass_until(100)
        for now in (109.0, 118.0):
            await loop.pass_until(now)
            exchange.add(b"x")
            exchange.deliver()
        outlet.room.clear()
        await loop.pass_until(119)
        exchange.add(b"y")
        exchange.deliver()
        for now in range(125, 200, 5):
            await loop.pass_until(now)
        assert carrier.closed == 0
        outlet.room.set()
        await loop.pass_until(200)
        for now in (204.9, 205, 209.9):
            await loop.pass_until(now)
            assert not relay.done()
        await loop.pass_until(210)
        await loop.pass_until(215)
        with pytest.raises(ReadTimeout):
            await relay

    run(scenario, read_timeout=10)
