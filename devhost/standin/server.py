"""The stand-in as a running server."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import aiohttp
from aiohttp import web

from devhost.standin import apim
from devhost.standin.call import Call
from devhost.standin.operations import RECEIVED, add_routes
from devhost.standin.received import Ended, Ledger, Received
from devhost.standin.refusal import Refusal
from devhost.standin.script import CORS_HEADERS, ConnectionCutError, play, script_of
from devhost.standin.stores import DEPLOYMENTS, Resource

Handler = Callable[[web.Request, Received], Awaitable[web.StreamResponse]]
_Operation = Callable[[web.Request], Awaitable[web.StreamResponse]]

BASE = "/openai"

_CORS = web.RequestKey("cors", bool)


def raw_answer(handler: Handler) -> Handler:
    """Mark a test's own answer as coming before the key check, as if upstream were no HTTP API at all."""
    handler.raw = True  # type: ignore[attr-defined]
    return handler


class Standin:
    """A legacy APIM API in front of Azure OpenAI, in the event loop of whoever starts it.

    `answers` maps an x-request-id to a test's own answer for it, used in place of the built-in one: after the
    key check, or before it where the answer is marked with `raw_answer`.
    """

    def __init__(self, keys: Sequence[str], key_header: str, resource: Resource) -> None:
        self.answers: dict[str, Handler] = {}
        self._keys = frozenset(keys)
        self._key_header = key_header
        self._resource = resource
        self._ledger = Ledger()
        self._stopping = False
        # Bodies are recorded as they came over the wire, so a compressed one is not unpacked first.
        self._runner = web.AppRunner(
            self._app(),
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            shutdown_timeout=0.1,
        )

    @classmethod
    async def start(
        cls,
        port: int = 0,
        keys: Sequence[str] = ("standin-upstream-key",),
        host: str = "127.0.0.1",
        *,
        key_header: str = "api-key",
        deployments: Sequence[str] = DEPLOYMENTS,
        chunk_delay: float = 0.02,
    ) -> "Standin":
        """Start listening; port 0 takes a free one. `chunk_delay`: seconds between a stream's events."""
        standin = cls(keys, key_header, Resource(tuple(deployments), chunk_delay))
        await standin._runner.setup()
        await web.TCPSite(standin._runner, host, port).start()
        return standin

    async def stop(self) -> None:
        """Stop listening, and cut off whatever is still being answered."""
        self._stopping = True
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """The legacy API's base: `<this>/deployments/…`, `<this>/responses`, …"""
        host, port, *_ = self._runner.addresses[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{BASE}"

    @property
    def v1_base_url(self) -> str:
        """The v1 API's base."""
        return f"{self.base_url}/v1"

    @property
    def received(self) -> Mapping[str, Received]:
        """The newest 1,000 requests by x-request-id, oldest first."""
        return self._ledger.entries

    @property
    def latest(self) -> Received | None:
        """The newest request."""
        return self._ledger.latest

    async def arrived(self, request_id: str, timeout: float = 5.0) -> Received:
        """Wait until the head of a request has arrived. Raises TimeoutError after `timeout` seconds."""
        return await self._ledger.arrived(request_id, timeout)

    async def ended(self, request_id: str, timeout: float = 5.0) -> Received:
        """Wait until a request has ended, however it did. Raises TimeoutError after `timeout` seconds."""
        return await self._ledger.ended(request_id, timeout)

    def _app(self) -> web.Application:
        # A size of 0 is no limit.
        app = web.Application(middlewares=[self._record], client_max_size=0)
        add_routes(app.router, BASE, self._resource)
        app.on_response_prepare.append(_add_azure_headers)
        return app

    @web.middleware
    async def _record(self, request: web.Request, handler: _Operation) -> web.StreamResponse:
        """Enter every request in the ledger, whatever becomes of it."""
        received = request[RECEIVED] = Received.head_of(request)
        self._ledger.arrive(received)
        ended: Ended = "error"
        try:
            response = await self._answer(request, received, handler)
            await received.note_body_read_by(request)
            ended = await _write(request, response)
            return response
        except ConnectionCutError as cut:
            return cut.response
        except (asyncio.CancelledError, ConnectionError, aiohttp.ClientPayloadError, web.RequestPayloadError):
            ended = "error" if self._stopping else "caller gone"
            raise
        finally:
            self._ledger.end(received, ended)

    async def _answer(
        self, request: web.Request, received: Received, operation: _Operation
    ) -> web.StreamResponse:
        own = self.answers.get(received.request_id)
        if own and getattr(own, "raw", False):
            return await own(request, received)
        try:
            if not f"{request.path}/".startswith(f"{BASE}/"):
                raise apim.operation_missing()
            apim.check_key(request, self._key_header, self._keys)
            if own:
                return await own(request, received)
            scripted = await self._scripted(request, received)
            return await operation(request) if scripted is None else scripted
        except Refusal as refusal:
            return refusal.response()
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return apim.operation_missing().response()

    async def _scripted(self, request: web.Request, received: Received) -> web.StreamResponse | None:
        script = script_of(request)
        request[_CORS] = bool(script.get("cors"))
        call = Call(request, received, self._resource, request.match_info.get("deployment"))
        return await play(call, script, self._key_header)


async def _write(request: web.Request, response: web.StreamResponse) -> Ended:
    """Write the answer to its end, so that no request is recorded as complete before it is."""
    if request.transport is None or request.transport.is_closing():
        return "error"  # The answer closed the connection itself: a caller who leaves cancels it instead.
    await response.prepare(request)
    await response.write_eof()
    return "complete"


async def _add_azure_headers(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every answer; the ids are the service's own, never the caller's."""
    headers = response.headers
    headers.setdefault("x-request-id", str(uuid.uuid4()))
    headers.setdefault("apim-request-id", str(uuid.uuid4()))
    headers.setdefault("x-ms-region", "Stand-in")
    headers.setdefault("x-ratelimit-remaining-requests", "999")
    headers.setdefault("x-ratelimit-remaining-tokens", "99999")
    if request.get(_CORS):
        headers.update(CORS_HEADERS)
