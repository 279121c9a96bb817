"""How the worker's server starts and stops, each time in a process of its own.

The Functions host ends a worker by a signal, and starts another in place of one that ends by itself.
"""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from devhost.spawning import Loop
from tests.conftest import ROOT
from tests.support.wire import Wire, connect

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

PATIENCE_SECONDS = 20

SERVING = """
import asyncio, importlib, signal, sys
from shim.asgi import Response
from shim.worker.server import WebApp, WebServer

app = WebApp()

@app.route
async def answer(request):
    print("begun", flush=True)
    # As long as the request takes.
    while (await request.receive())["more_body"]:
        pass
    return Response(200, [(b"content-length", b"4")], b"done")

def handled(number, frame):
    print("handled", signal.Signals(number).name, flush=True)
    sys.exit(7)

async def main(port):
    serving = asyncio.create_task(WebServer("127.0.0.1", port, app).serve())
    before = signal.getsignal(signal.SIGTERM)
    while signal.getsignal(signal.SIGTERM) is before:
        await asyncio.sleep(0)
    print("serving", flush=True)
    {afterwards}

port, loop, handler = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if handler == "own":
    signal.signal(signal.SIGTERM, handled)
    signal.signal(signal.SIGINT, handled)
new_loop = importlib.import_module(loop).new_event_loop
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main(port))
"""
FOR_EVER = "await asyncio.Event().wait()"


def free_port() -> int:
    """As the runtime looks for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def port() -> int:
    return free_port()


@asynccontextmanager
async def serving(
    port: int, loop: Loop, handler: str = "own", afterwards: str = FOR_EVER
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVING.replace("{afterwards}", afterwards), str(port), loop, handler,
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def begin_request(process: Process, wire: Wire) -> None:
    """A request that is in progress until the rest of its body comes: `end`."""
    await wire.send(b"POST / HTTP/1.1\r\nx-ms-invocation-id: 1\r\ncontent-length: 3\r\n\r\n")
    assert await line_of(process) == "begun"


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


async def refuses(port: int) -> None:
    """Returns once nobody listens any more."""
    while await is_open(port):
        pass


async def accepts(port: int) -> None:
    while not await is_open(port):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_response_in_progress_is_finished_before_the_signal_is_whose_it_was(
    port: int, loop: Loop, number: signal.Signals
) -> None:
    async with serving(port, loop) as process:
        assert await line_of(process) == "serving"
        url = f"http://127.0.0.1:{port}"
        async with connect(url) as idle, connect(url) as wire:
            await begin_request(process, wire)
            process.send_signal(number)
            await refuses(port)
            assert await idle.reader.read() == b""
            assert process.returncode is None
            await wire.send(b"abc")
            answer = await wire.answer()
            assert (answer.body, answer.whole, answer.named("connection")) == (b"done", True, ["close"])
        assert await line_of(process) == f"handled {number.name}"
        assert await process.wait() == 7


async def test_a_process_that_handles_no_signal_ends_by_it(port: int, loop: Loop) -> None:
    async with serving(port, loop, handler="none") as process:
        assert await line_of(process) == "serving"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM


async def test_a_second_signal_ends_the_process_at_once(port: int, loop: Loop) -> None:
    async with serving(port, loop) as process:
        assert await line_of(process) == "serving"
        async with connect(f"http://127.0.0.1:{port}") as wire:
            await begin_request(process, wire)
            process.send_signal(signal.SIGTERM)
            await refuses(port)
            process.send_signal(signal.SIGTERM)
            assert await line_of(process) == "handled SIGTERM"
            assert await process.wait() == 7
            assert await wire.reader.read() == b""


async def test_a_server_that_is_cancelled_listens_no_more_and_gives_the_signals_back(
    port: int, loop: Loop
) -> None:
    cancelled = """
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    print(serving.cancelled(), signal.getsignal(signal.SIGTERM) is before, flush=True)
    await asyncio.Event().wait()
    """
    async with serving(port, loop, afterwards=cancelled.strip()) as process:
        assert await line_of(process) == "serving"
        assert await line_of(process) == "True True"
        await refuses(port)


async def test_a_server_without_a_port_ends_its_process_which_the_host_then_replaces(loop: Loop) -> None:
    """Nobody awaits the server: calls to a worker without one would fail for ever."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with serving(taken.getsockname()[1], loop) as process:
            _, complaints = await process.communicate()
            assert process.returncode == 1
    assert b"the worker's server cannot listen: [Errno" in complaints


async def test_a_server_outside_the_main_thread_serves_without_a_signal(port: int, loop: Loop) -> None:
    """No other thread is told of signals, nor may it ask to be."""
    # Another port than that of the server in the main thread, which must not be taken for it.
    elsewhere = free_port()
    beside = f"""
    again = WebServer("127.0.0.1", {elsewhere}, app).serve()
    await asyncio.to_thread(asyncio.run, again)
    """
    async with serving(port, loop, afterwards=beside.strip()) as process:
        assert await line_of(process) == "serving"
        await accepts(elsewhere)
        async with connect(f"http://127.0.0.1:{elsewhere}") as wire:
            await begin_request(process, wire)
            await wire.send(b"abc")
            assert (await wire.answer()).body == b"done"
