"""Responses of an upstream that a test puts in place of the stand-in's own."""

from aiohttp import web

from devhost.standin import Received


async def broken_off(request: web.Request, _: Received) -> web.StreamResponse:
    """A stream that ends after its first event, without the end that its framing has."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: 1\n\n")
    assert request.transport is not None
    request.transport.close()
    return response
