"""Runs tests on each mutant of a module, each in a fork of a process that has already imported what the tests import.

Started by scripts/mutants, in the copy of the work tree that it may change:
python tests/mutants/run.py FOLDER SECONDS MODULE TEST…

FOLDER has mutants.jsonl, and gets baseline.json (how long the tests take on the code as it is, what they import, and
which lines of the module each of them runs) and outcomes.jsonl, a line for each mutant: its number, and the test that
failed, or null if none did.
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
from collections import Counter, defaultdict
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest

TREE = Path.cwd()
OWN = ("shim", "tests", "devhost", "function_app")  # what may have changed is imported anew for each mutant
# A mutant may loop, which the timeout of a single test need not end. So many times what the tests take on the code as
# it is, and no less than so many seconds, for a busy machine; for a single test, so many times what the slowest takes.
PATIENCE, LEAST_PATIENCE, LEAST_TIMEOUT = 4, 8, 3
MEMORY = 4 << 30
# Asserts need not be rewritten: nobody reads what a failing one says. A test that hangs ends the process, since a loop
# that is in C, as uvloop is, need not let a signal's exception through.
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--timeout-method=thread"]
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
    """A pytest plugin: what runs the changed lines comes first, of that what has killed, and what starts no worker.

    `verdict` names the test that fails, with which all ends `at_once`: fixtures that wait for a mutant wait for long.
    """

    def __init__(
        self, verdict: Path, kills: Counter[str], concerned: frozenset[str], *, at_once: bool
    ) -> None:
        self.verdict = verdict
        self.at_once = at_once
        self.kills = kills
        self.concerned = concerned

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(
            key=lambda item: (
                item.nodeid not in self.concerned,
                -self.kills[item.nodeid],
                "start_host" in getattr(item, "fixturenames", ()),
            )
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.verdict.exists():
            self.verdict.write_text(report.nodeid)
            if self.at_once:
                os._exit(pytest.ExitCode.TESTS_FAILED)


class Lines:
    """A pytest plugin: the lines of a module that each test runs in this process, and how long the slowest takes."""

    def __init__(self, module: Path) -> None:
        self.by_test: dict[str, set[int]] = defaultdict(set)
        self.slowest = 0.0
        self._file = str(module.resolve())
        self._test = ""
        tool = sys.monitoring.COVERAGE_ID
        sys.monitoring.use_tool_id(tool, __name__)
        sys.monitoring.register_callback(tool, sys.monitoring.events.LINE, self._runs)
        sys.monitoring.set_events(tool, sys.monitoring.events.LINE)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        sys.monitoring.restart_events()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.slowest = max(self.slowest, report.duration)

    def _runs(self, code: CodeType, line: int) -> object:
        if code.co_filename == self._file:
            self.by_test[self._test].add(line)
        return sys.monitoring.DISABLE


def run(
    tests: list[str],
    folder: Path,
    kills: Counter[str],
    concerned: frozenset[str] = frozenset(),
    *,
    patience: float | None = None,
    timeout: float = 60,
    lines_of: Path | None = None,
) -> str | None:
    """The first test that fails on the tree as it is; None if all pass.

    With `lines_of`, a module, leaves found.json: what the tests import, and which of its lines each runs.
    """
    verdict = folder / "verdict"
    verdict.unlink(missing_ok=True)
    watch = Watch(verdict, kills, concerned, at_once=lines_of is None)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(tests, folder, watch, timeout, lines_of)
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


def _child(tests: list[str], folder: Path, watch: Watch, timeout: float, lines_of: Path | None) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Bytecode is kept of the code as it is. Of a mutant, the next of the same length would be taken for it.
    sys.dont_write_bytecode = lines_of is None
    if lines_of is None:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    hypothesis.settings.load_profile("mutants")
    lines = Lines(lines_of) if lines_of else None
    code = pytest.main([*OPTIONS, f"--timeout={timeout}", *tests], plugins=[watch, *filter(None, [lines])])
    if lines:
        others = [name for name in sys.modules if name.partition(".")[0] not in OWN]
        by_test = {test: sorted(numbers) for test, numbers in lines.by_test.items()}
        (folder / "found.json").write_text(
            json.dumps({"imports": others, "lines": by_test, "slowest": lines.slowest})
        )
    sys.stdout.flush()
    os._exit(code)


def baseline(module: Path, tests: list[str], folder: Path) -> Any:
    file = folder / "baseline.json"
    if not file.exists():
        started = time.monotonic()
        if failed := run(tests, folder, Counter(), lines_of=module):
            sys.exit(f"{failed} fails without a mutant:\n{(folder / 'output.txt').read_text()[-2000:]}")
        for compiled in module.parent.glob(f"__pycache__/{module.stem}.*.pyc"):
            compiled.unlink()
        seconds = time.monotonic() - started
        file.write_text(json.dumps({"seconds": seconds, **json.loads((folder / "found.json").read_text())}))
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
    timeout = max(LEAST_TIMEOUT, PATIENCE * known["slowest"])
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
                mutant = json.loads(line)
                concerned = frozenset(
                    test for test, runs in known["lines"].items() if not set(runs).isdisjoint(mutant["lines"])
                )
                module.write_text(mutant["source"])
                started = time.monotonic()
                killer = run(tests, folder, kills, concerned, patience=patience, timeout=timeout)
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
