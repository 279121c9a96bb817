"""What an operator finds in Application Insights: the host drops what is logged outside an executing invocation.

A warning that does not arrive might as well not have been written.
"""

import io
import logging
import uuid

import pytest

from devhost.host import Host
from devhost.standin import Standin
from shim.monitoring.logs import Router
from tests.conftest import KEY, StartHost
from tests.support.upstream import broken_off
from tests.support.wire import exchange, request


async def test_faulty_settings_are_told_though_the_app_is_only_starting(start_host: StartHost) -> None:
    host = await start_host(SSE_HEARTBEAT="soon")
    record = await host.logs.first(lambda record: "SSE_HEARTBEAT must be a number" in record.message)
    assert (record.category, record.level) == ("Host.Function.Console", logging.ERROR)
    assert record in host.logs.arrived


async def test_a_response_cut_while_it_streams_is_told_though_its_invocation_is_over(
    host: Host, standin: Standin
) -> None:
    request_id = str(uuid.uuid4())

    standin.answers[request_id] = broken_off
    body = b'{"model": "gpt-4o", "stream": true, "messages": []}'
    call = request("POST", "/openai/v1/chat/completions", f"x-request-id: {request_id}", body=body, key=KEY)
    assert not (await exchange(host.url, call)).whole
    record = await host.logs.first(
        lambda record: "upstream_broken" in record.message and request_id in record.message
    )
    assert (record.category, record.level) == ("Host.Function.Console", logging.WARNING)
    assert record in host.logs.arrived


async def test_a_call_that_the_shim_fails_on_is_told_once(start_host: StartHost) -> None:
    host = await start_host(APIM_BASE_URL="http://127.0.0.1:1/openai")
    request_id = str(uuid.uuid4())
    await exchange(host.url, request("GET", "/v1/files", f"x-request-id: {request_id}", key=KEY))
    await host.logs.first(lambda record: "upstream_unreachable" in record.message)
    assert len([record for record in host.logs.records if request_id in record.message]) == 1


def test_a_line_is_one_line_that_begins_with_its_level() -> None:
    stream = io.StringIO()
    record = logging.LogRecord("shim", logging.ERROR, "", 0, "first\nsecond", None, None)
    Router(stream).emit(record)
    assert stream.getvalue() == "ERROR: first | second\n"


def test_what_is_no_warning_stays_with_the_workers_own_handlers(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    Router(stream).emit(logging.LogRecord("shim", logging.INFO, "", 0, "a call", None, None))
    assert (stream.getvalue(), caplog.messages) == ("", ["a call"])
