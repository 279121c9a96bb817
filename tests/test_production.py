"""Values that only production feels: nothing else fails when one of them changes, until the app is in Azure.

host.json is read by the Functions host alone, the server's patience outlasts any test, and the collector is noticed
under load. Each value here has its reason beside the code or in docs/; whoever changes one says so here as well.
"""

import asyncio
import json
import os
import sys
from typing import Any

import aiohttp
import pytest

from devhost.azure.services import RESOURCE_ID
from devhost.host import Host
from shim.worker import server
from tests.conftest import ROOT


async def printed(code: str, **environ: str) -> Any:
    """What a fresh Python process prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "APIM_BASE_URL": "https://a.example", **environ},
    )  # fmt: skip
    output, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    # Not even where no event loop runs, in which the app could begin its work in the background.
    assert b"never awaited" not in complaints
    return json.loads(output)


FUNCTIONS = """
import json
from function_app import app
print(json.dumps({f.get_function_name(): f.get_trigger().get_dict_repr() for f in app.get_functions()}, default=str))
"""


# Every method that an OpenAI client may use, and OPTIONS, which asks whether a browser may.
PROXIED = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
ROUTES = {
    "openai": ("openai/{*path}", PROXIED),
    "v1": ("v1/{*path}", PROXIED),
    # The host answers other methods with an empty 404.
    "healthz": ("healthz", ["GET", "HEAD"]),
    "readyz": ("readyz", ["GET", "HEAD"]),
    "wrong_path": ("{root}/{*path}", PROXIED),
}


async def test_the_platform_asks_callers_for_no_key_of_its_own() -> None:
    """With any other level the host would want a function key, and refuse every OpenAI client with an empty 401."""
    functions = await printed(FUNCTIONS, LOCAL_SUBSCRIPTION_KEYS="team-a=key")
    assert {trigger["authLevel"] for trigger in functions.values()} == {"ANONYMOUS"}
    assert {
        name: (trigger["route"], [method.partition(".")[2] or method for method in trigger["methods"]])
        for name, trigger in functions.items()
    } == ROUTES
    # The host tries them in the order of their names, and the last one takes every path.
    assert max(functions) == "wrong_path"


async def test_keys_are_imported_on_the_schedule_that_is_set() -> None:
    service = {"KEY_VAULT_URL": "https://v.vault.azure.net", "APIM_RESOURCE_ID": RESOURCE_ID}
    functions = await printed(FUNCTIONS, APIM_IMPORT_SCHEDULE="7 */9 * * * *", **service)
    assert functions["import_keys"]["schedule"] == "7 */9 * * * *"


def test_requests_are_logged_one_a_second_at_most() -> None:
    """docs/deploy.md reckons with that: at ten calls a second all of them would cost more than the compute."""
    host = json.loads((ROOT / "host.json").read_text())
    assert host["version"] == "2.0"
    sampling = host["logging"]["applicationInsights"]["samplingSettings"]
    assert (sampling["isEnabled"], sampling["maxTelemetryItemsPerSecond"]) == (True, 1)


def test_the_host_neither_ends_nor_throttles_a_call() -> None:
    host = json.loads((ROOT / "host.json").read_text())
    # A stream may run for longer than any number: azure-functions-host, ScriptHostBuilderExtensions, "-1" is no limit.
    assert host["functionTimeout"] == "-1"
    # The instance's concurrency is the platform's to hold (infra/modules/app.bicep); a 429 of the host has no body.
    assert host["extensions"]["http"] == {
        "routePrefix": "",
        "maxOutstandingRequests": -1,
        "maxConcurrentRequests": -1,
        "dynamicThrottlesEnabled": False,
    }


# SocketsHttpHandler.PooledConnectionIdleTimeout.
HOSTS_IDLE_SECONDS = 60


def test_the_workers_server_waits_longer_than_the_host_and_lets_streams_run_on() -> None:
    assert server.KEEP_ALIVE_SECONDS >= 2 * HOSTS_IDLE_SECONDS
    assert server.DRAIN_SECONDS == 30


SERVED = """
import asyncio, gc, inspect, json
from shim.worker.server import WebApp, WebServer

def beside(serving):
    # By name, with its argument: every how many seconds it does its work, or how long a connection may be idle.
    tasks = [task.get_coro() for task in asyncio.all_tasks() - {serving}]
    ours = [task for task in tasks if "/shim/worker/" in task.cr_code.co_filename]
    arguments = {task: inspect.getargvalues(task.cr_frame) for task in ours}
    return {task.__qualname__: found.locals[found.args[-1]] for task, found in arguments.items()}

async def main():
    serving = asyncio.create_task(WebServer("127.0.0.1", 0, WebApp()).serve())
    while not (during := beside(serving)) and not serving.done():
        await asyncio.sleep(0)
    collector = [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await asyncio.sleep(0)
    print(json.dumps([collector, during, beside(serving)]))

asyncio.run(asyncio.wait_for(main(), 20))
"""


async def test_the_collector_looks_rarely_and_not_at_the_app_itself() -> None:
    (enabled, thresholds, frozen), _, _ = await printed(SERVED)
    assert enabled
    assert thresholds == [10_000, 20, 20]  # bench/NOTES.md
    assert frozen > 10_000


async def test_lone_legs_are_swept_memory_is_trimmed_and_idle_connections_close_while_the_server_runs() -> (
    None
):
    """Without the first an invocation may hang for ever; what outlived the server would keep the worker from ending."""
    _, during, after = await printed(SERVED)
    assert during == {
        "Invocations.sweep_forever": 5,
        "trim_forever": 60,
        "Connections.close_idle_forever": server.KEEP_ALIVE_SECONDS,
    }
    assert after == {}


WARMED = """
import asyncio, json, os, sys
from shim.service import Service

async def main():
    before = "azure.keyvault.secrets.aio" in sys.modules
    service = Service(os.environ)
    while "azure.keyvault.secrets.aio" not in sys.modules:
        await asyncio.sleep(0.01)
    print(json.dumps(before))
    sys.stdout.flush()
    os._exit(0)  # a process that is killed, as the worker is

asyncio.run(asyncio.wait_for(main(), 20))
"""


async def test_the_vaults_sdk_is_loaded_before_the_first_call_has_to_wait_for_it() -> None:
    assert await printed(WARMED, KEY_VAULT_URL="https://v.vault.azure.net") is False


FREED = """
import json, resource
from shim.worker import memory

def faults_of_pieces(size=250_000):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        pieces = [bytearray(size) for _ in range(8)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

untouched = faults_of_pieces()
faults_of_pieces(400_000)
memory.settle()
faults_of_pieces()
print(json.dumps([untouched, faults_of_pieces(), faults_of_pieces(400_000)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of other systems is kept in other ways")
async def test_the_memory_of_one_piece_of_a_body_serves_the_next() -> None:
    """Each page that the kernel has taken back costs a fault when it is written to again.

    What is larger, as the buffers of TLS connections are, goes back each time.
    """
    untouched, settled, of_large_ones = await printed(FREED)
    assert untouched > 10_000
    assert settled < 100
    assert of_large_ones > 10_000


TRIMMED = """
import asyncio, json
from shim.worker import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

async def main():
    memory.settle()
    pieces = [(bytes([n % 256]) * 100_000, bytes([n % 256]) * 1000) for n in range(500)]
    full = resident()
    between = [small for _, small in pieces]
    pieces.clear()
    left = resident()
    trimming = asyncio.create_task(memory.trim_forever(interval=0.01))
    while resident() > full - 40_000_000:
        await asyncio.sleep(0.01)
    print(json.dumps([full - left, len(between)]))

asyncio.run(asyncio.wait_for(main(), 20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of other systems is kept in other ways")
async def test_free_memory_between_pieces_in_use_goes_back_to_the_kernel() -> None:
    given_back_without, pieces = await printed(TRIMMED)
    assert pieces == 500
    assert given_back_without < 20_000_000


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_nobody_between_stores_what_health_says(
    http: aiohttp.ClientSession, host: Host, path: str
) -> None:
    async with http.get(host.url + path) as answer:
        assert answer.headers["cache-control"] == "no-store"
