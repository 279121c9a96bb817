"""What is gathered of a call while it runs: times, sizes, model, tokens, and the name of its operation.

Every number that an operator sees begins here: what is noted wrong is wrong in logs, metrics and spans alike.
"""

import asyncio
import time

import pytest

from shim.answer.cors import Cors
from shim.app import answer
from shim.asgi import Request, Response
from shim.headers import Headers
from shim.monitoring.operation import operation_name
from shim.monitoring.record import CallRecord, Meter
from shim.monitoring.tracing import sampler
from shim.monitoring.usage import Usage, UsageReader
from shim.settings import Settings

JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
USAGE = b'{"usage":{"prompt_tokens":5,"completion_tokens":6}}'


class Run:
    """A call, and the time, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.over: list[CallRecord] = []
        self.meter = Meter([self.over.append], clock=lambda: self.now)
        self.call = self.meter.begin([(b"user-agent", b"curl/8.5.0")], b"id-1")


@pytest.mark.parametrize(("headers", "first_event"), [(EVENTS, 103.0), (JSON, None)], ids=["events", "JSON"])
def test_times_are_those_of_the_head_the_first_event_and_the_end(
    headers: Headers, first_event: float | None
) -> None:
    run = Run()
    run.now = 101.5
    run.call.answered(200, headers)
    for run.now in (103.0, 104.0):
        run.call.passed(b"data: {}\n\n")
    run.now = 106.0
    run.call.end()
    call = run.call
    assert (call.began, call.head, call.first_event, call.over) == (100.0, 101.5, first_event, 106.0)
    assert (call.request_id, call.client, call.sent) == (b"id-1", "curl/8", 20)


@pytest.mark.parametrize(
    "kind", [b"text/event-stream", b"Text/Event-Stream", b"text/event-stream;charset=utf-8"]
)
def test_a_stream_is_known_however_its_type_is_written(kind: bytes) -> None:
    run = Run()
    run.call.answered(200, [(b"x-first", b"1"), (b"content-type", kind)])
    run.call.passed(b"data: {}\n\n")
    assert run.call.first_event == 100.0


def test_streams_in_flight_and_heartbeats_are_added_up_over_calls() -> None:
    run = Run()
    calls = [run.meter.begin([], b"id") for _ in range(3)]
    for call in calls:
        call.answered(200, EVENTS)
        call.passed(b"data: {}\n\n")
        call.heartbeats(2)
    assert (run.meter.process.streams, run.meter.process.heartbeats) == (3, 6)
    calls[0].end()
    calls[0].end()
    assert run.meter.process.streams == 2
    calls[1].end("upstream_broken", "it closed the connection")
    calls[2].end("caller_gone")
    assert run.meter.process.streams == 0


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (200, "", ""),
        (399, "", ""),
        (400, "", "400"),
        (503, "", "503"),
        (200, "upstream_broken", "upstream_broken"),
        (429, "caller_gone", "caller_gone"),
    ],
)
def test_an_error_is_upstreams_status_unless_the_shim_has_a_name_for_it(
    status: int, code: str, expected: str
) -> None:
    run = Run()
    run.call.answered(status, JSON)
    run.call.end(code, "a reason")
    assert (run.call.code, run.call.reason, run.call.status) == (expected, "a reason", status)


def test_a_call_ends_once_and_as_it_was_said_first() -> None:
    run = Run()
    run.call.refused(401, "invalid_api_key")
    run.now = 200.0
    run.call.end("upstream_broken", "later")
    assert run.over == [run.call]
    assert (run.call.status, run.call.code, run.call.reason) == (401, "invalid_api_key", "")
    assert run.call.over == 100.0


def test_every_sink_is_given_a_call_that_is_over() -> None:
    first: list[CallRecord] = []
    second: list[CallRecord] = []
    call = Meter([first.append, second.append]).begin([], b"id")
    assert first == second == []
    call.end()
    assert first == second == [call]


@pytest.mark.parametrize(
    ("pieces", "model"),
    [
        ([b'{"model":"gpt-4o","messages":[]}'], "gpt-4o"),
        ([b'{"messages":[],\n  "model" :\t"gpt-4o"}'], "gpt-4o"),
        ([b'{"messages":[],', b'"model":"gpt-4o"}'], "gpt-4o"),
        ([b'{"model":"gpt-4o",', b'"tool":{"model":"o3"}}'], "gpt-4o"),
        ([b'{"model":"%s"}' % (b"m" * 256)], "m" * 256),
        ([b'{"model":"%s"}' % (b"m" * 257)], ""),
        ([b'{"text":"they said \\"model\\":\\"o3\\""}'], ""),
        ([b'{"model":"a\\"b"}'], ""),
        ([b'{"model":"a b"}'], ""),
        ([b'{"model":""}'], ""),
        ([b'{"model":4}'], ""),
        ([b'{"other":"gpt-4o"}'], ""),
        ([b'{"model":"gpt-4o:ft#1!~[]"}'], "gpt-4o:ft#1!~[]"),
    ],
)
def test_the_model_of_a_body_that_nobody_reads_is_seen_as_it_passes(pieces: list[bytes], model: str) -> None:
    watched, other = Run().call, Run().call
    watched.has_model = True
    for piece in pieces:
        watched.arrived(piece)
        other.arrived(piece)
    assert (watched.model, other.model) == (model, "")
    assert watched.received == other.received == sum(len(piece) for piece in pieces)


@pytest.mark.parametrize(
    ("status", "headers", "found"),
    [
        (200, JSON, True),
        (299, JSON, True),
        (300, JSON, False),
        (400, JSON, False),
        (200, EVENTS, True),
        (200, [(b"content-type", b"Application/JSON; charset=utf-8")], True),
        (200, [(b"content-type", b"text/plain")], False),
        (200, [], False),
        (200, [*JSON, (b"content-encoding", b"gzip")], False),
    ],
)
def test_tokens_are_read_from_good_responses_whose_text_can_be_read(
    status: int, headers: Headers, found: bool
) -> None:
    said, unsaid = Run().call, Run().call
    said.has_usage = True
    for call in (said, unsaid):
        call.answered(status, headers)
        call.passed(USAGE[:20])
        call.passed(USAGE[20:])
        call.end()
    assert said.usage == (Usage(5, 6) if found else None)
    assert unsaid.usage is None


def test_a_span_begins_when_the_request_goes_upstream() -> None:
    now = [100.0]
    meter = Meter(clock=lambda: now[0], begin_span=sampler("parentbased_always_on"))
    call = meter.begin([], b"id")
    now[0] = 107.0
    before = time.time_ns()
    span = call.begin_span([], "PUT", "https://apim.example")
    assert span is not None
    assert call.span is span
    assert (span.method, span.origin, span.started, span.status) == ("PUT", "https://apim.example", 107.0, 0)
    assert before <= span.began <= time.time_ns()
    unsampled = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    assert meter.begin([], b"id").begin_span(unsampled, "GET", "https://apim.example") is None
    assert Meter().begin([], b"id").begin_span([], "GET", "https://apim.example") is None


@pytest.mark.parametrize(
    ("origin", "status", "codes"),
    [("https://app.example.com", 204, []), ("https://evil.example", 403, ["cors_origin_not_allowed"])],
)
async def test_a_preflight_is_no_call_unless_it_is_refused(
    origin: str, status: int, codes: list[str]
) -> None:
    settings = Settings.from_environment(
        {
            "APIM_BASE_URL": "https://a.example/openai",
            "KEY_VAULT_URL": "https://v.vault.azure.net",
            "CORS_ORIGINS": "https://app.example.com",
        }
    )
    run = Run()

    async def handle(_: Request, __: CallRecord) -> Response:
        raise AssertionError("a preflight goes no further")

    headers = [(b"origin", origin.encode()), (b"access-control-request-method", b"POST")]
    scope = {"type": "http", "method": "OPTIONS", "path": "/v1/models", "headers": headers}
    asked = Request(scope, asyncio.Future)
    response = await answer(asked, Cors.of(settings), settings.retirement, handle, run.meter)
    assert response.status_code == status
    assert [(call.status, call.code) for call in run.over] == [(status, code) for code in codes]


# The names of operations.

FAMILIES = (
    "/chat/completions", "/completions", "/embeddings", "/responses", "/conversations", "/models", "/files",
    "/uploads", "/batches", "/assistants", "/threads/runs", "/threads", "/vector_stores", "/fine_tuning/jobs",
    "/evals", "/containers", "/videos", "/audio/speech", "/audio/transcriptions", "/audio/translations",
    "/images/generations", "/images/edits",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_an_operation_is_named_without_what_is_below_its_collection(family: str) -> None:
    assert operation_name("POST", family) == f"POST {family}"
    assert operation_name("GET", f"{family}/of-a-person/and/more") == f"GET {family}/…"


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, f"{method} /files/…") for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")),
        ("OPTIONS", "other"),
        ("MADE-UP", "other"),
    ],
)
def test_a_method_that_callers_make_up_is_no_name(method: str, name: str) -> None:
    assert operation_name(method, "/files/file-1") == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/threads/thread_1/runs", "POST /threads/…"),
        ("/chat", "other"),
        ("/filesystem", "other"),
        ("", "other"),
        ("/x/files", "other"),
    ],
)
def test_what_is_in_no_list_is_other(path: str, name: str) -> None:
    assert operation_name("POST", path) == name


# Tokens.


def read(*pieces: bytes) -> Usage | None:
    reader = UsageReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.usage


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8, 0)),
        (b'{"usage":{"input_tokens":8,"output_tokens":3}}', Usage(8, 3)),
        # An API that says both says the same; the later names come first.
        (
            b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"input_tokens":8,"output_tokens":3}}',
            Usage(8, 3),
        ),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}', Usage(0, 0)),
        (b'{"usage" :\r\n\t {\n"prompt_tokens" : 8}}', Usage(8, 0)),
        (b'{"usage":{"prompt_tokens":8,"completion_tokens":"3"}}', Usage(8, 0)),
        (b'{"usage":{"prompt_tokens":8,"prompt_tokens_details":null}}', Usage(8, 0)),
        (b'{"usage":{"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":5}}}', Usage(8, 0, 5, 0)),
        (b'{"usage":{"output_tokens":8}}', None),
        # What comes before or after it and is none leaves it as it is.
        (b'{"usage":null}\n{"usage":{"prompt_tokens":8}}\n{"usage":null}', Usage(8, 0)),
        (b'{"usage":{"prompt_tokens":8}}\n{"usage":{"seconds":8}}', Usage(8, 0)),
        (b'{"usage":{broken}}{"usage":{"prompt_tokens":8}}', Usage(8, 0)),
        # Of several the last.
        (b'{"usage":{"prompt_tokens":1}}\n{"usage":{"prompt_tokens":8}}', Usage(8, 0)),
    ],
)
def test_usage_is_told_as_the_response_says_it(body: bytes, usage: Usage | None) -> None:
    assert read(body) == usage
    assert read(*(bytes([byte]) for byte in body)) == usage


def _padded(size: int) -> bytes:
    """A usage of that many bytes from its quotes on, with room between its parts as nobody sends it."""
    head, tail = b'"usage":{"prompt_tokens":8,', b'"completion_tokens":3}'
    return head + b" " * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize(("size", "usage"), [(4000, Usage(8, 3)), (5000, None)])
def test_of_a_usage_no_more_than_four_kilobytes_are_kept(size: int, usage: Usage | None) -> None:
    content = _padded(size)
    assert read(*(content[at : at + 100] for at in range(0, size, 100))) == usage
    # The next is found all the same.
    assert read(content[:-1], b"x" * 9000, b'"usage":{"prompt_tokens":9}') == Usage(9, 0)


@pytest.mark.parametrize(("objects", "usage"), [(15, Usage(8, 0)), (16, None)])
def test_a_usage_holds_as_many_objects_as_any_api_puts_into_one(objects: int, usage: Usage | None) -> None:
    details = b"".join(b',"details_%d":{}' % number for number in range(objects))
    assert read(b'"usage":{"prompt_tokens":8%s}' % details) == usage
