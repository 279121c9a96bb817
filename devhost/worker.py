"""The worker process: function_app.py on the real `azure-functions-runtime`, told what to do over a socket.

Run as the platform runs its own (azure-functions-python-worker 4.40, workers/proxy_worker: start_worker.py for the
event loop, dispatcher.py for the rest). `python -m devhost.worker HOST:PORT uvloop|asyncio` connects to whoever started
it, as the real worker connects to its host, and speaks JSON lines where that speaks gRPC:

    -> {"init": FOLDER}                                           worker_init_request: the app's folder or a placeholder
    -> {"reload": FOLDER, "environment": {…}}                     function_environment_reload_request: now the app
    <- {"started": {"http_uri": …, "functions": [{"name", "function_id", "parameter", "type", "route", "methods"}]}}
       or {"failure": …, "trace": …}
    -> {"invoke": id, "function_id": …, "parameter": …, "params": {…}, "metadata": {…}}   or "timer": true for both
    <- {"log": message, "level": …, "logger": …, "system": …, "invocation": id or null}
    <- {"ended": id, "failure": null or the exception}
"""

import asyncio
import importlib
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from devhost.dependencies import Dependencies
from devhost.invocation_logs import Invocations, InvocationTask, log_to_host
from devhost.messages import PROTOS, Message, StatusResult, envelope, http_invocation, timer_invocation

_HOST = "127.0.0.1"


class Dispatcher:
    """One worker's conversation with its host."""

    def __init__(self, writer: asyncio.StreamWriter, dependencies: Dependencies) -> None:
        self._writer = writer
        self._dependencies = dependencies
        self._invocations = Invocations()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._runtime: Any = None

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Does what the host says, each message in a task of its own, until the host is gone."""
        self._loop.set_task_factory(InvocationTask.factory)
        log_to_host(self._send, self._invocations)
        handlers = {"init": self._init, "reload": self._reload, "invoke": self._invoke}
        tasks = set()
        while line := await reader.readline():
            message = json.loads(line)
            task = self._loop.create_task(handlers[next(iter(message))](message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _init(self, message: dict[str, Any]) -> None:
        folder = message["init"]
        placeholder = os.environ.get("WEBSITE_PLACEHOLDER_MODE") == "1"
        if not placeholder:
            self._dependencies.prefer_apps(folder)
        self._load_runtime()
        request = Message(capabilities={}, function_app_directory=folder)
        response = await self._ask("worker_init_request", request)
        self._send({"started": {}} if placeholder else await self._describe_app(response))

    async def _reload(self, message: dict[str, Any]) -> None:
        self._dependencies.prefer_apps(message["reload"])
        self._load_runtime()
        request = Message(
            function_app_directory=message["reload"], environment_variables=message["environment"]
        )
        response = await self._ask("function_environment_reload_request", request)
        self._send(await self._describe_app(response))

    def _load_runtime(self) -> None:
        self._runtime = importlib.import_module("azure_functions_runtime")
        self._invocations.in_context = getattr(self._runtime, "invocation_id_cv", None)
        self._runtime.start_threadpool_executor()

    async def _ask(self, kind: str, message: Message) -> Any:
        return await getattr(self._runtime, kind)(envelope(kind, message, host=_HOST, protos=PROTOS))

    async def _describe_app(self, response: Any) -> dict[str, Any]:
        if response.result.status != StatusResult.Success:
            return {
                "failure": response.result.exception.message,
                "trace": response.result.exception.stack_trace,
            }
        metadata = await self._ask("functions_metadata_request", Message())
        functions = [_describe(function) for function in metadata.function_metadata_results or ()]
        for function in functions:
            await self._ask("function_load_request", Message(function_id=function["function_id"]))
        if level := os.environ.get("DEVHOST_LOG_LEVEL"):
            # The app quietens the SDK's loggers, which a test wants to read.
            for name in ("", "azure"):
                logging.getLogger(name).setLevel(level)
        return {"started": {"http_uri": response.capabilities.get("HttpUri"), "functions": functions}}

    async def _invoke(self, order: dict[str, Any]) -> None:
        self._invocations.begin(order["invoke"])
        trigger = (order["invoke"], order["function_id"], order["parameter"])
        message = (
            timer_invocation(*trigger)
            if "timer" in order
            else http_invocation(*trigger, order["params"], order["metadata"])
        )
        failure = None
        try:
            response = await self._ask("invocation_request", message)
            if response.result.status != StatusResult.Success:
                failure = response.result.exception.message
        except Exception as error:
            self._invocations.fail()
            failure = f"the runtime itself failed: {error!r}"
        self._send({"ended": order["invoke"], "failure": failure})

    def _send(self, message: dict[str, Any]) -> None:
        """Like the real worker's queue, it takes a record from any thread."""
        line = json.dumps(message).encode() + b"\n"
        if threading.get_ident() == self._thread:
            self._write(line)
        else:
            self._loop.call_soon_threadsafe(self._write, line)

    def _write(self, line: bytes) -> None:
        # asyncio logs what is written to a broken connection, and that would be written again.
        if not self._writer.is_closing():
            self._writer.write(line)


def _describe(function: Message) -> dict[str, Any]:
    bindings = [json.loads(binding) for binding in vars(function)["raw_bindings"]]
    trigger = next(binding for binding in bindings if binding["type"].lower().endswith("trigger"))
    return {
        "name": vars(function)["name"],
        "function_id": vars(function)["function_id"],
        "parameter": trigger["name"],
        "type": trigger["type"],
        "route": trigger.get("route"),
        "methods": [method.upper() for method in trigger.get("methods", [])],
    }


async def run(address: str, dependencies: Dependencies) -> None:
    host, port = address.rsplit(":", 1)
    # An invocation brings the top level of a JSON body with it.
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**30)
    await Dispatcher(writer, dependencies).serve(reader)


def main(address: str, loop: str) -> None:
    if os.environ.get("WEBSITE_PLACEHOLDER_MODE") == "1":
        # The platform starts `python -m proxy_worker` in the placeholder's folder; here -P keeps that out at first.
        sys.path.insert(0, str(Path.cwd()))
    if loop == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    dependencies = Dependencies()
    dependencies.use_workers()
    asyncio.run(run(address, dependencies))


if __name__ == "__main__":
    main(*sys.argv[1:])
