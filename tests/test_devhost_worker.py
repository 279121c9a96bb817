"""devhost's worker process is started, equipped and ended as the platform's.

What the app finds when it is imported, such as sys.path, a loop and an environment, decides whether it starts at all.
"""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from devhost.platform import CORE_TOOLS, FLEX, NONE, PLATFORMS, Platform
from devhost.process import Function, Worker, WorkerFailed
from devhost.spawning import Loop
from tests.conftest import KEY, StartHost
from tests.support.wire import exchange, request

PROBE = Path(__file__).parent / "worker_probe"
SITE_PACKAGES = next(path for path in sys.path if path.endswith("site-packages"))

type StartProbe = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_probe(loop: Loop) -> AsyncIterator[StartProbe]:
    workers: list[Worker] = []

    async def start(platform: Platform, folder: Path = PROBE, **settings: str) -> Worker:
        settings = {"PATH": os.environ["PATH"], **settings}
        workers.append(await Worker.start(folder, settings, platform=platform, loop=loop))
        return workers[-1]

    yield start
    for worker in workers:
        await worker.stop()


def named(worker: Worker, name: str) -> Function:
    return next(function for function in worker.functions if function.name == name)


async def report_of(worker: Worker) -> dict[str, Any]:
    assert await worker.fire(named(worker, "report")) is None
    record = await worker.logs.first(
        lambda record: record.message.startswith("{") and record.logger == "probe"
    )
    about: dict[str, Any] = json.loads(record.message)
    return about


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
@pytest.mark.parametrize("chosen", ["uvloop", "asyncio"])
async def test_the_worker_runs_the_loop_that_was_chosen(platform: Platform, chosen: Loop) -> None:
    worker = await Worker.start(PROBE, {"PATH": os.environ["PATH"]}, platform=platform, loop=chosen)
    try:
        about = await report_of(worker)
    finally:
        await worker.stop()
    assert about["loop"] == chosen
    assert about["task"] == "InvocationTask"


async def test_uvloop_is_what_nobody_has_to_choose() -> None:
    worker = await Worker.start(PROBE, {"PATH": os.environ["PATH"]})
    try:
        assert (await report_of(worker))["loop"] == "uvloop"
    finally:
        await worker.stop()


@pytest.mark.parametrize("platform", [FLEX, CORE_TOOLS], ids=["flex", "core-tools"])
async def test_modules_are_the_apps_then_the_workers_and_the_apps_folder_comes_last(
    start_probe: StartProbe, platform: Platform
) -> None:
    about = await report_of(await start_probe(platform))
    packages, worker, *rest = about["path"]
    assert packages == SITE_PACKAGES
    assert worker.endswith(f"workers/python/3.{sys.version_info.minor}/LINUX/X64")
    assert rest[-1] == str(PROBE)
    assert SITE_PACKAGES not in rest
    # The repository itself lends nothing.
    assert str(PROBE.parent.parent) not in rest
    assert about["folder"] == str(PROBE)


async def test_what_the_placeholder_had_imported_is_imported_anew_from_the_app(
    start_probe: StartProbe,
) -> None:
    about = await report_of(await start_probe(FLEX))
    assert about["runtime"].startswith(SITE_PACKAGES)
    assert about["sdk"].startswith(SITE_PACKAGES)
    assert about["main_is_forgotten"]


async def test_packages_that_a_remote_build_put_beside_the_app_come_first(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    packages = tmp_path / ".python_packages/lib/site-packages"
    packages.mkdir(parents=True)
    for name in ("azure", "azurefunctions", "azure_functions_runtime", "markupsafe", "werkzeug"):
        (packages / name).symlink_to(Path(SITE_PACKAGES) / name)
    for name in ("function_app.py", "host.json"):
        (tmp_path / name).write_bytes((PROBE / name).read_bytes())
    about = await report_of(await start_probe(FLEX, tmp_path))
    assert about["path"][0] == str(packages)
    assert about["runtime"].startswith(str(packages))
    assert SITE_PACKAGES not in about["path"]


async def test_on_flex_the_environment_is_replaced_by_what_the_host_assigns(start_probe: StartProbe) -> None:
    worker = await start_probe(
        FLEX, CORS_ORIGINS="https://a.example, https://b.example", MODELS="", APIM_API="v1", HOME="/home/app"
    )
    environ = (await report_of(worker))["environ"]
    expected = {
        "CORS_ALLOWED_ORIGINS": '["https://a.example","https://b.example"]',
        "CORS_SUPPORT_CREDENTIALS": "False",
        "APIM_API": "v1",
        "HOME": "/home/app",
        "AzureWebJobsScriptRoot": str(PROBE),
        "FUNCTIONS_APPLICATION_DIRECTORY": str(PROBE),
        "WEBSITE_PLACEHOLDER_MODE": "0",
    }
    assert {name: environ.get(name) for name in expected} == expected
    # Neither what has no value, nor what only the process's start had.
    assert not {"MODELS", "PYTHONPATH"} & set(environ)


async def test_a_worker_of_core_tools_has_its_settings_from_the_start(start_probe: StartProbe) -> None:
    about = await report_of(await start_probe(CORE_TOOLS, APIM_API="v1", MODELS=""))
    environ = about["environ"]
    assert (environ["APIM_API"], environ["MODELS"]) == ("v1", "")
    assert environ["AZURE_FUNCTIONS_ENVIRONMENT"] == "Development"
    assert about["root_level"] == 10  # PYTHON_ENABLE_DEBUG_LOGGING, which Core Tools set
    assert "WEBSITE_PLACEHOLDER_MODE" not in environ


async def test_the_worker_is_killed_and_not_asked_to_end(start_probe: StartProbe) -> None:
    worker = await start_probe(FLEX)
    process = psutil.Process(worker.pid)
    installed = (await report_of(worker))["environ"]["FUNCTIONS_WORKER_DIRECTORY"]
    hanging = worker.fire(named(worker, "hang"))
    await worker.logs.first(lambda record: record.message == "hanging")
    await worker.stop()
    assert worker.exit_code == -9
    assert not process.is_running()
    assert await hanging == "the worker process is gone"
    assert not os.path.exists(installed)  # noqa: ASYNC240, PTH110 - nobody else is waiting


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
async def test_the_app_serves_however_it_was_started(start_host: StartHost, platform: Platform) -> None:
    host = await start_host(platform=platform)
    answer = await exchange(host.url, request("GET", "/openai/v1/models", key=KEY))
    assert (answer.status, json.loads(answer.body)["object"]) == (200, "list")


@pytest.mark.parametrize("platform", [FLEX, NONE], ids=["flex", "none"])
async def test_an_app_that_cannot_be_imported_says_why(
    start_probe: StartProbe, tmp_path: Path, platform: Platform
) -> None:
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text("import no_such_module\n")
    with pytest.raises(WorkerFailed, match="no_such_module"):
        await start_probe(platform, tmp_path)


async def test_a_worker_that_dies_while_starting_says_what_it_last_wrote(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    (tmp_path / "host.json").write_text("{}")
    (tmp_path / "function_app.py").write_text(
        "import os, sys\nprint('the last words', file=sys.stderr)\nos._exit(3)\n"
    )
    with pytest.raises(WorkerFailed, match=r"exit code 3\nthe last words"):
        await start_probe(FLEX, tmp_path)
