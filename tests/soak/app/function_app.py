"""The app as it is deployed, and one more function that counts what its process holds."""

import asyncio
import gc
import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import azure.functions as func

_ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(_ROOT))
app: func.FunctionApp = runpy.run_path(str(_ROOT / "function_app.py"))["app"]

from shim.asgi import Request, Response  # noqa: E402 - where the app's packages are is known only now
from shim.transport.connection import Connection  # noqa: E402
from shim.transport.pool import Pool  # noqa: E402


@app.route(trigger_arg_name="request", route="soak", methods=["GET"])
async def soak(request: Request) -> Response:
    gc.collect()
    objects = gc.get_objects()
    # Those that upstream has closed stay in the pool too, until they are to be used again or are swept.
    idle = sum(len(found.idle) for found in objects if isinstance(found, Pool))
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    counted = {
        "tasks": tasks.total(),
        "by coroutine": tasks,
        "idle connections": idle,
        "other connections": sum(isinstance(found, Connection) for found in objects) - idle,
    }
    return Response(200, [(b"content-type", b"application/json")], json.dumps(counted).encode())
