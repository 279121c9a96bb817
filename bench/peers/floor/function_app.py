"""What the runtime costs with the shim's own extension: a constant response, and no upstream."""

import azure.functions as func
from starlette.requests import Request
from starlette.responses import Response

import shim.worker.extension  # noqa: F401 - it registers the worker's HTTP extension

CONTENT = b"{" + b" " * 500 + b"}"
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(trigger_arg_name="request", route="openai/v1/{*path}", methods=["GET", "POST"])
async def respond(request: Request) -> Response:
    await request.body()
    return Response(CONTENT, media_type="application/json")
