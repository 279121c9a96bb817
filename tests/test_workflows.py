"""What GitHub runs: everyone's own commands, actions pinned by commit, and deployments that hold no secret.

A workflow has the rights to publish; an unpinned action would have them too.
"""

import json
import re
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


def test_the_published_app_is_built_as_python_in_a_fresh_clone() -> None:
    commands = [step["run"] for step in steps(workflow("publish.yml")) if "run" in step]
    assert commands[-1].startswith("func azure functionapp publish")
    assert commands[-1].endswith("--python")


def test_dependencies_and_actions_are_kept_up_to_date() -> None:
    content = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    assert {update["package-ecosystem"] for update in content["updates"]} == {"pip", "github-actions"}
