"""A worker that does what a test says, at the end of a real socket: for what the real one never does."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

from devhost.host import Host
from devhost.limits import Limits
from devhost.platform_cors import PlatformCors
from devhost.process import Function, Worker
from devhost.routing import Route
from devhost.trigger_metadata import Metadata

METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD")
FUNCTION = Function("f", "1", "request", "httpTrigger", "{*path}", METHODS)
ROUTE = Route(FUNCTION, ("{*path}",))


class Arrived:
    """A request that has reached the worker; its body has not been read."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        self.reader = reader
        self.writer = writer

    def named(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name]

    async def respond(self, *lines: str, body: bytes = b"", status: str = "200 OK") -> None:
        """Writes a response's head as it is given, and the beginning of its body."""
        head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")
        self.writer.write(head + body)
        await self.writer.drain()

    async def until_broken(self) -> None:
        """Returns once the host has closed or broken the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                """Whatever it still sent."""


type Handle = Callable[[Arrived], Awaitable[None]]


class WorkerDouble:
    """`handle` is called with each request that arrives; each invocation ends at once, unless `holds_invocations`."""

    def __init__(self, handle: Handle) -> None:
        self.functions = (FUNCTION,)
        self.http_uri = ""
        self.arrived: list[Arrived] = []
        self.connections = 0
        self.announced: dict[str, tuple[dict[str, str], Metadata]] = {}
        self.invocations: dict[str, asyncio.Future[str | None]] = {}
        self.holds_invocations = False
        self.invoked, self.reached = asyncio.Event(), asyncio.Event()
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**20)
        self.http_uri = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    def invoke(
        self, function: Function, params: Mapping[str, str], metadata: Metadata | None = None
    ) -> tuple[str, asyncio.Future[str | None]]:
        invocation_id = str(uuid.uuid4())
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.announced[invocation_id] = (dict(params), metadata or {})
        self.invocations[invocation_id] = ended
        self.invoked.set()
        if not self.holds_invocations:
            ended.set_result(None)
        return invocation_id, ended

    @property
    def ended(self) -> asyncio.Future[str | None]:
        """The latest invocation's."""
        return list(self.invocations.values())[-1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                arrived = Arrived(await reader.readuntil(b"\r\n\r\n"), reader, writer)
                self.arrived.append(arrived)
                self.reached.set()
                await self._handle(arrived)
        except (asyncio.IncompleteReadError, ConnectionError):
            """The host has closed the connection."""
        finally:
            writer.close()


@asynccontextmanager
async def hosted(
    handle: Handle, limits: Limits | None = None, cors: PlatformCors | None = None
) -> AsyncIterator[tuple[Host, WorkerDouble]]:
    """A host before such a worker. It tries again at once, not after a pause."""
    worker = WorkerDouble(handle)
    await worker.start()
    host = Host(cast("Worker", worker), [ROUTE], limits or Limits(first_delay=0), cors)
    await host.listen()
    try:
        yield host, worker
    finally:
        await host.stop()
