"""A Functions app in the real worker runtime, with a load that comes straight to the worker's own server.

`python bench/functions_worker.py FOLDER uvloop|asyncio` prints the server's URL, and serves until its stdin is closed.

In Azure each HTTP request has an invocation beside it, which the host announces by gRPC. Here the announcement begins
in the worker itself, at the moment that the runtime's coordinator sees the request: nothing of what the runtime does
for an invocation is left out, all of it runs in the measured process, and no stand-in for the host has a part in the
figures. Left out is the reading of the gRPC message, which is protobuf's C code in a thread of the worker's.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azure_functions_runtime import handle_event
from azure_functions_runtime.http_v2 import http_coordinator

from devhost.invocation_logs import InvocationTask
from devhost.messages import PROTOS, Message, StatusResult, envelope, http_invocation


async def run(folder: Path) -> None:
    # As the platform's worker does (devhost/worker.py).
    asyncio.get_running_loop().set_task_factory(InvocationTask.factory)
    if vault := os.environ.get("BENCH_VAULT"):
        lead_vaults_to(vault)
    started = await handle_event.worker_init_request(
        envelope(
            "worker_init_request",
            Message(capabilities={}, function_app_directory=str(folder)),
            host="127.0.0.1",
            protos=PROTOS,
        )
    )
    if started.result.status != StatusResult.Success:
        raise SystemExit(f"{started.result.exception.message}\n{started.result.exception.stack_trace}")
    metadata = await handle_event.functions_metadata_request(
        envelope("functions_metadata_request", Message())
    )
    invoke_with_requests(metadata.function_metadata_results)
    print(started.capabilities["HttpUri"], flush=True)
    os.dup2(2, 1)  # nobody reads further lines, such as the access log of the stock extension
    await stdin_closed()


def invoke_with_requests(functions: list[Any]) -> None:
    """Has every request that the worker's server hands over met by its invocation."""
    routes = [(prefix_of(function), vars(function)["function_id"]) for function in functions]
    receive: Callable[[str, Any], None] = http_coordinator.set_http_request
    tasks: set[asyncio.Task[Any]] = set()

    def received(invocation_id: str, request: Any) -> None:
        receive(invocation_id, request)
        if request is None:  # the extension's word for a request that it refused
            return
        path = request.scope["path"].lstrip("/")
        prefix, function_id = next(route for route in routes if path.startswith(route[0]))
        params = {"path": path[len(prefix) :]}
        message = http_invocation(invocation_id, function_id, "request", params)
        task = asyncio.create_task(handle_event.invocation_request(envelope("invocation_request", message)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    http_coordinator.set_http_request = received  # type: ignore[method-assign]


def prefix_of(function: Any) -> str:
    bindings = [json.loads(binding) for binding in vars(function)["raw_bindings"]]
    route: str = next(binding["route"] for binding in bindings if binding.get("route"))
    return route.removesuffix("{*path}")


async def stdin_closed() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def lead_vaults_to(address: str) -> None:
    """Resolves every vault's name to HOST:PORT, so that the SDK checks a name and a certificate as ever.

    In the loop, since uvloop's does not ask Python's `socket`.
    """
    host, port = address.split(":")
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def resolved(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).endswith(".vault.azure.net"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
        return await resolve(name, *arguments, **options)

    loop.getaddrinfo = resolved  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    # As the real worker logs at its root.
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    app = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(app))
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(run(app))
    else:
        asyncio.run(run(app))
