"""Processes on their cores, each ended with whoever started it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from bench.places import LOGS, ROOT

# The proxy under test has one core, load and upstream the other.
PROXY_CORE = "0"
LOAD_CORE = "1"
BOTH_CORES = f"{PROXY_CORE},{LOAD_CORE}"
_STOP_SECONDS = 5
# The kernel's default, in which Kubernetes and Docker give shares too.
_PERIOD_MICROSECONDS = 100_000
_SETTLE_SECONDS = 15


class Failed(Exception):
    """A process did not do what it was started for."""


def pinned(cores: str, command: list[str]) -> list[str]:
    """The command on these cores, killed by the kernel should the benchmark itself be killed."""
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", cores, *command]


def limited(share: float, command: list[str]) -> list[str]:
    """The command with that share of a core, as a container on a small instance has it. Raises Failed."""
    if share == 1.0:
        return command
    version_1 = Path("/sys/fs/cgroup/cpu")
    group = (version_1 if version_1.is_dir() else version_1.parent) / f"shim-bench-{share:g}"
    quota = round(share * _PERIOD_MICROSECONDS)
    try:
        group.mkdir(exist_ok=True)
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
    except OSError as error:
        raise Failed(f"a share of a core needs a cgroup, and so root: {error}") from error
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One running process with its children, in a session of its own; its log is in .cache/logs."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environ: Mapping[str, str],
        cores: str,
        share: float = 1.0,
        *,
        announces: bool = False,
    ) -> None:
        """`announces`: the process prints a line once it listens, and ends when its stdin is closed."""
        LOGS.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = LOGS / f"{name}.log"
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
        with self.log.open("w") as log:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                pinned(cores, limited(share, command)),
                cwd=ROOT,
                env={**kept, **environ},
                stdin=subprocess.PIPE if announces else subprocess.DEVNULL,
                stdout=subprocess.PIPE if announces else log,
                stderr=log,
                start_new_session=True,
            )

    def line(self, patience: float = 60) -> str:
        """The first line that the process prints. Raises Failed."""
        output = self._process.stdout
        assert output is not None
        if select.select([output], [], [], patience)[0] and (line := output.readline()):
            return line.decode().strip()
        raise Failed(f"{self.name} did not start: {self.last_words()}")

    def pids(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def check(self) -> None:
        """Raises Failed if the process has ended."""
        if self._process.poll() is not None:
            raise Failed(f"{self.name} ended by itself ({self._process.returncode}): {self.last_words()}")

    def last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-400:] or "no log"

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on, and waits until what is left of the last measure is done."""
        self._signal(signal.SIGCONT)
        processes = [psutil.Process(pid) for pid in self.pids()]
        until = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < until:
            before = _cpu(processes)
            time.sleep(0.2)
            if _cpu(processes) - before < 0.05:
                return

    def stop(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            """Killed below, with whatever it has left behind."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _cpu(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def until_answered(port: int, request: Callable[[], bytes], process: Process, patience: float = 90) -> float:
    """Sends a request until one is answered with 200; the seconds from the process's start to the first byte.

    Raises Failed.
    """
    until = time.monotonic() + patience
    answer = b""
    while time.monotonic() < until:
        process.check()
        try:
            with socket.create_connection(
                ("127.0.0.1", port), timeout=until - time.monotonic()
            ) as connection:
                connection.sendall(request())
                answer = connection.recv(65536)
                arrived = time.perf_counter()
                if answer.startswith(b"HTTP/1.1 200"):
                    return arrived - process.started
                time.sleep(0.05)
        except OSError:
            time.sleep(0.002)
    raise Failed(f"{process.name} gave no good answer: {answer[:300]!r}; {process.last_words()}")


def run_load(binary: Path, spec: Mapping[str, Any], cores: str = LOAD_CORE) -> dict[str, Any]:
    """Runs one measure. Raises Failed, also when it takes much longer than its spec says."""
    bound = sum(float(spec.get(name, 0)) for name in ("ramp", "warmup", "duration", "patience")) + 30
    command = pinned(cores, [str(binary), "run"])
    try:
        done = subprocess.run(
            command, input=json.dumps(spec).encode(), capture_output=True, timeout=bound, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed("the load generator did not end") from error
    if done.returncode:
        raise Failed(f"the load generator: {done.stderr.decode()[-300:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
