"""Where the shim's time goes under load: py-spy's samples, by function and by package."""

import re
import subprocess
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measures import FULL, MEASURES, spec_for
from bench.peers import Peer, Running, Upstream
from bench.places import CACHE
from bench.processes import LOAD_CORE, Failed, pinned, run_load

LOADS = [measure.name for measure in MEASURES]
_SECONDS = 8
_RATE = 400
_SHOWN = 40


def run(console: Console, load: Path, upstream: Upstream, name: str, peer: Peer) -> None:
    """Prints the profile. Raises Failed."""
    measure = next(measure for measure in MEASURES if measure.name == name)
    raw = CACHE / f"profile-{name}.txt"
    running = Running.start(peer, upstream, log="shim-profile")
    try:
        spec = {**spec_for(measure, running, FULL), "duration": _SECONDS + 3.0}
        spy = [
            str(CACHE / "tools/bin/py-spy"),
            "record",
            "--pid",
            str(running.pids()[0]),
            "--duration",
            str(_SECONDS),
        ]
        options = ["--rate", str(_RATE), "--format", "raw", "--output", str(raw), "--native"]
        # Not of how it begins, which is another matter.
        later = ["sh", "-c", f'sleep {spec.get("ramp", 0) + spec["warmup"]}; exec "$@"', "sh"]
        sampling = subprocess.Popen(
            pinned(LOAD_CORE, [*later, *spy, *options]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            run_load(load, spec)
            _, words = sampling.communicate(timeout=_SECONDS + 30)
        finally:
            sampling.kill()
            sampling.wait()
    finally:
        running.stop()
    if not raw.exists():
        raise Failed(f"py-spy: {words.decode()[-300:]}")
    own, inclusive, total = count(raw.read_text())
    for title, counted in (("own time", own), ("with all that it calls", inclusive)):
        table = Table(title=f"{name}: {title}, % of {total} samples", title_justify="left")
        table.add_column("%", justify="right")
        table.add_column("where")
        for where, samples in counted.most_common(_SHOWN):
            table.add_row(f"{samples / total:.1%}", where)
        console.print(table)


def count(raw: str) -> tuple[Counter[str], Counter[str], int]:
    """Of `frame;frame;… samples` lines: samples by innermost frame, by any frame, and all."""
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        total += int(samples)
        own[frames[-1]] += int(samples)
        inclusive.update(dict.fromkeys(frames, int(samples)))
    return own, inclusive, total
