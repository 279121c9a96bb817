"""The Node package `openai`, to the stand-in itself and through the shim: the same parsed results.

It has its own HTTP client and its own stream parser, and trips over what the Python one forgives.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from devhost.host import Host
from devhost.standin import Standin
from tests.conftest import API_VERSION, KEY, StartHost
from tests.test_operations_sdk import plain
from tests.test_retirement import present_brownout

FOLDER = Path(__file__).parent / "node"
SCENARIOS = [
    "chat", "tools", "structuredOutput", "vision", "embeddings", "responses", "filesAndBatches",
    "transcriptionWithTheModelLast", "speech", "images", "vectorStores", "assistants", "models", "refusals",
]  # fmt: skip


async def run(*command: str, **environment: str) -> str:
    """What the program printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=FOLDER,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture(scope="session")
async def node() -> str:
    """Node, with the package at the version that the lock file names."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs node and npm for these tests")
        pytest.skip("node or npm is not installed")
    installed = FOLDER / "node_modules" / ".package-lock.json"
    lock = FOLDER / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        await run(npm, "ci", "--no-audit", "--no-fund")
    return node


@pytest.fixture(scope="session")
async def results(node: str, host: Host, standin: Standin) -> list[dict[str, Any]]:
    """Straight from the stand-in, and through the shim."""
    apis = [
        {"HOST": standin.base_url.removesuffix("/openai"), "V1_URL": standin.v1_base_url},
        {"HOST": host.url, "V1_URL": f"{host.url}/openai/v1"},
    ]
    common = {"KEY": KEY, "API_VERSION": API_VERSION}
    return [json.loads(await run(node, "calls.mjs", **common, **api)) for api in apis]


@pytest.mark.parametrize("kind", ["OpenAI", "AzureOpenAI"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_node_gets_the_same_through_the_shim(scenario: str, kind: str, results: list[dict[str, Any]]) -> None:
    straight, through = (plain(result[scenario][kind]) for result in results)
    assert straight
    assert through == straight


def test_no_scenario_is_left_out(results: list[dict[str, Any]]) -> None:
    assert [list(result) for result in results] == [SCENARIOS, SCENARIOS]


def test_the_model_stood_behind_the_recording(results: list[dict[str, Any]], standin: Standin) -> None:
    forms = [call for call in standin.received.values() if call.body_length > 20 * 1024 * 1024]
    assert len(forms) >= 4
    assert not any(b'name="model"' in form.body for form in forms)


LINK = "https://wiki.example.com/shim"
ENDS = {
    "announced": {"SHIM_DEPRECATED": "2026-01-31", "SHIM_SUNSET": "2099-12-31"},
    "over": {"SHIM_SUNSET": "2026-01-31", "SHIM_SUNSET_LINK": LINK, "SHIM_AFTER_SUNSET": "refuse"},
}


@pytest.fixture(scope="session")
async def ends(node: str, start_host: StartHost) -> dict[str, Any]:
    """What Node sees of a response and of a stream, by how near the end of the shim is."""
    brownout = {**ENDS["announced"], "SHIM_SUNSET_LINK": LINK, "SHIM_BROWNOUT": present_brownout()}
    ends = {**ENDS, "brownout": brownout}
    hosts = {name: await start_host(**settings) for name, settings in ends.items()}
    return {
        name: json.loads(await run(node, "retired.mjs", URL=f"{host.url}/openai/v1", KEY=KEY))
        for name, host in hosts.items()
    }


def test_node_sees_the_announcement_on_responses_and_streams(ends: dict[str, Any]) -> None:
    told = {"status": 200, "told": ["@1769817600", "Thu, 31 Dec 2099 00:00:00 GMT", None]}
    assert ends["announced"] == [told, told]


def test_node_raises_its_own_error_with_the_link_after_the_sunset(ends: dict[str, Any]) -> None:
    assert len(ends["over"]) == 2
    for outcome in ends["over"]:
        assert (outcome["isApiError"], outcome["status"], outcome["code"]) == (True, 410, "shim_retired")
        assert f"What to use in its place: {LINK}" in outcome["message"]
        assert outcome["told"] == [None, "Sat, 31 Jan 2026 00:00:00 GMT", f'<{LINK}>; rel="sunset"']


def test_node_raises_its_own_error_with_the_link_in_a_brownout(ends: dict[str, Any]) -> None:
    assert len(ends["brownout"]) == 2
    for outcome in ends["brownout"]:
        assert (outcome["isApiError"], outcome["status"], outcome["code"]) == (True, 410, "shim_brownout")
        assert f"What to use in its place: {LINK}" in outcome["message"]
        assert outcome["told"] == [
            *("@1769817600", "Thu, 31 Dec 2099 00:00:00 GMT", f'<{LINK}>; rel="sunset"')
        ]
