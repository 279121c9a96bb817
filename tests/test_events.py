"""Heartbeats in the silences of an event stream: when they come, and where they may stand."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shim.answer.events import EventStream, is_event_stream
from shim.headers import Headers
from tests.support.outlets import Recorded
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time

EVENT = b"data: {}\n\n"
BEAT = b": heartbeat\n"


class Watched:
    """An event stream with heartbeats, and what has been sent of it at which time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.sent: list[tuple[float, bytes]] = []
        self.outlet = Recorded(written_at=lambda body: self.sent.append((loop.time(), body)))
        self.events = EventStream(self.outlet)

    async def pass_until(self, *times: float) -> None:
        for time in times:
            await self.loop.pass_until(time)

    @property
    def beats(self) -> list[float]:
        return [time for time, body in self.sent if body == BEAT]


def watch(interval: float, scenario: Callable[[Watched], Awaitable[None]]) -> Watched:
    found: list[Watched] = []

    async def run(loop: VirtualLoop) -> None:
        loop.now = 100
        watched = Watched(loop)
        found.append(watched)
        beating = asyncio.create_task(watched.events.beat(interval))
        await watched.pass_until(100)
        await scenario(watched)
        beating.cancel()

    run_in_virtual_time(run)
    return found[0]


def test_a_silence_at_the_beginning_ends_after_a_second_and_later_ones_after_the_interval() -> None:
    async def silence(stream: Watched) -> None:
        await stream.pass_until(100.9, 101, 115.9, 116, 130.9, 131)

    stream = watch(15, silence)
    assert stream.beats == [101, 116, 131]
    assert stream.events.beats == 3


def test_an_interval_shorter_than_a_second_counts_from_the_beginning() -> None:
    async def silence(stream: Watched) -> None:
        await stream.pass_until(100.25, 100.5, 100.75, 101)

    assert watch(0.5, silence).beats == [100.5, 101]


def test_events_put_the_next_heartbeat_off_by_the_interval() -> None:
    async def talk(stream: Watched) -> None:
        await stream.pass_until(100.5)
        stream.events.write(EVENT)
        await stream.pass_until(101, 110)
        stream.events.write(EVENT)
        await stream.pass_until(115.5, 124.9, 125)

    stream = watch(15, talk)
    assert stream.sent == [(100.5, EVENT), (110, EVENT), (125, BEAT)]


@pytest.mark.parametrize(
    ("pieces", "beats"),
    [
        ([b"data: {}\n\n"], True),
        ([b"data: {}\r\n\r\n"], True),
        ([b"data: {}\n", b"\n"], True),
        ([b"data: {}\r\n", b"\r", b"\n"], True),
        ([b"data: {}\n\r\n"], True),
        ([b"data: {}"], False),
        ([b"data: {}\n"], False),
        ([b"data: {}\r\n"], False),
        ([b"\n", b"data: 1\n"], False),
        ([b"data: {}\n\n", b"d"], False),
        ([b"data: {}\r", b"\n\r"], False),
    ],
)
def test_a_heartbeat_stands_between_two_events_and_never_within_one(pieces: list[bytes], beats: bool) -> None:
    async def talk(stream: Watched) -> None:
        for piece in pieces:
            stream.events.write(piece)
        await stream.pass_until(101, 115)

    stream = watch(15, talk)
    assert b"".join(body for _, body in stream.sent) == b"".join(pieces) + BEAT * beats
    assert stream.events.beats == beats


def test_a_silence_within_an_event_is_looked_at_again_after_the_interval() -> None:
    async def talk(stream: Watched) -> None:
        stream.events.write(b"data:")
        await stream.pass_until(101, 115)
        stream.events.write(b" {}\n\n")
        await stream.pass_until(129.9, 130)

    assert watch(15, talk).beats == [130]


def test_a_caller_who_reads_slowly_gets_no_heartbeat_on_top() -> None:
    async def stall(stream: Watched) -> None:
        stream.outlet.room.clear()
        assert not stream.events.write(EVENT)
        await stream.pass_until(101, 115, 130)
        stream.outlet.room.set()
        assert stream.events.write(EVENT)
        await stream.pass_until(130)

    stream = watch(15, stall)
    assert [body for _, body in stream.sent] == [EVENT, EVENT]


@pytest.mark.parametrize(
    ("headers", "is_one"),
    [
        ([(b"content-type", b"text/event-stream")], True),
        ([(b"content-type", b"Text/Event-Stream; charset=utf-8"), (b"date", b"today")], True),
        ([(b"content-type", b"application/json")], False),
        ([(b"content-type", b"application/json"), (b"content-type", b"text/event-stream")], False),
        ([], False),
        ([(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")], False),
        ([(b"content-type", b"text/event-stream"), (b"content-length", b"5")], False),
    ],
)
def test_only_a_plain_event_stream_of_unknown_length_takes_heartbeats(headers: Headers, is_one: bool) -> None:
    assert is_event_stream(headers) is is_one
