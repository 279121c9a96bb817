"""What stands between callers and the worker in Azure: connections, routes, CORS, the home page.

Everything beyond that has a file of its own: caller.py and request.py (Kestrel), execution.py (a function's call),
forwarding.py (YARP and the host's retries), worker_http.py and sent.py (.NET's HTTP client), host_headers.py,
trigger_metadata.py, limits.py, data_rates.py, routing.py, platform_cors.py. Not imitated: authorization levels, TLS,
`admin` and `runtime` endpoints, scaling, Azure's front end.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from multidict import CIMultiDict

from devhost.caller import Caller
from devhost.execution import Execution
from devhost.forwarding import Forwarder
from devhost.host_headers import Headers, values
from devhost.limits import NO_LIMITS, Limits
from devhost.logs import Logs
from devhost.platform import FLEX, Platform
from devhost.platform_cors import PlatformCors
from devhost.process import Worker
from devhost.request import CallerGone, Refused, Request
from devhost.routing import BadTarget, Route, choose, decode_path, encode_path, routes_of
from devhost.spawning import Loop
from devhost.worker_http import WorkerHttp

log = logging.getLogger("devhost")

_CHUNK = 65536


class Host:
    """A running host; `url` is where callers find it."""

    def __init__(
        self,
        worker: Worker,
        routes: list[Route],
        limits: Limits,
        cors: PlatformCors | None = None,
        *,
        homepage: bool = True,
    ) -> None:
        self.worker = worker
        self._cors = cors
        self._routes = routes
        self._limits = limits
        self._http = WorkerHttp(worker.http_uri, limits)
        self._execution = Execution(worker, Forwarder(self._http, limits), limits)
        self._homepage = homepage
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    @classmethod
    async def start(
        cls,
        folder: Path,
        settings: Mapping[str, str],
        *,
        platform: Platform = FLEX,
        loop: Loop = "uvloop",
        port: int = 0,
        limits: Limits | None = None,
        python: Path = Path(sys.executable),
    ) -> Self:
        """Starts the worker and listens on 127.0.0.1.

        `settings` are the app's, from which the platform makes the environment; `loop` is the worker's event loop;
        `limits` are the platform's own where none are given. Raises WorkerFailed, ValueError for an environment with
        which the platform's host does not start, or OSError if the port is taken.
        """
        environ = platform.environment(settings, folder)
        limits = limits or (Limits.of(environ) if platform.limits else NO_LIMITS)
        cors = PlatformCors.of(environ) if platform.cors_middleware else None
        homepage = environ.get("AzureWebJobsDisableHomepage", "").lower() != "true"
        worker = await Worker.start(folder, settings, platform=platform, loop=loop, python=python)
        host = cls(worker, routes_of(worker.functions, folder), limits, cors, homepage=homepage)
        try:
            await host.listen(port)
        except BaseException:
            await host.stop()
            raise
        return host

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=_CHUNK)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    @property
    def logs(self) -> Logs:
        """What became of the worker's logs."""
        return self.worker.logs

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._http.close()
        await self.worker.stop()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(Caller(reader, writer, self._limits)))
        self._connections.add(connection)
        connection.add_done_callback(self._disconnected)

    def _disconnected(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not connection.cancelled() and (fault := connection.exception()):
            log.error("devhost itself failed", exc_info=fault)

    async def _serve(self, caller: Caller) -> None:
        """Request after request, until the caller leaves or a response cannot be followed by another."""
        try:
            while (request := await caller.request()) is not None:
                await self._respond(request, caller)
                if not await caller.end():
                    break
        except Refused as refused:
            with contextlib.suppress(CallerGone):
                await caller.refuse(refused.status)
        except CallerGone:
            caller.abort()
        finally:
            caller.close()

    async def _respond(self, request: Request, caller: Caller) -> None:
        """The response but for its end. Raises CallerGone also where the connection must break."""
        raw_path, query = _split_target(request)
        try:
            path = decode_path(raw_path)
        except BadTarget:
            raise Refused(400) from None
        if self._cors is not None:
            preflight = self._cors.preflight(request.method, CIMultiDict(request.headers))
            if preflight is not None:
                caller.respond(204, list(preflight.items()))
                return
            caller.on_starting = self._set_cors(values(request.headers, "origin"))
        chosen = choose(self._routes, request.method, path)
        if chosen is not None:
            await self._execution.execute(request, encode_path(path) + query, caller, *chosen)
        elif path != "/":
            caller.respond(404, [])
        elif self._homepage:
            caller.respond(200, [("content-type", "text/html")])
            await caller.write(b"<p>This Functions app is up and running.</p>")
        else:
            caller.respond(204, [])

    def _set_cors(self, origins: list[str]) -> Callable[[Headers], None]:
        def apply(headers: Headers) -> None:
            assert self._cors is not None
            changed = CIMultiDict(headers)
            self._cors.apply(",".join(origins), changed)
            headers[:] = changed.items()

        return apply


def _split_target(request: Request) -> tuple[str, str]:
    """Path and query as they were sent; of an absolute-form target too, if it names the host that Host names."""
    target = request.target
    if "://" in target.partition("?")[0] and not target.startswith("/"):
        if [urlsplit(target).netloc] != values(request.headers, "host"):
            raise Refused(400)
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, mark, query = target.partition("?")
    return path, mark + query
