"""What scripts/mutants is told of the code holds: a stale entry would leave a module untested, or excuse a survivor."""

import re
import tomllib
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
