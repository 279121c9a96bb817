"""What scripts/mutants is told of the code holds: a stale entry would leave a module untested, or excuse a survivor.

And a mutant that hangs is ended soon.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.static


def read(name: str) -> Any:
    return tomllib.loads((ROOT / "tests" / "mutants" / name).read_text())


def test_modules_and_their_tests_are_there() -> None:
    tests: dict[str, list[str]] = read("modules.toml")["tests"]
    named = {name for module, files in tests.items() for name in (module, *files) if name[0] != "-"}
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    assert all(tests.values())


def test_a_survivor_is_excused_for_a_line_that_is_there_and_with_a_reason() -> None:
    for survivor in read("survivors.toml")["survivor"]:
        lines = [line.strip() for line in (ROOT / survivor["module"]).read_text().splitlines()]
        assert survivor["before"] in lines, survivor
        if "after" in survivor:
            assert survivor["after"] != survivor["before"]
        else:  # whichever number it is
            assert re.match(r"_?[A-Z_]+(: \w+)? = ", survivor["before"]), survivor
        assert len(survivor["reason"].split()) > 4, survivor


def test_a_mutant_that_hangs_is_ended_by_the_timeout_of_its_test(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "folder"
    for part in (tree / "shim", tree / "tests", folder):
        part.mkdir(parents=True)
    module, test = Path("shim/module.py"), Path("tests/test_module.py")
    (tree / module).write_text("HANGS = False\n")
    (tree / test).write_text(
        "import time\nfrom shim.module import HANGS\n\n\n"
        "def test_ends():\n    while HANGS:\n        time.sleep(0.1)\n"
    )
    mutant = {"before": "HANGS = False", "after": "HANGS = True", "lines": [1], "source": "HANGS = True\n"}
    (folder / "mutants.jsonl").write_text(json.dumps(mutant))
    runner = ROOT / "tests" / "mutants" / "run.py"
    subprocess.run([sys.executable, runner, folder, "60", module, test], cwd=tree, check=True)
    [outcome] = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    # Not "timeout", which is the end of the patience with all of the tests.
    assert outcome["killer"] == "pytest's exit code 1"
