"""Runs tests on each mutant of a module, each in a fork of a process that has already imported what the tests import.

Started by scripts/mutants, in the copy of the work tree that it may change:
python tests/mutants/run.py FOLDER SECONDS MODULE TEST…

FOLDER has mutants.jsonl, and gets baseline.json (how long the tests take on the code as it is, and what they import)
and outcomes.jsonl, a line for each mutant: its number, and the test that failed, or null if none did.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest

TREE = Path.cwd()
OWN = ("shim", "tests", "devhost", "function_app")  # what may have changed is imported anew for each mutant
# A mutant may loop, which the timeout of a single test need not end. So many times what the tests take on the code as
# it is, and no less than so many seconds, for a busy machine.
PATIENCE, LEAST_PATIENCE = 4, 8
MEMORY = 4 << 30
# Asserts need not be rewritten: nobody reads what a failing one says.
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--timeout=10"]
# Random examples would give another outcome each time; that one fails is enough, whatever the smallest is.
hypothesis.settings.register_profile(
    "mutants",
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


class Watch:
    """A pytest plugin: what has killed runs first, then what starts no worker. `verdict` names the test that fails."""

    def __init__(self, verdict: Path, kills: Counter[str]) -> None:
        self.verdict = verdict
        self.kills = kills

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(
            key=lambda item: (-self.kills[item.nodeid], "start_host" in getattr(item, "fixturenames", ()))
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.verdict.exists():
            self.verdict.write_text(report.nodeid)


def run(tests: list[str], folder: Path, kills: Counter[str], patience: float | None = None) -> str | None:
    """The first test that fails on the tree as it is; None if all pass."""
    verdict = folder / "verdict"
    verdict.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(tests, folder, Watch(verdict, kills), patience is None)
    )
    process.start()
    try:
        process.join(patience)
        if process.is_alive():
            return "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    if process.exitcode == pytest.ExitCode.OK:
        return None
    return verdict.read_text() if verdict.exists() else f"pytest's exit code {process.exitcode}"


def _child(tests: list[str], folder: Path, watch: Watch, baseline: bool) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Bytecode is kept of the code as it is. Of a mutant, the next of the same length would be taken for it.
    sys.dont_write_bytecode = not baseline
    if not baseline:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    hypothesis.settings.load_profile("mutants")
    code = pytest.main([*OPTIONS, *tests], plugins=[watch])
    if baseline:
        others = [name for name in sys.modules if name.partition(".")[0] not in OWN]
        (folder / "imports.json").write_text(json.dumps(others))
    sys.stdout.flush()
    os._exit(code)


def baseline(module: Path, tests: list[str], folder: Path) -> Any:
    file = folder / "baseline.json"
    if not file.exists():
        started = time.monotonic()
        if failed := run(tests, folder, Counter()):
            sys.exit(f"{failed} fails without a mutant:\n{(folder / 'output.txt').read_text()[-2000:]}")
        for compiled in module.parent.glob(f"__pycache__/{module.stem}.*.pyc"):
            compiled.unlink()
        seconds = time.monotonic() - started
        file.write_text(
            json.dumps({"seconds": seconds, "imports": json.loads((folder / "imports.json").read_text())})
        )
    return json.loads(file.read_text())


def preload(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # pytest collects garbage at its end: a quarter of a second, were it to look at all of this


def main(folder: Path, ends: float, module: Path, tests: list[str]) -> None:
    sys.path.insert(0, str(TREE))
    original = module.read_bytes()
    known = baseline(module, tests, folder)
    preload(known["imports"])
    patience = max(LEAST_PATIENCE, PATIENCE * known["seconds"])
    outcomes = folder / "outcomes.jsonl"
    done = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
    kills = Counter(outcome["killer"] for outcome in done if outcome["killer"])
    numbers = {outcome["number"] for outcome in done}
    try:
        with (folder / "mutants.jsonl").open() as mutants, outcomes.open("a") as found:
            for number, line in enumerate(mutants):
                if number in numbers:
                    continue
                if time.monotonic() > ends:
                    break
                module.write_text(json.loads(line)["source"])
                started = time.monotonic()
                killer = run(tests, folder, kills, patience)
                kills.update([killer] if killer else [])
                seconds = round(time.monotonic() - started, 2)
                print(
                    json.dumps({"number": number, "killer": killer, "seconds": seconds}),
                    file=found,
                    flush=True,
                )
    finally:
        module.write_bytes(original)


if __name__ == "__main__":
    main(Path(sys.argv[1]), time.monotonic() + float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
