"""The shim's refusals as responses."""

from starlette.responses import Response

from shim import errors
from shim.errors import ShimError
from shim.headers import Headers


def refuse(error: ShimError, *, also: Headers | None = None) -> Response:
    """The response to a call that the shim refuses, with the headers `also` added."""
    status, headers, content = errors.render(error)
    return respond(status, headers + (also or []), content)


def respond(status: int, headers: Headers, content: bytes = b"") -> Response:
    """A response with exactly these headers."""
    response = Response(content, status)
    response.raw_headers = headers
    return response
