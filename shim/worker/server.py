"""The worker's HTTP server: the app behind it, and the connections of the Functions host to it."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Self, cast

from azurefunctions.extensions import base

from shim.answer.refusal import refuse
from shim.asgi import Request, Response
from shim.errors import InternalError, InvalidRequest, ShimError, describe_defect
from shim.headers import values_of
from shim.worker import memory
from shim.worker.cycle import Cycle
from shim.worker.invocations import Invocations
from shim.worker.protocol import Connections

log = logging.getLogger("shim")

# The host keeps idle connections for a minute (SocketsHttpHandler.PooledConnectionIdleTimeout). If ours closed first,
# a request could meet the close, and one with a body cannot be sent again.
KEEP_ALIVE_SECONDS = 150.0
# How long streams in flight may run on at a shutdown.
DRAIN_SECONDS = 30.0
# Connections that wait to be accepted.
_BACKLOG = 2048
_INVOCATION_ID = b"x-ms-invocation-id"

type Handler = Callable[[Request], Awaitable[Response]]


class WebApp(base.WebApp):
    """The app between the server and the runtime's one handler."""

    def __init__(self) -> None:
        self.invocations = Invocations()
        self._handle: Handler | None = None

    def route(self, func: Handler) -> Handler:
        self._handle = func
        return func

    def get_app(self) -> Self:
        return self

    async def __call__(self, cycle: Cycle) -> None:
        ids = values_of(cycle.scope["headers"], _INVOCATION_ID)
        if not ids or self._handle is None:
            response = refuse(InvalidRequest("This port is the Functions host's. Call the host instead."))
        else:
            response = await self._respond(
                ids[0].decode("latin-1"), self._handle, Request(cycle.scope, cycle.receive)
            )
        await response.send(cycle)

    async def _respond(self, invocation_id: str, handle: Handler, request: Request) -> Response:
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
    """The server, in the worker's running loop."""

    async def serve(self) -> None:
        """Until SIGTERM or SIGINT, which is then left to whoever handled it before.

        Ends the process if the port cannot be had. Nobody awaits this: the exception would be lost, and the worker stay
        without a server. The host starts another worker in place of one that ends.
        """
        memory.settle()
        app = cast("WebApp", self.web_app)
        connections = Connections(app, app.invocations)
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                connections.accept, self.hostname, self.port, backlog=_BACKLOG
            )
        except OSError as error:
            log.error("the worker's server cannot listen: %s", error)
            sys.exit(1)
        work = [
            loop.create_task(app.invocations.sweep_forever()),
            loop.create_task(memory.trim_forever()),
            loop.create_task(connections.close_idle_forever(KEEP_ALIVE_SECONDS)),
        ]
        try:
            received = await _stop_signal()
            listener.close()
            await connections.drain(DRAIN_SECONDS)
        finally:
            listener.close()
            for task in work:
                task.cancel()
        signal.raise_signal(received)


async def _stop_signal() -> signal.Signals:
    """Waits for a signal to stop. A second one is not waited for: it ends the process, responses and all."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    if threading.current_thread() is not threading.main_thread():
        return await received  # no other thread is told of signals

    def tell(number: int) -> None:
        if not received.done():
            received.set_result(signal.Signals(number))

    # Not the loop's own handlers: whoever handled them before is to do so again.
    before = {
        number: signal.signal(number, lambda number, _: loop.call_soon_threadsafe(tell, number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return await received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
