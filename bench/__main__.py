"""Measures the shim and its peers in turn, and says what came of it. See NOTES.md."""

import argparse
import contextlib
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench import (
    capacity,
    cold,
    environments,
    figures,
    measures,
    mixed,
    plots,
    process_count,
    profiling,
    report,
)
from bench.environments import Missing
from bench.measures import FULL, MEASURES, QUICK, SHORT, Measure, Pace, Result
from bench.peers import KEY, Peer, Running, Upstream, all_peers, shim
from bench.places import CACHE, RESULTS
from bench.processes import BOTH_CORES, LOAD_CORE, Failed, Process, run_load

# Above this, the machine was not the benchmark's own.
STOLEN = 0.05
PACES = {"full": FULL, "short": SHORT, "quick": QUICK}
# Its one start is measured: it takes many seconds.
_SLOW_STARTERS = ("litellm", "litellm+tls")
_QUICK_PEERS = (
    "direct", "nginx", "nginx-64k", "nginx-64k+tls", "floor", "shim", "shim+tls", "portkey", "portkey+tls", "litellm",
    "litellm+tls",
)  # fmt: skip
# Not for `quick`, unless asked for.
_LONG = ("json_256", "capacity", "abandoned", "workers", "mixed")


def main() -> int:
    options = parse()
    # Whatever ends the benchmark, everything that it started is stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        load = environments.prepare_load()
        with upstream(load) as to:
            if options.profile:
                environments.prepare("shim")
                profiled = also(options)[-1] if options.also else shim()
                profiling.run(console, load, to, options.profile, profiled)
                return 0
            Benchmark(options, console, load, to).run()
    except (Missing, Failed) as error:
        console.print(f"[bold red]The benchmark cannot run:[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running, and no results are written.")
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--pace", choices=PACES, default="full", help="how long the measures take (default: full)"
    )
    parser.add_argument("--peers", help="only these, with commas between, or all; quick leaves some out")
    parser.add_argument(
        "--measures",
        help="only these, with commas: json_1, …, workers, cold, soak, abandoned, capacity, mixed",
    )
    parser.add_argument("--rounds", type=int, help="instead of the pace's own")
    parser.add_argument(
        "--also",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        help="another checkout of the shim, too; over TLS if the name ends with +tls",
    )
    parser.add_argument(
        "--loop",
        choices=["uvloop", "asyncio"],
        default="uvloop",
        help="the shim's event loop (default: uvloop)",
    )
    parser.add_argument("--no-save", action="store_true", help="the table only, no files")
    parser.add_argument(
        "--profile", choices=profiling.LOADS, help="profile the shim, or the --also, under this load instead"
    )
    return parser.parse_args()


def also(options: argparse.Namespace) -> list[Peer]:
    """The shim of other checkouts."""
    pairs = [given.partition("=") for given in options.also]
    return [
        shim(name, Path(folder).resolve(), tls=name.endswith("+tls"), loop=options.loop)
        for name, _, folder in pairs
    ]


@contextlib.contextmanager
def upstream(load: Path, name: str = "upstream", cores: str = LOAD_CORE) -> Iterator[Upstream]:
    certificate = CACHE / f"{name}.pem"
    command = [str(load), "upstream", "-key", KEY, "-certificate", str(certificate)]
    process = Process(name, command, {}, cores, announces=True)
    try:
        ports = json.loads(process.line())
        yield Upstream(ports["port"], ports["tls_port"], certificate)
    finally:
        process.stop()


class Benchmark:
    """One run: everything is started, measured in turn, stopped, and told."""

    def __init__(self, options: argparse.Namespace, console: Console, load: Path, to: Upstream) -> None:
        self.pace: Pace = PACES[options.pace]
        self.rounds_wanted: int = options.rounds or self.pace.rounds
        self.options = options
        self.console = console
        self.load = load
        self.upstream = to
        self.began = time.monotonic()
        self.load_at_start = [round(each, 2) for each in os.getloadavg()]
        self.wanted = options.measures.split(",") if options.measures else None
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.faults: list[str] = []
        self.stolen: list[float] = []
        self.waited: list[float] = []
        self.rounds: dict[str, dict[str, list[Result]]] = {}
        self.workers: dict[str, Any] = {}
        self.cold_start: dict[str, list[float]] = {}
        self.imports: dict[str, Any] = {}
        self.soaks: dict[str, Any] = {}
        self.capacity: dict[str, Any] = {}
        self.mixed: dict[str, Any] = {}

    def run(self) -> None:
        peers = self.prepare()
        with contextlib.ExitStack() as stack:
            running = self.start(peers, stack)
            self.measure(running)
        present = [each.peer for each in running]
        if self.wants("workers"):
            for peer in present:
                if peer.name == "shim":
                    self.measure_workers(peer)
        parts = [("soak", self.soak), ("abandoned", self.abandon), ("cold", self.start_cold)]
        for name, part in [*parts, ("capacity", self.climb), ("mixed", self.mix)]:
            if self.wants(name):
                try:
                    part(present)
                except Failed as reason:  # what half an hour has measured is told all the same
                    self.faults.append(f"{name}: {reason}")
        self.tell([peer.name for peer in peers])

    def wants(self, measure: str) -> bool:
        if self.wanted is None:
            return self.options.pace != "quick" or measure not in _LONG
        return measure in self.wanted

    def say(self, text: str) -> None:
        elapsed = int(time.monotonic() - self.began)
        self.console.print(f"[dim]{elapsed // 60:3d}:{elapsed % 60:02d}[/]  {text}", highlight=False)

    def prepare(self) -> list[Peer]:
        peers = all_peers(self.options.loop)
        if self.options.peers or self.options.pace == "quick":
            chosen = self.options.peers.split(",") if self.options.peers else list(_QUICK_PEERS)
            chosen = list(peers) if chosen == ["all"] else chosen
            if unknown := set(chosen) - set(peers):
                raise Failed(f"no such peer: {', '.join(unknown)}; there are {', '.join(peers)}")
            peers = {name: peer for name, peer in peers.items() if name in chosen}
        for name in peers:
            self.say(f"setting up {name}")
            try:
                self.versions[name] = environments.prepare(name)
            except Missing as reason:
                self.missing[name] = str(reason)
                self.say(f"[red]{name} is missing[/]: {reason}")
        if self.options.also:
            environments.prepare("shim")
        for peer in also(self.options):
            peers[peer.name] = peer
            self.versions[peer.name] = "another checkout"
        return list(peers.values())

    def start(self, peers: list[Peer], stack: contextlib.ExitStack) -> list[Running]:
        """Starts every peer, and pauses it until its turn, so that the core is always one peer's alone."""
        running = []
        for peer in peers:
            if peer.name in self.missing:
                continue
            try:
                started = Running.start(peer, self.upstream)
            except Failed as reason:
                self.missing[peer.name] = f"it was installed, but does not work: {reason}"
                self.say(f"[red]{peer.name} is missing[/]: {reason}")
                continue
            stack.callback(started.stop)
            if peer.name in _SLOW_STARTERS and self.wants("cold"):
                self.cold_start[peer.name] = [started.cold_start]
            for measure in MEASURES:
                if measure.name in ("json_32", "first_byte"):  # first calls of a kind import and compile
                    spec = measures.spec_for(measure, started, self.pace)
                    run_load(self.load, {**spec, "warmup": 0.0, "duration": 0.5})
            started.pause()
            running.append(started)
            self.say(f"started {peer.name} {self.versions[peer.name]}")
        return running

    def measure(self, running: list[Running]) -> None:
        chosen = [measure for measure in MEASURES if self.wants(measure.name)]
        for number in range(self.rounds_wanted):
            for measure in chosen:
                if number >= min(measure.rounds(self.pace), self.rounds_wanted):
                    continue
                # Each round begins with another peer.
                for each in running[number % len(running) :] + running[: number % len(running)]:
                    if measure.kind == "chat" or each.peer.files:
                        self.measure_one(number, measure, each)

    def measure_one(self, number: int, measure: Measure, running: Running) -> None:
        running.resume()
        try:
            result = run_load(self.load, measures.spec_for(measure, running, self.pace))
            if not result["requests"] and not result["events"] and not result["bytes"]:
                self.faults.append(f"{running.peer.name} hung after {measure.name}, and was started anew")
                running.restart(self.upstream)
        finally:
            running.pause()
        self.rounds.setdefault(measure.name, {}).setdefault(running.peer.name, []).append(result)
        self.stolen.append(result["stolen"])
        self.waited.append(result["waited"])
        where = f"round {number + 1}/{self.rounds_wanted}  {measure.name:12}  {running.peer.name:8}"
        self.say(f"{where}  {summary(measure, result)}")
        self.note_faults(f"{measure.name}, {running.peer.name}, round {number + 1}", result)

    def note_faults(self, where: str, result: Result) -> None:
        if result["errors"]:
            reasons = sorted(result["errors"].items(), key=lambda item: -item[1])[:3]
            told = "; ".join(f"{count} x {reason}" for reason, count in reasons)
            self.faults.append(f"{where}: {told} (of {result['requests']} good ones)")

    def measure_workers(self, peer: Peer) -> None:
        self.workers["cores"] = process_count.CORES
        rounds = min(self.pace.worker_rounds, self.rounds_wanted)
        with (
            upstream(self.load, "upstream-workers", BOTH_CORES) as to,
            process_count.started(peer, to, self.load, self.pace) as running,
        ):
            for number, row in itertools.product(range(rounds), process_count.ROWS):
                # Each round begins with another count.
                for count in process_count.COUNTS[:: -1 if number % 2 else 1]:
                    results = process_count.measure(row, running[:count], self.load, self.pace)
                    self.note_workers(f"round {number + 1}/{rounds}", row, results)

    def note_workers(self, where: str, row: figures.Row, results: list[Result]) -> None:
        count, rate = len(results), process_count.rate(row, results)
        stolen = max(result["stolen"] for result in results)
        self.stolen.append(stolen)
        noted = self.workers.setdefault(str(count), {"stolen": {}})
        noted.setdefault(row.name, []).append(rate)
        noted["stolen"].setdefault(row.name, []).append(stolen)
        told = "faulty" if rate is None else f"{rate:,.1f}"
        unit = row.title.rpartition(": ")[2]
        busy = f"{sum(map(measures.busy, results)):.0%} of a core"
        self.say(f"{where}  {row.measure:12}  workers {count}  {unit}: {told}, {busy}{disturbance(stolen)}")
        for result in results:
            self.note_faults(f"{row.measure}, workers {count}, {where}", result)

    def soak(self, peers: list[Peer]) -> None:
        """Many small requests to a fresh process, and its memory on the way."""
        for peer in peers:
            if peer.name in ("direct", "floor") or peer.name.startswith("nginx-"):
                continue
            is_shim = peer.invocation and peer.name != "naive"
            if not is_shim and self.options.pace == "quick":
                continue
            seconds = self.pace.soak_seconds / (1 if is_shim else 10)
            self.say(f"soak  {peer.name}: {self.pace.soak_requests:,} requests, at most {seconds:.0f} s")
            running = Running.start(peer, self.upstream, log=f"{peer.name}-soak")
            try:
                self.note_soak(peer.name, measures.soak_spec(running, self.pace.soak_requests, seconds))
            finally:
                running.stop()

    def abandon(self, peers: list[Peer]) -> None:
        """Many streams whose callers disconnect, and the shim's memory on the way."""
        for peer in peers:
            if peer.name in ("shim", "shim+tls"):
                self.say(f"abandoned streams  {peer.name}: {self.pace.soak_requests // 10:,}")
                running = Running.start(peer, self.upstream, log=f"{peer.name}-abandoned")
                try:
                    streams, seconds = self.pace.soak_requests // 10, self.pace.soak_seconds
                    self.note_soak(
                        f"{peer.name}, abandoned", measures.abandoned_spec(running, streams, seconds)
                    )
                finally:
                    running.stop()

    def note_soak(self, name: str, spec: dict[str, Any]) -> None:
        result = run_load(self.load, spec)
        samples: list[float] = result["samples"] or []  # the slowest do not come as far as the first
        whole = samples and result["requests"] >= spec["requests"] * 0.999
        self.soaks[name] = {
            "requests": result["requests"],
            "sample_every": spec["sample_every"],
            "memory_mib": [round(sample, 2) for sample in samples],
            "grown_over_last_half": round(samples[-1] - samples[len(samples) // 2 - 1], 2) if whole else None,
        }
        self.say(f"soak  {name}: grown over the last half: {self.soaks[name]['grown_over_last_half']} MiB")
        self.note_faults(f"soak, {name}", result)

    def climb(self, peers: list[Peer]) -> None:
        """More and more paced streams."""
        for peer in peers:
            if peer.name.startswith(("direct", "shim", "nginx-64k")):
                running = Running.start(peer, self.upstream, log=f"{peer.name}-capacity")
                steps = self.capacity.setdefault(peer.name, [])
                try:
                    for step in capacity.climb(running, self.load, self.pace):
                        steps.append(step.as_json())
                        self.stolen.append(step.stolen)
                        self.say(
                            f"capacity  {peer.name:8}  {step.streams} streams: {step.delivered:.1%} delivered, p99"
                            f" {step.p99:.1f} ms, {step.cpu_us_per_chunk:.1f} us per chunk{disturbance(step.stolen)}"
                        )
                finally:
                    running.stop()

    def mix(self, peers: list[Peer]) -> None:
        """Small calls beside streams, large bodies and callers who disconnect."""
        for peer in peers:
            if not peer.name.startswith(("direct", "shim", "nginx-64k")):
                continue
            self.say(f"mixed  {peer.name}: {self.pace.mixed:.0f} s")
            running = Running.start(peer, self.upstream, log=f"{peer.name}-mixed")
            try:
                found = self.mixed[peer.name] = mixed.measure(running, self.load, self.pace.mixed)
            finally:
                running.stop()
            self.stolen.append(found["stolen"])
            for name, part in found["parts"].items():
                self.say(
                    f"mixed  {peer.name:8}  {name:8} {part['calls']:6} calls, p50 {part['p50']:.1f} ms, p99"
                    f" {part['p99']:.1f} ms"
                )
                self.note_faults(f"mixed, {peer.name}, {name}", {**part, "requests": part["calls"]})

    def start_cold(self, peers: list[Peer]) -> None:
        left_out = ("direct", "floor", "shim", "shim+tls", *_SLOW_STARTERS)
        starting = [peer for peer in peers if peer.name not in left_out]
        with contextlib.ExitStack() as stack:
            if any(peer.name == "shim" for peer in peers):
                starting += stack.enter_context(cold.deployed(self.load))
            for number in range(self.pace.cold_starts):
                for peer in starting:
                    seconds = cold.measure(peer, self.upstream)
                    self.cold_start.setdefault(peer.name, []).append(seconds)
                    self.say(
                        f"cold start {number + 1}/{self.pace.cold_starts}  {peer.name:10}  {seconds:.2f} s"
                    )
            for peer in starting:
                if peer.invocation and not peer.name.endswith(cold.QUARTER):
                    self.imports[peer.name] = cold.imports(peer, self.upstream)

    def tell(self, peers: list[str]) -> None:
        self.say("done")
        told = {
            "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "pace": self.options.pace,
            "rounds": self.rounds_wanted,
            "seconds": round(time.monotonic() - self.began),
            "machine": {**machine(), "load_at_start": self.load_at_start},
            "versions": {**environments.versions(), "peers": self.versions},
            "peers": peers,
            "missing": self.missing,
            "stolen": shares(self.stolen),
            "waited": shares(self.waited),
            "faults": self.faults,
            "goals": figures.goals(self.rounds, self.cold_start, self.soaks, self.capacity, self.mixed),
            "figures": {
                row.name: {
                    peer: found.as_json()
                    for peer in self.rounds.get(row.measure, {})
                    if (found := figures.spread(self.rounds, row, peer))
                }
                for row in figures.ROWS
            },
            "workers": self.workers,
            "cold_start": self.cold_start,
            "imports": self.imports,
            "soak": self.soaks,
            "capacity": self.capacity,
            "mixed": self.mixed,
            "measures": self.rounds,
        }
        report.show(self.console, told, self.rounds)
        if self.options.no_save:
            return
        RESULTS.mkdir(exist_ok=True)
        latest = RESULTS / "latest.json"
        latest.write_text(json.dumps(told, indent=1) + "\n")
        drawn = plots.draw(told, self.rounds, RESULTS)
        self.console.print(f"Written: {', '.join(path.name for path in [latest, *drawn])}")
        self.console.print("The documents' figures follow with `make figures`.")


def summary(measure: Measure, result: Result) -> str:
    """A result in a few words, for the progress."""
    rows = [row for row in figures.ROWS if row.measure == measure.name]
    told = next(((row, value) for row in rows if (value := row.figure(result))), None)
    words = f"{told[0].title.rpartition(': ')[2]}: {told[1]:,.1f}" if told else "nothing good came back"
    delay = f", p99 delay {result['delay']['p99']:.1f} ms" if result["delay"]["count"] else ""
    return f"{words}{delay}, {measures.busy(result):.0%} of its core{disturbance(result['stolen'], result['waited'])}"


def shares(found: list[float]) -> dict[str, float] | None:
    return {"median": round(statistics.median(found), 3), "most": round(max(found), 3)} if found else None


def disturbance(stolen: float, waited: float = 0.0) -> str:
    kept = f", [red]{stolen:.0%} stolen by the host[/]" if stolen > STOLEN else ""
    return kept + (f", [red]waited {waited:.0%} of the time for others[/]" if waited > STOLEN else "")


def machine() -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": distribution(),
        "kernel": platform.release(),
    }


def distribution() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


if __name__ == "__main__":
    sys.exit(main())
