"""One call through all that the app consists of: what is looked at in which order, and what becomes of a defect.

A call that is refused must not cost what it is refused before: a stranger's body is not read, nor the vault asked for
a call that no API has.

A defect of the shim's own gives the caller an error with an id, the operator a place, and nobody what was in flight:
the message and the traceback of an exception can quote a key, a prompt or a URL with a digest, and a log is read by
many. So a defect is logged by type and place alone, and answered as OpenAI's SDKs expect an error.
"""

import asyncio
import json
import logging
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from shim.answer.cors import Cors
from shim.app import Shim, answer
from shim.asgi import Message, Request, Response
from shim.keys.subscription import Subscription
from shim.monitoring.record import CallRecord, Meter
from shim.settings import Settings
from shim.settings.retirement import Retirement
from shim.transport.wire import ConnectError, Transport, WireRequest, WireResponse
from shim.upstream import Upstream
from tests.conftest import APP_ORIGIN, KEY
from tests.support.outlets import Recorded
from tests.support.transports import MadeUp, Scripted, Unconnected, body_of, pieces

SECRET = "quoted-by-the-exception"
REQUEST_ID = "the-callers-own-id"


class BrokenStore:
    """A key store with a bug."""

    async def find(self, digest: str) -> Subscription | None:
        raise LookupError(f"{SECRET} {KEY} {digest}")

    async def check(self) -> None: ...
    async def warm(self) -> None: ...
    async def close(self) -> None: ...


class BrokenTransport(Unconnected):
    async def send(self, request: WireRequest) -> WireResponse:
        raise KeyError(f"{SECRET} {request.headers}")


class OneKey(BrokenStore):
    async def find(self, digest: str) -> Subscription | None:
        return Subscription(digest, KEY, "team-a")


def too_many_headers() -> MadeUp:
    """A head that the Functions host would not take."""
    return MadeUp(200, [(b"x-%d" % n, b"x" * 1000) for n in range(100)], pieces(b"never read"))


SETTINGS = Settings.from_environment(
    {
        "APIM_BASE_URL": "https://a.example/openai",
        "KEY_VAULT_URL": "https://v.vault.azure.net",
        "CORS_ORIGINS": APP_ORIGIN,
    }
)


async def answered(
    store: BrokenStore, transport: Transport | None = None, meter: Meter | None = None
) -> Response:
    """The response to a call, where the key store and the transport are as given."""
    settings = SETTINGS
    upstream = Upstream(
        transport or BrokenTransport(), connect_timeout=1, first_byte_timeout=1, idle_timeout=0
    )
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
    error = json.loads(bytes(response.body))["error"]
    assert error["code"] == "internal_error"
    assert "Its operator finds why in the log, by the request id." in error["message"]
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
    sent = too_many_headers()
    response = await answered(OneKey(), Scripted(sent))
    assert response.status_code == 502
    assert sent.closed == 1


@pytest.mark.parametrize(
    ("transport", "status", "code"),
    [
        (BrokenTransport(), 500, "internal_error"),
        (Scripted(too_many_headers()), 502, "upstream_head_too_large"),
    ],
    ids=["a defect", "a refusal"],
)
async def test_a_call_that_the_shim_itself_answers_is_counted_with_its_code(
    transport: Transport, status: int, code: str
) -> None:
    over: list[CallRecord] = []
    response = await answered(OneKey(), transport, Meter([over.append]))
    assert response.headers["x-request-id"] == REQUEST_ID
    assert [(record.status, record.code, record.label) for record in over] == [(status, code, "team-a")]


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
    unreachable = Scripted(ConnectError("nobody there"))
    shim = Shim(
        SETTINGS, OneKey(), Upstream(unreachable, connect_timeout=1, first_byte_timeout=1, idle_timeout=0)
    )
    for _ in range(4):
        response = await answer(
            a_large_call(80 * 1024 * 1024), Cors.of(SETTINGS), SETTINGS.retirement, shim.forward
        )
        assert json.loads(bytes(response.body))["error"]["code"] == "upstream_unreachable"


class Journey:
    """What a call has touched, in the order in which it did: as key store, as transport and as the caller's body."""

    def __init__(self, answer: MadeUp | None = None) -> None:
        self.touched: list[str] = []
        self.asked: list[WireRequest] = []
        self.over: list[CallRecord] = []
        self._answer = answer or MadeUp(body=pieces(b"{}"))

    def store(self, *, knows_key: bool) -> BrokenStore:
        journey = self

        class Store(BrokenStore):
            async def find(self, digest: str) -> Subscription | None:
                journey.touched.append("key")
                return Subscription(digest, KEY, "team-a") if knows_key else None

        return Store()

    def transport(self) -> Transport:
        async def reply(request: WireRequest) -> WireResponse:
            self.touched.append("upstream")
            self.asked.append(request)
            return self._answer

        return Scripted(reply)

    def receive(self, body: bytes) -> Any:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not messages:
                return await asyncio.Future()
            self.touched.append("body")
            return messages.pop()

        return receive


@dataclass(frozen=True)
class Sent:
    """A call as its caller sends it: a chat that is all right, but for what is said otherwise."""

    method: str = "POST"
    path: str = "/v1/chat/completions"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {KEY}"),)
    body: bytes = b'{"model":"gpt-4o"}'
    knows_key: bool = True

    async def through(self, journey: Journey, settings: Settings) -> Response:
        length = ((b"content-length", b"%d" % len(self.body)),) if self.body else ()
        origin = ((b"origin", APP_ORIGIN.encode()),)
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query.encode(),
            "headers": [
                *((name.encode(), value.encode("latin-1")) for name, value in self.headers),
                *length,
                *origin,
            ],
        }
        shim = Shim(
            settings,
            journey.store(knows_key=self.knows_key),
            Upstream(journey.transport(), connect_timeout=1, first_byte_timeout=1, idle_timeout=0),
        )
        return await answer(
            Request(scope, journey.receive(self.body)),
            Cors.of(settings),
            settings.retirement,
            shim.forward,
            Meter([journey.over.append]),
        )


SMALL = replace(SETTINGS, max_body_bytes=100)
NO_KEY: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Refusal:
    sent: Sent
    status: int
    code: str
    touched: list[str] = field(default_factory=list)
    label: str = ""
    operation: str = "POST /chat/completions"


REFUSALS = {
    "no API's path, without a key": Refusal(
        Sent(path="/chat/completions", headers=NO_KEY), 404, "not_found", operation=""
    ),
    "a path that climbs, without a key": Refusal(
        Sent(path="/v1/..%2Fadmin", headers=NO_KEY), 400, "invalid_path", operation=""
    ),
    "a WebSocket, without a key": Refusal(
        Sent("GET", "/v1/realtime", headers=(("sec-websocket-key", "x"),), body=b""),
        501,
        "realtime_not_supported",
        operation="",
    ),
    "no key": Refusal(Sent(headers=NO_KEY), 401, "missing_api_key"),
    "no key for a body that is too large": Refusal(
        Sent(headers=NO_KEY, body=b"x" * 101), 401, "missing_api_key"
    ),
    "a malformed key": Refusal(Sent(headers=(("authorization", "Bearer"),)), 401, "malformed_api_key"),
    "an unknown key for a body that is too large": Refusal(
        Sent(knows_key=False, body=b"x" * 101), 401, "invalid_api_key", ["key"]
    ),
    "an unknown key for a body that is no JSON": Refusal(
        Sent(knows_key=False, body=b"{"), 401, "invalid_api_key", ["key"]
    ),
    "a body that is announced to be too large": Refusal(
        Sent(body=b"x" * 101), 413, "body_too_large", ["key"], "team-a"
    ),
    "a body without a model": Refusal(Sent(body=b"{}"), 400, "model_required", ["key", "body"], "team-a"),
    "a model that is no name": Refusal(
        Sent(body=b'{"model":".."}'), 400, "invalid_request", ["key", "body"], "team-a"
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_call_touches_nothing_that_comes_after_its_refusal(refusal: Refusal) -> None:
    journey = Journey()
    response = await refusal.sent.through(journey, SMALL)
    assert (response.status_code, json.loads(bytes(response.body))["error"]["code"]) == (
        refusal.status,
        refusal.code,
    )
    assert journey.touched == refusal.touched
    assert response.headers["access-control-allow-origin"] == APP_ORIGIN
    (record,) = journey.over
    told = (record.status, record.code, record.label, record.operation)
    assert told == (refusal.status, refusal.code, refusal.label, refusal.operation)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_after_the_end_every_call_is_told_so_whatever_else_is_wrong_with_it(refusal: Refusal) -> None:
    """Its caller would mend the key or the path, only to learn then that the shim is gone."""
    journey = Journey()
    over = replace(SMALL, retirement=Retirement(sunset=0, refuse_after_sunset=True))
    response = await refusal.sent.through(journey, over)
    assert (response.status_code, json.loads(bytes(response.body))["error"]["code"]) == (410, "shim_retired")
    assert journey.touched == []


@pytest.mark.parametrize("retired", [False, True], ids=["serving", "past its end"])
async def test_a_preflight_touches_nothing_and_is_no_call(retired: bool) -> None:
    journey = Journey()
    settings = replace(SMALL, retirement=Retirement(sunset=0, refuse_after_sunset=retired))
    preflight = Sent("OPTIONS", "/no/such/path", headers=(("access-control-request-method", "POST"),))
    response = await preflight.through(journey, settings)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (204, APP_ORIGIN)
    assert (journey.touched, journey.over) == ([], [])


async def test_a_refused_preflight_is_a_refusal_with_an_id_like_any_other() -> None:
    journey = Journey()
    headers = (("access-control-request-method", "POST"), ("x-request-id", REQUEST_ID))
    response = await Sent("OPTIONS", headers=headers).through(journey, replace(SMALL, cors_origins=()))
    assert (response.status_code, response.headers["x-request-id"]) == (403, REQUEST_ID)
    assert [record.code for record in journey.over] == ["cors_origin_not_allowed"]
    assert journey.touched == []


# What is known of a call when it goes upstream, by what its caller sent and the settings say.
KNOWN: dict[str, tuple[Sent, dict[str, Any], dict[str, object]]] = {
    "an OpenAI client's chat": (
        Sent(),
        {},
        {
            "dialect": "v1", "operation": "POST /chat/completions", "scheme": "bearer", "label": "team-a",
            "model": "gpt-4o", "has_usage": True, "received": 18,
        },
    ),
    "an Azure client's chat": (
        Sent(
            path="/openai/deployments/prod/chat/completions",
            query="api-version=1",
            headers=(("api-key", KEY),),
            body=b'{"model":"not-read"}',
        ),
        {},
        {
            "dialect": "legacy", "operation": "POST /chat/completions", "scheme": "api-key", "model": "prod",
            "has_usage": True, "received": 20,
        },
    ),
    "a model that has a deployment": (
        Sent(),
        {"model_deployments": {"gpt-4o": "prod"}},
        {"model": "gpt-4o", "has_usage": True},
    ),
    "a body that passes unread": (Sent(), {"apim_api": "v1"}, {"model": "gpt-4o", "has_usage": True}),
    "a response that is asked for": (
        Sent(path="/v1/responses"),
        {},
        {"operation": "POST /responses", "model": "gpt-4o", "has_usage": True},
    ),
    # A stored response says its usage again each time it is read.
    "a response that is read again": (
        Sent("GET", "/v1/responses/resp_1", body=b""),
        {},
        {"operation": "GET /responses/…", "model": "", "has_usage": False, "received": 0},
    ),
    "a file whose content mentions a model": (
        Sent(path="/v1/files"),
        {},
        {"operation": "POST /files", "model": "", "has_usage": False, "received": 18},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "settings", "known"), KNOWN.values(), ids=KNOWN)
async def test_what_a_call_asks_for_is_known_by_the_time_it_is_over(
    sent: Sent, settings: dict[str, Any], known: dict[str, object]
) -> None:
    # Upstream reads the body of a call whose body the shim itself does not read.
    journey = Journey()
    response = await sent.through(journey, replace(SETTINGS, **settings))
    assert response.status_code == 200
    await body_of(journey.asked[0])  # as a transport reads it
    await response.send(Recorded())
    (record,) = journey.over
    assert {name: getattr(record, name) for name in known} == known
    assert (record.status, record.code, record.label) == (200, "", "team-a")


async def test_headers_that_the_host_would_refuse_are_dropped_and_named_to_the_operator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = [(b"x-city", "Zürich".encode()), (b"x-ok", b"yes"), (b"x-bell", b"\x07")]
    journey = Journey(MadeUp(200, odd, pieces(b"{}")))
    sent = Sent(headers=(("api-key", KEY), ("x-request-id", REQUEST_ID)))
    response = await sent.through(journey, SETTINGS)
    assert response.headers["x-ok"] == "yes"
    assert not {"x-city", "x-bell"} & set(response.headers)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("shim", logging.WARNING)
    assert record.message == (
        f"headers dropped, as the host takes ASCII only: x-city, x-bell request_id={REQUEST_ID}"
    )
    await response.send(Recorded())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], None),
        (["a-callers-own"], "a-callers-own"),
        (["the-first", "the-second"], "the-first"),
        (["x" * 128], "x" * 128),
        (["x" * 129], None),
        (["two words"], None),
        (["caf\xe9"], None),
        ([""], None),
    ],
)
async def test_a_call_has_its_callers_id_where_that_may_stand_in_a_log_else_one_of_its_own(
    given: list[str], kept: str | None
) -> None:
    journeys = Journey(), Journey()
    sent = Sent(headers=(*(("x-request-id", value) for value in given),))
    ids = [(await sent.through(journey, SETTINGS)).headers["x-request-id"] for journey in journeys]
    assert [record.request_id.decode() for journey in journeys for record in journey.over] == ids
    if kept is not None:
        assert ids == [kept, kept]
    else:
        assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
        assert ids[0] != ids[1]


async def test_ids_of_the_shims_own_have_one_length_and_do_not_repeat() -> None:
    journey, sent = Journey(), Sent(headers=NO_KEY)
    ids = {(await sent.through(journey, SETTINGS)).headers["x-request-id"] for _ in range(100)}
    assert {len(each) for each in ids} == {32}
    assert len(ids) == 100


async def test_a_body_goes_upstream_naming_the_deployment_and_the_record_keeps_the_model() -> None:
    journey = Journey()
    settings = replace(SETTINGS, apim_api="v1", model_deployments={"gpt-4o": "prod"})
    response = await Sent(body=b'{"model": "gpt-4o", "n":1}').through(journey, settings)
    [asked] = journey.asked
    assert b"".join(await body_of(asked)) == b'{"model": "prod", "n":1}'
    await response.send(Recorded())
    assert [record.model for record in journey.over] == ["gpt-4o"]
