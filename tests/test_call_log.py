"""The log lines about calls: which are written, what is in them, and that they arrive and are bounded.

An operator has nothing else to look into a failed call with, and pays for every line.
"""

import json
import logging
import platform
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

from devhost.host import Host
from devhost.logs import CONSOLE
from shim.monitoring.call_log import LOGGER, CallLog, line
from shim.monitoring.record import Meter
from shim.monitoring.tracing import sampler
from tests.conftest import APP_ORIGIN, KEY, ROOT, StartHost
from tests.support.wire import exchange, request

JSON = (b"content-type", b"application/json")


async def test_a_refusal_has_one_line_that_says_what_was_asked_for(host: Host) -> None:
    request_id = str(uuid.uuid4())
    await exchange(
        host.url, request("GET", "/v1/files/file-of-a-person", f"x-request-id: {request_id}", key="x" * 32)
    )
    record = await host.logs.first(lambda record: request_id in record.message)
    assert (record.category, record.level) == (CONSOLE, logging.INFO)
    assert record in host.logs.arrived
    told = json.loads(record.message.removeprefix("call "))
    assert told.pop("ms") >= 0
    assert told == {
        "request_id": request_id,
        "operation": "GET /files/…",
        "status": 401,
        "code": "invalid_api_key",
        "received": 0,
        "sent": 0,
        "client": "other",
        "dialect": "v1",
    }


async def lines_of_a_good_call(host: Host, *, errors_are_told: bool) -> list[dict[str, Any]]:
    request_id, last = str(uuid.uuid4()), str(uuid.uuid4())
    await exchange(host.url, request("GET", "/v1/models", f"x-request-id: {request_id}", key=KEY))
    # Its line, where there is one, comes after that of the first.
    await exchange(
        host.url, request("POST", "/v1/chat/completions", f"x-request-id: {last}", body=b"{", key=KEY)
    )
    if errors_are_told:
        await host.logs.first(lambda record: last in record.message)
    found = [record for record in host.logs.arrived if request_id in record.message]
    return [json.loads(each.message.removeprefix("call ")) for each in found]


async def test_a_good_call_has_a_line_if_all_are_asked_for(
    host: Host, told_of_all: Host, start_host: StartHost
) -> None:
    [line] = await lines_of_a_good_call(told_of_all, errors_are_told=True)
    assert line["label"] == "team-a"
    assert await lines_of_a_good_call(host, errors_are_told=True) == []
    silent = await start_host(LOG_CALLS="none")
    assert await lines_of_a_good_call(silent, errors_are_told=False) == []


async def test_what_is_in_force_is_said_once_and_without_secrets(host: Host) -> None:
    record = await host.logs.first(lambda record: record.message.startswith("started "))
    told = json.loads(record.message.removeprefix("started "))
    assert told["settings"]["key_lookup"] == "digest"
    assert told["settings"]["log_calls"] == "errors"
    assert told["settings"]["cors_origins"] == [APP_ORIGIN]
    assert told["settings"]["apim_base_url"].startswith("http://127.0.0.1:")
    # Those that may have a secret in them.
    assert not {
        "local_subscription_keys",
        "applicationinsights_connection_string",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_traces_endpoint",
    } & set(told["settings"])
    assert KEY not in record.message
    assert record in host.logs.arrived
    del told["settings"]
    assert told.pop("python") == platform.python_version()
    # With which a fault that only some instances have is told from one that all have.
    assert told == {
        name: version(name)
        for name in (
            "azure-functions-runtime",
            "azure-functions",
            "httptools",
            "azure-keyvault-secrets",
        )
    }


class Lines(logging.Handler):
    """What a logger was given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is written about calls."""
    lines, logger = Lines(), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


def test_a_flood_of_refusals_writes_no_more_than_so_many_lines_a_minute(lines: Lines) -> None:
    now = [1000.0]
    meter = Meter([CallLog("errors", lambda: now[0])])

    def refuse(calls: int) -> None:
        for _ in range(calls):
            meter.begin([], b"id").refused(401, "invalid_api_key")

    refuse(300)
    assert len(lines.messages) == 300
    refuse(700)
    now[0] += 59
    refuse(1)
    assert len(lines.messages) == 300
    now[0] += 1
    refuse(1)
    assert lines.messages[300] == "701 calls with errors got no line: metrics count them"
    assert lines.records[300].levelno == logging.WARNING
    # The next minute is as bounded as the first.
    refuse(999)
    now[0] += 59
    refuse(1)
    assert len(lines.messages) == 301 + 300
    now[0] += 1
    refuse(300)
    assert lines.messages[601] == "701 calls with errors got no line: metrics count them"
    # A minute in which every line was written needs no such word.
    now[0] += 60
    refuse(1)
    assert len(lines.messages) == 602 + 300 + 1


def test_whoever_asks_for_all_calls_gets_them_all(lines: Lines) -> None:
    meter = Meter([CallLog("all")])
    for _ in range(400):
        meter.begin([], b"id").refused(401, "invalid_api_key")
    meter.begin([], b"id").end("caller_gone")
    meter.begin([], b"id").end()
    assert len(lines.messages) == 402


def test_good_calls_use_nothing_up_of_what_may_be_written_of_errors(lines: Lines) -> None:
    meter = Meter([CallLog("errors")])
    for _ in range(400):
        meter.begin([], b"id").end()
        # Callers leave as they like: that is no error of anybody's.
        meter.begin([], b"id").end("caller_gone")
    assert lines.messages == []
    meter.begin([], b"id").refused(401, "invalid_api_key")
    assert len(lines.messages) == 1


@pytest.mark.parametrize(
    ("status", "code", "level"),
    [
        (200, "", logging.INFO),
        (401, "invalid_api_key", logging.INFO),
        (499, "too_large", logging.INFO),
        (500, "internal_error", logging.WARNING),
        (503, "key_store_unavailable", logging.WARNING),
        # A stream that broke off under way, with the status that its head had.
        (200, "upstream_broken", logging.WARNING),
        (399, "upstream_broken", logging.WARNING),
        (200, "caller_gone", logging.INFO),
        (0, "caller_gone", logging.INFO),
        # Upstream's own.
        (503, "503", logging.INFO),
        (429, "429", logging.INFO),
    ],
)
def test_a_warning_is_what_the_shim_could_not_do(lines: Lines, status: int, code: str, level: int) -> None:
    call = Meter([CallLog("all")]).begin([], b"id")
    call.status = status
    call.end(code)
    assert [record.levelno for record in lines.records] == [level]


def test_a_line_is_one_line_whatever_a_label_holds() -> None:
    record = Meter().begin([], b"id")
    record.label, record.model = "a\nb\u2028", 'm"{}'
    assert json.loads(line(record))["label"] == "a\nb\u2028"
    assert "\n" not in line(record)
    assert line(record).isascii()


def test_a_line_says_all_that_is_known_of_a_call() -> None:
    now = [100.0]
    meter = Meter(clock=lambda: now[0], begin_span=sampler("always_on"))
    record = meter.begin([(b"user-agent", b"curl/8.5.0")], b"id-1")
    record.label, record.operation, record.model = "team-a", "POST /chat/completions", "gpt-4o"
    record.scheme, record.dialect, record.has_usage = "api-key", "legacy", True
    span = record.begin_span([], "POST", "https://apim.example")
    assert span is not None
    record.arrived(b"x" * 30)
    record.answered(200, [JSON])
    body = b'{"usage":{"prompt_tokens":5,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":4}}}'
    record.passed(body)
    now[0] = 101.2345
    record.end("upstream_broken", "it was reset")
    assert json.loads(line(record)) == {
        "request_id": "id-1",
        "label": "team-a",
        "operation": "POST /chat/completions",
        "model": "gpt-4o",
        "status": 200,
        "code": "upstream_broken",
        "reason": "it was reset",
        "ms": 1234,
        "received": 30,
        "sent": len(body),
        "client": "curl/8",
        "key_header": "api-key",
        "dialect": "legacy",
        "trace_id": span.trace_id,
        "tokens": {"input": 5, "output": 6, "cached": 4, "reasoning": 0},
    }


def test_host_json_lets_every_warning_through_and_samples_requests_alone() -> None:
    logs: dict[str, Any] = json.loads((ROOT / "host.json").read_text())["logging"]
    assert logs["logLevel"] == {
        "default": "Warning",
        "Host.Results": "Information",
        "Host.Function.Console": "Information",
    }
    assert set(logs["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")) == {
        "Trace",
        "Exception",
    }


@pytest.fixture(scope="module")
async def told_of_all(start_host: StartHost) -> Host:
    """The app that writes a line for each call, for one model of which the APIM API has another name."""
    return await start_host(LOG_CALLS="all", MODEL_DEPLOYMENTS="fast=gpt-4o-mini,gpt-4o=gpt-4o")


async def line_of(host: Host, call: bytes) -> dict[str, Any]:
    """What is told of a call that has `{own}` for its request id."""
    request_id = str(uuid.uuid4())
    await exchange(host.url, call.replace(b"{own}", request_id.encode()))
    record = await host.logs.first(lambda record: request_id in record.message)
    told: dict[str, Any] = json.loads(record.message.removeprefix("call "))
    assert told.pop("request_id") == request_id
    assert told.pop("ms") >= 0
    return told


OWN = "x-request-id: {own}"
CHAT = b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}'
RESPONSE = b'{"model": "gpt-4o", "input": "Hi"}'
LEGACY = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
# The call, and what its line says; less what all good calls of team-a have in common, and bytes.
LINES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a model in the body, and not its deployment": (
        request("POST", "/v1/chat/completions", OWN, body=CHAT, key=KEY),
        {"operation": "POST /chat/completions", "model": "fast", "tokens": True},
    ),
    "a deployment in the path, and the key of an AzureOpenAI client": (
        request("POST", LEGACY, OWN, f"api-key: {KEY}", body=CHAT),
        {
            "operation": "POST /chat/completions", "model": "gpt-4o", "tokens": True, "dialect": "legacy",
            "key_header": "api-key",
        },
    ),
    "a model in a body that nobody needs to read": (
        request("POST", "/openai/responses?api-version=2025-04-01-preview", OWN, body=RESPONSE, key=KEY),
        {"operation": "POST /responses", "model": "gpt-4o", "tokens": True, "dialect": "legacy"},
    ),
    "a body whose model is not what the call is for": (
        request("POST", "/v1/batches", OWN, 'x-standin: {"reflect": true}', body=RESPONSE, key=KEY),
        {"operation": "POST /batches"},
    ),
    "what upstream refuses": (
        request("POST", "/v1/chat/completions", OWN, 'x-standin: {"status": 429}', body=CHAT, key=KEY),
        {"operation": "POST /chat/completions", "model": "fast", "status": 429, "code": "429"},
    ),
    "what names no model": (
        request("GET", "/v1/models", OWN, key=KEY),
        {"operation": "GET /models"},
    ),
    "what is below a collection": (
        request("GET", "/v1/files/file-of-a-person", OWN, key=KEY),
        {"operation": "GET /files/…", "status": 404, "code": "404"},
    ),
    "what is in no list": (
        request("GET", "/v1/of-tomorrow", OWN, key=KEY),
        {"operation": "other", "status": 404, "code": "404"},
    ),
    "what is refused before anything of it is known": (
        request("GET", "/elsewhere", OWN),
        {"status": 404, "code": "not_found", "dialect": None, "label": None, "key_header": None},
    ),
    "no model where one is needed": (
        request("POST", "/v1/chat/completions", OWN, body=b"{}", key=KEY),
        {"operation": "POST /chat/completions", "status": 400, "code": "model_required"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "expected"), LINES.values(), ids=LINES)
async def test_a_line_names_what_the_call_named(
    told_of_all: Host, call: bytes, expected: dict[str, Any]
) -> None:
    told = await line_of(told_of_all, call)
    assert told.pop("received") == len(call.partition(b"\r\n\r\n")[2])
    told.pop("sent")
    if "tokens" in told:
        told["tokens"] = told["tokens"]["input"] > 0
    of_all = {"label": "team-a", "status": 200, "client": "other", "key_header": "bearer", "dialect": "v1"}
    assert told == {name: value for name, value in (of_all | expected).items() if value is not None}


async def test_the_tokens_of_a_stored_response_are_told_once_however_often_it_is_read(
    told_of_all: Host,
) -> None:
    made = await exchange(told_of_all.url, request("POST", "/v1/responses", body=RESPONSE, key=KEY))
    stored = json.loads(made.body)
    assert stored["usage"]["input_tokens"] > 0
    told = await line_of(told_of_all, request("GET", f"/v1/responses/{stored['id']}", OWN, key=KEY))
    assert (told["status"], told["operation"]) == (200, "GET /responses/…")
    assert told["sent"] > 0
    assert "tokens" not in told
