"""A defect of the shim's own: the caller gets an error with an id, the operator a place, and nobody what was in flight.

The message and the traceback of an exception can quote a key, a prompt or a URL with a digest, and a log is read by
many. So a defect is logged by type and place alone, and answered as OpenAI's SDKs expect an error.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from shim.app import Shim, answer
from shim.cors import Cors
from shim.keys.subscription import Subscription
from shim.monitoring.record import CallRecord, Meter
from shim.settings import Settings
from shim.upstream.client import Upstream
from tests.conftest import APP_ORIGIN, KEY

SECRET = "quoted-by-the-exception"
REQUEST_ID = "the-callers-own-id"


class BrokenStore:
    """A key store with a bug."""

    async def find(self, digest: str) -> Subscription | None:
        raise LookupError(f"{SECRET} {KEY} {digest}")

    async def check(self) -> None: ...
    async def warm(self) -> None: ...
    async def close(self) -> None: ...


class BrokenTransport(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise KeyError(f"{SECRET} {request.headers}")


class OneKey(BrokenStore):
    async def find(self, digest: str) -> Subscription | None:
        return Subscription(digest, KEY, "team-a")


class TooManyHeaders(httpx.AsyncBaseTransport):
    """Sends a head that the Functions host would not take."""

    def __init__(self) -> None:
        self.stream = Watched()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={f"x-{n}": "x" * 1000 for n in range(100)}, stream=self.stream)


class Watched(httpx.AsyncByteStream):
    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"never read"

    async def aclose(self) -> None:
        self.closed = True


SETTINGS = Settings.from_environment(
    {
        "APIM_BASE_URL": "https://a.example/openai",
        "KEY_VAULT_URL": "https://v.vault.azure.net",
        "CORS_ORIGINS": APP_ORIGIN,
    }
)


async def answered(
    store: BrokenStore, transport: httpx.AsyncBaseTransport | None = None, meter: Meter | None = None
) -> Response:
    """The response to a call, where the key store and the transport are as given."""
    settings = SETTINGS
    upstream = Upstream(transport or BrokenTransport(), connect_timeout=1, first_byte_timeout=1)
    left = asyncio.Event()
    try:
        shim = Shim(settings, store, upstream)
        return await answer(
            a_call(left), Cors.of(settings), settings.retirement, shim.forward, meter or Meter()
        )
    finally:
        left.set()


def a_call(left: asyncio.Event) -> Request:
    """One without a body, by a caller who stays until `left`."""

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    headers = {"authorization": f"Bearer {KEY}", "x-request-id": REQUEST_ID, "origin": APP_ORIGIN}
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope, receive)


@pytest.mark.parametrize(
    ("store", "place"),
    [(BrokenStore(), "LookupError in BrokenStore.find, line "), (OneKey(), "KeyError in BrokenTransport.")],
    ids=["before upstream is asked", "while upstream is asked"],
)
async def test_a_defect_is_a_500_and_logged_by_type_and_place_alone(
    store: BrokenStore, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = await answered(store)
    assert response.status_code == 500
    assert json.loads(bytes(response.body))["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"] == REQUEST_ID
    assert response.headers["access-control-allow-origin"] == APP_ORIGIN

    (record,) = caplog.records
    assert (record.name, record.levelno, record.exc_info) == ("shim", logging.ERROR, None)
    assert record.message.startswith(f"defect: {place}")
    assert record.message.endswith(f" request_id={REQUEST_ID}")
    for text in (caplog.text, bytes(response.body).decode(), str(response.raw_headers)):
        assert SECRET not in text
        assert KEY not in text


async def test_upstreams_response_is_closed_when_its_head_cannot_go_on() -> None:
    """Or its connection would wait for a reader for ever."""
    transport = TooManyHeaders()
    response = await answered(OneKey(), transport)
    assert response.status_code == 502
    assert transport.stream.closed


@pytest.mark.parametrize(
    ("transport", "status", "code"),
    [(BrokenTransport(), 500, "internal_error"), (TooManyHeaders(), 502, "upstream_head_too_large")],
    ids=["a defect", "a refusal"],
)
async def test_a_call_that_the_shim_itself_answers_is_counted_with_its_code(
    transport: httpx.AsyncBaseTransport, status: int, code: str
) -> None:
    over: list[CallRecord] = []
    response = await answered(OneKey(), transport, Meter([over.append]))
    assert response.headers["x-request-id"] == REQUEST_ID
    assert [(record.status, record.code, record.label) for record in over] == [(status, code, "team-a")]


class Unreachable(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")


def a_large_call(size: int) -> Request:
    """A chat whose `model` comes last, so that all of it has to be kept until then."""
    piece = b"x" * 1024 * 1024
    pieces = [b'{"input":"', *[piece] * (size // len(piece)), b'","model":"gpt-4o"}']
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else await asyncio.Future()

    headers = [(b"api-key", KEY.encode()), (b"content-type", b"application/json")]
    path = b"/v1/chat/completions"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "headers": [*headers, (b"transfer-encoding", b"chunked")],
    }
    return Request(scope, receive)


async def test_large_bodies_of_calls_that_failed_take_no_room_from_later_ones() -> None:
    """All bodies together may take 256 MiB: the fourth would find no room."""
    shim = Shim(SETTINGS, OneKey(), Upstream(Unreachable(), connect_timeout=1, first_byte_timeout=1))
    for _ in range(4):
        response = await answer(
            a_large_call(80 * 1024 * 1024), Cors.of(SETTINGS), SETTINGS.retirement, shim.forward
        )
        assert json.loads(bytes(response.body))["error"]["code"] == "upstream_unreachable"
