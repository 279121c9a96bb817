"""docs/platform.md names what there is.

It is where each fact about the platform has its source, and a stale one would be believed.
"""

import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "platform.md").read_text()
TESTS = "\n".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_fact_is_held_by_a_test_that_exists(name: str) -> None:
    assert f"def {name}(" in TESTS


def test_a_fact_is_imitated_where_the_page_says() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 5]
    facts = [row for row in rows if row[4].strip().startswith(("`test_", "the same"))]
    assert len(facts) > 15
    for row in facts:
        for file in re.findall(r"`(\w+\.py)`", row[3]):
            assert (ROOT / "devhost" / file).exists(), file
