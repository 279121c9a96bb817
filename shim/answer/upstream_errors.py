"""Upstream's errors, in OpenAI's shape and with a way out; every other response passes untouched."""

import zlib

from shim.answer import models
from shim.answer.apim_errors import FailedCall, framed, reshape
from shim.call.caller import Caller
from shim.call.parse import Call
from shim.call.routes import Route
from shim.headers import Headers, values_of
from shim.settings import Settings
from shim.upstream import Upstream, UpstreamResponse

# Errors are short. A longer body is something else, and passes as it is.
_MAX_BYTES = 64 * 1024
# zlib's or gzip's.
_ANY_HEADER = zlib.MAX_WBITS | 32
# What `GET /models` may be answered where the APIM API has no such operation.
_MISSING = frozenset([404, 405, 501])


async def clarify_error(
    response: UpstreamResponse,
    upstream: Upstream,
    call: Call,
    route: Route,
    caller: Caller,
    settings: Settings,
) -> None:
    """Puts an error of API Management's into OpenAI's shape, and lists the models if upstream cannot.

    Raises UpstreamBroken, UpstreamTimeout or CallerGone if the error's body does not arrive whole.
    """
    if response.status < 400:
        return
    if call.method == "GET" and response.status in _MISSING:
        known = models.from_settings(call.operation, settings)
        if known is not None:
            response.replace(200, *framed([], known))
            return
    headers = [(name.lower(), value) for name, value in response.headers]
    if call.method == "HEAD" or not _may_be_json(headers):
        return
    content = _decoded(await upstream.read(response, _MAX_BYTES, caller), headers)
    model = route.model if call.deployment is None else None
    failed = FailedCall(call.method, call.operation, model, route.deployment)
    if content and (reshaped := reshape(response.status, headers, content, failed)):
        response.replace(response.status, *reshaped)


def _may_be_json(headers: Headers) -> bool:
    content_types = values_of(headers, b"content-type")
    return not content_types or b"json" in content_types[0].lower()


def _decoded(content: bytes | None, headers: Headers) -> bytes | None:
    """The content without its coding; None if that is unknown, or the content is too long or cut short."""
    codings = values_of(headers, b"content-encoding")
    if content is None or not codings:
        return content
    if codings[0].lower() not in (b"gzip", b"deflate"):
        return None
    decompressor = zlib.decompressobj(_ANY_HEADER)
    try:
        plain = decompressor.decompress(content, _MAX_BYTES)
    except zlib.error:
        return None
    return plain if decompressor.eof else None
