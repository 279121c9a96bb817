"""The transport on real sockets: nothing re-encoded, nothing made up, nothing sent twice, nothing without bound."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import trustme
import uvloop
from aiohappyeyeballs.types import AddrInfoType

from shim.headers import Headers
from shim.upstream import transport as transport_module
from shim.upstream.connection import Exchange
from shim.upstream.transport import Transport

MIB = 1024 * 1024
PATIENCE = 5.0
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(connect_timeout=1)
    yield transport
    transport.close()


@dataclass
class Peer:
    """A server of raw bytes: what came on each connection, and what it does about it."""

    serve: Serve
    origin: str = ""
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            """The transport has left, as some tests want it to."""
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def peer(serve: Serve, secure: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    it = Peer(serve)
    server = await asyncio.start_server(it.accept, "127.0.0.1", 0, ssl=secure)
    it.origin = f"{'https' if secure else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()


def answering(*answers: bytes, hang: bool = False) -> Serve:
    """Each request on a connection gets the next answer; then the connection ends, unless it is to hang."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        if hang:
            await reader.read()

    return serve


async def whole(exchange: Exchange) -> bytes:
    content = b"".join([piece async for piece in exchange])
    exchange.close()
    return content


async def get(transport: Transport, origin: str, method: str = "GET") -> tuple[int, bytes]:
    exchange = await transport.send(method, origin, "/", [], b"")
    return exchange.status, await whole(exchange)


async def received(
    transport: Transport,
    method: str,
    target: str,
    headers: Headers,
    body: bytes | AsyncIterator[bytes],
    ends: bytes,
) -> bytes:
    """What a server gets of a request that ends so."""
    got = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got = await reader.readuntil(ends)
        writer.write(GOOD)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await whole(await transport.send(method, it.origin, target, headers, body))
        return got.replace(it.origin.removeprefix("http://").encode(), b"HOST")


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


async def test_a_request_goes_out_as_it_is(transport: Transport) -> None:
    target = '/a%2Fb%41/..//c;d?e=%20+f&g[]={h}|"i"'
    headers = [
        (b"x-a", b"1"),
        (b"x-b", "gr\u00fc\u00df".encode()),
        (b"x-c", b"\xff"),
        (b"x-a", b"2"),
        (b"x-d", b""),
    ]
    assert await received(transport, "GET", target, headers, b"", b"\r\n\r\n") == (
        b"GET " + target.encode() + b" HTTP/1.1\r\nhost: HOST\r\n"
        b"x-a: 1\r\nx-b: gr\xc3\xbc\xc3\x9f\r\nx-c: \xff\r\nx-a: 2\r\nx-d: \r\n\r\n"
    )


LENGTH_5 = [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("method", "headers", "body", "framed"),
    [
        pytest.param("GET", [], b"", b"\r\n\r\n", id="none"),
        pytest.param("POST", [], b"", b"content-length: 0\r\n\r\n", id="none, where one is expected"),
        pytest.param("DELETE", [], b"hello", b"content-length: 5\r\n\r\nhello", id="at hand"),
        pytest.param("POST", LENGTH_5, b"hello", b"content-length: 5\r\n\r\nhello", id="at hand, sized"),
        pytest.param("POST", LENGTH_5, (b"he", b"llo"), b"content-length: 5\r\n\r\nhello", id="coming, sized"),
        pytest.param(
            "POST", [], (b"he", b"llo"),
            b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", id="coming, unsized",
        ),
        pytest.param("POST", [], (), b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="coming, empty"),
    ],
)  # fmt: skip
async def test_a_body_is_framed_as_its_length_is_known(
    transport: Transport, method: str, headers: Headers, body: bytes | tuple[bytes, ...], framed: bytes
) -> None:
    content = body if isinstance(body, bytes) else pieces(*body)
    got = await received(transport, method, "/", headers, content, framed)
    assert got == f"{method} / HTTP/1.1\r\nhost: HOST\r\n".encode() + framed.removeprefix(
        b"\r\n" if not body else b""
    )


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/", [(b"x-a", b"1\r\nx-b: 2")]),
        ("GET", "/", [(b"x-a", b"1\nx-b: 2")]),
        ("GET", "/", [(b"x-a", b"1\0")]),
        ("GET", "/", [(b"x-a\r\nx-b", b"1")]),
        ("GET", "/ HTTP/1.1\r\nhost: other\r\n\r\nGET /", []),
        ("GET", "/a b", []),
        ("GET /a", "/", []),
        ("POST", "/", [(b"content-length", b"3")]),
    ],
)
async def test_what_could_pass_for_something_else_is_not_sent(
    transport: Transport, method: str, target: str, headers: Headers
) -> None:
    async with peer(answering(GOOD)) as it:
        with pytest.raises(httpx.LocalProtocolError):
            await transport.send(method, it.origin, target, headers, b"")
        assert it.connections == 0


@pytest.mark.parametrize("body", [(b"12345", b"6"), (b"1234",), ()], ids=["longer", "shorter", "none"])
async def test_a_body_that_belies_its_length_is_cut(transport: Transport, body: tuple[bytes, ...]) -> None:
    """What is too much would be taken for the next request on the connection, and the next for what is too little."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.read(-1))

    got: list[bytes] = []
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(httpx.LocalProtocolError):
            await transport.send("POST", it.origin, "/", LENGTH_5, pieces(*body))
        await it.gone.wait()
    assert all(len(content) <= 5 for content in got)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "content"),
    [
        pytest.param(GOOD, 200, b"ok", id="sized"),
        pytest.param(CHUNKED + b"2\r\nok\r\n1;a=b\r\n!\r\n0\r\n\r\n", 200, b"ok!", id="chunked"),
        pytest.param(CHUNKED + b"2 \r\nok\r\n0 \r\n\r\n", 200, b"ok", id="chunked, sizes padded"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx-t: 1\r\n\r\n", 200, b"ok", id="chunked, with trailers"),
        pytest.param(HEAD + b"\r\nok", 200, b"ok", id="until the connection ends"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", 200, b"ok", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n", 299, b"", id="no reason, no body"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", id="304 with a length"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, 200, b"ok", id="after a 100"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3 + GOOD, 200, b"ok", id="after several 103"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, MIB], ids=["bytewise", "in pieces", "at once"])
async def test_an_answer_is_read_however_it_is_framed_and_cut(
    transport: Transport, answer: bytes, status: int, content: bytes, size: int
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(answer), size):
            writer.write(answer[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        assert (exchange.status, await whole(exchange)) == (status, content)
        assert [name for name, _ in exchange.headers if name in (b"link", b"x-t")] == []


async def test_headers_come_back_as_they_are(transport: Transport) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nX-C: 1\r\nSet-Cookie: a=1\r\nx-c:\t 2 \t\r\nX-Empty:\r\nX-L: \xff\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip"
    )
    async with peer(answering(answer)) as it:
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        assert await whole(exchange) == b"not gzip"
        assert exchange.headers == [
            (b"X-C", b"1"), (b"Set-Cookie", b"a=1"), (b"x-c", b"2"), (b"X-Empty", b""), (b"X-L", b"\xff"),
            (b"Content-Encoding", b"gzip"), (b"Content-Length", b"8"),
        ]  # fmt: skip


@pytest.mark.parametrize("length", [b"", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"])
async def test_an_answer_to_head_ends_with_its_head(transport: Transport, length: bytes) -> None:
    async with peer(answering(HEAD + length + b"\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin, "HEAD") == (200, b"")


ENDLESS = b"a" * MIB


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200", id="half a head"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="no such status"),
        pytest.param(HEAD + b"x-a: 1\r\n folded: 2\r\n\r\n", id="a folded header"),
        pytest.param(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="two framings"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", id="an upgrade"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="no more than a 100"),
        pytest.param(HEAD + b"x-a: " + ENDLESS, id="a header without end"),
        pytest.param(HEAD + b"x-a: 1\r\n" * 100_000, id="headers without end"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000, id="hints without end"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_refused(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(httpx.RemoteProtocolError):
            await transport.send("GET", it.origin, "/", [], b"")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"content-length: 5\r\n\r\nok", id="shorter than it says"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"2\r\nokay\r\n", id="no chunk"),
        pytest.param(HEAD + b"transfer-encoding: gzip\r\n\r\nok", id="a coding that nobody asked for"),
        pytest.param(CHUNKED + b"2\r\nok\r\n1;" + ENDLESS, id="an extension without end"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx-t: " + ENDLESS, id="a trailer without end"),
    ],
)
async def test_an_answer_that_does_not_end_is_no_clean_end(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer)) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        reading = aiter(exchange)
        assert await anext(reading) == b"ok"
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(reading)


async def test_a_connection_is_used_again(transport: Transport) -> None:
    async with peer(answering(GOOD, CHUNKED + b"0\r\nx-t: 1\r\n\r\n", GOOD)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        assert await get(transport, it.origin) == (200, b"")
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        assert exchange.headers == [(b"content-length", b"2")]
        assert (await whole(exchange), it.connections) == (b"ok", 1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok", id="its end was announced"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(GOOD + GOOD, id="a second answer came along"),
        pytest.param(GOOD + b"garbage", id="garbage came along"),
        pytest.param(GOOD + b"HTTP/1.1 100 Continue\r\n\r\n", id="a late 100 came along"),
    ],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer, hang=True)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        assert await get(transport, it.origin) == (200, b"ok")
        assert it.connections == 2


async def test_what_comes_on_an_idle_connection_answers_nobody(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        await idle.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert await reader.read() == b""

    idle = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        idle.set()
        await it.gone.wait()
        assert await get(transport, it.origin) == (200, b"ok")
        assert it.connections == 2


async def test_an_idle_connection_that_upstream_has_closed_is_not_used(transport: Transport) -> None:
    async with peer(answering(GOOD)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        await it.gone.wait()
        await asyncio.sleep(0.01)
        assert await get(transport, it.origin) == (200, b"ok")
        assert it.connections == 2


async def test_a_request_that_was_sent_is_not_sent_again(transport: Transport) -> None:
    """Where a kept connection closes under it: it may have been carried out."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GOOD)
        requests.append(await reader.readuntil(b"\r\n\r\n"))

    requests: list[bytes] = []
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await get(transport, it.origin)
        with pytest.raises(httpx.RemoteProtocolError):
            await get(transport, it.origin)
        assert (len(requests), it.connections) == (2, 1)


async def test_idle_connections_are_closed_in_time(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_KEEPALIVE_SECONDS", 0.05)
    async with peer(answering(GOOD, hang=True)) as it, asyncio.timeout(PATIENCE):
        await get(transport, it.origin)
        await it.gone.wait()
        assert not any(transport._idle.values())


async def test_closing_an_answer_before_its_end_cancels_it_upstream(transport: Transport) -> None:
    async with peer(answering(CHUNKED + b"2\r\nok\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        assert await anext(aiter(exchange)) == b"ok"
        exchange.close()
        await it.gone.wait()


@pytest.mark.parametrize("body", [b"", pieces(b"a")], ids=["no body", "a body"])
async def test_giving_up_before_the_answer_cancels_it_upstream(
    transport: Transport, body: bytes | AsyncIterator[bytes]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    asked = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(transport.send("POST", it.origin, "/", [], body))
        await asked.wait()
        waiting.cancel()
        await it.gone.wait()


async def test_a_body_that_breaks_off_breaks_the_request_off(transport: Transport) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"first"
        raise EOFError("the caller has left")

    async with peer(answering(hang=True)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(EOFError):
            await transport.send("POST", it.origin, "/", [], broken())
        await it.gone.wait()


async def test_an_early_answer_ends_the_upload(transport: Transport) -> None:
    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"a"
                await asyncio.sleep(0)
        finally:
            stopped.set()

    stopped = asyncio.Event()
    early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 8\r\n\r\ntoo much"
    async with peer(answering(early, hang=True)) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("POST", it.origin, "/", [], endless())
        assert (exchange.status, await whole(exchange)) == (413, b"too much")
        await stopped.wait()
        await it.gone.wait()


async def test_upload_and_answer_may_overlap(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first\r\n")
        writer.write(CHUNKED)
        assert await reader.readuntil(b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"
        writer.write(b"4\r\nboth\r\n0\r\n\r\n")
        await reader.read()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await answered.wait()
        yield b"second"

    answered = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("POST", it.origin, "/", [], body())
        answered.set()
        assert await whole(exchange) == b"both"


async def test_a_slow_reader_holds_upstream_back(transport: Transport) -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % (64 * MIB))
        while written < 64 * MIB:
            writer.write(ENDLESS)
            written += MIB
            await writer.drain()

    async with peer(serve) as it, asyncio.timeout(20):
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        before = -1
        while written > before:  # until the kernel's buffers are full
            before = written
            await asyncio.sleep(0.1)
        assert written < 32 * MIB
        assert exchange._size <= 2 * 64 * 1024
        assert len(await whole(exchange)) == 64 * MIB


async def test_a_slow_upstream_holds_the_upload_back(transport: Transport) -> None:
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        await reader.readexactly(64 * MIB)
        writer.write(GOOD)

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 64 * MIB:
            taken += MIB
            yield ENDLESS

    go_on = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(20):
        length = [(b"content-length", b"%d" % (64 * MIB))]
        sending = asyncio.create_task(transport.send("POST", it.origin, "/", length, body()))
        before = -1
        while taken > before or not taken:
            before = taken
            await asyncio.sleep(0.1)
        assert taken < 32 * MIB
        go_on.set()
        assert await whole(await sending) == b"ok"


async def test_pieces_that_came_together_are_read_as_one(transport: Transport) -> None:
    async with peer(answering(CHUNKED + b"1\r\na\r\n" * 3 + b"0\r\n\r\n")) as it, asyncio.timeout(PATIENCE):
        exchange = await transport.send("GET", it.origin, "/", [], b"")
        assert [piece async for piece in exchange] == [b"aaa"]


async def test_many_calls_at_once_do_not_mix(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            await asyncio.sleep(0)
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(line) + line)

    async def ask(number: int) -> None:
        exchange = await transport.send("GET", it.origin, f"/{number}", [], b"")
        assert await whole(exchange) == b"/%d" % number

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for _ in range(5):
            await asyncio.gather(*map(ask, range(100)))
        assert it.connections <= 100


async def test_a_connection_that_is_refused_is_a_connect_error(transport: Transport) -> None:
    async with peer(answering()) as it:
        origin = it.origin
    with pytest.raises(httpx.ConnectError):
        await transport.send("GET", origin, "/", [], b"")


async def test_a_host_that_is_none_is_a_connect_error(transport: Transport) -> None:
    with pytest.raises(httpx.ConnectError):
        await transport.send("GET", "http://host.invalid", "/", [], b"")


async def test_a_handshake_that_is_never_answered_is_a_connect_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    transport = Transport(connect_timeout=0.1)
    async with peer(silent) as it:
        with pytest.raises(httpx.ConnectTimeout):
            await transport.send("GET", it.origin.replace("http:", "https:"), "/", [], b"")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("name", "trusted"),
    [("127.0.0.1", True), ("127.0.0.1", False), ("other.example", True)],
    ids=["trusted", "of an unknown authority", "of another name"],
)
async def test_certificates_are_checked(authority: trustme.CA, name: str, trusted: bool) -> None:
    client_side = ssl.create_default_context()
    if trusted:
        authority.configure_trust(client_side)
    transport = Transport(connect_timeout=2, verify=client_side)
    async with peer(answering(GOOD, GOOD), server_side(authority, name)) as it:
        if trusted and name == "127.0.0.1":
            assert await get(transport, it.origin) == (200, b"ok")
            assert await get(transport, it.origin) == (200, b"ok")
            assert it.connections == 1
        else:
            with pytest.raises(httpx.ConnectError):
                await get(transport, it.origin)
    transport.close()


async def test_large_bodies_pass_through_tls_both_ways(authority: trustme.CA) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        content = await reader.readexactly(16 * MIB)
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(content) + content[::-1])
        await writer.drain()

    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    transport = Transport(connect_timeout=2, verify=client_side)
    sent = [bytes([number]) * MIB for number in range(16)]
    async with peer(serve, server_side(authority, "127.0.0.1")) as it, asyncio.timeout(20):
        length = [(b"content-length", b"%d" % (16 * MIB))]
        exchange = await transport.send("POST", it.origin, "/", length, pieces(*sent))
        assert await whole(exchange) == b"".join(reversed(sent))
    transport.close()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_call_goes_through_on_either_event_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], secure: bool
) -> None:
    """The worker runs uvloop where it can (proxy_worker/start_worker.py), asyncio's own loop elsewhere."""
    authority = trustme.CA()
    offered, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(offered)
    authority.configure_trust(trusting)

    async def call() -> bytes:
        transport = Transport(connect_timeout=5, verify=trusting)
        async with peer(answering(GOOD), offered if secure else None) as upstream:
            _, body = await get(transport, upstream.origin)
        transport.close()
        return body

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(call()) == b"ok"


async def test_an_address_that_does_not_answer_gives_way_to_the_next() -> None:
    with socket.socket() as silent, socket.socket() as filling:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)  # once its queue is full, Linux answers no further SYN
        filling.connect(silent.getsockname())

        async def resolve(host: str, port: int) -> list[AddrInfoType]:
            stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*stream, silent.getsockname()), (*stream, ("127.0.0.1", port))]

        transport = Transport(connect_timeout=PATIENCE, resolve=resolve)
        async with peer(answering(GOOD)) as upstream:
            assert await get(transport, upstream.origin) == (200, b"ok")
        transport.close()
