"""What an operator finds in Application Insights: the host drops what is logged outside an executing invocation.

A warning that does not arrive might as well not have been written.
"""

import io
import logging
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from devhost.host import Host
from devhost.standin import Standin
from shim.monitoring.logs import Router, configure
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


LOGGERS = ("shim", "shim.calls", "asyncio", "azure", "azure.functions")
SWITCHES = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")


class Told(NamedTuple):
    """What came to stderr, to stdout, and to the worker's own handlers."""

    stderr: io.StringIO
    stdout: io.StringIO
    worker: io.StringIO

    def all(self) -> tuple[str, str, str]:
        return self.stderr.getvalue(), self.stdout.getvalue(), self.worker.getvalue()


@pytest.fixture
def told() -> Iterator[Told]:
    """Configured twice, as by a worker that loads the app anew."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(each.handlers[:], each.propagate, each.level) for each in loggers]
    switches = {name: getattr(logging, name) for name in SWITCHES}
    for name in SWITCHES:
        setattr(logging, name, True)
    for each in loggers:
        each.setLevel(logging.INFO)  # as the worker may have done
    told = Told(io.StringIO(), io.StringIO(), io.StringIO())
    of_worker = logging.StreamHandler(told.worker)
    logging.getLogger().addHandler(of_worker)
    configure(told.stderr, told.stdout)
    configure(told.stderr, told.stdout)
    yield told
    logging.getLogger().removeHandler(of_worker)
    for each, (handlers, propagate, level) in zip(loggers, kept, strict=True):
        each.handlers[:] = handlers
        each.propagate = propagate
        each.setLevel(level)
    for name, value in switches.items():
        setattr(logging, name, value)


@pytest.mark.parametrize("name", ["shim", "shim.keys", "asyncio"])
def test_warnings_of_ours_and_of_the_event_loop_go_to_stderr_once(told: Told, name: str) -> None:
    logging.getLogger(name).warning("trouble")
    assert told.all() == ("WARNING: trouble\n", "", "")


def test_what_is_no_warning_of_ours_goes_the_workers_way(told: Told) -> None:
    logging.getLogger("shim").info("a word")
    assert told.all() == ("", "", "a word\n")


def test_lines_about_calls_go_to_stdout_unless_they_are_warnings(told: Told) -> None:
    log = logging.getLogger("shim.calls")
    log.debug("call of no interest")
    log.info("call {}")
    assert told.all() == ("", "call {}\n", "")
    log.warning("call that failed")
    assert told.all() == ("WARNING: call that failed\n", "call {}\n", "")


def test_without_streams_of_a_test_they_are_those_of_the_process(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    logging.getLogger("shim").error("trouble")
    logging.getLogger("shim.calls").warning("call that failed")
    logging.getLogger("shim.calls").info("call {}")
    assert capsys.readouterr() == ("call {}\n", "ERROR: trouble\nWARNING: call that failed\n")


@pytest.mark.parametrize("name", ["azure", "azure.core.pipeline", "azure.functions"])
def test_what_others_tell_of_each_request_is_not_paid_for(told: Told, name: str) -> None:
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)


async def test_a_line_looks_nothing_up_that_it_does_not_say(told: Told) -> None:
    record = logging.LogRecord("shim", logging.INFO, "", 0, "a call", None, None)
    assert (record.thread, record.process, record.processName, record.taskName) == (None, None, None, None)


def test_a_stream_that_takes_no_line_breaks_no_call(told: Told) -> None:
    told.stderr.close()
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    logging.getLogger("shim").warning("trouble")
    logging.raiseExceptions = raising
