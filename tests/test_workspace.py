"""The editor and the dev container run what the Makefile knows, on the Python of these tests.

A set-up that drifts from the Makefile costs each newcomer an afternoon.
"""

import json
import re
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

FILES = [*(ROOT / ".vscode").glob("*.json"), ROOT / ".devcontainer/devcontainer.json"]


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_files_are_plain_json(file: Any) -> None:
    assert json.loads(file.read_text())


def test_every_target_that_they_make_is_in_the_makefile() -> None:
    made = {word for file in FILES for word in re.findall(r"make ([\w./-]+)", file.read_text())}
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"start", "test", "check", "package"} <= made <= targets


def test_configurations_run_modules_and_tasks_that_exist() -> None:
    tasks = {task["label"] for task in read(".vscode/tasks.json")["tasks"]}
    for configuration in read(".vscode/launch.json")["configurations"]:
        assert configuration.get("preLaunchTask") in {None, *tasks}
        if module := configuration.get("module"):
            assert (ROOT / module / "__main__.py").exists()


def test_the_container_has_the_python_and_the_extensions_that_the_editor_wants() -> None:
    container = read(".devcontainer/devcontainer.json")
    assert container["image"].endswith(f":{sys.version_info.major}.{sys.version_info.minor}")
    recommended = read(".vscode/extensions.json")["recommendations"]
    assert container["customizations"]["vscode"]["extensions"] == recommended


def test_the_debugger_attaches_where_core_tools_make_the_worker_listen() -> None:
    (attach,) = (
        each for each in read(".vscode/launch.json")["configurations"] if each["request"] == "attach"
    )
    (start,) = (
        task for task in read(".vscode/tasks.json")["tasks"] if task["label"] == attach["preLaunchTask"]
    )
    assert attach["connect"] == {"host": "127.0.0.1", "port": 9091}
    arguments = start["options"]["env"]["languageWorkers__python__arguments"]
    assert arguments == "-m debugpy --listen 127.0.0.1:9091"


def test_the_container_brings_the_tools_of_a_deployment_and_an_environment() -> None:
    container = read(".devcontainer/devcontainer.json")
    assert {name.rpartition("/")[2].partition(":")[0] for name in container["features"]} == {
        "azure-cli",
        "node",
        "azd",
    }
    assert container["postCreateCommand"].split(" && ") == [
        "npm install --global azure-functions-core-tools@4",
        "make .venv/installed",
    ]
    assert container["forwardPorts"] == [7071]
