"""Upstream's refusals, made plain to the caller; every other answer passes untouched."""

import zlib

from shim.answer import models
from shim.answer.apim_errors import FailedCall, framed, reshape
from shim.call.caller import Caller
from shim.call.parse import Call
from shim.call.routes import Route
from shim.headers import Headers, values_of
from shim.settings import Settings
from shim.upstream.client import Upstream, UpstreamResponse

# Errors are short. A longer body is something else, and passes as it comes.
_MAX_BYTES = 64 * 1024
# zlib's or gzip's.
_ANY_HEADER = zlib.MAX_WBITS | 32
# What it means that an operation is missing, of `GET /models` at any rate.
_MISSING = frozenset([404, 405, 501])


async def explain(
    answer: UpstreamResponse, upstream: Upstream, call: Call, route: Route, caller: Caller, settings: Settings
) -> None:
    """Puts a refusal into OpenAI's shape, and lists models where upstream cannot.

    Raises UpstreamBroken, UpstreamTimeout or CallerGone where the refusal does not come to its end.
    """
    if answer.status < 400:
        return
    path = call.operation_path or call.path
    if call.method == "GET" and answer.status in _MISSING and (known := models.from_settings(path, settings)):
        answer.replace(200, *framed([], known))
        return
    headers = [(name.lower(), value) for name, value in answer.headers]
    if call.method == "HEAD" or not _may_be_json(headers):
        return
    content = _decoded(await upstream.read(answer, _MAX_BYTES, caller), headers)
    failed = FailedCall(call.method, path, route.model if call.deployment is None else None, route.deployment)
    if content and (reshaped := reshape(answer.status, headers, content, failed)):
        answer.replace(answer.status, *reshaped)


def _may_be_json(headers: Headers) -> bool:
    kinds = values_of(headers, b"content-type")
    return not kinds or b"json" in kinds[0].lower()


def _decoded(content: bytes | None, headers: Headers) -> bytes | None:
    """The content without its coding; None where that is unknown, or the content is too long."""
    codings = values_of(headers, b"content-encoding")
    if content is None or not codings:
        return content
    if codings[0].lower() not in (b"gzip", b"deflate"):
        return None
    try:
        return zlib.decompressobj(_ANY_HEADER).decompress(content, _MAX_BYTES)
    except zlib.error:
        return None
