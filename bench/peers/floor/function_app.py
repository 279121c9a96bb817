"""What the runtime costs with the shim's own extension: a constant response, and no upstream."""

import azure.functions as func

import shim.worker.extension  # noqa: F401 - it registers the worker's HTTP extension
from shim.asgi import Request, Response

CONTENT = b"{" + b" " * 500 + b"}"
HEADERS = [(b"content-length", b"%d" % len(CONTENT)), (b"content-type", b"application/json")]
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(trigger_arg_name="request", route="openai/v1/{*path}", methods=["GET", "POST"])
async def respond(request: Request) -> Response:
    while (await request.receive()).get("more_body"):
        pass
    return Response(200, HEADERS, CONTENT)
