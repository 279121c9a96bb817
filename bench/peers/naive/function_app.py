"""What one would write in an afternoon: the stock FastAPI extension and one httpx.AsyncClient."""

import json
import logging
import os
from collections.abc import AsyncIterator

import azure.functions as func
import httpx
from azurefunctions.extensions.http.fastapi import Request, StreamingResponse

BASE = os.environ["APIM_BASE_URL"]
# One line a request, as the shim has; httpx would add its own.
logging.getLogger("httpx").setLevel(logging.WARNING)
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
# Without httpx's bound of 100 connections, that 1,000 streams would wait for.
client = httpx.AsyncClient(timeout=None, limits=httpx.Limits())
_OWN = {"host", "authorization", "connection", "x-ms-invocation-id"}
_FRAMING = {"connection", "transfer-encoding"}


@app.route(trigger_arg_name="request", route="openai/v1/{*path}", methods=["GET", "POST"])
async def proxy(request: Request) -> StreamingResponse:
    path = request.url.path.removeprefix("/openai/v1/")
    headers = {name: value for name, value in request.headers.items() if name not in _OWN}
    headers["api-key"] = request.headers["authorization"].removeprefix("Bearer ")
    content: AsyncIterator[bytes] | bytes = request.stream()
    if path == "chat/completions":
        content = body = await request.body()
        path = f"deployments/{json.loads(body)['model']}/{path}"
    upstream = client.build_request(request.method, f"{BASE}/{path}", headers=headers, content=content)
    response = await client.send(upstream, stream=True)
    logging.info("%s %s -> %d", request.method, path, response.status_code)
    kept = {name: value for name, value in response.headers.items() if name not in _FRAMING}
    return StreamingResponse(response.aiter_raw(), response.status_code, kept)
