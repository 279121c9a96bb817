"""The stand-in as a running server."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
from aiohttp import web

from devhost.standin.call import RECEIVED, SCRIPT
from devhost.standin.operations import add_routes
from devhost.standin.received import Ended, Received, Recorder
from devhost.standin.resource import Resource
from devhost.standin.script import CORS_HEADERS, Handler, handler_of, read_script
from devhost.standin.wire import Refusal, fault

BASE = "/openai"

_KEYS = ("standin-upstream-key",)
_HEADERS = {
    "x-ms-region": "Stand-in", "x-ratelimit-remaining-requests": "999", "x-ratelimit-remaining-tokens": "99999"
}  # fmt: skip
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Standin(Recorder):
    """A legacy APIM API in front of Azure OpenAI, in the event loop of whoever starts it.

    `answers` maps an x-request-id to the Handler that answers in place of the operation, after the key check.
    """

    def __init__(self, keys: Iterable[str], key_header: str, resource: Resource) -> None:
        super().__init__()
        self.answers: dict[str, Handler] = {}
        self._keys = frozenset(keys)
        self._key_header = key_header
        self._stopping = False
        # A size of 0 is no limit.
        app = web.Application(middlewares=[self._record], client_max_size=0)
        add_routes(app.router, BASE, resource)
        app.on_response_prepare.append(_add_headers)
        # Bodies are recorded as they came over the wire, so a compressed one is not unpacked first.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, auto_decompress=False, shutdown_timeout=0.1
        )

    @classmethod
    async def start(
        cls, keys: Iterable[str] = _KEYS, *, key_header: str = "api-key", chunk_delay: float = 0.02
    ) -> "Standin":
        """Start listening on a free port. `chunk_delay`: seconds between a stream's events."""
        standin = cls(keys, key_header, Resource(chunk_delay))
        await standin._runner.setup()
        await web.TCPSite(standin._runner, "127.0.0.1", 0).start()
        return standin

    async def stop(self) -> None:
        """Stop listening, and cut off whatever is in flight."""
        self._stopping = True
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """The legacy API's base: `<this>/deployments/…`, `<this>/responses`, …"""
        host, port = self._runner.addresses[0]
        return f"http://{host}:{port}{BASE}"

    @property
    def v1_base_url(self) -> str:
        """The v1 API's base."""
        return f"{self.base_url}/v1"

    @web.middleware
    async def _record(self, request: web.Request, handler: _Next) -> web.StreamResponse:
        """Log every request, whatever becomes of it. It is complete when its response is written to the end."""
        received = request[RECEIVED] = Received.head_of(request)
        self._arrive(received)
        ended: Ended = "error"
        try:
            response = await self._respond(request, received, handler)
            # The response may have closed the connection itself; a caller who disconnects cancels it instead.
            if request.transport is not None and not request.transport.is_closing():
                await response.prepare(request)
                await response.write_eof()
                ended = "complete"
            return response
        except (asyncio.CancelledError, ConnectionError, aiohttp.ClientPayloadError, web.RequestPayloadError):
            ended = "error" if self._stopping else "caller gone"
            raise
        finally:
            self._end(received, ended)

    async def _respond(self, request: web.Request, received: Received, run: _Next) -> web.StreamResponse:
        try:
            if not f"{request.path}/".startswith(f"{BASE}/"):
                raise fault("apim_not_found")
            # APIM looks in this one header, before any policy: a key in `Authorization` is a missing key.
            if (key := request.headers.get(self._key_header)) not in self._keys:
                raise fault("apim_key_invalid" if key else "apim_key_missing")
            script = request[SCRIPT] = read_script(request)
            await asyncio.sleep(script.get("delay", 0))
            handler = self.answers.get(received.request_id)
            if handler is None and (handler := handler_of(script)):
                await received.drain_body(request)
            return await (handler(request, received) if handler else run(request))
        except Refusal as refusal:
            return refusal.response(self._key_header)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return fault("apim_not_found").response(self._key_header)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every response; the ids are the service's own, never the caller's."""
    ids = {name: str(uuid.uuid4()) for name in ("x-request-id", "apim-request-id")}
    for name, value in (ids | _HEADERS).items():
        response.headers.setdefault(name, value)
    if request.get(SCRIPT, {}).get("cors"):
        response.headers.update(CORS_HEADERS)
