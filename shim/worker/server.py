"""The worker's HTTP server: a bare ASGI app on a uvicorn configured for this job."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Self, cast

import uvicorn
from azurefunctions.extensions import base
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from shim.answer.refusal import refuse
from shim.errors import InternalError, InvalidRequest, ShimError, describe_defect
from shim.headers import values_of
from shim.worker import memory
from shim.worker.invocations import Invocations
from shim.worker.protocol import protocol_for

log = logging.getLogger("shim")

# The host keeps idle connections for a minute (SocketsHttpHandler.PooledConnectionIdleTimeout). If ours closed first,
# a request could meet the close, and one with a body cannot be sent again.
_KEEP_ALIVE_SECONDS = 150
# How long streams in flight may run on at a shutdown.
_DRAIN_SECONDS = 30
_INVOCATION_ID = b"x-ms-invocation-id"

type Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


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
        ids = values_of(scope["headers"], _INVOCATION_ID)
        if not ids or self._handle is None:
            response = refuse(InvalidRequest("This port is the Functions host's. Call the host instead."))
        else:
            response = await self._respond(
                ids[0].decode("latin-1"), self._handle, HttpRequest(scope, receive)
            )
        await response(scope, receive, send)

    async def _respond(self, invocation_id: str, handle: Handler, request: HttpRequest) -> HttpResponse:
        try:
            self.invocations.begin(invocation_id, request.scope["state"])
        except ShimError as repeated:
            return refuse(repeated)
        try:
            return await handle(request)
        except ShimError as error:
            return refuse(error)
        except Exception as defect:
            log.error("the runtime could not run invocation %s: %s", invocation_id, describe_defect(defect))
            return refuse(InternalError("The Functions runtime could not run this call."))
        finally:
            self.invocations.release(invocation_id)


class WebServer(base.WebServer):
    """uvicorn in the worker's running loop."""

    def config(self) -> uvicorn.Config:
        app = cast("WebApp", self.web_app)
        return uvicorn.Config(
            app,
            host=self.hostname,
            port=self.port,
            http=protocol_for(app.invocations),
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

    async def serve(self) -> None:
        memory.settle()
        sweeping = asyncio.create_task(cast("WebApp", self.web_app).invocations.sweep_forever())
        trimming = asyncio.create_task(memory.trim_forever())
        try:
            await uvicorn.Server(self.config()).serve()
        finally:
            sweeping.cancel()
            trimming.cancel()
