"""The host's end of a worker process: starts it, invokes functions in it, stops it."""

import asyncio
import contextlib
import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from devhost.trigger_metadata import Metadata

_START_SECONDS = 60
_STOP_SECONDS = 10


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
    """A running worker process; `http_uri` is where its own HTTP server listens."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader,
                 writer: asyncio.StreamWriter, announcement: dict[str, Any]) -> None:  # fmt: skip
        self.http_uri: str = announcement["http_uri"]
        self.functions = tuple(
            Function(**{**f, "methods": tuple(f["methods"])}) for f in announcement["functions"]
        )
        self.pid = process.pid
        self._process = process
        self._writer = writer
        self._under_way: dict[str, asyncio.Future[str | None]] = {}
        self._listening = asyncio.create_task(self._listen(reader))

    @classmethod
    async def start(
        cls, folder: Path, environ: Mapping[str, str], *, python: Path = Path(sys.executable)
    ) -> Self:
        """`python` has what the app requires. Raises WorkerFailed."""
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
        server = await asyncio.start_server(
            lambda *ends: connected.set_result(ends), "127.0.0.1", 0, limit=2**20
        )
        address = "{}:{}".format(*server.sockets[0].getsockname())
        process = await asyncio.create_subprocess_exec(
            python, "-m", "devhost.worker", address, str(folder),
            cwd=folder, start_new_session=True,  # so that Ctrl+C reaches the host alone, which then stops the worker
            env={**environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS):
                exited = asyncio.create_task(process.wait())
                exited.add_done_callback(lambda _: connected.cancel())
                await asyncio.wait([connected])
                exited.cancel()
                if connected.cancelled():
                    raise WorkerFailed(f"the worker process ended with exit code {process.returncode}")
                reader, writer = connected.result()
                announcement = json.loads(
                    await reader.readline() or b'{"failure": "the worker died while starting"}'
                )
                if "failure" in announcement:
                    writer.close()
                    raise WorkerFailed(f"{announcement['failure']}\n{announcement.get('trace', '')}")
                await _until_listening(announcement["http_uri"])
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            server.close()
        return cls(process, reader, writer, announcement)

    @property
    def under_way(self) -> frozenset[str]:
        """The ids of the invocations that have not ended."""
        return frozenset(self._under_way)

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
        self._under_way[invocation_id] = ended
        order = {"invoke": invocation_id, "function_id": function.function_id,
                 "parameter": function.parameter, **details}  # fmt: skip
        self._writer.write(json.dumps(order).encode() + b"\n")
        return invocation_id, ended

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._listening.cancel()
        self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            ended = self._under_way.pop(message["ended"])
            if not ended.done():
                ended.set_result(message["failure"])
        for ended in self._under_way.values():
            if not ended.done():
                ended.set_result("the worker process is gone")


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
