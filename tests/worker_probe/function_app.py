"""A Functions app that tells what its worker process is like. Its schedules never come; tests fire its timers."""

import asyncio
import json
import logging
import os
import sys
import threading
from pathlib import Path

import azure.functions as func
import azure_functions_runtime

app = func.FunctionApp()
log = logging.getLogger("probe")
tasks: set[asyncio.Task[None]] = set()
allowed = asyncio.Event()

log.error("imported: no invocation is executing")
print("imported: on stderr", file=sys.stderr)


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def report(timer: func.TimerRequest) -> None:
    """What the process is like, as JSON."""
    loop = asyncio.get_running_loop()
    about = {
        "loop": type(loop).__module__.partition(".")[0],
        "task": type(asyncio.current_task()).__name__,
        "path": sys.path,
        "environ": dict(os.environ),
        "folder": str(Path.cwd()),
        "runtime": azure_functions_runtime.__file__,
        "sdk": func.__file__,
        "root_level": logging.getLogger().level,
        "main_is_forgotten": "__main__" not in sys.modules,
    }
    log.info(json.dumps(about))


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def talk(timer: func.TimerRequest) -> None:
    """Logs here and in a task, and leaves behind a task that logs when `allow` says so."""
    log.info("in the function")
    await asyncio.create_task(logs("in a task of the function's"))
    log.debug("a detail")
    try:
        raise ValueError("a reason")
    except ValueError:
        log.exception("an exception")
    tasks.add(asyncio.create_task(logs_when_allowed()))


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def allow(timer: func.TimerRequest) -> None:
    """Is executing while the task of `talk` logs; a callback that no task made belongs to `allow`."""
    allowed.set()
    await asyncio.gather(*tasks)
    called = asyncio.Event()
    asyncio.get_running_loop().call_soon(log.info, "in a callback")
    asyncio.get_running_loop().call_soon(called.set)
    await called.wait()


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def hang(timer: func.TimerRequest) -> None:
    log.info("hanging")
    await asyncio.Event().wait()


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def in_thread(timer: func.TimerRequest) -> None:
    thread = threading.Thread(target=log.info, args=["in a thread"])
    thread.start()
    await asyncio.to_thread(thread.join)


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
def not_async(timer: func.TimerRequest) -> None:
    log.info("in a function that is not async")


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def silent(timer: func.TimerRequest) -> None:
    log.warning("host.json wants errors alone")


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def console(timer: func.TimerRequest) -> None:
    for line in (
        "a plain line",
        "DeprecationWarning: old",
        "an Error: bad",
        "LanguageWorkerConsoleLog: of its own",
    ):
        print(line, file=sys.stderr)
    print("an error on stdout")


async def logs(message: str) -> None:
    log.info(message)


async def logs_when_allowed() -> None:
    await allowed.wait()
    log.error("in a task that outlived its function")
