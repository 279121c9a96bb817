"""Imports point one way, and each outside library has its one place."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A module may import from its own layer and from those before it.
LAYERS = [
    {"origins", "errors", "diagnosis", "operations", "splice"},
    {"settings", "headers", "model_in_json", "model_in_form", "connection"},
    {"keys", "cors", "caller", "transport", "apim_errors", "models"},
    {"auth", "routes"},
    {"body"},
    {"rewrite"},
    {"upstream"},
    {"streaming", "answer"},
    {"app", "health"},
    {"service", "functions_http", "cli", "doctor"},
    {"function_app", "__main__"},
]
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# Which modules may import a library.
PLACES = {
    "azure.functions": {"function_app"},
    "azurefunctions": {"functions_http"},
    "azure_functions_runtime": {"functions_http"},
    "azure.identity": {"keys"},
    "azure.keyvault": {"keys"},
    "azure.mgmt": {"keys"},
    "typer": {"cli", "__main__"},
    "rich": {"cli"},
    "httpx": {"upstream", "transport", "connection", "doctor"},
    "httptools": {"connection"},
    "aiohttp": set(),
    "uvicorn": {"functions_http"},
    "multipart": {"body", "model_in_form"},
    "msgspec": {"model_in_json"},
}
FILES = sorted([ROOT / "function_app.py", *(ROOT / "shim").rglob("*.py")])
PURE = {"cors", "routes", "rewrite", "headers", "origins", "operations", "models", "apim_errors", "splice"}
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


def module_of(parts: tuple[str, ...]) -> str:
    """The first name below `shim`."""
    return parts[1] if parts[0] == "shim" and len(parts) > 1 else parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


CASES = [
    pytest.param(
        module_of(file.relative_to(ROOT).with_suffix("").parts), file, id=str(file.relative_to(ROOT))
    )
    for file in FILES
    if file.name != "__init__.py" or file.parent.name in ("keys", "cli")
]


@pytest.mark.parametrize(("module", "file"), CASES)
def test_imports_point_one_way(module: str, file: Path) -> None:
    for name in imports(ast.parse(file.read_text())):
        if name.startswith("shim."):
            imported = module_of(tuple(name.split(".")))
            if imported in LEVELS and imported != module:
                assert LEVELS[imported] <= LEVELS[module], f"{module} must not import {name}"


@pytest.mark.parametrize(("module", "file"), CASES)
def test_each_library_has_its_place(module: str, file: Path) -> None:
    for name in imports(ast.parse(file.read_text())):
        for library, places in PLACES.items():
            if f"{name}.".startswith(f"{library}."):
                assert module in places, f"{module} must not import {name}"


@pytest.mark.parametrize(("module", "file"), [case for case in CASES if case.values[0] in PURE])
def test_rules_do_no_input_or_output(module: str, file: Path) -> None:
    used = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))}
    assert used & INPUT_OUTPUT == set()


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
    unwanted = ("typer", "rich", "shim.cli", "azure.core", "azure.identity", "azure.keyvault", "azure.mgmt")
    prefixes = tuple(f"{name}." for name in unwanted)
    assert [name for name in json.loads(done.stdout) if f"{name}.".startswith(prefixes)] == []
