"""What it costs to find `model` in large bodies: time added, the longest turn of the event loop, and memory.

`python -m bench.model_in_body` prints tables; its exit status is 1 if a figure is over its bound.
"""

import asyncio
import base64
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import psutil

from shim.asgi import Message
from shim.call.body import open_body
from shim.call.caller import Caller
from shim.call.routes import ModelUse
from shim.call.spool import SpoolSpace
from shim.headers import Headers

MIB = 1024 * 1024
SIZE = 20 * MIB
IMAGES = 4
CHUNK = 64 * 1024  # as the worker's server hands bodies on
RUNS = 21
# Added to a question about images, and the longest turn for any body.
ADDED_BOUND_MS = 40.0
TURN_BOUND_MS = 50.0
LARGE = 90 * MIB
AT_ONCE = 8
# Of a body in memory: what is not yet on disk, its top level, and pieces under way.
MEMORY_BOUND = AT_ONCE * 2 * MIB

JSON: Headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
FORM: Headers = [(b"content-type", b"multipart/form-data; boundary=b"), (b"transfer-encoding", b"chunked")]


def images(model_first: bool) -> bytes:
    """A question about images, as an SDK writes it."""
    image = base64.b64encode(os.urandom(SIZE // IMAGES * 3 // 4)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *[part] * IMAGES]}]
    model = {"model": "gpt-4o"}
    return json.dumps(
        {**model, "messages": messages} if model_first else {"messages": messages, **model}
    ).encode()


def conversation() -> bytes:
    """The worst of plausible bodies: as large, and of small tokens."""
    turns = [{"role": "user", "content": "Hello, how are you? åæø"}] * (SIZE // 70)
    return json.dumps({"messages": turns, "model": "gpt-4o"}).encode()


def recording() -> bytes:
    """Speech, with `model` behind it."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return (
        head
        + os.urandom(SIZE)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n'
    )


def hostile() -> dict[str, bytes]:
    """The bodies of 90 MiB that cost the most."""
    block = b'"a":[' + b"[]," * 20_000 + b"1],"
    return {
        "numbers": b'{"a":[' + b"1," * (LARGE // 2) + b'1],"model":"x"}',
        "nested arrays": b'{"a":' + b"[" * (LARGE // 2) + b"]" * (LARGE // 2) + b',"model":"x"}',
        "arrays, many at the top level": b"{" + block * (LARGE // len(block)) + b'"model":"x"}',
        "short strings": b'{"a":[' + b'"",' * (LARGE // 3) + b'1],"model":"x"}',
    }


def receiver(content: bytes) -> Callable[[], Awaitable[Message]]:
    def messages() -> Iterator[Message]:
        for start in range(0, len(content), CHUNK):
            end = start + CHUNK
            yield {"type": "http.request", "body": content[start:end], "more_body": end < len(content)}
        while True:
            yield {"type": "http.disconnect"}

    waiting = messages()

    async def receive() -> Message:
        await asyncio.sleep(0)  # as between two reads of a socket
        return next(waiting)

    return receive


async def tick(gaps: list[float]) -> None:
    """Notes how long each turn of the loop took."""
    before = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        gaps.append(now - before)
        before = now


async def once(content: bytes, headers: Headers, use: ModelUse, new_model: str | None) -> tuple[float, float]:
    """Milliseconds from the first byte received to the last sent on, and of the longest turn of the loop."""
    gaps: list[float] = []
    ticker = asyncio.create_task(tick(gaps))
    await asyncio.sleep(0)
    started = time.perf_counter()
    body = await open_body(
        headers, Caller(receiver(content)), model=use, max_bytes=100 * MIB, space=SpoolSpace(100 * MIB)
    )
    body.replace_model(new_model)
    async for _ in body:
        await asyncio.sleep(0)
    took = time.perf_counter() - started
    body.close()
    ticker.cancel()
    return took * 1000, max(gaps) * 1000


async def measure(content: bytes, headers: Headers, new_model: str | None) -> tuple[float, float]:
    """Medians of the time added, against a body that is not read, and of the longest turn of the loop."""
    read, unread = [], []
    for _ in range(RUNS):  # alternating, so that a busy machine is busy for both
        unread.append(await once(content, headers, "unread", None))
        read.append(await once(content, headers, "optional", new_model))
    added = statistics.median(took for took, _ in read) - statistics.median(took for took, _ in unread)
    return added, statistics.median(gap for _, gap in read)


async def measure_plausible() -> bool:
    cases = [
        ("JSON with images, model last", images(False), JSON, None),
        ("JSON with images, model first", images(True), JSON, None),
        ("JSON with images, model replaced", images(False), JSON, "another"),
        ("JSON of small messages, model last", conversation(), JSON, None),
        ("form, model behind the recording", recording(), FORM, None),
    ]
    print(
        f"| 20 MiB body, median of {RUNS} runs | time added, ms | longest turn of the loop, ms |\n|---|---|---|"
    )
    held = True
    for name, content, headers, new_model in cases:
        added, turn = await measure(content, headers, new_model)
        print(f"| {name} | {added:.1f} | {turn:.1f} |", flush=True)
        held = held and turn < TURN_BOUND_MS and ("images" not in name or added < ADDED_BOUND_MS)
    return held


async def measure_hostile() -> bool:
    print("\n| 90 MiB of JSON, one run | time, ms | longest turn of the loop, ms |\n|---|---|---|")
    held = True
    for name, content in hostile().items():
        took, turn = await once(content, JSON, "optional", "another")
        print(f"| {name} | {took:.0f} | {turn:.1f} |", flush=True)
        held = held and turn < TURN_BOUND_MS
    return held


async def measure_memory() -> bool:
    """How much memory it takes to hold several large bodies at once, all read and none sent on yet."""
    content = images(False)
    content = content[:-1] + b',"n":"' + b"x" * (LARGE - len(content)) + b'"}'
    space = SpoolSpace(100 * MIB, total=AT_ONCE * len(content))
    process = psutil.Process()
    before = process.memory_info().rss
    bodies = await asyncio.gather(
        *(
            open_body(JSON, Caller(receiver(content)), model="optional", max_bytes=100 * MIB, space=space)
            for _ in range(AT_ONCE)
        )
    )
    grown = process.memory_info().rss - before
    for body in bodies:
        body.close()
    print(
        f"\n{AT_ONCE} bodies of {len(content) / MIB:.0f} MiB held at once take {grown / MIB:.1f} MiB of memory."
    )
    return grown < MEMORY_BOUND


async def main() -> int:
    held = [await measure_plausible(), await measure_hostile(), await measure_memory()]
    print(f"The bounds {'hold' if all(held) else 'do not hold'}.")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
