"""The transports on real sockets: nothing re-encoded, nothing made up, nothing sent twice, nothing without bound.

Both meet the same hostile upstreams: the shim's own, and stock httpx, which an operator may choose. Where stock httpx
differs is the table DIFFERENCES, which docs/architecture.md repeats for operators.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trustme
import uvloop
from aiohappyeyeballs.types import AddrInfoType

from shim.headers import Headers
from shim.settings import Settings
from shim.transport.choice import Choice, choose_transport, open_transport
from shim.transport.connection import Connection
from shim.transport.direct import ShimTransport
from shim.transport.exchange import Exchange
from shim.transport.pool import Counts, Pool
from shim.transport.tcp import Tcp
from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    ReadTimeout,
    RemoteProtocolError,
    Transport,
    TransportError,
    WireRequest,
    WireResponse,
    origin_of,
)
from tests.support.memory import traced
from tests.support.transports import pieces

MIB = 1024 * 1024
# Nothing here takes as long, but where a busy machine makes it.
PATIENCE = 30.0
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# What stock httpx does otherwise, by test or case.
DIFFERENCES = {
    "test_what_could_pass_for_something_else_is_not_sent[POST-/-headers7]": "sends the head before it counts the body",
    "test_an_answer_that_is_none_is_refused[a folded header]": "unfolds it",
    "test_an_answer_that_is_none_is_refused[two framings]": "chunked counts",
    "test_an_answer_that_is_none_is_refused[status 600]": "passes it on; the Functions host then fails",
    "test_a_connection_that_is_not_clean_is_not_used_again[a second answer came along]": (
        "uses the connection again, and takes the second response for the next call's"
    ),
    "test_a_connection_that_is_not_clean_is_not_used_again[a line break came along]": "uses the connection again",
    "test_a_connection_that_is_not_clean_is_not_used_again[a line break came along, chunked]": (
        "uses the connection again"
    ),
    "test_pieces_that_came_together_are_read_as_one": "gives each chunk by itself",
}
# The same, where the call would wait until it is given up.
HANGS = {
    "test_a_connection_that_is_not_clean_is_not_used_again[garbage came along]": "uses the connection again",
    "test_a_connection_that_is_not_clean_is_not_used_again[a late 100 came along]": "uses the connection again",
    "test_what_comes_on_an_idle_connection_answers_nobody": "looks at an idle connection only when it takes it",
    "test_an_early_answer_ends_the_upload": "reads no response before the upload has ended",
    "test_upload_and_answer_may_overlap": "reads no response before the upload has ended",
}


@pytest.fixture(params=["shim", "httpx"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    if request.param == "httpx":
        case = request.node.name.replace("httpx-", "").replace("[httpx]", "")
        for differs, runs in ((DIFFERENCES, True), (HANGS, False)):
            if reason := differs.get(case) or differs.get(request.node.originalname):
                request.applymarker(pytest.mark.xfail(strict=True, run=runs, reason=f"httpx {reason}"))
    transport = open_transport(Choice(request.param))
    yield transport
    await transport.aclose()


@pytest.fixture
async def ours() -> AsyncIterator[ShimTransport]:
    transport = ShimTransport()
    yield transport
    await transport.aclose()


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


async def send(
    transport: Transport,
    method: str,
    origin: str,
    target: str,
    headers: Headers,
    body: bytes | AsyncIterator[bytes],
    *,
    connect: float = PATIENCE,
    read: float | None = None,
    head: float | None = None,
) -> WireResponse:
    """Sends as Upstream does: Host first, and one header that frames a body."""
    at = origin_of(origin)
    fields = [(b"host", at.authority), *headers]
    if not any(name == b"content-length" for name, _ in headers):
        if not isinstance(body, bytes):
            fields.append((b"transfer-encoding", b"chunked"))
        elif body or method in ("POST", "PUT", "PATCH"):
            fields.append((b"content-length", b"%d" % len(body)))
    return await transport.send(WireRequest(method, at, target.encode(), fields, body, connect, read, head))


async def whole(sent: WireResponse) -> bytes:
    content = b"".join([piece async for piece in sent])
    await sent.aclose()
    return content


async def get(transport: Transport, origin: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    sent = await send(transport, method, origin, "/", [], body)
    return sent.status, await whole(sent)


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
        await whole(await send(transport, method, it.origin, target, headers, body))
        return got.replace(it.origin.removeprefix("http://").encode(), b"HOST")


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
        ("GET", "/", [(b"x-a", b"1\rx-b: 2")]),
    ],
)
async def test_what_could_pass_for_something_else_is_not_sent(
    transport: Transport, method: str, target: str, headers: Headers
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())

    got: list[bytes] = []
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(LocalProtocolError):
            await send(transport, method, it.origin, target, headers, b"")
        if it.connections:
            await it.gone.wait()
        assert got in ([], [b""])


FRAMED_WRONGLY: dict[str, tuple[Headers, bytes | AsyncIterator[bytes]]] = {
    "two lengths that agree": ([(b"Content-Length", b"2"), (b"content-length", b"2")], b"ok"),
    "a length and chunks": (
        [(b"content-length", b"2"), (b"Transfer-Encoding", b"chunked")], pieces(b"ok"),
    ),
    "chunks of what is at hand": ([(b"transfer-encoding", b"chunked")], b""),
    "no length of what is at hand": ([], b"ok"),
    "nothing for what is still to come": ([], pieces(b"ok")),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "body"), FRAMED_WRONGLY.values(), ids=FRAMED_WRONGLY)
async def test_a_request_that_does_not_say_once_where_it_ends_is_not_sent(
    ours: ShimTransport, headers: Headers, body: bytes | AsyncIterator[bytes]
) -> None:
    """Of two framings upstream may believe the other, and take what is left for a request of its own."""
    async with peer(answering(GOOD)) as it:
        request = WireRequest("POST", origin_of(it.origin), b"/", [(b"host", b"any"), *headers], body)
        with pytest.raises(LocalProtocolError, match="body"):
            await ours.send(request)
        assert it.connections == 0


@pytest.mark.parametrize("body", [(b"12345", b"6"), (b"1234",), ()], ids=["longer", "shorter", "none"])
async def test_a_body_that_belies_its_length_is_cut(transport: Transport, body: tuple[bytes, ...]) -> None:
    """What is too much would be taken for the next request on the connection, and the next for what is too little."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.read(-1))

    got: list[bytes] = []
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(LocalProtocolError):
            await send(transport, "POST", it.origin, "/", LENGTH_5, pieces(*body))
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
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        assert (exchange.status, await whole(exchange)) == (status, content)
        assert [name for name, _ in exchange.headers if name in (b"link", b"x-t")] == []


async def test_headers_come_back_as_they_are(transport: Transport) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nX-C: 1\r\nSet-Cookie: a=1\r\nx-c:\t 2 \t\r\nX-Empty:\r\nX-L: \xff\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip"
    )
    async with peer(answering(answer)) as it:
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        assert await whole(exchange) == b"not gzip"
        assert exchange.headers == [
            (b"X-C", b"1"), (b"Set-Cookie", b"a=1"), (b"x-c", b"2"), (b"X-Empty", b""), (b"X-L", b"\xff"),
            (b"Content-Encoding", b"gzip"), (b"Content-Length", b"8"),
        ]  # fmt: skip


@pytest.mark.parametrize("length", [b"", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"])
async def test_an_answer_to_head_ends_with_its_head(transport: Transport, length: bytes) -> None:
    async with peer(answering(HEAD + length + b"\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin, "HEAD") == (200, b"")


async def test_after_an_answer_to_head_the_next_call_gets_its_own(transport: Transport) -> None:
    """The body that the head announces never comes: the next response would be taken for it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.readuntil(b"\r\n\r\n"):
            writer.write(HEAD + b"content-length: 50\r\n\r\n" if asked.startswith(b"HEAD") else GOOD)

    async with peer(serve) as it, asyncio.timeout(5):
        assert await get(transport, it.origin, "HEAD") == (200, b"")
        assert await get(transport, it.origin) == (200, b"ok")


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
        pytest.param(b"HTTP/1.1 000 Nothing\r\ncontent-length: 2\r\n\r\nok", id="status 000"),
        pytest.param(b"HTTP/1.1 600 More\r\ncontent-length: 2\r\n\r\nok", id="status 600"),
        pytest.param(HEAD + b"transfer-encoding: gzip\r\n\r\nok", id="a coding that nobody asked for"),
        pytest.param(
            HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", id="a coding beside chunked"
        ),
        pytest.param(HEAD + b"x-a: " + ENDLESS, id="a header without end"),
        pytest.param(HEAD + b"x-a: 1\r\n" * 100_000, id="headers without end"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000, id="hints without end"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_refused(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(RemoteProtocolError):
            await send(transport, "GET", it.origin, "/", [], b"")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"content-length: 5\r\n\r\nok", id="shorter than it says"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"2\r\nokay\r\n", id="no chunk"),
        pytest.param(CHUNKED + b"2\r\nok\r\n1;" + ENDLESS, id="an extension without end"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx-t: " + ENDLESS, id="a trailer without end"),
    ],
)
async def test_an_answer_that_does_not_end_is_no_clean_end(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer)) as it, asyncio.timeout(PATIENCE):
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        reading = aiter(exchange)
        assert await anext(reading) == b"ok"
        with pytest.raises(RemoteProtocolError):
            await anext(reading)


async def test_an_answer_that_breaks_along_with_its_head_is_none(ours: ShimTransport) -> None:
    """Passed on, it would be an empty 500: the Functions host holds a head back until its body begins."""
    async with peer(answering(CHUNKED + b"no size\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(RemoteProtocolError):
            await send(ours, "GET", it.origin, "/", [], b"")


async def test_a_connection_is_used_again(transport: Transport) -> None:
    async with peer(answering(GOOD, CHUNKED + b"0\r\nx-t: 1\r\n\r\n", GOOD)) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        assert await get(transport, it.origin) == (200, b"")
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        assert exchange.headers == [(b"content-length", b"2")]
        assert (await whole(exchange), it.connections) == (b"ok", 1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok", id="its end was announced"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(GOOD + GOOD, id="a second answer came along"),
        pytest.param(GOOD + b"garbage", id="garbage came along"),
        pytest.param(GOOD + b"\r\n", id="a line break came along"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n\r\n\r\n", id="a line break came along, chunked"),
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


async def close_under(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reads: bool) -> None:
    """Answers a first request, then closes while a second is on its way, having read it or not."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(GOOD)
    await writer.drain()
    if reads:
        await reader.readuntil(b"\r\n\r\n")


async def test_a_request_that_upstream_may_have_taken_is_not_sent_again(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await close_under(reader, writer, reads=True)
        taken.append(writer)

    taken: list[asyncio.StreamWriter] = []
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await get(transport, it.origin)
        with pytest.raises(RemoteProtocolError):
            await get(transport, it.origin, "POST", b"once")
        assert (len(taken), it.connections) == (1, 1)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_request_that_may_be_asked_twice_is_sent_again_when_its_connection_ends(
    ours: ShimTransport, method: str
) -> None:
    """RFC 9110, section 9.2.2."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await close_under(reader, writer, reads=True)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await get(ours, it.origin)
        assert await get(ours, it.origin, method) == (200, b"" if method == "HEAD" else b"ok")
        assert (it.connections, ours.counts.repeated) == (2, 1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_must_not_be_asked_twice_is_not(ours: ShimTransport, method: str) -> None:
    """Upstream has read it: a model may be at work, or something changed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await close_under(reader, writer, reads=True)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await get(ours, it.origin)
        with pytest.raises(RemoteProtocolError):
            await get(ours, it.origin, method, b"once")
        assert (it.connections, ours.counts.repeated) == (1, 0)


@pytest.mark.parametrize(
    "counts", [[0], [None], [0, 1, 2, 3, None]], ids=["counts nothing", "has no count", "has none any more"]
)
async def test_where_the_kernel_does_not_count_a_post_that_may_have_been_taken_is_not_sent_again(
    counts: list[int | None],
) -> None:
    """As in some sandboxes. Connections are used again all the same."""
    left = list(counts)

    class Uncounted(Tcp):
        def bytes_acknowledged(self) -> int | None:
            return left.pop(0) if len(left) > 1 else left[0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        await close_under(reader, writer, reads=True)

    transport = ShimTransport(look_at=Uncounted)
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for _ in range(2):
            assert await get(transport, it.origin) == (200, b"ok")
        with pytest.raises(RemoteProtocolError):
            await get(transport, it.origin, "POST", b"once")
        assert (it.connections, transport.counts.repeated) == (1, 0)
    await transport.aclose()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_post_whose_connection_closed_before_it_arrived_is_sent_again(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The kernel tells that upstream has acknowledged none of it: a connection whose process has closed it is reset."""

    async def call() -> tuple[int, int]:
        closed = threading.Event()

        def serve() -> None:
            # In a thread, with plain sockets: it closes between our look at the socket and the request's first byte.
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(GOOD)
            about_to_send.wait()
            connection.close()
            closed.set()
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(GOOD)
            connection.close()

        about_to_send = threading.Event()

        class HeldUp(Tcp):
            """Sees nothing, and then takes its time."""

            def has_news(self) -> bool:
                about_to_send.set()
                closed.wait(PATIENCE)
                return False

        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=serve)
            thread.start()
            origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
            ours = ShimTransport(look_at=HeldUp)
            await get(ours, origin)
            assert await get(ours, origin, "POST", b"once") == (200, b"ok")
            await ours.aclose()
            thread.join(5)
        return ours.counts.stale, ours.counts.repeated

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(call()) == (1, 1)


async def test_idle_connections_are_closed_in_time() -> None:
    transport = ShimTransport(keepalive=0.05)
    async with peer(answering(GOOD, hang=True)) as it, asyncio.timeout(PATIENCE):
        await get(transport, it.origin)
        await it.gone.wait()
    await transport.aclose()


async def test_a_transport_that_is_closed_leaves_no_connection_behind(transport: Transport) -> None:
    async with peer(answering(GOOD, hang=True)) as it, asyncio.timeout(5):
        await get(transport, it.origin)
        await transport.aclose()
        await it.gone.wait()


def test_what_is_read_into_is_a_piece_that_the_process_keeps_and_does_not_map_anew() -> None:
    """From 256 KiB on, memory comes from the kernel each time, and goes back (shim/worker/memory.py)."""
    with traced() as held:
        transport = ShimTransport()
        assert 64 * 1024 < held() < 256 * 1024
        assert transport.counts == Counts()


async def test_a_connection_is_used_for_its_own_origin_alone() -> None:
    """Another host, port or scheme may be another's: its key would go there, and in clear perhaps."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while it.connections < 4:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(GOOD)

    async def resolve(host: str, port: int) -> list[AddrInfoType]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    transport = ShimTransport(resolve=resolve)
    async with peer(serve) as it, peer(answering(GOOD)) as other, asyncio.timeout(PATIENCE):
        for connections, host in enumerate(("a.example", "b.example", "127.0.0.1"), 1):
            origin = it.origin.replace("127.0.0.1", host)
            for _ in range(2):
                assert await get(transport, origin) == (200, b"ok")
            assert (it.connections, other.connections) == (connections, 0)
        assert await get(transport, other.origin) == (200, b"ok")
        assert (it.connections, other.connections) == (3, 1)
        with pytest.raises(ConnectError):  # since it speaks no TLS
            await get(transport, it.origin.replace("http:", "https:"))
        assert it.connections == 4
        await transport.aclose()


async def test_closing_an_answer_before_its_end_cancels_it_upstream(transport: Transport) -> None:
    async with peer(answering(CHUNKED + b"2\r\nok\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        assert await anext(aiter(exchange)) == b"ok"
        await exchange.aclose()
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
        waiting = asyncio.create_task(send(transport, "POST", it.origin, "/", [], body))
        await asked.wait()
        waiting.cancel()
        await it.gone.wait()


async def test_a_body_that_breaks_off_breaks_the_request_off(transport: Transport) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"first"
        raise EOFError("the caller has left")

    async with peer(answering(hang=True)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(EOFError):
            await send(transport, "POST", it.origin, "/", [], broken())
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
        exchange = await send(transport, "POST", it.origin, "/", [], endless())
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
        exchange = await send(transport, "POST", it.origin, "/", [], body())
        answered.set()
        assert await whole(exchange) == b"both"


async def test_a_slow_reader_holds_upstream_back(ours: ShimTransport) -> None:
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
        exchange = await send(ours, "GET", it.origin, "/", [], b"")
        pieces, got = aiter(exchange), 0
        for _ in range(2):  # each time that it stops
            before = -1
            while written > before:  # until the kernel's buffers are full
                before = written
                await asyncio.sleep(0.1)
            assert written < 32 * MIB
            ahead = len(await anext(pieces))
            assert ahead <= 64 * 1024 + 256 * 1024  # as much as may be read ahead, and one read
            got += ahead
        assert got + sum([len(piece) async for piece in pieces]) == 64 * MIB


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
async def test_a_slow_upstream_holds_the_upload_back(transport: Transport, sized: bool) -> None:
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        left = 64 * MIB
        while left > 0:
            left -= len(await reader.read(MIB))
        writer.write(GOOD)

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 64 * MIB:
            taken += MIB
            yield ENDLESS

    go_on = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(20):
        length = [(b"content-length", b"%d" % (64 * MIB))] if sized else []
        sending = asyncio.create_task(send(transport, "POST", it.origin, "/", length, body()))
        before = -1
        while taken > before or not taken:
            before = taken
            await asyncio.sleep(0.1)
        assert taken < 32 * MIB
        go_on.set()
        assert await whole(await sending) == b"ok"


async def test_pieces_that_came_together_are_read_as_one(transport: Transport) -> None:
    async with peer(answering(CHUNKED + b"1\r\na\r\n" * 3 + b"0\r\n\r\n")) as it, asyncio.timeout(PATIENCE):
        exchange = await send(transport, "GET", it.origin, "/", [], b"")
        assert [piece async for piece in exchange] == [b"aaa"]


async def test_many_calls_at_once_do_not_mix(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            await asyncio.sleep(0)
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(line) + line)

    async def ask(number: int) -> None:
        exchange = await send(transport, "GET", it.origin, f"/{number}", [], b"")
        assert await whole(exchange) == b"/%d" % number

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for _ in range(5):
            await asyncio.gather(*map(ask, range(100)))
        assert it.connections <= 100


async def test_all_calls_are_in_flight_at_once_and_all_their_connections_kept(transport: Transport) -> None:
    """None waits until another ends: a chat may stream for minutes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await together.wait()
            writer.write(GOOD)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for count in (101, 30):
            together = asyncio.Barrier(count)
            await asyncio.gather(*[get(transport, it.origin) for _ in range(count)])
        assert it.connections == 101


async def test_a_connection_that_is_refused_is_a_connect_error(transport: Transport) -> None:
    async with peer(answering()) as it:
        origin = it.origin
    with pytest.raises(ConnectError):
        await send(transport, "GET", origin, "/", [], b"")


@pytest.mark.parametrize(
    "host", ["host.invalid", "a" * 64 + ".invalid"], ids=["unknown", "longer than names are"]
)
async def test_a_host_that_is_none_is_a_connect_error(transport: Transport, host: str) -> None:
    with pytest.raises(ConnectError):
        await send(transport, "GET", f"http://{host}", "/", [], b"")


async def test_a_handshake_that_is_never_answered_is_a_connect_timeout(
    transport: Transport,
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(silent) as it:
        with pytest.raises(ConnectTimeout):
            await send(transport, "GET", it.origin.replace("http:", "https:"), "/", [], b"", connect=0.1)


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
    transport = ShimTransport(verify=client_side)
    async with peer(answering(GOOD, GOOD), server_side(authority, name)) as it:
        if trusted and name == "127.0.0.1":
            assert await get(transport, it.origin) == (200, b"ok")
            assert await get(transport, it.origin) == (200, b"ok")
            assert it.connections == 1
        else:
            with pytest.raises(ConnectError):
                await get(transport, it.origin)
    await transport.aclose()


async def test_a_connection_that_nobody_waits_for_any_more_is_kept_for_the_next_call(
    authority: trustme.CA,
) -> None:
    """It is as good as one that has been used; and uvloop has no way to give up a handshake."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    transport, it = ShimTransport(verify=trusting), Peer(answering(GOOD, hang=True))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # and accepts nobody yet
        it.origin = f"https://127.0.0.1:{listening.getsockname()[1]}"
        leaving = asyncio.create_task(get(transport, it.origin))
        await asyncio.sleep(0)
        leaving.cancel()
        secure = server_side(authority, "127.0.0.1")
        async with await asyncio.start_server(it.accept, sock=listening.dup(), ssl=secure):
            async with asyncio.timeout(PATIENCE):
                while transport.counts.opened < 1:  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.01)
                assert await get(transport, it.origin) == (200, b"ok")
            assert (transport.counts.opened, transport.counts.reused) == (1, 1)
            await transport.aclose()


async def test_a_handshake_given_up_at_any_moment_leaves_nothing_behind(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop keeps some of them until the handshake's own timeout, which is a minute unless it is told."""
    context, trusting = server_side(authority, "127.0.0.1"), ssl.create_default_context()
    authority.configure_trust(trusting)
    loop, before = asyncio.get_running_loop(), connections_alive()

    async with peer(answering(GOOD), secure=context) as it:

        async def call(connect: float) -> None:
            transport = ShimTransport(verify=trusting)
            try:
                assert (
                    await whole(await send(transport, "GET", it.origin, "/", [], b"", connect=connect))
                    == b"ok"
                )
            finally:
                await transport.aclose()

        began = loop.time()
        await call(PATIENCE)
        took = loop.time() - began
        for part in range(1, 200):
            with contextlib.suppress(ConnectTimeout, ConnectError):
                await call(took * part / 200)
        async with asyncio.timeout(PATIENCE):
            while connections_alive() > before:  # noqa: ASYNC110 - uvloop tells nobody
                await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def connections_alive() -> int:
    gc.collect()
    return len(connections_in_memory())


def connections_in_memory() -> list[Connection]:
    # Not isinstance: it would have the SDK's lazy modules imported, one by one.
    return [found for found in gc.get_objects() if type(found) is Connection]


async def test_large_bodies_pass_through_tls_both_ways(authority: trustme.CA) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        content = await reader.readexactly(16 * MIB)
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(content) + content[::-1])
        await writer.drain()

    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    transport = ShimTransport(verify=client_side)
    sent = [bytes([number]) * MIB for number in range(16)]
    async with peer(serve, server_side(authority, "127.0.0.1")) as it, asyncio.timeout(20):
        length = [(b"content-length", b"%d" % (16 * MIB))]
        exchange = await send(transport, "POST", it.origin, "/", length, pieces(*sent))
        assert await whole(exchange) == b"".join(reversed(sent))
    await transport.aclose()


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
        transport = ShimTransport(verify=trusting)
        async with peer(answering(GOOD), offered if secure else None) as upstream:
            _, body = await get(transport, upstream.origin)
        await transport.aclose()
        return body

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(call()) == b"ok"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A socket to which nobody can connect, without being refused."""
    with socket.socket() as silent, socket.socket() as filling:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)  # once its queue is full, Linux answers no further SYN
        filling.connect(silent.getsockname())
        yield silent


async def test_a_host_of_one_address_is_waited_for(ours: ShimTransport, silent: socket.socket) -> None:
    origin = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with pytest.raises(ConnectTimeout):
        await send(ours, "GET", origin, "/", [], b"", connect=0.4)


@pytest.mark.parametrize(("connect", "reason"), [(2.5, "within 2.5 s"), (None, "in time")])
async def test_the_kernels_own_timeout_is_a_connections(connect: float | None, reason: str) -> None:
    async def resolve(host: str, port: int) -> list[AddrInfoType]:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(ConnectTimeout, match=f"^no connection {reason}$"):
        await ShimTransport(resolve=resolve).send(
            WireRequest("GET", origin_of("http://a.example"), b"/", [], connect_timeout=connect)
        )


async def test_an_address_that_does_not_answer_gives_way_to_the_next(silent: socket.socket) -> None:
    async def resolve(host: str, port: int) -> list[AddrInfoType]:
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [*[(*stream, silent.getsockname())] * 2, (*stream, ("127.0.0.1", port))]

    transport = ShimTransport(resolve=resolve)
    async with peer(answering(GOOD)) as upstream:
        # A quarter of a second for each that is silent; the rest is for a busy machine.
        sent = await send(transport, "GET", upstream.origin, "/", [], b"", connect=3)
        assert await whole(sent) == b"ok"
    await transport.aclose()


NONE_OF_HTTP = "its response is not HTTP/1.1"
REASONS = {
    "nothing": (b"", "it closed the connection"),
    "half a head": (b"HTTP/1.1 200", "it closed the connection"),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n\r\n", NONE_OF_HTTP),
    "an upgrade": (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", NONE_OF_HTTP),
    "no such status": (b"HTTP/1.1 600 More\r\ncontent-length: 0\r\n\r\n", "its status is 600"),
    "a coding": (HEAD + b"transfer-encoding: gzip\r\n\r\nok", "a transfer coding that was not asked for"),
}


@pytest.mark.parametrize(("answer", "reason"), REASONS.values(), ids=REASONS)
async def test_why_an_answer_is_none_is_said(ours: ShimTransport, answer: bytes, reason: str) -> None:
    """The caller's 502 repeats it: an operator learns whether it is the network, or what answers there."""
    async with peer(answering(answer)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(RemoteProtocolError, match=reason):
            await send(ours, "GET", it.origin, "/", [], b"")


class Overtaken(Tcp):
    """A connection on which nothing seems to have arrived, and nothing that is sent next is acknowledged."""

    overtaken = False

    def has_news(self) -> bool:
        return super().has_news() and not self.overtaken

    def bytes_acknowledged(self) -> int | None:
        return 0 if self.overtaken else super().bytes_acknowledged()


@pytest.mark.parametrize("body", [b"once", pieces(b"once")], ids=["at hand", "arriving"])
async def test_a_response_that_was_on_its_way_before_the_request_is_not_its_own(
    body: bytes | AsyncIterator[bytes],
) -> None:
    """It came between the look at the connection and the request, and belongs to nobody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: 6\r\n\r\npoison")
        await reader.read()

    def look_at(connected: socket.socket) -> Tcp:
        looked_at.append(Overtaken(connected))
        return looked_at[-1]

    looked_at: list[Overtaken] = []
    transport = ShimTransport(look_at=look_at)
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        assert await get(transport, it.origin) == (200, b"ok")
        looked_at[0].overtaken = True
        if isinstance(body, bytes):
            assert await whole(await send(transport, "POST", it.origin, "/", [], body)) == b"ok"
        else:  # it cannot be had again
            with pytest.raises(RemoteProtocolError, match="it sent a response before the request"):
                await send(transport, "POST", it.origin, "/", [], body)
        # Whoever does so once may do so again: no connection is kept for a while.
        before = it.connections
        for more in (1, 2):
            assert await get(transport, it.origin) == (200, b"ok")
            assert it.connections == before + more
        await transport.aclose()


async def test_an_upstream_that_answers_twice_gets_no_connection_twice_for_a_while(
    ours: ShimTransport,
) -> None:
    """Its next second response might come a little later, and pass for that of the next call."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = GOOD + GOOD if it.connections == 1 else GOOD
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for expected in (1, 2, 3):
            assert await get(ours, it.origin) == (200, b"ok")
            assert it.connections == expected


async def test_an_upstream_that_answers_what_nobody_asked_gets_no_connection_twice_for_a_while(
    ours: ShimTransport,
) -> None:
    """Its next such response might come just after a request, and pass for its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        if it.connections == 1:
            await idle.wait()
            writer.write(HEAD + b"content-length: 6\r\n\r\npoison")
        await reader.read()

    idle = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        assert await get(ours, it.origin) == (200, b"ok")
        idle.set()
        await it.gone.wait()
        for expected in (2, 3, 4):
            assert await get(ours, it.origin) == (200, b"ok")
            assert it.connections == expected


async def test_a_408_on_an_idle_connection_is_but_its_end(ours: ShimTransport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        if it.connections == 1:
            await idle.wait()
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(GOOD)
        await reader.read()

    idle = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        assert await get(ours, it.origin) == (200, b"ok")
        idle.set()
        await it.gone.wait()
        for _ in range(2):
            assert await get(ours, it.origin) == (200, b"ok")
        assert it.connections == 2


async def test_a_chunked_upload_that_meets_upstreams_close_is_a_transport_error(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first\r\n")

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await it.gone.wait()
        while True:
            yield b"a" * 65536
            await asyncio.sleep(0)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(TransportError):
            await send(transport, "POST", it.origin, "/", [], body())


async def test_an_empty_piece_does_not_end_a_chunked_upload(transport: Transport) -> None:
    framed = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    got = await received(transport, "POST", "/", [], pieces(b"", b"he", b"", b"llo", b""), b"0\r\n\r\n")
    assert got.endswith(b"\r\n\r\n" + framed)


async def test_a_connection_with_bytes_of_a_request_still_to_send_is_not_used_again(
    ours: ShimTransport,
) -> None:
    """Its response came early; what is left of its body would be taken for the next request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        await writer.drain()
        await go_on.wait()

    go_on = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        assert await get(ours, it.origin, "POST", ENDLESS * 16) == (200, b"ok")
        assert await get(ours, it.origin) == (200, b"ok")
        assert it.connections == 2
        go_on.set()


async def test_a_body_that_falls_silent_is_given_up(transport: Transport) -> None:
    async with peer(answering(CHUNKED + b"2\r\nok\r\n", hang=True)) as it, asyncio.timeout(PATIENCE):
        exchange = await send(transport, "GET", it.origin, "/", [], b"", read=0.05)
        reading = aiter(exchange)
        assert await anext(reading) == b"ok"
        with pytest.raises(ReadTimeout):
            await anext(reading)
        await exchange.aclose()
        await it.gone.wait()


async def test_a_head_that_does_not_come_is_given_up(ours: ShimTransport) -> None:
    async with peer(answering(b"", hang=True)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(ReadTimeout, match=r"^no response within 0\.05 s$"):
            await send(ours, "GET", it.origin, "/", [], b"", head=0.05)
        await it.gone.wait()


async def test_a_slow_reader_is_no_silence(transport: Transport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await read_first.wait()
        writer.write(b"0\r\n\r\n")

    read_first = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        reading = aiter(await send(transport, "GET", it.origin, "/", [], b"", read=0.05))
        assert await anext(reading) == b"ok"
        await asyncio.sleep(0.15)  # longer than upstream may be silent, but it is the reader who is slow
        read_first.set()
        assert [piece async for piece in reading] == []


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_tls_body_that_ends_with_its_connection_is_whole_only_if_tls_says_so(
    authority: trustme.CA, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Without a close_notify anybody on the way can have cut it (RFC 8446, section 6.1)."""
    context, trusting = server_side(authority, "127.0.0.1"), ssl.create_default_context()
    authority.configure_trust(trusting)

    def serve(listening: socket.socket, notify: bool) -> None:
        plain, _ = listening.accept()
        connection = context.wrap_socket(plain, server_side=True)
        connection.recv(65536)
        connection.sendall(HEAD + b"\r\nok")
        if notify:
            connection.unwrap()
        connection.close()

    async def call(notify: bool) -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=serve, args=(listening, notify))
            thread.start()
            transport = ShimTransport(verify=trusting)
            try:
                _, body = await get(transport, f"https://127.0.0.1:{listening.getsockname()[1]}")
            finally:
                thread.join(PATIENCE)
        return body

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(call(notify=True)) == b"ok"
        with pytest.raises(RemoteProtocolError):
            runner.run(call(notify=False))


async def test_a_dead_peer_is_noticed_within_about_a_minute(ours: ShimTransport) -> None:
    looked_at: list[socket.socket] = []

    def look_at(connected: socket.socket) -> Tcp:
        looked_at.append(connected)
        return Tcp(connected)

    transport = ShimTransport(look_at=look_at)
    async with peer(answering(GOOD, hang=True)) as it:
        await get(transport, it.origin)
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        idle, interval, count = (looked_at[0].getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert looked_at[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 45 <= idle + interval * count <= 75
        await transport.aclose()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_an_abandoned_tls_stream_leaves_nothing_for_the_collector(
    authority: trustme.CA, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Each would hold 200 KB until then, and the collector seldom runs."""
    context, trusting = server_side(authority, "127.0.0.1"), ssl.create_default_context()
    authority.configure_trust(trusting)

    async def abandon(times: int) -> int:
        transport = ShimTransport(verify=trusting)
        async with peer(answering(CHUNKED + b"2\r\nok\r\n", hang=True), context) as it:
            gc.collect()
            before = len(connections_in_memory())
            for _ in range(times):
                sent = await send(transport, "GET", it.origin, "/", [], b"")
                await sent.aclose()
            await asyncio.sleep(0.05)
            left = len(connections_in_memory()) - before
        await transport.aclose()
        return left

    gc.disable()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(abandon(20)) <= 1
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("reset", "reason"), [(False, "it closed the connection"), (True, "ConnectionResetError")]
)
async def test_an_error_says_how_the_connection_ended(ours: ShimTransport, reset: bool, reason: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: 5\r\n\r\nab")
        await writer.drain()
        await read_first.wait()
        if reset:
            linger = struct.pack("ii", 1, 0)  # closed without waiting, it sends an RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    read_first = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        pieces = aiter(await send(ours, "GET", it.origin, "/", [], b""))
        assert await anext(pieces) == b"ab"
        read_first.set()
        with pytest.raises(RemoteProtocolError, match=reason):
            await anext(pieces)


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        ("http://a.example", ("a.example", 80)),
        ("https://a.example", ("a.example", 443)),
        ("http://a.example:443", ("a.example", 443)),
        ("https://a.example:80", ("a.example", 80)),
        ("https://[::1]:8443", ("::1", 8443)),
    ],
)
async def test_a_url_without_a_port_has_its_schemes_own(origin: str, asked: tuple[str, int]) -> None:
    resolved = []

    async def resolve(host: str, port: int) -> list[AddrInfoType]:
        resolved.append((host, port))
        raise OSError("nobody there")

    with pytest.raises(ConnectError):
        await send(ShimTransport(resolve=resolve), "GET", origin, "/", [], b"")
    assert resolved == [asked]


async def test_a_socket_that_its_loop_has_closed_is_not_closed_again_by_the_collector() -> None:
    """uvloop may close the number alone: by the time of the collector, it may be another caller's connection."""
    kinds: list[type[socket.socket]] = []

    def look_at(connected: socket.socket) -> Tcp:
        kinds.append(type(connected))
        return Tcp(connected)

    transport = ShimTransport(look_at=look_at)
    async with peer(answering(GOOD)) as it:
        await get(transport, it.origin)
    await transport.aclose()
    number = kinds[0](socket.AF_INET, socket.SOCK_STREAM).fileno()
    os.close(number)  # raises OSError if it has been closed


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_request_is_on_its_way_before_anything_else_can_happen(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """What arrived between the look at a kept connection and the request's first byte would pass for its response."""
    head = b"GET / HTTP/1.1\r\n\r\n"

    async def call() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connected = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
        theirs.setblocking(False)
        with theirs:
            _, connection = await loop.create_connection(
                lambda: Connection(
                    loop, Tcp(connected), memoryview(bytearray(1024)), Pool("a.example", Counts())
                ),
                sock=connected,
            )
            connection.send(head, b"", None, head_only=False, read_timeout=None)
            assert theirs.recv(1024) == head
            connection.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(call())


@pytest.mark.parametrize(("more", "passes"), [(0, True), (1, False)])
async def test_a_head_may_have_128_kib(ours: ShimTransport, more: int, passes: bool) -> None:
    """Some gateways send long ones; what the Functions host does not take is refused with better words later on."""
    head = HEAD + b"content-length: 0\r\nx-a: "
    head += b"a" * (128 * 1024 - len(head) - 4 + more)
    head += b"\r\n\r\n" if passes else b"aaaa"  # one too long is refused before it ends

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(head), 1024):
            writer.write(head[start : start + 1024])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with peer(serve) as it, asyncio.timeout(10):
        if passes:
            assert await get(ours, it.origin) == (200, b"")
        else:
            with pytest.raises(RemoteProtocolError, match="its response has more than 131072 bytes"):
                await get(ours, it.origin)


async def test_connections_are_counted_by_what_became_of_them() -> None:
    transport = ShimTransport()
    async with peer(answering(GOOD, GOOD, GOOD)) as it, asyncio.timeout(PATIENCE):
        for _ in range(3):
            await get(transport, it.origin)
        assert transport.counts == Counts(opened=1, reused=2)
        await it.gone.wait()
        await get(transport, it.origin)
        assert transport.counts == Counts(opened=2, reused=2, stale=1)
    await transport.aclose()


class _Timers:
    """The event loop, but for its time, which passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.create_future = asyncio.get_running_loop().create_future
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.Handle:
        return self.call_at(self.now + delay, callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.Handle:
        handle = asyncio.Handle(callback, (), asyncio.get_running_loop())
        self._due.append((when, lambda: None if handle.cancelled() else callback()))
        return handle

    def pass_until(self, now: float) -> None:
        while due := [timer for timer in self._due if timer[0] <= now]:
            self._due.remove(first := min(due, key=lambda timer: timer[0]))
            self.now = first[0]
            first[1]()
        self.now = now


class _Carrier:
    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1

    def read_on(self) -> None: ...


async def test_only_upstreams_silence_counts_and_not_the_time_that_the_reader_takes() -> None:
    timers, carrier = _Timers(), _Carrier()
    exchange = Exchange(carrier, cast("asyncio.AbstractEventLoop", timers), 10)
    body = aiter(exchange)
    waiting = asyncio.ensure_future(anext(body))
    await asyncio.sleep(0)
    exchange.add(b"1")
    exchange.deliver()
    assert await waiting == b"1"
    exchange.add(b"2")
    timers.pass_until(25)
    assert carrier.closes == 0
    assert await anext(body) == b"2"
    waiting = asyncio.ensure_future(anext(body))
    await asyncio.sleep(0)
    timers.pass_until(34)
    assert carrier.closes == 0
    timers.pass_until(35)
    assert carrier.closes == 1
    with pytest.raises(ReadTimeout, match="it sent nothing for 10 s"):
        await waiting


@pytest.mark.parametrize("behind", ["APIM_BASE_URL", "APIM_V1_BASE_URL"])
def test_a_proxy_before_either_api_is_passed(behind: str) -> None:
    hosts = {"APIM_BASE_URL": "legacy.example", "APIM_V1_BASE_URL": "v1.example"}
    settings = Settings.from_environment(
        {"LOCAL_SUBSCRIPTION_KEYS": "a=b", **{name: f"https://{host}" for name, host in hosts.items()}}
    )
    near = next(host for name, host in hosts.items() if name != behind)
    choice = choose_transport(settings, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": near})
    assert (choice.name, choice.proxy) == ("httpx", "http://proxy.example:3128")
    assert hosts[behind] in choice.reason
