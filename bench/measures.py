"""What is measured, and what a figure of a measure is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.peers import CHAT, FILE_BYTES, Running, chat_path

type Result = dict[str, Any]

_MIB = 1024 * 1024
STREAMS = 1000
CHUNKS_PER_SECOND = 20
_BOUNDARY = "bench-7d3f1c"


@dataclass(frozen=True)
class Pace:
    """How long things take. Times are in seconds."""

    rounds: int
    warmup: float
    json: float
    first_byte: float
    sse: float
    ramp: float  # of the 1,000 streams
    streams: float
    bodies: float
    stream_rounds: int  # the 1,000 streams take longest, and spread least
    cold_starts: int
    soak_requests: int
    patience: float  # with calls that are still running at a measure's end
    soak_seconds: float  # at most, for the shim; the peers have a tenth
    worker_rounds: int
    mixed: float


FULL = Pace(5, 1.0, 4.0, 2.0, 4.0, 3.0, 10.0, 4.0, 3, 7, 1_000_000, 10.0, 900.0, 3, 600.0)
SHORT = Pace(3, 0.4, 2.0, 0.8, 2.0, 3.0, 6.0, 2.0, 2, 5, 100_000, 6.0, 120.0, 3, 60.0)
# A shorter ramp of the streams would still be at their TLS handshakes when it measures.
QUICK = Pace(1, 0.2, 0.7, 0.5, 1.0, 3.0, 3.0, 0.7, 3, 3, 10_000, 2.0, 12.0, 1, 20.0)


@dataclass(frozen=True)
class Measure:
    """`spec` gives the load's, but for what is the peer's own; `needs_files` leaves out those without."""

    name: str
    spec: Callable[[Pace], dict[str, Any]]
    kind: str = "chat"
    rounds: Callable[[Pace], int] = lambda _: 1000  # as many as all have


def _chat(connections: int) -> Callable[[Pace], dict[str, Any]]:
    return lambda pace: {
        "connections": connections,
        "duration": pace.json,
        "warmup": pace.warmup,
        "body": CHAT,
    }


def stream(chunks: int, milliseconds: int) -> str:
    script = f"bench chunks={chunks} milliseconds={milliseconds}"
    return f'{{"messages":[{{"role":"user","content":"{script}"}}],"model":"gpt-4o","temperature":0.7,"stream":true}}'


def _first_byte(pace: Pace) -> dict[str, Any]:
    return {"connections": 1, "duration": pace.first_byte, "warmup": pace.warmup, "body": stream(2, 0)}


def _sse(pace: Pace) -> dict[str, Any]:
    return {"connections": 16, "duration": pace.sse, "warmup": pace.warmup, "body": stream(200, 0)}


def _streams(pace: Pace, count: int = STREAMS) -> dict[str, Any]:
    ramp, warmup = pace.ramp, 1.0
    chunks = int((ramp + warmup + pace.streams + 2) * CHUNKS_PER_SECOND)  # to the end, and some more
    body = stream(chunks, 1000 // CHUNKS_PER_SECOND)
    return {
        "connections": count, "duration": pace.streams, "ramp": ramp, "warmup": warmup, "body": body,
        "cut": True, "patience": 0.0,
    }  # fmt: skip


def form(*, name: str, **fields: str) -> dict[str, Any]:
    """A form with these fields, and then a file of FILE_BYTES."""
    parts = [
        *(f'name="{field}"\r\n\r\n{value}' for field, value in fields.items()),
        f'name="file"; filename="{name}"\r\ncontent-type: application/octet-stream\r\n\r\n',
    ]
    body = "\r\n".join(f"--{_BOUNDARY}\r\ncontent-disposition: form-data; {part}" for part in parts)
    return {"body": body, "filler": FILE_BYTES, "tail": f"\r\n--{_BOUNDARY}--\r\n"}


def _upload(pace: Pace) -> dict[str, Any]:
    file = form(name="bench.bin", purpose="assistants")
    return {"connections": 4, "duration": pace.bodies, "warmup": pace.warmup, **file}


def _download(pace: Pace) -> dict[str, Any]:
    return {"connections": 4, "duration": pace.bodies, "warmup": pace.warmup}


MEASURES = [
    Measure("json_1", _chat(1)),
    Measure("json_32", _chat(32)),
    Measure("json_256", _chat(256)),
    Measure("first_byte", _first_byte),
    Measure("sse_16", _sse),
    Measure("upload", _upload, "upload"),
    Measure("download", _download, "download"),
    Measure("streams_1000", _streams, rounds=lambda pace: pace.stream_rounds),
]


def spec_for(measure: Measure, running: Running, pace: Pace) -> dict[str, Any]:
    return {**call(running, measure.kind), "patience": pace.patience, **measure.spec(pace)}


def soak_spec(running: Running, requests: int, seconds: float) -> dict[str, Any]:
    return {
        **call(running, "chat"), "body": CHAT, "connections": 32, "duration": seconds, "patience": 10.0,
        "requests": requests, "sample_every": requests // 40,
    }  # fmt: skip


def paced_spec(running: Running, pace: Pace, streams: int) -> dict[str, Any]:
    return {**call(running, "chat"), **_streams(pace, streams)}


def abandoned_spec(running: Running, streams: int, seconds: float) -> dict[str, Any]:
    """Streams whose callers disconnect after three chunks of two hundred."""
    return {
        **call(running, "chat"), "body": stream(200, 2), "connections": 32, "duration": seconds, "patience": 10.0,
        "requests": streams, "sample_every": streams // 40, "abandon": 3,
    }  # fmt: skip


def call(running: Running, kind: str) -> dict[str, Any]:
    """What of a spec is the peer's own."""
    peer = running.peer
    headers = running.headers
    target = {
        "chat": chat_path(peer),
        "upload": f"{peer.root}/files",
        "audio": f"{peer.root}/audio/transcriptions",
        "download": f"{peer.root}/files/bench-{FILE_BYTES}/content",
    }[kind]
    if kind in ("upload", "audio"):
        multipart = f"content-type: multipart/form-data; boundary={_BOUNDARY}"
        headers = [multipart if line.startswith("content-type:") else line for line in headers]
    if kind == "download":
        headers = [line for line in headers if not line.startswith("content-type:")]
    return {
        "address": f"127.0.0.1:{running.port}",
        "method": "GET" if kind == "download" else "POST",
        "target": target,
        "headers": headers,
        "invocation": peer.invocation,
        "pids": running.pids(),
    }


def is_faulty(result: Result) -> bool:
    """Whether a result is of answers that were not good, so that its figures mean little."""
    errors = sum(result["errors"].values())
    return (bool(errors > 0.001 * result["requests"]) and not result["open"]) or bool(errors > STREAMS * 0.01)


# A figure of a result, None where there is none.
def per_second(result: Result) -> float | None:
    return result["requests"] / result["seconds"] if result["requests"] else None


def events_per_second(result: Result) -> float | None:
    return result["events"] / result["seconds"] if result["events"] else None


def megabytes_per_second(result: Result) -> float | None:
    return result["bytes"] / result["seconds"] / 1e6 if result["bytes"] else None


def cpu_per_thousand(result: Result) -> float | None:
    return (
        result["cpu_seconds"] / result["requests"] * 1000
        if result["requests"] and result["cpu_seconds"]
        else None
    )


def cpu_per_thousand_events(result: Result) -> float | None:
    """Milliseconds."""
    return (
        result["cpu_seconds"] / result["events"] * 1e6 if result["events"] and result["cpu_seconds"] else None
    )


def busy(result: Result) -> float:
    """The share of its core that the proxy used; well below 1, load and upstream were the limit."""
    return float(result["cpu_seconds"] / result["seconds"]) if result["seconds"] else 0.0


def quantile(kind: str, at: str) -> Callable[[Result], float | None]:
    return lambda result: result[kind][at] if result[kind]["count"] else None


def peak_growth(result: Result) -> float | None:
    before, _, peak = result["memory_mib"]
    return peak - before if peak else None


def peak_memory(result: Result) -> float | None:
    return result["memory_mib"][2] or None
