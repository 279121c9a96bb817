"""The worker process: function_app.py on the real `azure-functions-runtime`, told what to do over a socket.

`python -m devhost.worker HOST:PORT FOLDER` connects to whoever started it, as the real worker connects to its host, and
speaks JSON lines where that speaks gRPC:

    <- {"http_uri": …, "functions": [{"name", "function_id", "parameter", "route", "methods"}]}   or {"failure": …}
    -> {"invoke": id, "function_id": …, "parameter": …, "params": {…}, "metadata": {…}}   or "timer": true for both
    <- {"ended": id, "failure": null or the exception}
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from azure_functions_runtime import handle_event

from devhost.messages import PROTOS, Message, StatusResult, envelope, http_invocation, timer_invocation


async def run(address: str, folder: Path) -> None:
    host, port = address.rsplit(":", 1)
    # An invocation brings the top level of a JSON body with it.
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**30)
    announcement = await _start(folder)
    if level := os.environ.get("DEVHOST_LOG_LEVEL"):
        # The app quietens the SDK's loggers, which a test wants to read.
        logging.getLogger("azure").setLevel(level)
    _send(writer, announcement)
    await writer.drain()
    tasks: set[asyncio.Task[None]] = set()
    while "failure" not in announcement and (line := await reader.readline()):
        task = asyncio.create_task(_invoke(json.loads(line), writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _start(folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(folder))
    request = Message(capabilities={}, function_app_directory=str(folder))
    started = await handle_event.worker_init_request(
        envelope("worker_init_request", request, host="127.0.0.1", protos=PROTOS)
    )
    if started.result.status != StatusResult.Success:
        return {"failure": started.result.exception.message, "trace": started.result.exception.stack_trace}
    metadata = await handle_event.functions_metadata_request(
        envelope("functions_metadata_request", Message())
    )
    functions = [_describe(function) for function in metadata.function_metadata_results]
    for function in functions:
        load = Message(function_id=function["function_id"])
        await handle_event.function_load_request(envelope("function_load_request", load))
    return {"http_uri": started.capabilities["HttpUri"], "functions": functions}


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


async def _invoke(order: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    trigger = (order["invoke"], order["function_id"], order["parameter"])
    message = (
        timer_invocation(*trigger)
        if "timer" in order
        else http_invocation(*trigger, order["params"], order["metadata"])
    )
    failure = None
    try:
        response = await handle_event.invocation_request(envelope("invocation_request", message))
        if response.result.status != StatusResult.Success:
            failure = response.result.exception.message
    except Exception as error:
        failure = f"the runtime itself failed: {error!r}"
    _send(writer, {"ended": order["invoke"], "failure": failure})


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    # As the real worker logs at its root, unless told to log at DEBUG.
    logging.basicConfig(
        level=os.environ.get("DEVHOST_LOG_LEVEL", "INFO"),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
