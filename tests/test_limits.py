"""The worker's memory depends neither on the size of a body nor on the number of requests served.

A leak of a kilobyte per call, or one body kept whole, ends an instance together with all its streams.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable

import psutil
import pytest

from devhost.host import Host
from devhost.process import Worker
from devhost.standin.script import download_chunk
from tests.conftest import KEY, StartHost
from tests.support.wire import connect, function, request

type Transfer = Callable[[Worker, int], Awaitable[None]]

MIB = 1024 * 1024
GIB = 1024 * MIB
CHUNK = 64 * 1024


@pytest.fixture(scope="module")
async def worker(start_host: StartHost) -> Worker:
    """One of its own, so that no other test's memory is measured."""
    return (await start_host()).worker


def resident(worker: Worker) -> int:
    """Bytes."""
    return int(psutil.Process(worker.pid).memory_info().rss)


async def upload(worker: Worker, size: int) -> None:
    """Sends zeros to a path whose body nothing needs to read, and checks that upstream got them all."""
    invocation_id, ended = worker.invoke(function(worker), {})
    async with connect(worker.http_uri) as wire:
        head = request(
            "POST", "/openai/files", 'x-standin: {"reflect": true}', f"content-length: {size}", key=KEY
        )
        await wire.send(head.replace(b"{id}", invocation_id.encode()))
        digest, block = hashlib.sha256(), bytes(CHUNK)
        for _ in range(size // CHUNK):
            digest.update(block)
            await wire.send(block)
        received = json.loads((await wire.answer()).body)
    assert digest.hexdigest() in received.values()
    assert await ended is None


async def download(worker: Worker, size: int) -> None:
    """Fetches `size` bytes, and checks them."""
    invocation_id, ended = worker.invoke(function(worker), {})
    async with connect(worker.http_uri) as wire:
        script = f"x-standin: {json.dumps({'download': size})}"
        await wire.send(
            request("GET", "/openai/files", script, key=KEY).replace(b"{id}", invocation_id.encode())
        )
        assert (await wire.head()).status == 200
        expected, received, length = hashlib.sha256(), hashlib.sha256(), 0
        for start in range(0, size, CHUNK):
            expected.update(download_chunk(start, min(CHUNK, size - start)))
        while (chunk := await wire.chunk()) is not None:
            received.update(chunk)
            length += len(chunk)
    assert (length, received.digest()) == (size, expected.digest())
    assert await ended is None


@pytest.mark.parametrize("transfer", [upload, download])
async def test_a_gibibyte_leaves_memory_as_it_was(worker: Worker, transfer: Transfer) -> None:
    await transfer(worker, 32 * MIB)
    before = resident(worker)
    await transfer(worker, GIB)
    grown = resident(worker) - before
    print(f"grown by {grown / MIB:.1f} MiB")
    assert grown < 32 * MIB


async def test_a_reader_who_stands_still_holds_upstream_back(worker: Worker) -> None:
    before = resident(worker)
    invocation_id, ended = worker.invoke(function(worker), {})
    async with connect(worker.http_uri) as wire:
        script = f"x-standin: {json.dumps({'download': GIB})}"
        await wire.send(
            request("GET", "/openai/files", script, key=KEY).replace(b"{id}", invocation_id.encode())
        )
        assert await ended is None
        await asyncio.sleep(1)  # in which an unbounded buffer would take in hundreds of MiB
        assert resident(worker) - before < 32 * MIB
        wire.abort()


async def serve(worker: Worker, count: int, connections: int = 32) -> None:
    """Small requests, one after the other on each of several connections."""
    left = iter(range(count))

    async def repeat() -> None:
        async with connect(worker.http_uri) as wire:
            for _ in left:
                invocation_id, ended = worker.invoke(function(worker), {})
                call = request("GET", "/openai/v1/models", key=KEY)
                await wire.send(call.replace(b"{id}", invocation_id.encode()))
                head = await wire.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await wire.reader.readexactly(length)
                assert await ended is None

    await asyncio.gather(*(repeat() for _ in range(connections)))


async def test_ten_thousand_requests_more_leave_memory_as_it_was(worker: Worker) -> None:
    await serve(worker, 10_000)
    before = resident(worker)
    await serve(worker, 10_000)
    grown = resident(worker) - before
    print(f"grown by {grown / MIB:.2f} MiB")
    assert grown < 4 * MIB
    assert worker.under_way == frozenset()


async def test_a_host_forwards_chunked_uploads_without_collecting(host: Host) -> None:
    """The tests' own host must not be what makes streaming look good."""
    me = psutil.Process()
    before = me.memory_info().rss
    size = 90 * MIB
    async with connect(host.url) as wire:
        script = 'x-standin: {"reflect": true}'
        await wire.send(request("POST", "/openai/files", script, "transfer-encoding: chunked", key=KEY))
        for _ in range(size // CHUNK):
            await wire.send(b"%x\r\n%s\r\n" % (CHUNK, bytes(CHUNK)))
        await wire.send(b"0\r\n\r\n")
        assert (await wire.answer()).status == 200
    assert me.memory_info().rss - before < 32 * MIB
