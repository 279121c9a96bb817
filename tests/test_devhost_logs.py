"""devhost keeps of a worker's logs what the Functions host passes on to Application Insights.

The host drops most of what a worker logs, and a test that reads what it drops proves nothing for operators.
"""

import logging
import os
from pathlib import Path

import pytest

from devhost.logs import CONSOLE, Fate, Logs, Record
from devhost.platform import FLEX, NONE, Platform
from devhost.process import Worker
from devhost.spawning import Loop
from tests.test_devhost_worker import PROBE, named

TALK = "Function.talk.User"


async def heard(platform: Platform, loop: Loop, *functions: str, folder: Path = PROBE) -> Logs:
    """What came of the app's import and of these invocations, one after the other; nothing more can come."""
    worker = await Worker.start(folder, {"PATH": os.environ["PATH"]}, platform=platform, loop=loop)
    try:
        for name in functions:
            assert await worker.fire(named(worker, name)) is None
    finally:
        await worker.stop()
    return worker.logs


def of_the_app(logs: Logs) -> dict[str, Record]:
    """The app's own records by the first line of their message."""
    return {record.message.partition("\n")[0]: record for record in logs.records if record.logger == "probe"}


@pytest.fixture(scope="module")
async def talked(loop: Loop) -> dict[str, Record]:
    return of_the_app(await heard(FLEX, loop, "talk", "allow"))


@pytest.mark.parametrize("message", ["in the function", "in a task of the function's", "an exception"])
async def test_what_is_logged_during_an_invocation_arrives_with_its_id(
    talked: dict[str, Record], message: str
) -> None:
    record = talked[message]
    assert (record.fate, record.category) == (Fate.ARRIVED, TALK)
    assert record.invocation_id == talked["in the function"].invocation_id


async def test_an_exceptions_trace_is_part_of_its_message(talked: dict[str, Record]) -> None:
    assert talked["an exception"].message.endswith("ValueError: a reason")
    assert talked["an exception"].level == logging.ERROR


async def test_what_is_logged_while_the_app_is_imported_is_dropped(talked: dict[str, Record]) -> None:
    record = talked["imported: no invocation is executing"]
    assert (record.fate, record.invocation_id) == (Fate.NO_INVOCATION, None)


async def test_what_a_task_logs_after_its_function_returned_is_dropped(talked: dict[str, Record]) -> None:
    """Although another invocation is executing at that time."""
    record = talked["in a task that outlived its function"]
    assert record.fate is Fate.NO_INVOCATION
    assert record.invocation_id == talked["in the function"].invocation_id


async def test_what_no_task_logs_counts_as_the_invocation_that_began_last(talked: dict[str, Record]) -> None:
    record = talked["in a callback"]
    assert (record.fate, record.category) == (Fate.ARRIVED, "Function.allow.User")


async def test_details_are_not_logged(talked: dict[str, Record]) -> None:
    assert "a detail" not in talked


async def test_a_thread_of_the_apps_own_belongs_to_no_invocation(loop: Loop) -> None:
    record = of_the_app(await heard(FLEX, loop, "in_thread"))["in a thread"]
    assert (record.fate, record.invocation_id) == (Fate.NO_INVOCATION, None)


async def test_a_thread_of_the_runtimes_belongs_to_the_invocation_it_runs(loop: Loop) -> None:
    record = of_the_app(await heard(FLEX, loop, "not_async"))["in a function that is not async"]
    assert (record.fate, record.category) == (Fate.ARRIVED, "Function.not_async.User")


async def test_host_json_has_the_last_word_on_levels(loop: Loop) -> None:
    record = of_the_app(await heard(FLEX, loop, "silent"))["host.json wants errors alone"]
    assert record.fate is Fate.LEVEL


async def test_lines_on_stdout_and_stderr_arrive_whoever_wrote_them(loop: Loop) -> None:
    logs = await heard(FLEX, loop, "console")
    lines = {record.message: record for record in logs.records if record.category == CONSOLE}
    assert {message: (record.level, record.fate) for message, record in lines.items()} == {
        "imported: on stderr": (logging.INFO, Fate.ARRIVED),
        "a plain line": (logging.INFO, Fate.ARRIVED),
        "DeprecationWarning: old": (logging.WARNING, Fate.ARRIVED),
        "an Error: bad": (logging.ERROR, Fate.ARRIVED),
        "LanguageWorkerConsoleLog: of its own": (logging.INFO, Fate.SYSTEM),
        "an error on stdout": (logging.INFO, Fate.ARRIVED),
    }
    assert logs.arrived == [record for record in logs.records if record.fate is Fate.ARRIVED]


async def test_the_runtimes_own_records_never_arrive(loop: Loop) -> None:
    logs = await heard(FLEX, loop, "talk")
    own = [record for record in logs.records if record.logger == "azure.functions"]
    assert own
    assert {record.fate for record in own} == {Fate.SYSTEM}


async def test_without_a_platform_nothing_is_dropped(loop: Loop) -> None:
    logs = await heard(NONE, loop, "talk", "allow")
    assert logs.dropped == []
    assert {"imported: no invocation is executing", "in a task that outlived its function"} <= {
        record.message for record in logs.arrived
    }


async def test_one_can_wait_for_a_record_that_has_yet_to_come() -> None:
    logs = Logs({}, drops=True)
    with pytest.raises(TimeoutError):
        await logs.first(lambda record: True, timeout=0.01)
    logs.console("a line", is_error=False)
    assert (await logs.first(lambda record: record.message == "a line")).category == CONSOLE
