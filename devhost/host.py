"""What stands between callers and the worker in Azure: routes, changes headers, forwards, invokes.

Not imitated: authorization levels, TLS, `admin` and `runtime` endpoints, scaling, triggers other than HTTP.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from devhost.logs import Logs
from devhost.platform import FLEX, Platform
from devhost.platform_cors import PlatformCors
from devhost.process import Function, Loop, Worker
from devhost.routing import BadTarget, choose, decode_path, encode_path, routes_of

log = logging.getLogger("devhost")

# YARP's in both directions (src/ReverseProxy/Utilities/RequestUtilities.cs); Host is dropped on the way to the worker.
_NOT_FORWARDED = frozenset(
    ["alt-svc", "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
     "proxy-connection", "strict-transport-security", "te", "trailer", "transfer-encoding", "upgrade"]
)  # fmt: skip
_SET_BY_HOST = frozenset(
    [
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-ms-invocation-id",
    ]
)
_ACTIVITY_SECONDS = 240
_DEFAULT_BODY_LIMIT = 104_857_600
# Both legs of a request end together; a worker that leaves an invocation open is broken.
_INVOCATION_GRACE_SECONDS = 30


class Host:
    """A running host; `url` is where callers find it."""

    def __init__(self, worker: Worker, folder: Path, environ: Mapping[str, str], platform: Platform) -> None:
        self.worker = worker
        self._platform_cors = PlatformCors.of(environ) if platform.cors_middleware else None
        self._routes = routes_of(worker.functions, folder)
        self._body_limit = int(environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", _DEFAULT_BODY_LIMIT))
        self._homepage = environ.get("AzureWebJobsDisableHomepage", "").lower() != "true"
        self._ending: set[asyncio.Task[None]] = set()
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
        python: Path = Path(sys.executable),
    ) -> Self:
        """Starts the worker and listens on 127.0.0.1. Raises WorkerFailed, or OSError if the port is taken.

        `settings` are the app's, from which the platform makes the environment; `loop` is the worker's event loop.
        """
        worker = await Worker.start(folder, settings, platform=platform, loop=loop, python=python)
        host = cls(worker, folder, platform.environment(settings, folder), platform)
        try:
            await host._listen(port)
        except BaseException:
            await host.stop()
            raise
        return host

    async def _listen(self, port: int) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_ACTIVITY_SECONDS),
        )
        # A caller who leaves cancels the handler, which closes the connection to the worker: as YARP aborts it.
        self._runner = web.ServerRunner(
            web.Server(self._serve, handler_cancellation=True, access_log=None), shutdown_timeout=1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    @property
    def logs(self) -> Logs:
        """What became of the worker's logs."""
        return self.worker.logs

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await self.worker.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._platform_cors is None:
            return await self._answer(request)
        headers = self._platform_cors.preflight(request.method, request.headers)
        if headers is not None:
            return web.Response(status=204, headers=headers)
        response = await self._answer(request)
        if not response.prepared:
            self._platform_cors.apply(request.headers.get("origin"), response.headers)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            raw_path, query = _split_target(request)
            path = decode_path(raw_path)
        except BadTarget:
            return web.Response(status=400)
        if path == "/":
            return (
                web.Response(text="This Functions app is up and running.")
                if self._homepage
                else _no_content()
            )
        chosen = choose(self._routes, request.method, path)
        if chosen is None:
            return web.Response(status=404)
        if (request.content_length or 0) > self._body_limit:
            return web.Response(status=413)
        return await self._forward(
            request, URL(self.worker.http_uri + encode_path(path) + query, encoded=True), *chosen
        )

    async def _forward(
        self, request: web.BaseRequest, url: URL, function: Function, params: dict[str, str]
    ) -> web.StreamResponse:
        invocation_id, ended = self.worker.invoke(function, params)
        self._watch(invocation_id, ended)
        try:
            answer = await self._session.request(
                request.method,
                url,
                headers=_for_worker(request, invocation_id),
                data=self._body(request) if request.body_exists else None,
                allow_redirects=False,
            )
        except TimeoutError:
            return web.Response(status=504)
        except aiohttp.ClientError as error:
            log.error("the worker did not answer: %s", type(error).__name__)
            return web.Response(status=502)
        async with answer:
            return await self._relay(answer, request)

    async def _relay(self, answer: aiohttp.ClientResponse, request: web.BaseRequest) -> web.StreamResponse:
        """The worker's answer, as it comes. One that breaks off breaks the caller's connection."""
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in answer.raw_headers
            if name.decode("latin-1").lower() not in _NOT_FORWARDED
        )
        if self._platform_cors is not None:
            self._platform_cors.apply(request.headers.get("origin"), headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()
            return response
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in request.content.iter_any():
            received += len(chunk)
            if received > self._body_limit:
                raise web.HTTPRequestEntityTooLarge(self._body_limit, received)
            yield chunk

    def _watch(self, invocation_id: str, ended: asyncio.Future[str | None]) -> None:
        task = asyncio.create_task(_report(invocation_id, ended))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _report(invocation_id: str, ended: asyncio.Future[str | None]) -> None:
    try:
        # As long as the answer's head may take, and then some.
        failure = await asyncio.wait_for(ended, _ACTIVITY_SECONDS + _INVOCATION_GRACE_SECONDS)
    except TimeoutError:
        log.error("invocation %s never ended: in Azure it would hang until functionTimeout", invocation_id)
        return
    if failure:
        log.error("invocation %s failed: %s", invocation_id, failure)


def _split_target(request: web.BaseRequest) -> tuple[str, str]:
    """Path and query as they were sent; of an absolute-form target too, if it names the host that Host names."""
    target = request.raw_path
    if "://" in target.partition("?")[0] and not target.startswith("/"):
        if urlsplit(target).netloc != request.headers.get("host"):
            raise BadTarget
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, mark, query = target.partition("?")
    return path, mark + query


def _for_worker(request: web.BaseRequest, invocation_id: str) -> CIMultiDict[str]:
    named = {
        token.strip().lower()
        for value in request.headers.getall("connection", [])
        for token in value.split(",")
    }
    headers = CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if name.lower() not in _NOT_FORWARDED | _SET_BY_HOST | named
    )
    headers["x-ms-invocation-id"] = invocation_id
    headers["x-forwarded-for"] = request.remote or ""
    headers["x-forwarded-host"] = request.headers.get("host", "")
    headers["x-forwarded-proto"] = request.scheme
    return headers


def _no_content() -> web.Response:
    return web.Response(status=204)
