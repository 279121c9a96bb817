"""What httpx's engine is asked, and what becomes of its responses and its errors.

The client repeats a call, blames upstream or blames the caller by the kind of an error: one of httpx's that got through
as it is would be a defect of the shim's, a 500, and one taken for a failed connection a call sent twice.
"""

import gzip
from collections.abc import AsyncIterator, Callable, Iterator

import h11
import httpx
import pytest

from shim.headers import Headers
from shim.transport import wire
from shim.transport.through_httpx import HttpxTransport
from shim.transport.wire import WireRequest, origin_of
from tests.support.transports import pieces

ASKED = WireRequest("GET", origin_of("https://a.example"), b"/", [(b"host", b"a.example")])

# What each of httpx's becomes. https://www.python-httpx.org/exceptions/
ERRORS: dict[type[httpx.TransportError], type[wire.TransportError]] = {
    httpx.LocalProtocolError: wire.LocalProtocolError,
    httpx.ConnectError: wire.ConnectError,
    httpx.ConnectTimeout: wire.ConnectTimeout,
    httpx.ReadTimeout: wire.ReadTimeout,
    httpx.WriteTimeout: wire.ReadTimeout,
    httpx.PoolTimeout: wire.ReadTimeout,
    httpx.TimeoutException: wire.ReadTimeout,
    httpx.WriteError: wire.WriteError,
    httpx.RemoteProtocolError: wire.RemoteProtocolError,
    httpx.ReadError: wire.RemoteProtocolError,
    httpx.CloseError: wire.RemoteProtocolError,
    httpx.NetworkError: wire.RemoteProtocolError,
    httpx.ProtocolError: wire.RemoteProtocolError,
    httpx.ProxyError: wire.ConnectError,
    httpx.UnsupportedProtocol: wire.RemoteProtocolError,
    httpx.TransportError: wire.RemoteProtocolError,
}
KINDS = pytest.mark.parametrize(("theirs", "ours"), ERRORS.items(), ids=[kind.__name__ for kind in ERRORS])


class Stream(httpx.AsyncByteStream):
    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body

    async def aclose(self) -> None:
        self.closed += 1


class Carrier(httpx.AsyncBaseTransport):
    """httpx's engine, as far as it is asked."""

    def __init__(self, reply: httpx.Response | Callable[[], httpx.Response]) -> None:
        self._reply = reply
        self.requests: list[httpx.Request] = []
        self.bodies: list[list[bytes]] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.requests.append(request)
        self.bodies.append([piece async for piece in request.stream])
        return self._reply() if callable(self._reply) else self._reply

    async def aclose(self) -> None:
        self.closed += 1


def answering(*body: bytes, status: int = 200, headers: Headers | None = None) -> Carrier:
    return Carrier(httpx.Response(status, headers=headers, stream=Stream(pieces(*body))))


def with_all_below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from with_all_below(below)


def test_there_is_no_error_of_httpxs_that_is_not_known_here() -> None:
    theirs = {kind for kind in with_all_below(httpx.TransportError) if kind.__module__ == "httpx"}
    assert theirs == set(ERRORS)


@KINDS
async def test_an_error_before_the_response_becomes_ours(
    theirs: type[httpx.TransportError], ours: type[wire.TransportError]
) -> None:
    raised = theirs("as httpx says it")

    def fail() -> httpx.Response:
        raise raised

    with pytest.raises(wire.TransportError) as error:
        await HttpxTransport(Carrier(fail)).send(ASKED)
    assert error.type is ours
    assert str(error.value) == "as httpx says it"
    assert error.value.__cause__ is raised


@KINDS
async def test_an_error_in_the_middle_of_a_body_becomes_ours(
    theirs: type[httpx.TransportError], ours: type[wire.TransportError]
) -> None:
    raised = theirs("as httpx says it")

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise raised

    response = await HttpxTransport(Carrier(httpx.Response(200, stream=Stream(broken())))).send(ASKED)
    reading = aiter(response)
    assert await anext(reading) == b"a"
    with pytest.raises(wire.TransportError) as error:
        await anext(reading)
    assert error.type is ours
    assert str(error.value) == "as httpx says it"
    assert error.value.__cause__ is raised


async def test_what_httpxs_parser_says_of_a_body_of_the_wrong_length_becomes_ours() -> None:
    """httpx itself lets it through: it would be a defect of the shim's."""

    def fail() -> httpx.Response:
        raise h11.LocalProtocolError("Too little data for declared Content-Length")

    with pytest.raises(wire.LocalProtocolError, match="Too little data for declared"):
        await HttpxTransport(Carrier(fail)).send(ASKED)


async def test_what_the_body_of_a_request_raises_stays_what_it_is() -> None:
    """The caller has left, say: that is no fault of upstream's."""

    async def leaving() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("left")

    request = WireRequest("POST", ASKED.origin, b"/", ASKED.headers, leaving())
    with pytest.raises(LookupError, match="left"):
        await HttpxTransport(answering()).send(request)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://a.example", (b"https", b"a.example", None)),
        ("https://a.example:8443", (b"https", b"a.example", 8443)),
        ("http://localhost:7071", (b"http", b"localhost", 7071)),
        ("http://[::1]:7071", (b"http", b"::1", 7071)),
    ],
)
async def test_the_engine_is_asked_for_the_origin_and_the_target_as_they_are(
    url: str, asked: tuple[bytes, bytes, int | None]
) -> None:
    target, headers = b'/a%2Fb//c?d=%20e|"f"', [(b"host", b"any"), (b"X-A", b"\xc3\xbc"), (b"x-a", b"2")]
    carrier = answering()
    await HttpxTransport(carrier).send(WireRequest("POST", origin_of(url), target, headers))
    [request] = carrier.requests
    assert (request.url.raw_scheme, request.url.raw_host, request.url.port) == asked
    assert (request.method, request.url.raw_path) == ("POST", target)
    assert request.headers.raw == headers


@pytest.mark.parametrize(("connect", "read"), [(3, 300), (3, None), (None, None)])
async def test_the_engine_is_told_of_the_times_and_of_nothing_else(
    connect: float | None, read: float | None
) -> None:
    """A target among the extensions would be asked of a proxy itself, by CONNECT too."""
    carrier = answering()
    await HttpxTransport(carrier).send(
        WireRequest("GET", ASKED.origin, b"/x", ASKED.headers, b"", connect, read)
    )
    [request] = carrier.requests
    assert request.extensions == {"timeout": {"connect": connect, "read": read, "write": None, "pool": None}}


@pytest.mark.parametrize(
    ("body", "sent"),
    [(b"", [b""]), (b"abc", [b"abc"]), (pieces(b"ab", b"c"), [b"ab", b"c"])],
    ids=["none", "at hand", "still to arrive"],
)
async def test_a_body_is_handed_on_piece_by_piece_and_framed_by_the_requests_own_headers(
    body: bytes | AsyncIterator[bytes], sent: list[bytes]
) -> None:
    carrier = answering()
    await HttpxTransport(carrier).send(WireRequest("POST", ASKED.origin, b"/", ASKED.headers, body))
    assert carrier.bodies == [sent]
    assert carrier.requests[0].headers.raw == [(b"host", b"a.example")]


async def test_a_response_is_given_as_it_came() -> None:
    content = gzip.compress(b"compressed")
    headers = [(b"Content-Encoding", b"gzip"), (b"set-cookie", b"a"), (b"set-cookie", b"\xfc")]
    carrier = answering(content[:5], content[5:], status=299, headers=headers)
    response = await HttpxTransport(carrier).send(ASKED)
    assert (response.status, response.headers) == (299, headers)
    assert [piece async for piece in response] == [content[:5], content[5:]]


async def test_closing_a_response_closes_the_engines() -> None:
    stream = Stream(pieces(b"a"))
    response = await HttpxTransport(Carrier(httpx.Response(200, stream=stream))).send(ASKED)
    assert stream.closed == 0
    await response.aclose()
    assert stream.closed == 1


async def test_closing_the_transport_closes_the_engine() -> None:
    carrier = answering()
    await HttpxTransport(carrier).aclose()
    assert carrier.closed == 1
