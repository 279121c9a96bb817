"""The log lines about calls: which are written, what is in them, and that they arrive and are bounded.

An operator has nothing else to look into a failed call with, and pays for every line.
"""

import json
import logging
import uuid
from typing import Any

import pytest

from devhost.host import Host
from devhost.logs import CONSOLE
from shim.monitoring.call_log import LOGGER, MAX_LINES, CallLog, line
from shim.monitoring.record import Meter
from tests.conftest import KEY, ROOT, StartHost
from tests.support.wire import exchange, request


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


@pytest.mark.parametrize(("mode", "lines"), [("all", 1), ("errors", 0), ("none", 0)])
async def test_a_good_call_has_a_line_if_all_are_asked_for(
    start_host: StartHost, mode: str, lines: int
) -> None:
    host = await start_host(LOG_CALLS=mode)
    request_id, last = str(uuid.uuid4()), str(uuid.uuid4())
    await exchange(host.url, request("GET", "/v1/models", f"x-request-id: {request_id}", key=KEY))
    # Its line, where there is one, comes after that of the first.
    await exchange(
        host.url, request("POST", "/v1/chat/completions", f"x-request-id: {last}", body=b"{", key=KEY)
    )
    if mode != "none":
        await host.logs.first(lambda record: last in record.message)
    found = [record for record in host.logs.arrived if request_id in record.message]
    assert len(found) == lines
    assert [json.loads(each.message.removeprefix("call "))["label"] for each in found] == ["team-a"] * lines


async def test_what_is_in_force_is_said_once_and_without_secrets(host: Host) -> None:
    record = await host.logs.first(lambda record: record.message.startswith("started "))
    told = json.loads(record.message.removeprefix("started "))
    assert told["settings"]["key_lookup"] == "digest"
    assert told["settings"]["log_calls"] == "errors"
    assert told["uvicorn"]
    assert KEY not in record.message
    assert record in host.logs.arrived


def test_a_flood_of_refusals_writes_no_more_than_so_many_lines_a_minute() -> None:
    lines = Lines()
    logger = logging.getLogger(LOGGER)
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    now = [0.0]
    meter = Meter([CallLog("errors", lambda: now[0])])
    for _ in range(1000):
        meter.begin([], b"id").refused(401, "invalid_api_key")
    assert len(lines.messages) == MAX_LINES
    now[0] = 61
    meter.begin([], b"id").refused(401, "invalid_api_key")
    logger.removeHandler(lines)
    assert lines.messages[-2] == "700 calls with errors got no line: metrics count them"


class Lines(logging.Handler):
    """What a logger was given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_a_line_is_one_line_whatever_a_label_holds() -> None:
    record = Meter().begin([], b"id")
    record.label, record.model = "a\nb\u2028", 'm"{}'
    assert json.loads(line(record))["label"] == "a\nb\u2028"
    assert "\n" not in line(record)
    assert line(record).isascii()


def test_a_line_has_the_bytes_of_each_direction_under_its_name() -> None:
    record = Meter().begin([], b"id")
    record.arrived(b"x" * 30)
    record.answered(200, [])
    record.passed(b"y" * 7)
    record.end()
    told = json.loads(line(record))
    assert (told["received"], told["sent"]) == (30, 7)


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


async def test_a_line_names_the_model_that_the_call_named_and_not_its_deployment(
    start_host: StartHost,
) -> None:
    host = await start_host(LOG_CALLS="all", MODEL_DEPLOYMENTS="gpt-4o=prod")
    request_id = str(uuid.uuid4())
    body = b'{"model": "gpt-4o", "messages": []}'
    head = f"x-request-id: {request_id}"
    await exchange(host.url, request("POST", "/v1/chat/completions", head, body=body, key=KEY))
    record = await host.logs.first(lambda record: request_id in record.message)
    assert json.loads(record.message.removeprefix("call "))["model"] == "gpt-4o"
