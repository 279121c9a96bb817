"""The caller's side of a call: its body as it arrives, and what is under way once the caller has left.

A completion that nobody waits for any more is billed all the same, and a cancellation in the wrong place would break a
response that is under way. No server runs here.
"""

import asyncio

import pytest

from shim.asgi import Message
from shim.call.caller import Caller
from shim.errors import CallerGone

GONE: Message = {"type": "http.disconnect"}


def piece(content: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


class Connection:
    """A caller's `receive`, which counts those who read it at this moment."""

    def __init__(self, *messages: Message) -> None:
        self.readers = 0
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.arrive(message)

    def arrive(self, message: Message) -> None:
        self._messages.put_nowait(message)

    async def __call__(self) -> Message:
        self.readers += 1
        try:
            message = await self._messages.get()
            self._messages.task_done()
            return message
        finally:
            self.readers -= 1

    async def all_taken(self) -> None:
        """Returns once every message has been read. A cancellation that this brings about is raised here."""
        await self._messages.join()
        await asyncio.sleep(0)


async def test_the_body_comes_as_it_was_sent_and_every_piece_is_counted() -> None:
    counted: list[bytes] = []
    messages = [piece(b"a", more=True), piece(b"", more=True), piece(b"bc", more=False)]
    caller = Caller(Connection(*messages), counted.append)
    assert [chunk async for chunk in caller.body()] == [b"a", b"bc"]
    assert counted == [b"a", b"bc"]
    assert caller.sent_all
    assert not caller.gone


async def test_what_a_message_leaves_out_is_empty_and_the_end() -> None:
    """Both may be missing: https://asgi.readthedocs.io/en/latest/specs/www.html#request-receive-event."""
    caller = Caller(Connection({"type": "http.request"}))
    assert [chunk async for chunk in caller.body()] == []
    assert caller.sent_all


async def test_the_body_is_not_over_before_its_last_piece() -> None:
    connection = Connection(piece(b"a", more=True), piece(b"b", more=False))
    caller = Caller(connection)
    body = caller.body()
    assert (await anext(body), caller.sent_all) == (b"a", False)
    # With the last piece already, so that a short body can be sent on at once.
    assert (await anext(body), caller.sent_all) == (b"b", True)
    assert (
        connection.readers == 1
    )  # the caller may leave from now on, whether or not the body is read to its end


async def test_a_piece_that_nobody_reads_is_counted_too() -> None:
    counted: list[bytes] = []
    connection = Connection(piece(b"a", more=True), piece(b"bc", more=True), piece(b"d", more=False))
    caller = Caller(connection, counted.append)
    body = caller.body()
    assert await anext(body) == b"a"
    await body.aclose()
    await connection.all_taken()
    assert counted == [b"a", b"bc", b"d"]


async def test_a_caller_who_leaves_in_the_middle_of_the_body_ends_it() -> None:
    connection = Connection(piece(b"a", more=True), GONE)
    caller = Caller(connection)
    body = caller.body()
    assert await anext(body) == b"a"
    with pytest.raises(CallerGone):
        await anext(body)
    assert caller.gone
    assert not caller.sent_all
    caller.watch()
    assert connection.readers == 0  # there is nothing left to wait for
    with pytest.raises(CallerGone), caller.cancelling():
        pytest.fail("nothing is begun for a caller who has left")


@pytest.mark.parametrize("has_body", [True, False], ids=["a body", "no body"])
async def test_a_caller_who_leaves_after_the_body_ends_what_is_under_way(has_body: bool) -> None:
    connection = Connection(*([piece(b"a", more=False)] if has_body else []))
    caller = Caller(connection)
    if has_body:
        assert [chunk async for chunk in caller.body()] == [b"a"]
    else:
        caller.sent_nothing()
    assert caller.sent_all
    task = asyncio.current_task()
    assert task is not None

    async def under_way() -> None:
        with caller.cancelling():
            connection.arrive(GONE)
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        with pytest.raises(CallerGone):
            await under_way()
    assert caller.gone
    # Of the cancellation nothing is left: a timeout or a task group around this would take it for its own.
    assert task.cancelling() == 0


async def test_a_caller_who_leaves_between_two_things_under_way_cancels_nothing_else() -> None:
    connection = Connection()
    caller = Caller(connection)
    caller.sent_nothing()
    with caller.cancelling():
        await asyncio.sleep(0)
    connection.arrive(GONE)
    await connection.all_taken()
    assert caller.gone
    with pytest.raises(CallerGone), caller.cancelling():
        pytest.fail("nothing is begun for a caller who has left")


async def test_a_cancellation_that_is_not_the_callers_stays_one() -> None:
    caller = Caller(Connection())
    caller.sent_nothing()

    async def too_slow() -> None:
        async with asyncio.timeout(0):
            with caller.cancelling():
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await too_slow()
    assert not caller.gone


async def test_an_error_of_what_is_under_way_stays_its_own_though_the_caller_left() -> None:
    connection = Connection()
    caller = Caller(connection)
    caller.sent_nothing()

    async def failing() -> None:
        with caller.cancelling():
            connection.arrive(GONE)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("of its own") from None

    with pytest.raises(ValueError, match="of its own"):
        await failing()


async def test_a_connection_has_one_reader_however_often_it_is_watched() -> None:
    connection = Connection(piece(b"a", more=False))
    caller = Caller(connection)
    assert [chunk async for chunk in caller.body()] == [b"a"]
    caller.watch()
    caller.watch()
    await asyncio.sleep(0)
    assert connection.readers == 1
