"""Prints the mutants of a module, one JSON object a line: the changed line before and after, and the module's text.

`lines` has the numbers of the module's lines that changed.

Runs in the environment of requirements-mutants.txt: python tests/mutants/generate.py shim/answer/cors.py
"""

import difflib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


def mutants(source: str, excluded: re.Pattern[str], equivalent: re.Pattern[str]) -> Iterator[dict[str, Any]]:
    nodes = list(ast_nodes(get_ast(source)))
    seen = set()
    for name in operator_names():
        kind = get_operator(name)
        if excluded.match(name) or kind.arguments():
            continue
        for occurrence in range(sum(len(list(kind().mutation_positions(node))) for node in nodes)):
            try:
                mutated = mutate_code(source, kind(), occurrence)
            except AttributeError:  # its replacer of exceptions takes no names with a dot
                continue
            if mutated is None or mutated in seen:
                continue
            seen.add(mutated)
            mutant = change(source, mutated)
            if not equivalent.search(mutant["after"]):
                yield mutant | {"source": mutated}


def change(source: str, mutated: str) -> dict[str, Any]:
    """The lines that differ: their text before and after, and their numbers in `source`."""
    old, new = source.splitlines(), mutated.splitlines()
    before: list[str] = []
    after: list[str] = []
    numbers: list[int] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            before += old[i:j]
            after += new[k:m]
            numbers += range(i + 1, j + 1)
    return {"before": _joined(before), "after": _joined(after), "lines": numbers}


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def main(module: str) -> None:
    config = tomllib.loads(Path(__file__).with_name("cosmic-ray.toml").read_text())
    excluded, equivalent = (
        re.compile("|".join(config[key])) for key in ("exclude-operators", "exclude-lines")
    )
    for mutant in mutants(Path(module).read_text(), excluded, equivalent):
        print(json.dumps(mutant))


if __name__ == "__main__":
    main(sys.argv[1])
