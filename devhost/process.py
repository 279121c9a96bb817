"""The host's end of a worker process: starts it, invokes functions in it, hears its logs, kills it.

Nothing is said to the worker before it is killed: it announces no HandlesWorkerTerminateMessage
(azure_functions_runtime 1.3.0, handle_event.py), and so the host does not tell it of the end (azure-functions-host
4.1037: GrpcWorkerChannel.StopWorkerProcess, WorkerProcess.Dispose).
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from devhost.logs import Logs, levels_of
from devhost.platform import FLEX, Platform
from devhost.spawning import LINE_BYTES, App, Loop, Place, spawn
from devhost.trigger_metadata import Metadata

_START_SECONDS = 60
_LAST_WORDS_SECONDS = 2
_GONE = "the worker process is gone"


class WorkerFailed(Exception):
    """The worker process did not start, with its own reason."""


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    function_id: str
    parameter: str
    type: str
    route: str | None
    methods: tuple[str, ...]


class Worker:
    """A running worker process; `http_uri` is where its own HTTP server listens, empty for an app without one."""

    def __init__(self, process: asyncio.subprocess.Process, logs: Logs, *, is_placeholder: bool) -> None:
        self.pid = process.pid
        self.logs = logs
        self.http_uri = ""
        self.functions: tuple[Function, ...] = ()
        self._process = process
        self._files = contextlib.ExitStack()
        self._under_way: dict[str, tuple[Function, asyncio.Future[str | None]]] = {}
        self._started: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._writer: asyncio.StreamWriter | None = None
        self._is_placeholder = is_placeholder
        self._last_errors: deque[str] = deque(maxlen=20)
        assert process.stdout is not None
        assert process.stderr is not None
        self._tasks = [
            asyncio.create_task(self._read_console(process.stdout, is_error=False)),
            asyncio.create_task(self._read_console(process.stderr, is_error=True)),
        ]

    @classmethod
    async def start(
        cls,
        folder: Path,
        settings: Mapping[str, str],
        *,
        platform: Platform = FLEX,
        loop: Loop = "uvloop",
        python: Path = Path(sys.executable),
    ) -> Self:
        """Starts the app in `folder` as `platform` does. `python` has what the app requires. Raises WorkerFailed."""
        app = App(folder, settings, platform, loop, python)
        with contextlib.ExitStack() as files:
            place = Place.below(Path(files.enter_context(tempfile.TemporaryDirectory(prefix="devhost-"))))
            connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
            server = await asyncio.start_server(
                lambda *ends: connected.put_nowait(ends), "127.0.0.1", 0, limit=LINE_BYTES
            )
            process = await spawn(app, place, "{}:{}".format(*server.sockets[0].getsockname()))
            logs = Logs(levels_of(folder), drops=platform.drops_logs)
            worker = cls(process, logs, is_placeholder=platform.placeholder)
            worker._files = files.pop_all()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker._meet(connected)
                await (worker._specialize(app, place) if platform.placeholder else worker._init(app))
        except BaseException:
            await worker.stop()
            raise
        finally:
            server.close()
        return worker

    async def _init(self, app: App) -> None:
        await self._take_on({"init": str(app.folder)})

    async def _specialize(self, app: App, place: Place) -> None:
        """From a placeholder to the app. (Where that fails, the platform goes on to try a fresh worker with _init.)"""
        await self._say({"init": str(place.standby)})
        self._is_placeholder = False
        environ = {**place.variables(app.folder), **app.environment}
        await self._take_on({"reload": str(app.folder), "environment": environ})

    @property
    def under_way(self) -> frozenset[str]:
        """The ids of the invocations that have not ended."""
        return frozenset(self._under_way)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negated number of the signal that ended it."""
        return self._process.returncode

    def invoke(
        self, function: Function, params: Mapping[str, str], metadata: Metadata | None = None
    ) -> tuple[str, asyncio.Future[str | None]]:
        """Starts an invocation. Its id goes with the HTTP request; the future gives its failure, or None."""
        return self._order(function, params=dict(params), metadata=metadata or {})

    def fire(self, function: Function) -> asyncio.Future[str | None]:
        """Starts a timer trigger's function, whatever its schedule; the future gives its failure, or None."""
        return self._order(function, timer=True)[1]

    def _order(self, function: Function, **details: Any) -> tuple[str, asyncio.Future[str | None]]:
        invocation_id = str(uuid.uuid4())
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._under_way[invocation_id] = (function, ended)
        order = {"invoke": invocation_id, "function_id": function.function_id,
                 "parameter": function.parameter, **details}  # fmt: skip
        self._send(order)
        return invocation_id, ended

    def _send(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._hear_out()
        if self._writer is not None:
            self._writer.close()
        self._files.close()

    async def _meet(
        self, connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    ) -> None:
        connecting = asyncio.create_task(connected.get())
        exiting = asyncio.create_task(self._process.wait())
        await asyncio.wait([connecting, exiting], return_when=asyncio.FIRST_COMPLETED)
        exiting.cancel()
        if not connecting.done():
            connecting.cancel()
            await self._hear_out()
            raise WorkerFailed(self._obituary())
        reader, self._writer = connecting.result()
        self._tasks.append(asyncio.create_task(self._listen(reader)))

    async def _take_on(self, message: dict[str, Any]) -> None:
        started = await self._say(message)
        self.http_uri = started["http_uri"] or ""
        self.functions = tuple(
            Function(**{**f, "methods": tuple(f["methods"])}) for f in started["functions"]
        )
        if self.http_uri:
            await _until_listening(self.http_uri)

    async def _say(self, message: dict[str, Any]) -> dict[str, Any]:
        self._started = asyncio.get_running_loop().create_future()
        self._send(message)
        reply = await self._started
        if "failure" in reply:
            raise WorkerFailed(f"{reply['failure']}\n{reply['trace']}")
        started: dict[str, Any] = reply["started"]
        return started

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._hear(json.loads(line))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _LAST_WORDS_SECONDS)
        if not self._started.done():
            self._started.set_result({"failure": self._obituary(), "trace": ""})
        for _, ended in self._under_way.values():
            if not ended.done():
                ended.set_result(_GONE)

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"ended": invocation_id, "failure": failure}:
                _, ended = self._under_way.pop(invocation_id)
                if not ended.done():
                    ended.set_result(failure)
            case {"log": text, "level": level, "logger": logger, "system": system, "invocation": invocation}:
                executing = self._under_way.get(invocation)
                name = executing[0].name if executing else None
                self.logs.rpc(text, level, logger, system=system, invocation=invocation, function=name)
            case _:
                self._started.set_result(message)

    async def _read_console(self, stream: asyncio.StreamReader, *, is_error: bool) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip("\r\n")
            if is_error:
                self._last_errors.append(text)
            # The host leaves a placeholder's lines alone (WorkerProcess.BuildAndLogConsoleLog).
            if not self._is_placeholder:
                self.logs.console(text, is_error=is_error)

    async def _hear_out(self) -> None:
        """Reads what the process, now gone, has left in its pipes; a child of its own may still hold them open."""
        await asyncio.wait(self._tasks, timeout=_LAST_WORDS_SECONDS)
        for task in self._tasks:
            task.cancel()

    def _obituary(self) -> str:
        return "\n".join([f"{_GONE}: exit code {self._process.returncode}", *self._last_errors])


async def _until_listening(uri: str) -> None:
    address = urlsplit(uri)
    while True:
        try:
            _, writer = await asyncio.open_connection(address.hostname, address.port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            return
