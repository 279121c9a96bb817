"""Imports point one way, and each outside library has its one place.

That is what keeps the rules pure and a cold start short; a single careless import undoes either, and nothing else
fails.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The rooms of shim/, in the order in which they build on each other: a file may import from its own room and from
# those above it.
LAYERS = [
    {"headers"},
    {"errors", "settings"},
    {"monitoring"},
    {"cors", "keys"},
    {"auth"},
    {"call"},
    {"upstream"},
    {"answer"},
    {"app", "worker"},
    {"service", "cli"},
    {"function_app", "__main__"},
]
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# Which files and folders may import a library.
PLACES = {
    "azure.functions": {"function_app"},
    "azurefunctions": {"worker.extension", "worker.server"},
    "azure_functions_runtime": {"worker.invocations"},
    "azure.identity": {"keys.azure", "monitoring.exporters", "cli.usage"},
    "azure.keyvault": {"keys"},
    "azure.core": {"keys.azure", "cli.doctor", "cli.usage", "monitoring.exporters"},
    "azure.monitor.opentelemetry": {"monitoring.exporters"},
    "azure.monitor.query": {"cli.usage"},
    "opentelemetry": {
        "monitoring.exporters",
        "monitoring.exporting",
        "monitoring.points",
        "monitoring.spans",
        "monitoring.trace_export",
    },
    "azure.mgmt": {"keys.azure"},
    "typer": {"cli", "__main__"},
    "rich": {"cli"},
    "httpx": {"upstream", "cli.doctor"},
    "aiohappyeyeballs": {"upstream.transport", "keys.azure.sockets"},
    "httptools": {"upstream.connection", "worker.protocol"},
    "aiohttp": {"keys.azure.transport"},
    "multipart": {"call.body", "call.model_in_form"},
}
FILES = sorted([ROOT / "function_app.py", *(ROOT / "shim").rglob("*.py")])
PURE = {
    "answer.apim_errors", "answer.head", "answer.models", "answer.retirement", "call.json_top_level",
    "call.model_in_form", "call.model_in_json", "call.operations", "call.parse", "call.paths", "call.query",
    "call.rewrite", "call.routes", "call.splice", "cors", "headers", "settings.origins", "settings.retirement",
    "monitoring.clients", "monitoring.counts", "monitoring.operation", "monitoring.tracing",
    "monitoring.usage",
    "cli.usage.query", "cli.usage.report",
}  # fmt: skip
INPUT_OUTPUT = {
    "asyncio",
    "socket",
    "aiohttp",
    "httpx",
    "os",
    "pathlib",
    "tempfile",
    "open",
    "time",
    "logging",
}


def module_of(file: Path) -> str:
    """The file's name below `shim`, dotted; a folder's own is that of its __init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("shim", "__init__"))


def room_of(module: str) -> str:
    return module.partition(".")[0]


def is_in(module: str, places: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


CASES = [
    pytest.param(module_of(file), file, id=str(file.relative_to(ROOT)))
    for file in FILES
    if file != ROOT / "shim" / "__init__.py"
]


@pytest.mark.parametrize(("module", "file"), CASES)
def test_imports_point_one_way(module: str, file: Path) -> None:
    for name in imports(ast.parse(file.read_text())):
        if name.startswith("shim."):
            room, imported = room_of(module), room_of(name.removeprefix("shim."))
            assert imported == room or LEVELS[imported] < LEVELS[room], f"{module} must not import {name}"


def test_no_two_files_import_each_other_by_any_way_round() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    modules = {module_of(file) for file in FILES}
    for file in FILES:
        for name in imports(ast.parse(file.read_text())):
            target = name.removeprefix("shim.")
            found = target if target in modules else target.rpartition(".")[0]
            # A folder's own __init__.py gathers what is in it.
            if name.startswith("shim.") and found in modules and found != room_of(module_of(file)):
                sorter.add(module_of(file), found)
    sorter.prepare()  # raises CycleError


@pytest.mark.parametrize(("module", "file"), CASES)
def test_each_library_has_its_place(module: str, file: Path) -> None:
    for name in imports(ast.parse(file.read_text())):
        for library, places in PLACES.items():
            if f"{name}.".startswith(f"{library}."):
                assert is_in(module, places), f"{module} must not import {name}"


@pytest.mark.parametrize(("module", "file"), [case for case in CASES if case.values[0] in PURE])
def test_rules_do_no_input_or_output(module: str, file: Path) -> None:
    used = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))}
    assert used & INPUT_OUTPUT == set()


def test_the_house_stays_small_enough_to_find_ones_way_in() -> None:
    entries = [path for path in (ROOT / "shim").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16
    for file in FILES:
        source = file.read_text()
        assert source.count("\n") <= 320, f"{file} is too long"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} in {file} is too long"


def test_nothing_deployed_imports_what_is_not() -> None:
    for file in FILES:
        for name in imports(ast.parse(file.read_text())):
            assert name.split(".")[0] not in {"devhost", "tests", "bench"}


def test_importing_the_app_loads_nothing_that_only_operators_or_the_vault_need() -> None:
    # As in Azure, where these are not installed. (httpx imports rich for its own command line where it can.)
    script = """
import json, os, sys
sys.modules.update(typer=None, rich=None)
os.environ.update(
    APIM_BASE_URL="https://a.example/openai",
    KEY_VAULT_URL="https://v.vault.azure.net",
    APIM_RESOURCE_ID="/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/a",
)
import function_app
print(json.dumps([name for name, module in sys.modules.items() if module]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unwanted = (
        "typer", "rich", "shim.cli", "azure.core", "azure.identity", "azure.keyvault", "azure.mgmt",
        "azure.monitor", "opentelemetry",
    )  # fmt: skip
    prefixes = tuple(f"{name}." for name in unwanted)
    assert [name for name in json.loads(done.stdout) if f"{name}.".startswith(prefixes)] == []


@pytest.mark.static
def test_each_test_file_says_what_it_holds_and_why_that_matters() -> None:
    """So that whoever breaks one of its tests can tell what for."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    said = {file.name: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    assert [name for name, text in said.items() if len(text.split()) < 15 or not text.endswith(".")] == []
