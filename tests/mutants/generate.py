"""Prints the mutants of a module, one JSON object a line: the changed line before and after, and the module's text.

Runs in the environment of requirements-mutants.txt: python tests/mutants/generate.py shim/cors.py
"""

import difflib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


def mutants(source: str, excluded: re.Pattern[str], equivalent: re.Pattern[str]) -> Iterator[dict[str, str]]:
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
            before, after = changed_lines(source, mutated)
            if not equivalent.search(after):
                yield {"before": before, "after": after, "source": mutated}


def changed_lines(source: str, mutated: str) -> tuple[str, str]:
    lines = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0))[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return before, after


def main(module: str) -> None:
    config = tomllib.loads(Path(__file__).with_name("cosmic-ray.toml").read_text())
    excluded, equivalent = (
        re.compile("|".join(config[key])) for key in ("exclude-operators", "exclude-lines")
    )
    for mutant in mutants(Path(module).read_text(), excluded, equivalent):
        print(json.dumps(mutant))


if __name__ == "__main__":
    main(sys.argv[1])
