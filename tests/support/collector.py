"""A real OpenTelemetry Collector in a process of its own, which hands on what it takes."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

COLLECTOR = ROOT / ".cache" / "otelcol" / "otelcol"
# Seconds, on a busy machine.
START = 60.0


def what_is_missing() -> str | None:
    """Why it cannot be run here; None if it can."""
    return (
        None if COLLECTOR.exists() else f"{COLLECTOR} is not there: scripts/otel-collector builds it, with Go"
    )


@asynccontextmanager
async def running_collector(folder: Path, receiver_url: str) -> AsyncIterator[str]:
    """Its URL. It sends on to `receiver_url`; its log is `collector.log` in `folder`."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    config = folder / "collector.yaml"
    config.write_text(json.dumps(_config(port, receiver_url)))  # YAML, too
    log = folder / "collector.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(COLLECTOR), f"--config=file:{config}", cwd=folder, stdout=output, stderr=output
        )
    try:
        await _until_up(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _config(port: int, receiver_url: str) -> dict[str, Any]:
    pipeline = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
    return {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"otlp_http": {"endpoint": receiver_url}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"metrics": pipeline, "traces": pipeline},
        },
    }


async def _until_up(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the collector did not start:\n{_end_of(log)}") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def _end_of(log: Path) -> str:
    return log.read_text()[-4000:]
