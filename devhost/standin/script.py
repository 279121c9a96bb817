"""Behaviour that a request asks for itself, in the header `x-standin`: a JSON object.

    {"reflect": true}                  what was received, as JSON; on any path under the base
    {"status": 429, "body": {…}, "headers": [["retry-after", "7"]]}      that answer
    {"fault": "apim_quota"}            one of FAULTS, exactly as the service words it
    {"download": 1000000}              that many bytes, with Content-Length, or without: "chunked": true
    {"upload": true}                   length and sha256 of the body, as JSON
    {"cut_after": 3}                   three events of a stream, then the connection is cut
    {"hang": true}                     no answer, ever
    {"delay": 0.5}                     seconds before the answer, be it one of these or the built-in one
    {"cors": true}                     CORS headers of upstream's own on the answer, whichever it is

The shim passes unknown headers on, so a caller in front of it can script what happens behind it.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from devhost.standin import apim, azure_openai, chat
from devhost.standin.call import Call
from devhost.standin.refusal import Refusal, json_answer
from devhost.standin.sse import EventStream
from devhost.standin.stores import Json, new_id

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": "x-ms-region",
}

_DOWNLOAD_CHUNK = 64 * 1024
# 251 is prime, so no two neighbouring chunks are alike: one lost, repeated or moved shows in the bytes.
_DOWNLOAD_PERIOD = 251
_DOWNLOAD_PATTERN = bytes(range(_DOWNLOAD_PERIOD)) * (_DOWNLOAD_CHUNK // _DOWNLOAD_PERIOD + 2)

Step = Callable[[Call, Json], Awaitable[web.StreamResponse]]


class ConnectionCutError(Exception):
    """The stand-in has cut its caller's connection in the middle of `response`."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__("connection cut by the stand-in")
        self.response = response


def faults(key_header: str) -> dict[str, Refusal]:
    """Every named fault. The key refusals name the header in which this API takes its key."""
    return {
        "apim_key_missing": apim.key_missing(key_header),
        "apim_key_invalid": apim.key_invalid(key_header),
        "apim_quota": apim.quota_exceeded(),
        "apim_not_found": apim.operation_missing(),
        "apim_rate_limit": apim.rate_limited(),
        "apim_token_limit": apim.token_limited(),
        "aoai_401": azure_openai.unauthorized(),
        "aoai_404_deployment": azure_openai.deployment_not_found(),
        "aoai_429": azure_openai.token_rate_limited(),
    }


FAULTS = tuple(faults(""))


def script_of(request: web.Request) -> Json:
    """The request's script, empty where it has none; one that is no JSON object is a 400."""
    text = request.headers.get("x-standin", "{}")
    try:
        script = json.loads(text)
    except ValueError:
        script = None
    if not isinstance(script, dict):
        raise azure_openai.bad_request("x-standin must be a JSON object")
    return script


def download_chunk(start: int, length: int) -> bytes:
    """Bytes `start` to `start + length` of every download; `length` is at most 64 KiB."""
    offset = start % _DOWNLOAD_PERIOD
    return _DOWNLOAD_PATTERN[offset : offset + length]


async def play(call: Call, script: Json, key_header: str) -> web.StreamResponse | None:
    """Do what the script says; None where it leaves the answer to the built-in operation."""
    if delay := script.get("delay"):
        await asyncio.sleep(delay)
    if "fault" in script:
        await call.received.drain_body(call.request)
        raise _fault(script["fault"], key_header)
    for name, step in _STEPS.items():
        wanted = script.get(name)
        # Not by truth: 0 is a number of events or bytes like any other.
        if wanted is not None and wanted is not False:
            return await step(call, script)
    return None


def _fault(name: str, key_header: str) -> Refusal:
    known = faults(key_header)
    if name not in known:
        return azure_openai.bad_request(f"x-standin: fault must be one of {', '.join(known)}")
    return known[name]


async def _reflect(call: Call, script: Json) -> web.StreamResponse:
    received = call.received
    await received.drain_body(call.request)
    reflection = {
        "method": received.method,
        "target": received.target,
        "headers": received.headers,
        "body_length": received.body_length,
        "body_sha256": received.body_sha256,
    }
    return json_answer(reflection, script.get("status", 200), _headers(script))


async def _upload(call: Call, script: Json) -> web.StreamResponse:
    await call.received.drain_body(call.request)
    return json_answer({"length": call.received.body_length, "sha256": call.received.body_sha256})


async def _status(call: Call, script: Json) -> web.StreamResponse:
    await call.received.drain_body(call.request)
    body: Any = script.get("body")
    response = web.Response(status=script["status"])
    if isinstance(body, str):
        response.text = body
    elif body is not None:
        response = json_answer(body, script["status"])
    for name in {name.lower() for name, _ in _headers(script)}:
        response.headers.popall(name, None)
    response.headers.extend(_headers(script))
    return response


async def _download(call: Call, script: Json) -> web.StreamResponse:
    await call.received.drain_body(call.request)
    length = int(script["download"])
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if not script.get("chunked"):
        response.content_length = length
    await response.prepare(call.request)
    for start in range(0, length, _DOWNLOAD_CHUNK):
        await response.write(download_chunk(start, min(_DOWNLOAD_CHUNK, length - start)))
    return response


async def _cut_after(call: Call, script: Json) -> web.StreamResponse:
    await call.received.drain_body(call.request)
    stream = await EventStream.open(call)
    head = new_id("chatcmpl-"), int(time.time()), call.deployment or "gpt-4o"
    for number in range(int(script["cut_after"])):
        await stream.send(chat.chunk(*head, {"content": f"{number} "}))
    if call.request.transport is not None:
        call.request.transport.abort()
    raise ConnectionCutError(stream.response)


async def _hang(call: Call, script: Json) -> web.StreamResponse:
    await call.received.drain_body(call.request)
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never


def _headers(script: Json) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in script.get("headers") or []]


# The first that the script names is taken; `reflect` comes before `status`, and goes with it.
_STEPS: dict[str, Step] = {
    "reflect": _reflect,
    "status": _status,
    "upload": _upload,
    "download": _download,
    "cut_after": _cut_after,
    "hang": _hang,
}
