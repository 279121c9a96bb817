"""The shim's refusals as responses."""

from shim import errors
from shim.asgi import Response
from shim.errors import ShimError
from shim.headers import Headers


def refuse(error: ShimError, *, also: Headers | None = None) -> Response:
    """The response to a call that the shim refuses, with the headers `also` added."""
    status, headers, content = errors.render(error)
    return respond(status, headers + (also or []), content)


def respond(status: int, headers: Headers, content: bytes = b"") -> Response:
    """A response with exactly these headers."""
    return Response(status, headers, content)
