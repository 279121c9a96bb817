"""What GitHub runs: everyone's own commands, actions pinned by commit, and deployments that hold no secret.

A workflow has the rights to publish; an unpinned action would have them too. The commands themselves are the
Makefile's: one that checked less would pass everywhere.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def workflow(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
    return content


def steps(content: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in content["jobs"].values() for step in job["steps"]]


def test_ci_runs_the_commands_that_contributors_run() -> None:
    commands = [step["run"] for step in steps(workflow("ci.yml")) if "run" in step]
    made = [command for command in commands if command.startswith("make")]
    assert made == ["make check", "make test", "make test-asyncio"]
    elsewhere = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in elsewhere if line.startswith("make")] == made


@each_workflow
def test_actions_are_pinned_by_commit_and_say_which_version_that_is(file: Any) -> None:
    used = re.findall(r"uses: (.*)", file.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@each_workflow
def test_workflows_may_only_read_and_keep_no_credentials(file: Any) -> None:
    content = workflow(file.name)
    assert content["permissions"]["contents"] == "read"
    assert "${{ secrets" not in file.read_text()
    for step in steps(content):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", ["azure-dev.yml", "publish.yml"])
def test_deployments_are_started_by_hand_and_sign_in_with_githubs_own_token(name: str) -> None:
    content = workflow(name)
    # YAML 1.1 takes the key `on` for a truth value.
    assert set(content[True]) == {"workflow_dispatch"}
    assert content["permissions"]["id-token"] == "write"


def test_a_deployment_hands_on_every_choice_of_the_infrastructure() -> None:
    """One that were left out would be reset to its default at the next deployment."""
    parameters = (ROOT / "infra" / "main.parameters.json").read_text()
    assert json.loads(parameters)
    chosen = {
        name for name in re.findall(r"\$\{(\w+)", parameters) if not name.startswith("AZURE_PRINCIPAL_")
    }
    (job,) = workflow("azure-dev.yml")["jobs"].values()
    handed_on = {name: value for name, value in job["env"].items() if value == f"${{{{ vars.{name} }}}}"}
    assert handed_on == job["env"]
    assert chosen == set(handed_on) - {"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID"}


def test_ci_runs_for_every_change_and_may_publish_nothing() -> None:
    content = workflow("ci.yml")
    assert content[True] == {"push": {"branches": ["main"]}, "pull_request": None}
    assert content["permissions"] == {"contents": "read"}
    # A newer push makes the older run pointless, and no other branch's.
    assert content["concurrency"] == {"group": "ci-${{ github.ref }}", "cancel-in-progress": True}
    (job,) = content["jobs"].values()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert job["container"] == {"image": f"python:{python}-trixie", "options": "--shm-size=1g"}
    assert job["timeout-minutes"] == 45


def test_ci_has_what_tests_would_otherwise_skip() -> None:
    commands = [step["run"] for step in steps(workflow("ci.yml")) if "run" in step]
    assert commands == [
        "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium maven nodejs npm",
        "make check",
        "scripts/lowkey-vault",
        "make test",
        "make test-asyncio",
    ]


def test_two_deployments_never_run_at_once_and_none_is_cut_short() -> None:
    for name, minutes in (("azure-dev.yml", 60), ("publish.yml", 30)):
        content = workflow(name)
        assert content["permissions"] == {"contents": "read", "id-token": "write"}
        assert content["concurrency"] == {"group": "deploy", "cancel-in-progress": False}
        assert [job["timeout-minutes"] for job in content["jobs"].values()] == [minutes]


def test_a_deployment_signs_in_then_provisions_then_deploys_and_asks_nobody() -> None:
    content = workflow("azure-dev.yml")
    assert [step["run"] for step in steps(content) if "run" in step] == [
        'azd auth login --client-id "$AZURE_CLIENT_ID" --tenant-id "$AZURE_TENANT_ID" '
        "--federated-credential-provider github",
        "azd provision --no-prompt",
        "azd deploy --no-prompt",
    ]
    (python,) = (step["with"] for step in steps(content) if "setup-python" in step.get("uses", ""))
    assert python == {"python-version": f"{sys.version_info.major}.{sys.version_info.minor}"}


def test_publishing_signs_in_as_the_identity_and_names_the_app() -> None:
    content = workflow("publish.yml")
    (login,) = (step["with"] for step in steps(content) if "Azure/login" in step.get("uses", ""))
    assert login == {
        "client-id": "${{ vars.AZURE_CLIENT_ID }}",
        "tenant-id": "${{ vars.AZURE_TENANT_ID }}",
        "subscription-id": "${{ vars.AZURE_SUBSCRIPTION_ID }}",
    }
    tools, publish = (step for step in steps(content) if "run" in step)
    assert tools["run"] == "npm install --global azure-functions-core-tools@4"
    assert publish["run"] == 'func azure functionapp publish "$AZURE_FUNCTION_APP_NAME" --python'
    assert publish["env"] == {"AZURE_FUNCTION_APP_NAME": "${{ vars.AZURE_FUNCTION_APP_NAME }}"}


def test_the_published_app_is_built_as_python_in_a_fresh_clone() -> None:
    commands = [step["run"] for step in steps(workflow("publish.yml")) if "run" in step]
    assert commands[-1].startswith("func azure functionapp publish")
    assert commands[-1].endswith("--python")


def test_dependencies_and_actions_are_kept_up_to_date() -> None:
    content = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    assert {update["package-ecosystem"] for update in content["updates"]} == {"pip", "github-actions"}
    for update in content["updates"]:
        assert (update["directory"], update["schedule"]) == ("/", {"interval": "weekly"})


# The Makefile

IN_PARALLEL = "-n logical --maxprocesses 4 --dist loadfile"
TARGETS = {
    "": [".venv/bin/python -m devhost"],
    "start": [".venv/bin/python -m devhost"],
    "test": [f".venv/bin/python -m pytest {IN_PARALLEL}"],
    "test PYTEST_ARGS=-x PROCESSES=": [".venv/bin/python -m pytest  -x"],
    "test-asyncio": [f".venv/bin/python -m pytest --loop asyncio {IN_PARALLEL}"],
    "test-runtimes": ["scripts/test-runtimes"],
    "fuzz": [".venv/bin/python -m tests.fuzz", ".venv/bin/python -m tests.fuzz.duplicates"],
    "soak": [".venv/bin/python -m tests.soak"],
    "check": [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/python -m pytest -q -m static",
    ],
    "format": [".venv/bin/ruff check --fix .", ".venv/bin/ruff format ."],
    "mutants MUTANTS=--changed": [".venv/bin/python scripts/mutants --changed"],
    "bench BENCH_ARGS=--help": ["scripts/bench --help"],
    "bench-quick BENCH_ARGS=--help": ["scripts/bench --pace quick --help"],
    "figures": [".venv/bin/python -m bench.documents"],
    "lock LOCK_ARGS=--upgrade": ["scripts/lock --upgrade"],
    "package": [".venv/bin/python scripts/package"],
    "clean": ["rm -rf .venv .venvs .mutants dist .mypy_cache .ruff_cache .pytest_cache .hypothesis"],
}
INSTALLED_FROM = ["requirements.txt", "requirements-dev.txt", "scripts/install"]


@pytest.fixture
def made_already(tmp_path: Path) -> Path:
    """A work tree with all that has targets' names, and an environment that is newer than what it is made from."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("scripts", ".venv", "bench", "test", "check", "start", "package"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate([*INSTALLED_FROM, ".venv/installed"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    return tmp_path


async def would_run(folder: Path, *arguments: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        "make", "--dry-run", *arguments, cwd=folder, env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [line.strip() for line in output.decode().splitlines()]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("typed", TARGETS)
async def test_a_target_runs_what_it_is_there_for(made_already: Path, typed: str) -> None:
    assert await would_run(made_already, *typed.split()) == TARGETS[typed]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("changed", INSTALLED_FROM)
async def test_the_environment_is_made_anew_once_what_it_is_made_from_has_changed(
    made_already: Path, changed: str
) -> None:
    assert await would_run(made_already, f"--what-if={changed}", "soak") == [
        "scripts/install",
        "touch .venv/installed",
        ".venv/bin/python -m tests.soak",
    ]


# CI elsewhere

SAY = """#!/bin/sh
echo "$(basename "$0") $*${LOWKEY_VAULT:+ without a vault}" >>"$CALLS"
"""
ALL = ["make check", "lowkey-vault", "otel-collector", "make test", "make test-asyncio"]
WITHOUT_A_VAULT = [*ALL[:2], *(f"{call} without a vault" for call in ALL[2:])]


@pytest.mark.parametrize(
    ("ends", "code", "calls", "says"),
    [
        ({}, 0, ALL, ""),
        ({"lowkey-vault": 69}, 0, WITHOUT_A_VAULT, "the tests on a real vault are skipped"),
        ({"lowkey-vault": 1}, 1, ALL[:2], ""),
        ({"otel-collector": 69}, 0, ALL, "the test on a real one is skipped"),
        ({"make": 2}, 2, ALL[:1], ""),
        (
            {"node": None, "mvn": None},
            0,
            ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends nodejs maven", *ALL],
            "",
        ),
    ],
    ids=["all is there", "no vault to be had", "no vault for now", "no collector", "failing", "no packages"],
)
async def test_ci_elsewhere_skips_nothing_in_silence(
    tmp_path: Path, ends: dict[str, int | None], code: int, calls: list[str], says: str
) -> None:
    work, tools = tmp_path / "work", tmp_path / "bin"
    for folder in (work / ".ci", work / "scripts", tools):
        folder.mkdir(parents=True)
    for name in ("bash", "sh", "basename", "dirname"):
        place = shutil.which(name)
        assert place is not None
        (tools / name).symlink_to(place)
    shutil.copy(ROOT / ".ci/run", work / ".ci/run")
    doubles = [tools / name for name in ("make", "chromium", "node", "npm", "mvn", "apt-get")]
    doubles += [work / "scripts" / name for name in ("lowkey-vault", "otel-collector")]
    for double in doubles:
        end = ends.get(double.name, 0)
        if end is not None:
            double.write_text(f"{SAY}exit {end}\n")
            double.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        work / ".ci/run",
        env={"PATH": str(tools), "CALLS": str(tmp_path / "calls")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    called = [" ".join(line.split()) for line in (tmp_path / "calls").read_text().splitlines()]
    assert (process.returncode, called) == (code, calls), said
    assert (says in said.decode()) if says else said == b""
