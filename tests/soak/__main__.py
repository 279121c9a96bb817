"""`python -m tests.soak`: streams, uploads, callers who leave, upstream restarts and vault outages, all at once."""

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
import uvloop

from devhost.azure.faults import Fault, broken_connection, failing, throttled
from devhost.azure.services import Azure, running_azure
from devhost.azure.tls import server_tls
from devhost.host import Host
from shim.keys.subscription import digest_of
from tests.fuzz.calls import KEYS, tag, tags_in
from tests.fuzz.upstream import Asked, Script, Steps, Upstream
from tests.support.wire import connect, function

_CALLERS = 24
_WARM_UP_SECONDS = 20.0
# Between two restarts of upstream, and two outages of the vault.
_RESTART_EVERY = 7.0
_OUTAGE_EVERY = 9.0
_CONNECT_SECONDS = 3
_FAULTS: tuple[Fault | None, ...] = (broken_connection, failing(503), throttled(1), None)
# What may be left over: an allocator keeps some of what it once had.
_MOST_MORE_MIB = 16
_MIB = 2**20


def _stream(rng: Random, asked: Asked) -> Steps:
    event = b"data: %b\n\n" % (asked.mark * 20)
    pieces: Steps = [b"%x\r\n%b\r\n" % (len(event), event), rng.choice([0.0, 0.005, 0.02])]
    head = asked.head(b"content-type: text/event-stream", b"transfer-encoding: chunked")
    return [head, *(pieces * rng.randint(5, 60)), b"0\r\n\r\n"]


def _reply(rng: Random, asked: Asked) -> Steps:
    return [asked.sized(asked.mark * rng.choice([1, 100, 20_000]))]


_SCRIPTS: dict[str, Script] = {"stream": _stream, "reply": _reply}


@dataclass
class Restarting:
    """The upstream, which goes away with all its connections and comes back at the same address."""

    upstream: Upstream
    restarts: int = 0
    _server: asyncio.Server | None = None
    _port: int = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self.upstream.accept, "127.0.0.1", self._port, ssl=server_tls(), limit=2**20
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.upstream.url = f"https://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.upstream.abort()
        self.restarts += 1


@dataclass(frozen=True, slots=True)
class Held:
    """What the worker holds when nothing is under way."""

    seconds: float
    calls: int
    descriptors: int
    tasks: int
    idle_connections: int
    other_connections: int
    mib: float


@dataclass
class Soak:
    host: Host
    upstream: Restarting
    azure: Azure
    outcomes: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    outages: int = 0
    table: list[Held] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def load(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        troubles = [asyncio.create_task(self._restart()), asyncio.create_task(self._disturb_vault())]
        async with asyncio.TaskGroup() as callers:
            for _ in range(_CALLERS):
                callers.create_task(self._call_until(until))
        for trouble in troubles:
            trouble.cancel()
        await asyncio.wait(troubles)

    async def _call_until(self, until: float) -> None:
        while time.monotonic() < until:
            number = next(self._numbers)
            try:
                async with asyncio.timeout(60):
                    outcome = await self._call(number, Random(number))
            except (EOFError, ConnectionError):
                outcome = "cut"
            except TimeoutError:
                outcome = "HANG"
            self.outcomes[outcome] += 1

    async def _call(self, number: int, rng: Random) -> str:
        ended: asyncio.Future[str | None] | None = None
        url, also = self.host.url, b""
        if rng.random() < 0.5:
            worker = self.host.worker
            invocation_id, ended = worker.invoke(function(worker), {})
            url, also = worker.http_uri, b"x-ms-invocation-id: %b\r\n" % invocation_id.encode()
        head, pieces = _request(rng, number, also)
        leaves = rng.random() < 0.25
        async with connect(url) as wire:
            await wire.send(head)
            for index, piece in enumerate(pieces):
                if leaves and index > len(pieces) // 2:
                    break
                await wire.send(piece)
            if leaves:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.random() * 0.2):
                        await wire.answer()
                if ended is None:
                    wire.abort()  # on the worker's own server it may take back the request, and only the sweep ends it
                return "left"
            answer = await wire.answer()
        self.mixed += bool(tags_in(answer.body) - {number})
        if ended is not None:
            await ended
        if b"internal_error" in answer.body:
            return "DEFECT"
        return str(answer.status) if answer.whole else "cut"

    async def _restart(self) -> None:
        while True:
            await asyncio.sleep(_RESTART_EVERY)
            await self.upstream.stop()
            await asyncio.sleep(0.5)
            await self.upstream.start()

    async def _disturb_vault(self) -> None:
        vault = self.azure.vault
        for fault in itertools.cycle(_FAULTS):
            await asyncio.sleep(_OUTAGE_EVERY / 2)
            self.outages += 1
            if fault is None:
                await vault.stop()
            vault.fault = fault
            try:
                await asyncio.sleep(_OUTAGE_EVERY / 2)
            finally:
                vault.fault = None
                if fault is None:
                    await vault.start()

    async def measure(self) -> Held:
        """Once nothing is under way, and upstream and the host have let go of idle connections.

        A handshake that was given up is let go of when connecting would have taken too long.
        """
        await self.upstream.stop()
        await self.upstream.start()
        async with asyncio.timeout(60):
            while self.host.worker.under_way:  # noqa: ASYNC110 - devhost has no event for it
                await asyncio.sleep(0.1)
        self.host._http.close()
        self.host._http._idle.clear()
        await asyncio.sleep(_CONNECT_SECONDS + 1)
        process = psutil.Process(self.host.worker.pid)
        mib, descriptors = process.memory_info().rss / _MIB, process.num_fds()
        counted = await self._counted()
        held = Held(
            time.monotonic() - self.began, self.outcomes.total(), descriptors, counted["tasks"],
            counted["idle connections"], counted["other connections"], mib,
        )  # fmt: skip
        self.table.append(held)
        return held

    async def _counted(self) -> dict[str, int]:
        worker = self.host.worker
        invocation_id, ended = worker.invoke(function(worker, "soak"), {})
        async with connect(worker.http_uri) as wire:
            await wire.send(
                b"GET /soak HTTP/1.1\r\nhost: a\r\nx-ms-invocation-id: %b\r\n\r\n" % invocation_id.encode()
            )
            answer = await wire.answer()
        await ended
        counted: dict[str, int] = json.loads(answer.body)
        return counted

    def report(self) -> None:
        print(
            f"{'seconds':>8}{'calls':>9}{'descriptors':>13}{'tasks':>7}{'idle':>7}{'other':>7}{'RSS, MiB':>10}"
        )
        for held in self.table:
            print(
                f"{held.seconds:8.0f}{held.calls:9}{held.descriptors:13}{held.tasks:7}"
                f"{held.idle_connections:7}{held.other_connections:7}{held.mib:10.1f}"
            )
        print(", ".join(f"{outcome}: {count}" for outcome, count in self.outcomes.most_common()))
        print(
            f"{self.upstream.restarts} upstream restarts, {self.outages} vault outages, {self.mixed} mixed up"
        )

    def faults(self) -> list[str]:
        first, last = self.table[0], self.table[-1]
        return [
            fault
            for fault, found in (
                ("file descriptors are left", last.descriptors > first.descriptors),
                ("tasks are left", last.tasks > first.tasks),
                ("connections are left", any(held.other_connections for held in self.table)),
                (
                    "more connections are idle than calls were made at once",
                    last.idle_connections > 2 * _CALLERS,
                ),
                (f"memory grew by more than {_MOST_MORE_MIB} MiB", last.mib > first.mib + _MOST_MORE_MIB),
                ("calls hung", self.outcomes["HANG"] > 0),
                ("the shim had defects", self.outcomes["DEFECT"] > 0),
                ("calls were mixed up", self.mixed > 0),
                ("500", self.outcomes["500"] > self.outcomes.total() / 50),
            )
            if found
        ]


def _request(rng: Random, number: int, also: bytes) -> tuple[bytes, list[bytes]]:
    """A head, and the pieces of a body: a stream asked for, a sized upload, or a chunked one."""
    mark = tag(number)
    content = b'{"model":"gpt-4o","stream":true,"user":"%b"}' % mark
    target, kind = b"/v1/chat/completions", b"application/json"
    if rng.random() < 0.4:
        content, target, kind = (
            mark * rng.choice([100, 3000, 50_000]),
            b"/v1/something",
            b"application/octet-stream",
        )
    pieces = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    framing = b"content-length: %d" % len(content)
    if rng.random() < 0.5:
        framing = b"transfer-encoding: chunked"
        pieces = [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]
    key = KEYS[number % len(KEYS)].encode()
    head = b"POST %b HTTP/1.1\r\nhost: a\r\n%bx-fuzz-tag: %b\r\n" % (target, also, mark)
    return head + b"authorization: Bearer %b\r\ncontent-type: %b\r\n%b\r\n\r\n" % (key, kind, framing), pieces


@asynccontextmanager
async def started() -> AsyncIterator[Soak]:
    def draw(number: int) -> tuple[Random, str, Script]:
        rng = Random(number)
        name = "stream" if rng.random() < 0.6 else "reply"
        return rng, name, _SCRIPTS[name]

    with tempfile.TemporaryDirectory() as folder:
        async with running_azure(Path(folder)) as azure:
            for key in KEYS:
                azure.vault.put(f"apim-sub-{digest_of(key)}", key)
            upstream = Restarting(Upstream(draw))
            await upstream.start()
            settings = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            settings |= azure.environ | {
                "APIM_BASE_URL": f"{upstream.upstream.url}/api/openai",
                "KEY_CACHE_TTL": "2",
                "UPSTREAM_CONNECT_TIMEOUT": f"{_CONNECT_SECONDS}",
                "UPSTREAM_IDLE_TIMEOUT": "10",
            }
            host = await Host.start(Path(__file__).parent / "app", settings)
            try:
                yield Soak(host, upstream, azure)
            finally:
                await host.stop()


async def run(seconds: float) -> bool:
    """Whether the worker holds at the end what it held after the warm-up. Measured at every fifth of the time too."""
    async with started() as soak:
        await soak.load(_WARM_UP_SECONDS)
        await soak.measure()
        for _ in range(5):
            await soak.load(seconds / 5)
            print(await soak.measure(), flush=True)
        soak.report()
        for fault in soak.faults():
            print(f"FAILED: {fault}")
        return not soak.faults()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or 600))
    given = parser.parse_args()
    logging.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(not runner.run(run(given.seconds)))


if __name__ == "__main__":
    main()
