"""HTTP/1.1 as the worker's server speaks it: what a request and its response are, on a bare server with an app of the
test's own.

The Functions host is its only client. That every request ends its invocation is held by test_worker_server.py, and how
the server starts and stops by test_worker_stop.py.
"""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from shim.asgi import Message, Scope
from shim.headers import Headers
from shim.worker.cycle import READ_AHEAD_BYTES, Cycle
from shim.worker.invocations import ARRIVED, Invocations
from shim.worker.protocol import MAX_HEAD_BYTES, READ_BYTES, App, Connection, Connections
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time, settle, turns_until
from tests.support.wire import Wire, connect

GET = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PATIENCE_SECONDS = 10


def sized(length: int, *headers: bytes) -> bytes:
    """The head of a request with a body of that many bytes."""
    lines = [b"POST /v1/files HTTP/1.1", b"host: a", b"content-length: %d" % length, *headers, b"", b""]
    return b"\r\n".join(lines)


def respond(
    cycle: Cycle, body: bytes = b"done", *, status: int = 200, headers: Headers | None = None
) -> None:
    """A whole response; by default it states its length."""
    cycle.begin(status, [(b"content-length", b"%d" % len(body))] if headers is None else headers)
    cycle.write(body)
    cycle.end()


async def piece(cycle: Cycle, body: bytes) -> None:
    """Sent no faster than the caller takes it."""
    cycle.write(body)
    await cycle.drain()


async def body_of(cycle: Cycle) -> bytes | None:
    """The request's body to its end; None if the caller left before that."""
    pieces: list[bytes] = []
    while (message := await cycle.receive())["type"] == "http.request":
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)
    return None


async def echo(cycle: Cycle) -> None:
    respond(cycle, await body_of(cycle) or b"")


async def hasty(cycle: Cycle) -> None:
    """Answers without a look at the body."""
    respond(cycle)


class Waiting:
    """An app that leaves it to the test to receive and to send."""

    cycle: Cycle

    def __init__(self) -> None:
        self.is_over = asyncio.Event()

    async def __call__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        await self.is_over.wait()


@pytest.fixture
async def waiting() -> AsyncIterator[Waiting]:
    app = Waiting()
    yield app
    app.is_over.set()
    await settle()


@dataclass
class Server:
    url: str
    connections: Connections

    async def is_empty(self) -> None:
        """Returns once nobody is connected and nothing is at work."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.connections.opened or self.connections.tasks:  # noqa: ASYNC110 - nobody says so
                await asyncio.sleep(0)


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[Server]:
    connections = Connections(app, Invocations(object()))
    listener = await asyncio.get_running_loop().create_server(connections.accept, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server = Server(f"http://{host}:{port}", connections)
    try:
        yield server
    finally:
        listener.close()
        for connection in list(connections.opened):
            connection.close()
        await server.is_empty()
        await listener.wait_closed()


@asynccontextmanager
async def wired(app: App) -> AsyncIterator[Wire]:
    async with serving(app) as server, connect(server.url) as wire:
        yield wire


async def rest_of(wire: Wire) -> bytes:
    """All that the server still sends, to the end of the connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await wire.reader.read()


class TestRequests:
    async def test_the_app_is_given_the_request_as_it_came(self) -> None:
        scopes: list[Scope] = []

        async def app(cycle: Cycle) -> None:
            scopes.append(cycle.scope)
            await echo(cycle)

        async with wired(app) as wire:
            target = b"/v1/a%20b%2Fc?q=1&q=%20"
            await wire.send(b"POST %b HTTP/1.1\r\nHost: a\r\nX-Tag: 1\r\nx-tag: caf\xe9\r\n" % target)
            await wire.send(b"Content-Length: 3\r\n\r\nabc")
            assert (await wire.answer()).body == b"abc"
        (scope,) = scopes
        assert (scope["type"], scope["method"], scope["scheme"], scope["http_version"]) == (
            "http",
            "POST",
            "http",
            "1.1",
        )
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
            "/v1/a b/c",
            b"/v1/a%20b%2Fc",
            b"q=1&q=%20",
        )
        assert scope["headers"] == [
            (b"host", b"a"),
            (b"x-tag", b"1"),
            (b"x-tag", b"caf\xe9"),
            (b"content-length", b"3"),
        ]
        assert scope["state"] == {ARRIVED: True}

    async def test_a_request_that_comes_byte_by_byte_is_the_same(self) -> None:
        async with wired(echo) as wire:
            for byte in CHUNKED + b"3\r\nabc\r\n0\r\n\r\n":
                await wire.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await wire.answer()).body == b"abc"

    async def test_a_trailer_becomes_no_header(self) -> None:
        """RFC 9110, section 6.5.1. It could claim what the Functions host has said already."""
        headers: list[Headers] = []

        async def app(cycle: Cycle) -> None:
            assert await body_of(cycle) == b"abc"
            headers.append(cycle.scope["headers"])
            respond(cycle)

        async with wired(app) as wire:
            await wire.send(CHUNKED + b"3\r\nabc\r\n0\r\nx-ms-invocation-id: other\r\n\r\n")
            assert (await wire.answer()).status == 200
            await wire.send(CHUNKED + b"3;ext=1\r\nabc\r\n0\r\n\r\n")
            assert (await wire.answer()).status == 200
        assert headers == [[(b"host", b"a"), (b"transfer-encoding", b"chunked")]] * 2

    async def test_a_request_for_another_protocol_is_answered_in_this_one(self) -> None:
        async with wired(echo) as wire:
            for _ in range(2):
                await wire.send(GET[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n")
                assert (await wire.answer()).status == 200
            await wire.send(sized(3) + b"abc")
            assert (await wire.answer()).body == b"abc"

    @pytest.mark.parametrize("length", [b"content-length: 3", b"transfer-encoding: chunked"])
    async def test_one_with_a_body_is_refused_rather_than_read_without_it(self, length: bytes) -> None:
        """RFC 9110, section 7.8, has the body come first. The parser takes it for the other protocol."""
        async with wired(echo) as wire:
            upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
            await wire.send(b"POST /v1/files HTTP/1.1\r\nhost: a\r\n%b%b\r\n\r\n" % (upgrade, length))
            assert (await wire.answer()).status == 400
            assert await rest_of(wire) == b""

    @pytest.mark.parametrize("version", [b" HTTP/1.0", b" HTTP/2.0", b""])
    async def test_any_other_version_of_http_is_refused(self, version: bytes) -> None:
        """Chunks are unknown to the older ones."""
        async with wired(echo) as wire:
            await wire.send(b"GET /v1/models%b\r\nconnection: keep-alive\r\n\r\n" % version)
            answer = await wire.answer()
            assert (answer.status, answer.named("connection")) == (400, ["close"])
            assert await rest_of(wire) == b""

    async def test_empty_lines_before_a_request_are_no_request(self) -> None:
        """RFC 9112, section 2.2."""
        async with wired(echo) as wire:
            await wire.send(b"\r\n\r\n" + GET)
            assert (await wire.answer()).status == 200
            await wire.send(b"\r\n" + GET)
            assert (await wire.answer()).status == 200

    async def test_a_pipelined_request_gets_no_response_and_its_predecessor_is_told_that_the_caller_left(
        self,
    ) -> None:
        told: list[Message] = []

        async def app(cycle: Cycle) -> None:
            assert await body_of(cycle) == b""
            told.append(await cycle.receive())

        async with serving(app) as server, connect(server.url) as wire:
            await wire.send(GET + GET)
            with pytest.raises(EOFError):
                await wire.head()
            await server.is_empty()
        assert told == [{"type": "http.disconnect"}]


class TestHeads:
    """Of up to 64 KiB: the Functions host takes 32 KB from a caller."""

    async def test_half_of_that_is_taken_in_as_many_pieces_as_it_comes_in(self) -> None:
        async with wired(echo) as wire:
            await wire.send(GET[:-2])
            for number in range(32):
                await wire.send(b"x-filler-%d: %b\r\n" % (number, b"a" * 1000))
                await asyncio.sleep(0)
            await wire.send(b"\r\n")
            assert (await wire.answer()).status == 200

    @pytest.mark.parametrize(
        "line", [b"x-filler: ", b"x-filler: %b\r\n" % (b"a" * 1000)], ids=["one line", "many"]
    )
    async def test_one_without_end_is_refused(self, line: bytes) -> None:
        connection, transport = connected(hasty)
        arrive(connection, GET[:-2] + line)
        sent = len(GET[:-2] + line)
        while not transport.is_closing():
            assert sent < MAX_HEAD_BYTES
            more = line if line.endswith(b"\n") else b"a" * 1000
            arrive(connection, more)
            sent += len(more)
        assert sent >= MAX_HEAD_BYTES
        assert transport.written.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nconnection: close\r\n" in transport.written

    async def test_one_without_end_is_refused_at_once_where_it_comes_at_once(self) -> None:
        connection, transport = connected(hasty)
        arrive(connection, (GET[:-2] + b"x-filler: " + b"a" * READ_BYTES)[:READ_BYTES])
        assert transport.written.startswith(b"HTTP/1.1 400 ")

    async def test_only_the_head_itself_counts_where_it_follows_the_rest_of_a_body_that_nobody_read(
        self,
    ) -> None:
        """The Functions host sends the next request as soon as it has the response and has sent the last body."""
        connection, transport = connected(hasty)
        length = READ_BYTES
        arrive(connection, sized(length) + b"b" * MAX_HEAD_BYTES)
        await settle()
        assert transport.taken() == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"
        left = length - MAX_HEAD_BYTES
        arrive(connection, b"b" * (left - MAX_HEAD_BYTES))
        arrive(connection, b"b" * MAX_HEAD_BYTES + GET[:20])
        arrive(connection, GET[20:])
        await settle()
        assert transport.taken() == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"

    async def test_one_that_breaks_off_is_the_end_of_the_connection_and_no_request(self) -> None:
        async def app(cycle: Cycle) -> None:
            raise AssertionError("that was no request")

        async with serving(app) as server, connect(server.url) as wire:
            await wire.send(GET[:-2])
            wire.writer.write_eof()
            assert await rest_of(wire) == b""
            await server.is_empty()

    async def test_what_follows_a_refused_one_is_not_read(self) -> None:
        async with serving(hasty) as server, connect(server.url) as wire:
            await wire.send(b"BREW / HTTP/1.1\r\n\r\n" + GET)
            assert (await wire.answer()).status == 400
            assert await rest_of(wire) == b""
            await server.is_empty()

    async def test_what_does_not_follow_a_request_by_the_rules_is_refused_after_its_response(self) -> None:
        async with wired(hasty) as wire:
            await wire.send(GET)
            assert (await wire.answer()).status == 200
            await wire.send(b"\x16\x03\x01")
            assert (await wire.answer()).status == 400
            assert await rest_of(wire) == b""


class TestBodies:
    async def test_a_caller_who_waits_for_a_word_gets_it_when_the_body_is_asked_for_and_once(self) -> None:
        asked = asyncio.Event()

        async def app(cycle: Cycle) -> None:
            await asked.wait()
            await echo(cycle)

        async with wired(app) as wire:
            await wire.send(sized(6, b"expect: 100-Continue"))
            await settle()
            asked.set()
            assert await wire.reader.readexactly(len(CONTINUE)) == CONTINUE
            await wire.send(b"abc")
            await settle()
            await wire.send(b"def")
            assert await wire.reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            assert (await wire.reader.readuntil(b"\r\n\r\n"), await wire.reader.readexactly(6)) == (
                b"content-length: 6\r\n\r\n",
                b"abcdef",
            )
            # Nor does the next request get one that it did not ask for.
            await wire.send(sized(3) + b"ghi")
            assert await wire.reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"

    async def test_a_caller_who_waits_for_a_word_gets_none_after_the_response_has_begun(self) -> None:
        async def app(cycle: Cycle) -> None:
            cycle.begin(200, [(b"content-length", b"3")])
            await piece(cycle, await body_of(cycle) or b"")
            cycle.end()

        async with wired(app) as wire:
            await wire.send(sized(3, b"expect: 100-continue"))
            assert await wire.reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            await wire.send(b"abc")
            assert await wire.reader.readuntil(b"\r\n\r\nabc") == b"content-length: 3\r\n\r\nabc"

    async def test_pieces_that_came_before_anybody_asked_are_given_at_once_and_the_end_by_itself(
        self, waiting: Waiting
    ) -> None:
        connection, _ = connected(waiting)
        arrive(connection, CHUNKED + b"1\r\na\r\n")
        arrive(connection, b"2\r\nbc\r\n")
        await settle()
        assert await waiting.cycle.receive() == {"type": "http.request", "body": b"abc", "more_body": True}
        arrive(connection, b"0\r\n\r\n")
        assert await waiting.cycle.receive() == {"type": "http.request", "body": b"", "more_body": False}

    async def test_a_body_that_nobody_reads_stops_arriving_and_goes_on_after_the_response(self) -> None:
        answer = asyncio.Event()

        async def app(cycle: Cycle) -> None:
            await answer.wait()
            respond(cycle)

        body = bytes(32 * 1024 * 1024)
        async with wired(app) as wire:
            sending = asyncio.create_task(wire.send(sized(len(body)) + body))
            # More than the kernel holds.
            assert not (await asyncio.wait([sending], timeout=0.3))[0]
            answer.set()
            assert (await wire.answer()).status == 200
            await asyncio.wait_for(sending, PATIENCE_SECONDS)
            await wire.send(GET)
            assert (await wire.answer()).status == 200

    async def test_reading_stops_64_kib_ahead_of_the_app_and_goes_on_when_it_asks_for_more(
        self, waiting: Waiting
    ) -> None:
        connection, transport = connected(waiting)
        arrive(connection, sized(1_000_000) + b"a" * READ_AHEAD_BYTES)
        await settle()
        assert transport.is_reading()
        arrive(connection, b"a")
        assert not transport.is_reading()
        first = await waiting.cycle.receive()
        assert (len(first["body"]), first["more_body"]) == (READ_AHEAD_BYTES + 1, True)
        assert not transport.is_reading()
        asking = asyncio.ensure_future(waiting.cycle.receive())
        await settle()
        assert transport.is_reading()
        arrive(connection, b"b")
        assert (await asking)["body"] == b"b"

    async def test_the_end_of_the_connection_in_a_body_is_the_callers_leave(self) -> None:
        bodies: list[bytes | None] = []

        async def app(cycle: Cycle) -> None:
            bodies.append(await body_of(cycle))

        async with serving(app) as server:
            for request in (sized(5) + b"abc", CHUNKED + b"3\r\nabc\r\n"):
                async with connect(server.url) as wire:
                    await wire.send(request)
                    wire.writer.write_eof()
                    assert await rest_of(wire) == b""
            await server.is_empty()
        assert bodies == [None, None]

    async def test_a_body_that_breaks_its_framing_is_the_callers_leave(self) -> None:
        bodies: list[bytes | None] = []

        async def app(cycle: Cycle) -> None:
            bodies.append(await body_of(cycle))

        async with serving(app) as server, connect(server.url) as wire:
            await wire.send(CHUNKED + b"not-a-size\r\n")
            with pytest.raises(EOFError):
                await wire.head()
            await server.is_empty()
        assert bodies == [None]


class TestResponses:
    async def test_one_of_known_length_is_sent_as_it_is_and_any_other_in_chunks(self) -> None:
        async def app(cycle: Cycle) -> None:
            length = [(b"content-length", b"6")] if cycle.scope["path"] == "/sized" else []
            cycle.begin(200, [(b"x-name", b"caf\xe9"), *length])
            for part in (b"abc", b"", b"def"):
                await piece(cycle, part)
            cycle.end()

        async with wired(app) as wire:
            await wire.send(GET.replace(b"/v1/models", b"/sized"))
            head = b"HTTP/1.1 200 OK\r\nx-name: caf\xe9\r\n"
            whole = head + b"content-length: 6\r\n\r\nabcdef"
            assert await wire.reader.readexactly(len(whole)) == whole
            await wire.send(GET)
            whole = head + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
            assert await wire.reader.readexactly(len(whole)) == whole

    async def test_a_status_without_a_name_has_none(self) -> None:
        async def app(cycle: Cycle) -> None:
            respond(cycle, status=599)

        async with wired(app) as wire:
            await wire.send(GET)
            assert await wire.reader.readuntil(b"\r\n") == b"HTTP/1.1 599 \r\n"

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"4")]], ids=["unknown", "known"])
    async def test_one_to_head_has_no_body_whatever_its_length(self, headers: Headers) -> None:
        async def app(cycle: Cycle) -> None:
            respond(cycle, headers=headers)

        async with wired(app) as wire:
            for _ in range(2):
                await wire.send(GET.replace(b"GET", b"HEAD"))
                answer = await wire.answer(to_head=True)
                assert (answer.status, answer.whole) == (200, True)
                assert answer.headers == [(name.decode(), value.decode()) for name, value in headers]

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"4")]], ids=["without", "with"])
    async def test_a_304_has_no_body_with_or_without_the_length_of_what_it_stands_for(
        self, headers: Headers
    ) -> None:
        """RFC 9110, section 8.6."""

        async def app(cycle: Cycle) -> None:
            respond(cycle, b"", status=304, headers=headers)

        async with wired(app) as wire:
            for _ in range(2):
                await wire.send(GET)
                answer = await wire.answer()
                assert (answer.status, answer.body, answer.whole) == (304, b"", True)
                assert answer.headers == [(name.decode(), value.decode()) for name, value in headers]

    @pytest.mark.parametrize("status", [204, 304])
    async def test_a_body_where_none_may_be_is_cut_off(self, status: int) -> None:
        async def app(cycle: Cycle) -> None:
            respond(cycle, b"body", status=status, headers=[])

        async with wired(app) as wire:
            await wire.send(GET)
            assert (await rest_of(wire)).endswith(b"\r\n\r\n")

    @pytest.mark.parametrize(
        ("parts", "sent"), [([b"abc", b"de"], b"abc"), ([b"abc"], b"abc")], ids=["more", "less"]
    )
    async def test_one_that_has_another_length_than_it_states_is_cut_off(
        self, parts: list[bytes], sent: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Or the next one would begin in the wrong place."""

        async def app(cycle: Cycle) -> None:
            cycle.begin(200, [(b"content-length", b"4")])
            for part in parts:
                await piece(cycle, part)
            cycle.end()

        async with wired(app) as wire:
            await wire.send(GET)
            answer = await wire.answer()
            assert (answer.body, answer.whole) == (sent, False)
        assert [record.message.partition(" in ")[0] for record in caplog.records] == [
            "a response broke off: ValueError"
        ]

    async def test_a_header_that_could_pass_for_two_is_never_sent(self) -> None:
        async def app(cycle: Cycle) -> None:
            respond(cycle, headers=[(b"x-name", b"a\r\nset-cookie: b")])

        async with wired(app) as wire:
            await wire.send(GET)
            assert await rest_of(wire) == b""

    @pytest.mark.parametrize("raises", [True, False], ids=["raises", "returns"])
    @pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
    async def test_one_that_the_app_does_not_finish_is_cut_off(
        self, raises: bool, begun: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(cycle: Cycle) -> None:
            if begun:
                cycle.begin(200, [])
                await piece(cycle, b"abc")
            if raises:
                raise LookupError("a secret")

        async with wired(app) as wire:
            await wire.send(GET)
            if begun:
                answer = await wire.answer()
                assert (answer.body, answer.whole) == (b"abc", False)
            assert await rest_of(wire) == b""
        assert len(caplog.records) == raises
        assert "secret" not in caplog.text

    async def test_one_that_comes_before_the_requests_end_lets_the_next_request_come(self) -> None:
        async with wired(hasty) as wire:
            for request, rest in ((sized(6) + b"abc", b"def"), (CHUNKED + b"3\r\nabc\r\n", b"0\r\n\r\n")):
                await wire.send(request)
                assert (await wire.answer()).body == b"done"
                await wire.send(rest)
            await wire.send(GET)
            assert (await wire.answer()).body == b"done"

    async def test_nothing_follows_one_whose_requests_body_breaks_off_later(self) -> None:
        """It would be taken for the response to the next request."""
        async with wired(hasty) as wire:
            await wire.send(CHUNKED)
            assert (await wire.answer()).body == b"done"
            await wire.send(b"not-a-size\r\n")
            try:
                assert await rest_of(wire) == b""
            except ConnectionResetError:
                """Nor is that a response."""

    async def test_one_to_a_caller_who_wants_the_connection_closed_is_the_last(self) -> None:
        async with wired(echo) as wire:
            await wire.send(sized(3, b"connection: close") + b"abc")
            answer = await wire.answer()
            assert (answer.body, answer.named("connection")) == (b"abc", ["close"])
            assert await rest_of(wire) == b""

    async def test_one_is_not_produced_faster_than_its_caller_reads_it(self) -> None:
        sent = 0
        waits = asyncio.Event()
        part = bytes(64 * 1024)
        count = 512

        async def app(cycle: Cycle) -> None:
            nonlocal sent
            cycle.begin(200, [])
            for _ in range(count):
                sending = asyncio.ensure_future(piece(cycle, part))
                if not (await asyncio.wait([sending], timeout=0.3))[0]:
                    waits.set()
                await sending
                sent += len(part)
            cycle.end()

        async with wired(app) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(GET)
            await asyncio.wait_for(waits.wait(), PATIENCE_SECONDS)
            assert sent < count * len(part) / 2
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            answer = await wire.answer()
            assert (len(answer.body), answer.whole) == (count * len(part), True)

    async def test_one_waits_while_the_transport_is_full_and_goes_on_when_it_is_not(
        self, waiting: Waiting
    ) -> None:
        connection, transport = connected(waiting)
        arrive(connection, GET)
        await settle()
        waiting.cycle.begin(200, [(b"content-length", b"6")])
        connection.pause_writing()
        sending = asyncio.ensure_future(piece(waiting.cycle, b"abc"))
        await settle()
        # What is written then is the transport's to keep; nothing more is before it has room again.
        assert (sending.done(), transport.taken()[-3:]) == (False, b"abc")
        assert not waiting.cycle.is_writable
        connection.resume_writing()
        await sending
        assert waiting.cycle.write(b"def")
        assert transport.taken() == b"def"

    async def test_one_to_a_caller_who_leaves_while_it_waits_ends_there(self, waiting: Waiting) -> None:
        connection, transport = connected(waiting)
        arrive(connection, GET)
        await settle()
        waiting.cycle.begin(200, [])
        transport.taken()
        connection.pause_writing()
        sending = asyncio.ensure_future(piece(waiting.cycle, b"abc"))
        await settle()
        assert not sending.done()
        transport.taken()
        transport.close()
        await sending
        waiting.cycle.write(b"def")
        waiting.cycle.end()
        assert transport.taken() == b""
        assert await waiting.cycle.receive() == {"type": "http.disconnect"}

    async def test_the_app_is_told_of_a_caller_who_leaves_during_one(self) -> None:
        told: list[Message] = []

        async def app(cycle: Cycle) -> None:
            assert await body_of(cycle) == b""
            cycle.begin(200, [])
            await piece(cycle, b"abc")
            told.append(await cycle.receive())
            await piece(cycle, b"def")
            cycle.end()

        async with serving(app) as server, connect(server.url) as wire:
            await wire.send(GET)
            await wire.head()
            assert await wire.chunk() == b"abc"
            wire.abort()
            await server.is_empty()
        assert told == [{"type": "http.disconnect"}]

    async def test_whoever_waits_for_the_callers_leave_is_told_of_the_responses_end(self) -> None:
        told: list[Message] = []

        async def app(cycle: Cycle) -> None:
            async def watch() -> None:
                told.append(await cycle.receive())

            assert await body_of(cycle) == b""
            watching = asyncio.create_task(watch())
            await settle()
            respond(cycle)
            await watching

        async with wired(app) as wire:
            for _ in range(2):
                await wire.send(GET)
                assert (await wire.answer()).whole
        assert told == [{"type": "http.disconnect"}] * 2

    async def test_a_reader_who_gives_up_takes_nothing_from_the_next(self, waiting: Waiting) -> None:
        connection, _ = connected(waiting)
        arrive(connection, sized(3))
        await settle()
        given_up = asyncio.ensure_future(waiting.cycle.receive())
        await settle()
        given_up.cancel()
        await settle()
        arrive(connection, b"abc")
        assert await waiting.cycle.receive() == {"type": "http.request", "body": b"abc", "more_body": False}


class TestConnections:
    async def test_one_that_is_closed_is_gone_without_the_collector(self) -> None:
        async with serving(echo) as server:
            gc.disable()
            try:
                async with connect(server.url) as wire:
                    await wire.send(sized(3) + b"abc")
                    assert (await wire.answer()).whole
                    (reference,) = [weakref.ref(connection) for connection in server.connections.opened]
                await server.is_empty()
                await turns_until(lambda: reference() is None)
            finally:
                gc.enable()

    def test_one_that_is_idle_is_closed_after_its_time_and_none_with_a_request(self) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            app = Waiting()
            connections = Connections(app, Invocations(object()))
            closing = loop.create_task(connections.close_idle_forever(150))
            _, unused = connected(app, connections)
            busy_connection, busy = connected(app, connections)
            arrive(busy_connection, GET)
            in_head_connection, in_head = connected(app, connections)
            arrive(in_head_connection, GET[:10])
            for now in range(0, 151, 30):
                await loop.pass_until(now)
            assert (unused.is_closing(), busy.is_closing(), in_head.is_closing()) == (False, False, False)
            await loop.pass_until(180)
            assert (unused.is_closing(), busy.is_closing(), in_head.is_closing()) == (True, False, False)
            # From the response's end on it is idle.
            respond(app.cycle)
            for now in range(210, 331, 30):
                await loop.pass_until(now)
            assert not busy.is_closing()
            await loop.pass_until(360)
            assert busy.is_closing()
            closing.cancel()

        run_in_virtual_time(scenario)

    def test_one_whose_response_came_early_is_idle_from_the_requests_end_on(self) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            connections = Connections(hasty, Invocations(object()))
            closing = loop.create_task(connections.close_idle_forever(150))
            connection, transport = connected(hasty, connections)
            arrive(connection, sized(6))
            await loop.pass_until(0)
            assert transport.taken()
            for now in range(30, 121, 30):
                await loop.pass_until(now)
            arrive(connection, b"abcdef")
            for now in range(150, 271, 30):
                await loop.pass_until(now)
            assert not transport.is_closing()
            await loop.pass_until(300)
            assert transport.is_closing()
            closing.cancel()

        run_in_virtual_time(scenario)

    def test_one_whose_caller_never_sends_the_rest_after_an_early_response_is_closed_too(self) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            connections = Connections(hasty, Invocations(object()))
            closing = loop.create_task(connections.close_idle_forever(150))
            connection, transport = connected(hasty, connections)
            arrive(connection, sized(6))
            await loop.pass_until(0)
            arrive(connection, b"abc")
            for now in range(30, 181, 30):
                await loop.pass_until(now)
            assert transport.is_closing()
            closing.cancel()

        run_in_virtual_time(scenario)


class TestDrain:
    def test_idle_connections_close_at_once_and_others_after_their_response(self) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            app = Waiting()
            connections = Connections(app, Invocations(object()))
            _, idle = connected(app, connections)
            connection, busy = connected(app, connections)
            arrive(connection, GET)
            await settle()
            draining = loop.create_task(connections.drain(30))
            await loop.pass_until(0)
            assert (idle.is_closing(), busy.is_closing()) == (True, False)
            respond(app.cycle)
            assert busy.taken() == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone"
            assert busy.is_closing()
            app.is_over.set()
            await loop.pass_until(0.1)
            assert draining.done()
            assert draining.exception() is None

        run_in_virtual_time(scenario)

    def test_a_connection_that_was_accepted_at_the_last_moment_does_not_hold_it_up(self) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            app = Waiting()
            connections = Connections(app, Invocations(object()))
            connection, busy = connected(app, connections)
            arrive(connection, GET)
            draining = loop.create_task(connections.drain(30))
            await loop.pass_until(0)
            _, late = connected(app, connections)
            respond(app.cycle)
            app.is_over.set()
            await loop.pass_until(0.1)
            assert (busy.is_closing(), late.is_closing()) == (True, True)
            await loop.pass_until(0.2)
            assert draining.done()

        run_in_virtual_time(scenario)

    def test_what_takes_too_long_is_cut_off_and_told(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(loop: VirtualLoop) -> None:
            app = Waiting()
            connections = Connections(app, Invocations(object()))
            connection, transport = connected(app, connections)
            arrive(connection, GET)
            await settle()
            app.cycle.begin(200, [])
            draining = loop.create_task(connections.drain(30))
            await loop.pass_until(0)
            await loop.pass_until(29.9)
            assert (draining.done(), transport.is_closing()) == (False, False)
            await loop.pass_until(30)
            await settle()
            assert (draining.done(), transport.is_closing(), connections.tasks) == (True, True, set())

        run_in_virtual_time(scenario)
        assert [(record.levelname, record.message) for record in caplog.records] == [
            ("ERROR", "1 connections were cut off by the worker's shutdown")
        ]


@dataclass
class Transport:
    """Takes what is written, and tells the connection of its own close when the loop gets to it, as others do."""

    connection: Connection
    written: bytes = b""
    _reads: bool = True
    _is_closed: bool = False

    def taken(self) -> bytes:
        """What was written since the last time."""
        written, self.written = self.written, b""
        return written

    def write(self, data: bytes) -> None:
        assert not self._is_closed
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closed

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        assert self._reads
        self._reads = False

    def resume_reading(self) -> None:
        assert not self._reads
        self._reads = True

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    abort = close


def connected(app: App, among: Connections | None = None) -> tuple[Connection, Transport]:
    connection = (among or Connections(app, Invocations(object()))).accept()
    transport = Transport(connection)
    connection.connection_made(cast("Any", transport))
    return connection, transport


def arrive(connection: Connection, data: bytes) -> None:
    """As one read of the loop's."""
    assert len(data) <= READ_BYTES
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))
