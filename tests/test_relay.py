"""Upstream's response on its way to the caller, and the shim's own: what is written of them. No server runs."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from shim.answer.refusal import refuse, respond
from shim.answer.streaming import StreamedResponse
from shim.asgi import Message
from shim.call.body import Body
from shim.call.caller import Caller
from shim.errors import NotFound
from shim.headers import Headers
from shim.monitoring.record import CallRecord, Meter
from shim.transport.wire import RemoteProtocolError
from shim.upstream import UpstreamResponse
from tests.support.outlets import Recorded
from tests.support.transports import MadeUp, pieces
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time

EVENTS: Headers = [(b"content-type", b"text/event-stream")]


class Relay:
    """A response of upstream's, sent to a caller who leaves when told."""

    def __init__(self, body: AsyncIterator[bytes], headers: Headers, *, heartbeat: float = 0) -> None:
        self.outlet = Recorded()
        self.leaving = asyncio.Event()
        self.process = (meter := Meter()).process
        self.record: CallRecord = meter.begin([], b"id-1")
        self.record.answered(201, headers)
        self.from_upstream = MadeUp(201, headers, body)
        caller = Caller(self._receive)
        caller.watch()
        self.response = StreamedResponse(
            UpstreamResponse(self.from_upstream, Body(caller, caller.body())),
            headers,
            caller,
            heartbeat=heartbeat,
            record=self.record,
        )

    async def _receive(self) -> Message:
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def run(self) -> None:
        await self.response.send(self.outlet)


@pytest.mark.parametrize("headers", [EVENTS, [(b"content-type", b"text/plain")]], ids=["events", "text"])
@pytest.mark.parametrize("heartbeat", [0, 15])
async def test_a_response_is_relayed_piece_by_piece(headers: Headers, heartbeat: float) -> None:
    relay = Relay(pieces(b"data: 1\n\n", b"data: 2\n\n"), headers, heartbeat=heartbeat)
    await relay.run()
    assert (relay.outlet.status, relay.outlet.headers) == (201, headers)
    assert relay.outlet.pieces == [b"data: 1\n\n", b"data: 2\n\n"]
    assert relay.outlet.ended
    assert relay.from_upstream.closed == 1
    assert (relay.record.code, relay.record.sent, relay.record.over is None) == ("", 18, False)


async def test_a_response_that_breaks_off_has_no_end_and_the_record_says_why() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise RemoteProtocolError("reset")

    relay = Relay(broken(), EVENTS)
    await relay.run()
    assert (relay.outlet.pieces, relay.outlet.ended) == ([b"data: 1\n\n"], False)
    assert relay.record.code == "upstream_broken"
    assert "reset" in relay.record.reason
    assert relay.from_upstream.closed == 1


async def test_a_caller_who_leaves_ends_the_relay_at_once() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        relay.leaving.set()
        await asyncio.Event().wait()

    relay = Relay(endless(), EVENTS, heartbeat=15)
    async with asyncio.timeout(5):
        await relay.run()
    assert (relay.outlet.pieces, relay.outlet.ended) == ([b"data: 1\n\n"], False)
    assert (relay.record.code, relay.record.reason) == ("caller_gone", "")
    assert relay.from_upstream.closed == 1


@pytest.mark.parametrize(
    ("headers", "heartbeat", "beats"),
    [(EVENTS, 15, 2), (EVENTS, 0, 0), ([(b"content-type", b"application/json")], 15, 0)],
    ids=["events", "switched off", "JSON"],
)
def test_silences_of_event_streams_are_filled_and_counted(
    headers: Headers, heartbeat: float, beats: int
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            await go_on.wait()
            yield b"data: 1\n\n"

        relay = Relay(slow(), headers, heartbeat=heartbeat)
        running = asyncio.create_task(relay.run())
        for now in (0, 1, 16):
            await loop.pass_until(now)
        go_on.set()
        await running
        assert relay.outlet.pieces == [b": heartbeat\n"] * beats + [b"data: 1\n\n"]
        assert relay.outlet.ended
        assert relay.process.heartbeats == beats
        await loop.pass_until(100)
        assert len(relay.outlet.pieces) == beats + 1  # none comes after the end

    run_in_virtual_time(scenario)


def test_a_refusal_has_the_headers_that_are_added_to_its_own() -> None:
    response = refuse(NotFound("There is nothing here."), also=[(b"vary", b"origin")])
    assert response.status_code == 404
    assert json.loads(bytes(response.body))["error"]["message"] == "There is nothing here."
    assert response.raw_headers[-1] == (b"vary", b"origin")
    assert dict(response.raw_headers)[b"x-shim-error-source"] == b"shim"
    assert refuse(NotFound("m")).raw_headers[-1] != (b"vary", b"origin")


def test_a_response_of_the_shims_has_exactly_the_headers_that_it_is_given() -> None:
    response = respond(204, [(b"a", b"1")])
    assert (response.status_code, response.raw_headers, response.body) == (204, [(b"a", b"1")], b"")
