"""What happens in place of an operation, or to its response: the script of a request.

A test that runs beside the stand-in gives it a Handler, in `Standin.answers`. Any other caller sends a JSON object in
the header `x-standin`, from which a Handler is made here; the shim passes unknown headers on, so that a caller in front
of it can script what happens behind it.

    {"reflect": true}                  what was received, as JSON; on any path under the base
    {"status": 429, "body": {…}, "headers": [["retry-after", "7"]]}      that response
    {"fault": "apim_quota"}            one of FAULTS, exactly as the service words it
    {"download": 1000000}              that many bytes, with Content-Length
    {"hang": true}                     no response, ever

And with any of these, with a test's own Handler, or with the operation itself:

    {"delay": 0.5}                     seconds before the response
    {"cors": true}                     CORS headers of upstream's own
    {"chunk_delay": 60}                seconds between the events of an operation's stream
    {"cut_after": 3}                   as many of its events, then the connection is cut
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from devhost.standin.received import Received
from devhost.standin.wire import FAULTS, Json, bad_request, fault, json_response

# A response of one's own to a request.
Handler = Callable[[web.Request, Received], Awaitable[web.StreamResponse]]
_Step = Callable[[Json, web.Request, Received], Awaitable[web.StreamResponse]]

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Headers": "*", "Access-Control-Expose-Headers": "x-ms-region",
}  # fmt: skip

_MEMBERS: dict[str, Any] = {
    "reflect": bool, "status": int, "body": object, "headers": list, "fault": str, "download": int,
    "hang": bool, "delay": int | float, "cors": bool, "chunk_delay": int | float, "cut_after": int,
}  # fmt: skip

_DOWNLOAD_CHUNK = 64 * 1024
# 251 is prime, so no two neighbouring chunks are alike: one lost, repeated or moved shows in the bytes.
_DOWNLOAD_PERIOD = 251
_DOWNLOAD_PATTERN = bytes(range(_DOWNLOAD_PERIOD)) * (_DOWNLOAD_CHUNK // _DOWNLOAD_PERIOD + 2)


def read_script(request: web.Request) -> Json:
    """The request's script, empty where it has none. Raises a 400 where it makes no sense."""
    script = None
    with suppress(ValueError):
        script = json.loads(request.headers.get("x-standin", "{}"))
    if not isinstance(script, dict):
        raise bad_request("x-standin must be a JSON object")
    for name, value in script.items():
        if not isinstance(value, _MEMBERS.get(name, ())):
            raise bad_request(
                f"x-standin: {name} is unknown or of the wrong type; known: {', '.join(_MEMBERS)}"
            )
    if script.get("fault", "apim_quota") not in FAULTS:
        raise bad_request(f"x-standin: fault must be one of {', '.join(FAULTS)}")
    return script


def handler_of(script: Json) -> Handler | None:
    """What a script wants in place of the operation, once the body has been read; None where it wants nothing."""
    # Not by truth: 0 is a number of bytes like any other.
    steps = [step for name, step in _STEPS.items() if script.get(name, False) is not False]
    return partial(steps[0], script) if steps else None


def download_chunk(start: int, length: int) -> bytes:
    """Bytes `start` to `start + length` of every download; `length` is at most 64 KiB."""
    offset = start % _DOWNLOAD_PERIOD
    return _DOWNLOAD_PATTERN[offset : offset + length]


async def _fault(script: Json, request: web.Request, received: Received) -> web.StreamResponse:
    raise fault(script["fault"])


async def _reflect(script: Json, request: web.Request, received: Received) -> web.StreamResponse:
    names = "method", "target", "headers", "body_length", "body_sha256"
    return json_response({name: getattr(received, name) for name in names}, script.get("status", 200))


async def _status(script: Json, request: web.Request, received: Received) -> web.StreamResponse:
    body = script.get("body", "")
    headers = CIMultiDict((str(name), str(value)) for name, value in script.get("headers", []))
    headers.setdefault("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
    content = body if isinstance(body, str) else json.dumps(body)
    return web.Response(status=script["status"], body=content.encode(), headers=headers)


async def _download(script: Json, request: web.Request, received: Received) -> web.StreamResponse:
    length = script["download"]
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = length
    await response.prepare(request)
    for start in range(0, length, _DOWNLOAD_CHUNK):
        await response.write(download_chunk(start, min(_DOWNLOAD_CHUNK, length - start)))
    return response


async def _hang(script: Json, request: web.Request, received: Received) -> web.StreamResponse:
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never


# The first that the script names is taken; `reflect` comes before `status`, and goes with it.
_STEPS: dict[str, _Step] = {
    "fault": _fault, "reflect": _reflect, "status": _status, "download": _download, "hang": _hang,
}  # fmt: skip
