"""What stands between callers and the worker in Azure: routes, CORS, reading, invoking, forwarding, empty 500s.

Everything beyond that has a file of its own: caller.py (Kestrel), forwarding.py (YARP and the host's retries),
worker_http.py (.NET's HTTP client), host_headers.py, trigger_metadata.py, limits.py, data_rates.py, routing.py,
platform_cors.py. Not imitated: authorization levels, TLS, `admin` and `runtime` endpoints, scaling, the front end.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from multidict import CIMultiDict

from devhost.caller import BadBody, Caller, CallerGone, Refused, Request
from devhost.forwarding import Forwarder, ForwardingFailed
from devhost.host_headers import Headers, for_worker, values
from devhost.limits import NO_LIMITS, Limits
from devhost.logs import Logs
from devhost.platform import FLEX, Platform
from devhost.platform_cors import PlatformCors
from devhost.process import Function, Worker
from devhost.routing import BadTarget, Route, choose, decode_path, encode_path, routes_of
from devhost.spawning import Loop
from devhost.trigger_metadata import trigger_metadata
from devhost.worker_http import Sent, Upload, WorkerHttp

log = logging.getLogger("devhost")

_CHUNK = 65536


class Host:
    """A running host; `url` is where callers find it."""

    def __init__(
        self,
        worker: Worker,
        routes: list[Route],
        limits: Limits,
        cors: PlatformCors | None,
        *,
        homepage: bool,
    ) -> None:
        self.worker = worker
        self._cors = cors
        self._routes = routes
        self._limits = limits
        self._http = WorkerHttp(worker.http_uri, limits)
        self._forwarder = Forwarder(self._http, limits)
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
            host._server = await asyncio.start_server(host._connected, "127.0.0.1", port, limit=_CHUNK)
        except BaseException:
            await host.stop()
            raise
        host.url = "http://{}:{}".format(*host._server.sockets[0].getsockname())
        return host

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
                await self._answer(request, caller)
                if not await caller.end():
                    break
        except Refused as refused:
            await caller.refuse(refused.status)
        except CallerGone:
            caller.abort()
        finally:
            caller.close()

    async def _answer(self, request: Request, caller: Caller) -> None:
        """The response but for its end. Raises CallerGone also where the connection must break."""
        if self._cors is not None:
            preflight = self._cors.preflight(request.method, CIMultiDict(request.headers))
            if preflight is not None:
                caller.respond(204, list(preflight.items()))
                return
            caller.on_starting = self._set_cors(values(request.headers, "origin"))
        raw_path, query = _split_target(request)
        try:
            path = decode_path(raw_path)
        except BadTarget:
            raise Refused(400) from None
        chosen = choose(self._routes, request.method, path)
        if chosen is not None:
            await self._execute(request, encode_path(path) + query, caller, *chosen)
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

    async def _execute(
        self, request: Request, target: str, caller: Caller, function: Function, params: dict[str, str]
    ) -> None:
        """Invokes the function and forwards the request, which end together.

        The response is over when both are: before that a response without a body has not even begun. Whatever fails
        before it begins is an empty 500 (ExceptionMiddleware.cs); what fails later breaks the connection.
        """
        try:
            content = await self._read_whole(request, caller)
        except BadBody as error:
            log.error("the request's body was not read: %s", error)
            caller.respond(500, [])
            return
        query = target.partition("?")[2]
        metadata = trigger_metadata(content or b"", query, params, request.headers)
        invocation_id, ended = self.worker.invoke(function, params, metadata)
        read = caller.read if content is None else _reader_of(content)
        has_body = content is None or bool(content)
        headers = for_worker(
            request.headers,
            method=request.method,
            invocation_id=invocation_id,
            caller=caller.address,
            has_body=has_body,
            chunked=request.length is None,
        )
        sent = Sent(request.method, target, headers, Upload(read) if has_body else None)
        forwarded = await self._forward_until_gone(sent, caller)
        failed = await self._failure_of(invocation_id, ended)
        if forwarded and not failed:
            return
        if caller.started:
            raise CallerGone
        caller.respond(500, [])

    async def _read_whole(self, request: Request, caller: Caller) -> bytes | None:
        """A body of known length; None of one that is forwarded as it arrives.

        HttpTriggerAttributeBindingProvider.cs (BindAsync) reads it before the function is invoked, into a temporary
        file and a string.
        """
        if request.length is None or not (self._limits.buffers or request.length == 0):
            return None
        content = bytearray()
        while more := await caller.read():
            content += more
        return bytes(content)

    async def _forward_until_gone(self, sent: Sent, caller: Caller) -> bool:
        """Whether a whole response was relayed. A caller who leaves ends it, and not the invocation."""
        forwarding = asyncio.create_task(self._forwarder.forward(sent, caller))
        gone = asyncio.create_task(caller.gone())
        try:
            await asyncio.wait([forwarding, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not forwarding.done():
                forwarding.cancel()
                await asyncio.wait([forwarding])
        if forwarding.cancelled():
            return False
        try:
            await forwarding
        except ForwardingFailed as failure:
            log.error("forwarding failed: %s", failure)
            return False
        except CallerGone:
            return False
        return True

    async def _failure_of(self, invocation_id: str, ended: asyncio.Future[str | None]) -> str | None:
        """How the invocation failed, if it did. The host waits for it, whatever became of the request."""
        try:
            failure = await asyncio.wait_for(asyncio.shield(ended), self._limits.invocation)
        except TimeoutError:
            failure = "it never ended"
        if failure:
            log.error("invocation %s failed: %s", invocation_id, failure)
        return failure


def _reader_of(content: bytes) -> Callable[[], Awaitable[bytes]]:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]

    left = pieces()

    async def read() -> bytes:
        return next(left, b"")

    return read


def _split_target(request: Request) -> tuple[str, str]:
    """Path and query as they were sent; of an absolute-form target too, if it names the host that Host names."""
    target = request.target
    if "://" in target.partition("?")[0] and not target.startswith("/"):
        if [urlsplit(target).netloc] != values(request.headers, "host"):
            raise Refused(400)
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, mark, query = target.partition("?")
    return path, mark + query
