"""What the shim knows about the insides of other packages is there, and docs/runtime.md says what it is for.

A new version may rename any of it without notice.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from azure_functions_runtime import http_v2
from azurefunctions.extensions import base

from tests.conftest import ROOT

# Whose insides they are: by what the code calls it, what docs/runtime.md calls it, and the class or module.
OWNERS: dict[str, tuple[str, Any]] = {
    "base": ("base", base),
    "base.WebApp": ("base.WebApp", base.WebApp),
    "base.WebServer": ("base.WebServer", base.WebServer),
    "base.RequestSynchronizer": ("base.RequestSynchronizer", base.RequestSynchronizer),
    "self._coordinator": ("http_coordinator", http_v2.HttpCoordinator),
    "entry": ("AsyncContextReference", http_v2.AsyncContextReference),
}
MODULES = [http_v2]


def has(owner: Any, name: str) -> bool:
    """Whether a module or a class has it, or its instances are given it."""
    assigned = rf"\bself\.{name}(: .+)? = "
    return hasattr(owner, name) or (
        inspect.isclass(owner) and re.search(assigned, inspect.getsource(owner)) is not None
    )


def used() -> set[str]:
    """The names in shim/worker of what belongs to one of the owners, as docs/runtime.md writes them."""
    return {
        name
        for file in (ROOT / "shim/worker").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in names_in(node)
    }


def names_in(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.ImportFrom(module=str(module)):
            yield from (alias.name for alias in node.names if module in {m.__name__ for m in MODULES})
        case ast.Attribute(value=value, attr=attr) if ast.unparse(value) in OWNERS:
            yield f"{OWNERS[ast.unparse(value)][0]}.{attr}"
        case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(str(attr)), *_]):
            if ast.unparse(value) in OWNERS:
                yield f"{OWNERS[ast.unparse(value)][0]}.{attr}"
        case ast.ClassDef(bases=[only]) if ast.unparse(only) in OWNERS:
            shown, owner = OWNERS[ast.unparse(only)]
            # What is inherited and used, and what is overridden.
            mine = (child for child in ast.walk(node) if isinstance(child, ast.Attribute))
            names = {child.attr for child in mine if ast.unparse(child.value) in ("self", "super()")}
            names |= {
                child.name for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            yield from (f"{shown}.{name}" for name in names if name[0] != "_" and has(owner, name))


def listed() -> set[str]:
    """The names in the tables of docs/runtime.md."""
    return set(re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs/runtime.md").read_text(), re.MULTILINE))


def test_the_page_lists_what_the_code_uses_and_nothing_else() -> None:
    assert used() == listed()
    assert len(listed()) > 20


@pytest.mark.parametrize("name", sorted(listed()))
def test_what_the_shim_knows_the_insides_of_is_there(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    owners = [found for shown, found in OWNERS.values() if shown == owner] if owner else MODULES
    assert any(has(found, attribute) for found in owners), (
        f"{name} is gone: docs/runtime.md says what that means"
    )


# The worker reads function_app.py, and takes an app for FastAPI's by these, in a comment too:
# https://github.com/Azure/azure-functions-python-worker/blob/0320cd799cfa243ea037f4c931439f79d4d7fe29/workers/proxy_worker/dispatcher.py
SIGNS_OF_FASTAPI = ["FastAPI(", "from fastapi import"]


@pytest.mark.parametrize("sign", [*SIGNS_OF_FASTAPI, "fastapi", "flask", "django"])
def test_the_worker_takes_the_app_for_no_other_frameworks(sign: str) -> None:
    assert sign.casefold() not in (ROOT / "function_app.py").read_text(encoding="utf-8").casefold()


def test_the_file_that_the_worker_reads_is_the_one_that_holds_the_functions() -> None:
    """It may be told of another: PYTHON_SCRIPT_FILE_NAME."""
    sample = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    assert "PYTHON_SCRIPT_FILE_NAME" not in sample
    assert not [
        file for file in (ROOT / "infra").rglob("*.bicep") if "PYTHON_SCRIPT_FILE_NAME" in file.read_text()
    ]
    assert "FunctionApp(" in (ROOT / "function_app.py").read_text()
