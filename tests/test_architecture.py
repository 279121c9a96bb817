"""Imports point one way, and each outside library has its one place.

That is what keeps the rules pure and a cold start short; a single careless import undoes either, and nothing else
fails.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

# The rooms of shim/, in the order in which they build on each other: a file may import from its own room and from
# those above it.
LAYERS = [
    {"headers"},
    {"asgi", "errors", "settings"},
    {"monitoring", "transport"},
    {"keys"},
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
PLACES: dict[str, set[str]] = {
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
    "httpx": {"transport.through_httpx", "cli.doctor"},
    "aiohappyeyeballs": {"transport.direct", "transport.sockets"},
    "h11": {"transport.through_httpx"},
    "httptools": {"transport.connection", "worker.protocol"},
    # Nowhere: a part of any is a part of a cold start.
    "aiohttp": set(),
    "uvicorn": set(),
    "starlette": set(),
    "multipart": {"call.body", "call.model_in_form"},
}
FILES = sorted([ROOT / "function_app.py", *(ROOT / "shim").rglob("*.py")])
PURE = {
    "answer.apim_errors", "answer.head", "answer.models", "answer.retirement", "asgi", "call.json_top_level",
    "call.model_in_form", "call.model_in_json", "call.operations", "call.parse", "call.paths", "call.query",
    "call.rewrite", "call.routes", "call.splice", "answer.cors", "headers", "settings.origins", "settings.retirement",
    "monitoring.clients", "monitoring.counts", "monitoring.operation", "monitoring.tracing",
    "monitoring.usage",
    "cli.usage.query", "cli.usage.report", "transport.wire",
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
    assert len(entries) <= 17
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


def in_a_process_of_its_own(script: str, **settings: str) -> Any:
    """What `script` prints, as JSON, in an app with these settings."""
    least = {
        "APIM_BASE_URL": "https://a.example/openai",
        "KEY_VAULT_URL": "https://v.vault.azure.net",
        "APIM_RESOURCE_ID": "/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/a",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PATH": os.environ["PATH"], **least, **settings},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


# Without typer and rich, as in Azure. (Stock httpx imports rich for its own command line where it can.)
LOADED = """
import json, sys
sys.modules.update(typer=None, rich=None)
import function_app
print(json.dumps([name for name, module in sys.modules.items() if module]))
"""


def test_importing_the_app_loads_nothing_that_only_operators_the_vault_or_another_server_need() -> None:
    unwanted = (
        "typer", "rich", "click", "shim.cli", "azure.core", "azure.identity", "azure.keyvault", "azure.mgmt",
        "azure.monitor", "opentelemetry", "httpx", "httpcore", "h11", "anyio", "uvicorn", "starlette",
    )  # fmt: skip
    prefixes = tuple(f"{name}." for name in unwanted)
    assert [name for name in in_a_process_of_its_own(LOADED) if f"{name}.".startswith(prefixes)] == []


def test_the_azure_sdk_loads_no_http_client_of_its_own() -> None:
    """With aiohttp it took two fifths more CPU to load (docs/architecture.md)."""
    script = """
import asyncio, json, os, sys
import function_app
from shim.keys.azure.api_management import Apim
from shim.keys.azure.key_vault import VaultSecrets
async def load():
    for in_azure in (True, False):
        secrets = VaultSecrets(os.environ["KEY_VAULT_URL"], in_azure=in_azure)
        await secrets.warm()
        await secrets.close()
    async with Apim(os.environ["APIM_RESOURCE_ID"], resource_manager_url="https://management.azure.com"):
        pass
asyncio.run(load())
print(json.dumps([name for name in sys.modules if "." not in name or name.count(".") == 2]))
"""
    loaded = set(in_a_process_of_its_own(script))
    assert {"azure.keyvault.secrets", "azure.identity.aio", "azure.mgmt.apimanagement"} <= loaded
    assert {"aiohttp", "multidict", "yarl", "httpx", "trio"} & loaded == set()


@pytest.mark.parametrize(
    ("setting", "value"), [("UPSTREAM_TRANSPORT", "httpx"), ("HTTPS_PROXY", "http://proxy.example:3128")]
)
def test_httpx_is_loaded_at_the_start_where_it_carries_the_calls(setting: str, value: str) -> None:
    """Not by the first call, which would wait for it."""
    loaded = in_a_process_of_its_own(LOADED, **{setting: value})
    assert "httpx" in loaded
    assert {"uvicorn", "starlette"} & set(loaded) == set()


def test_the_collector_is_off_while_the_app_is_imported_and_on_as_soon_as_it_serves() -> None:
    script = """
import gc, json, sys
imported, collections = [], []
gc.callbacks.append(lambda phase, _: collections.append(phase))
sys.addaudithook(lambda event, given: imported.append((given[0], gc.isenabled())) if event == "import" else None)
collections.clear()
import function_app
afterwards, found = gc.isenabled(), list(collections)
from shim.worker import memory
memory.settle()
collecting = [name for name, enabled in imported if enabled]
print(json.dumps({
    "collecting": collecting, "imported": len(imported), "collections": found, "then": afterwards,
    "serving": gc.isenabled(),
}))
"""
    told = in_a_process_of_its_own(script)
    assert told.pop("imported") > 100
    assert told == {"collecting": ["function_app"], "collections": [], "then": False, "serving": True}


@pytest.mark.static
def test_each_test_file_says_what_it_holds_and_why_that_matters() -> None:
    """So that whoever breaks one of its tests can tell what for."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    said = {file.name: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    assert [name for name, text in said.items() if len(text.split()) < 15 or not text.endswith(".")] == []
