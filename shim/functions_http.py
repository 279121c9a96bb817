"""The HTTP-streams extension of the Functions worker: a bare ASGI app on a uvicorn configured for this job.

The worker finds an extension through the trackers of `azurefunctions.extensions.base`. The host calls twice for each
request: an invocation by gRPC, and the HTTP request itself, to the server that stands here. The runtime's
`HttpCoordinator` brings the two together by the header `x-ms-invocation-id`, and waits without limit for either;
so whatever this server refuses, it must tell the coordinator, or the invocation hangs until the host kills the worker.
"""

import asyncio
import gc
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, cast

import uvicorn
from azurefunctions.extensions import base
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shim import errors
from shim.errors import InternalError, InvalidRequest, ShimError
from shim.headers import named

log = logging.getLogger("shim")

# The host keeps idle connections for a minute (SocketsHttpHandler.PooledConnectionIdleTimeout). Were ours to close
# first, a request could meet the closing, and one with a body cannot be sent again.
_KEEP_ALIVE_SECONDS = 150
# Streams in flight at a shutdown are let run on this long.
_DRAIN_SECONDS = 30
# Of the garbage collector: a call leaves few objects that only it could find, so that it need not look as often.
_COLLECTOR_THRESHOLDS = (10_000, 20, 20)
# The two legs of a request arrive within milliseconds of each other.
_LEG_PATIENCE_SECONDS = 15.0
_INVOCATION_ID = b"x-ms-invocation-id"
_CONTINUE = b"HTTP/1.1 100 "
_INVOCATION_ID_LINE = re.compile(rb"^x-ms-invocation-id:[ \t]*([0-9A-Za-z-]{1,64})[ \t]*\r?$", re.I | re.M)

type Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def quieten_runtime() -> None:
    """Keeps the runtime's three INFO lines a request, and the Azure SDK's, out of the log and off its bill.

    Nor does a line look up its thread, process and task, which tell nothing here
    (https://docs.python.org/3/howto/logging.html#optimization).
    """
    for name in ("azure", "azure.functions", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)


class RequestSynchronizer(base.RequestSynchronizer):
    def sync_route_params(self, request: HttpRequest, path_params: Mapping[str, str]) -> None:
        request.scope["path_params"] = dict(path_params)


class Request(metaclass=base.RequestTrackerMeta):
    request_type = HttpRequest
    synchronizer = RequestSynchronizer()


class Response(metaclass=base.ResponseTrackerMeta):
    label = base.ResponseLabels.STANDARD
    response_type = HttpResponse


class Invocations:
    """Ends invocations whose request never became one, and forgets those that are over.

    Reaches into the runtime's coordinator (1.3.0), which keeps its entry for every request for ever: about 2 KB each.
    Where a later runtime has no such attribute, this does nothing.
    """

    def __init__(self, coordinator: Any | None = None) -> None:
        self._coordinator: Any = coordinator or _coordinator()
        self._entries: dict[str, Any] = getattr(self._coordinator, "_context_references", {})
        self._half_arrived: set[str] = set()

    def release(self, invocation_id: str) -> None:
        """Forgets an invocation whose response is done."""
        self._entries.pop(invocation_id, None)

    async def refuse(self, invocation_id: str) -> None:
        """Ends an invocation whose HTTP request could not be understood; the runtime reports it as failed."""
        if self._coordinator is None:
            return
        self._coordinator.set_http_request(invocation_id, None)
        try:
            async with asyncio.timeout(_LEG_PATIENCE_SECONDS):
                await self._coordinator.await_http_response_async(invocation_id)
        except (TimeoutError, ValueError):
            """The invocation never came, or its answer is of no use: either way it is over."""
        finally:
            self.release(invocation_id)

    async def sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_LEG_PATIENCE_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        """Ends what was half arrived at the last sweep already: an invocation without a request, or the reverse."""
        half_arrived = {key for key, entry in self._entries.items() if not _has_met(entry)}
        for invocation_id in half_arrived & self._half_arrived:
            self._end(invocation_id)
        self._half_arrived = half_arrived

    def _end(self, invocation_id: str) -> None:
        log.error("invocation %s was half arrived for too long; ended", invocation_id)
        entry = self._entries[invocation_id]
        if entry.http_request is not None:
            self._coordinator.set_http_response(
                invocation_id,
                InternalError("The Functions host announced no invocation for this request. Try again."),
            )
        elif entry.http_response_available_event.is_set():
            self.release(invocation_id)
        else:
            self._coordinator.set_http_request(invocation_id, None)


def _has_met(entry: Any) -> bool:
    """Whether the invocation has taken the request, and a response is awaited by somebody."""
    taken = entry.http_request_available_event.is_set() and entry.http_request is None
    failed = entry.http_response_available_event.is_set() and isinstance(entry.http_response, Exception)
    return taken and not failed


def _coordinator() -> Any | None:
    try:
        from azure_functions_runtime.http_v2 import http_coordinator
    except ImportError:
        return None
    return http_coordinator


class WebApp(base.WebApp):
    """The ASGI app between uvicorn and the runtime's one handler."""

    def __init__(self) -> None:
        self.invocations = Invocations()
        self._handle: Handler | None = None

    def route(self, func: Handler) -> Handler:
        self._handle = func
        return func

    def get_app(self) -> Self:
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = named(scope["headers"], _INVOCATION_ID)
        if not ids or self._handle is None:
            response = _refusal(InvalidRequest("This port is the Functions host's. Call the host instead."))
        else:
            invocation_id = ids[0].decode("latin-1")
            try:
                response = await self._handle(HttpRequest(scope, receive))
            except ShimError as error:
                response = _refusal(error)
            except Exception:
                log.exception("the runtime could not run invocation %s", invocation_id)
                response = _refusal(InternalError("The Functions runtime could not run this call."))
            finally:
                self.invocations.release(invocation_id)
        await response(scope, receive, send)


class WebServer(base.WebServer):
    """uvicorn in the worker's running loop."""

    async def serve(self) -> None:
        app = cast("WebApp", self.web_app)
        config = uvicorn.Config(
            app,
            host=self.hostname,
            port=self.port,
            http=_protocol_for(app.invocations),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,  # the host logs every invocation
            proxy_headers=False,  # X-Forwarded-* is the host's word on its client, of no use here
            server_header=False,
            date_header=False,  # upstream's own goes through, else the host's is added
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        # What the app consists of is never garbage: it need not be looked at again, 12 ms each time (bench/NOTES.md).
        gc.freeze()
        gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        sweeping = asyncio.create_task(app.invocations.sweep_forever())
        try:
            await uvicorn.Server(config).serve()
        finally:
            sweeping.cancel()


class Beginning:
    """A transport that sends what an answer begins with at once: head and body, where that is at hand in the same turn
    of the loop. Each would be a packet of its own else.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] | None = []

    def write(self, data: bytes) -> None:
        if self._held is None or data.startswith(_CONTINUE):
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        if self._held:
            held, self._held = self._held, None
            self._transport.write(b"".join(held))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _protocol_for(invocations: Invocations) -> type[HttpToolsProtocol]:
    class Protocol(HttpToolsProtocol):
        """Refuses what it cannot parse in OpenAI's shape, and ends the invocation beside it."""

        _data = b""
        _refusing: asyncio.Task[None] | None = None

        def data_received(self, data: bytes) -> None:
            self._data = data
            super().data_received(data)

        def on_headers_complete(self) -> None:
            # An absolute-form target names a host of its own; uvicorn would keep its path and drop the rest.
            if not self.url.startswith(b"/"):
                raise ValueError("the request target is not a path")
            super().on_headers_complete()
            self._beginning = Beginning(self.transport, self.loop)
            self.cycle.transport = cast("asyncio.Transport", self._beginning)

        def on_response_complete(self) -> None:
            self._beginning.flush()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            # None until the first request, whatever its annotation says.
            if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
                # In the middle of a body: the handler at work learns of it as of a caller who left.
                self.transport.abort()
                return
            error = InvalidRequest("The request line or a header is not valid HTTP/1.1. Nothing was sent on.")
            status, headers, content = errors.render(error)
            lines = b"".join(b"%s: %s\r\n" % header for header in [*headers, (b"connection", b"close")])
            self.transport.write(b"HTTP/1.1 %d \r\n%s\r\n%s" % (status, lines, content))
            self.transport.close()
            if invocation_id := self._invocation_id():
                self._refusing = asyncio.create_task(invocations.refuse(invocation_id))

        def _invocation_id(self) -> str | None:
            match = _INVOCATION_ID_LINE.search(self._data)
            return match[1].decode("ascii") if match else None

    return Protocol


def _refusal(error: ShimError) -> HttpResponse:
    status, headers, content = errors.render(error)
    response = HttpResponse(content, status)
    response.raw_headers = headers
    return response
