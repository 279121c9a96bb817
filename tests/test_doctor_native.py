"""The doctor without the shim: a caller's own call, in each set-up that may replace the shim.

Its verdict decides whether a caller is moved, so it must be right about what that caller would get.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
from typer.testing import CliRunner

from devhost.standin import Standin
from shim.__main__ import app
from shim.cli.doctor.finding import Finding
from tests.conftest import APP_ORIGIN, KEY, ROOT
from tests.support.naive_tier import naive_tier
from tests.test_doctor import examined, local


async def doctor(url: str, *more: str, key: str = KEY) -> tuple[int, dict[str, Finding], str]:
    """The exit code, the findings by check, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shim", "doctor", "--native", url, "--model", "gpt-4o"),
        *("--key-stdin", "--json", *more),
        cwd=ROOT,
        # Without a single setting: the shim may be gone already.
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(f"{key}\n".encode())
    said = output.decode()
    assert not key or key not in said
    findings = [Finding(**finding) for finding in json.loads(said)["findings"]]
    return process.returncode or 0, {finding.check: finding for finding in findings}, said


@pytest.fixture(scope="session")
async def v1_api() -> AsyncIterator[Standin]:
    """An API whose key header is Authorization, and whose keys are `Bearer <key>`."""
    standin = await Standin.start(keys=(f"Bearer {KEY}",), key_header="authorization", chunk_delay=0)
    yield standin
    await standin.stop()


async def test_with_the_legacy_api_alone_the_shim_is_still_needed(standin: Standin) -> None:
    code, findings, _ = await doctor(standin.base_url)
    assert code == 1
    assert list(findings) == ["native key", "native paths", "native"]
    assert findings["native key"].message == "APIM reads the key from api-key, not from Authorization"
    assert findings["native"].message == "the shim is still needed for the key as Bearer and v1 paths"


async def test_with_keys_in_authorization_on_a_v1_api_the_shim_is_not_needed(v1_api: Standin) -> None:
    code, findings, _ = await doctor(v1_api.v1_base_url)
    assert code == 0
    assert list(findings) == ["native key", "native paths", "native streaming", "native"]
    assert {finding.outcome for finding in findings.values()} == {"ok"}
    assert findings["native"].message.startswith("the shim is not needed for this caller any more")


async def test_with_a_front_api_the_shim_is_needed_for_v1_paths_only(standin: Standin) -> None:
    async with naive_tier(standin.base_url.removesuffix("/openai")) as front:
        code, findings, _ = await doctor(f"{front}/openai", "--origin", APP_ORIGIN)
    assert code == 1
    assert {name: finding.outcome for name, finding in findings.items()} == {
        "native key": "ok",
        "native paths": "failed",
        "native streaming": "ok",
        "native browser": "ok",
        "native": "warning",
    }
    assert findings["native"].message == "the shim is needed for v1 paths only"
    assert "AzureOpenAI" in findings["native"].next_step


async def test_a_page_still_needs_the_shim_where_nothing_answers_its_preflight(v1_api: Standin) -> None:
    code, findings, _ = await doctor(v1_api.v1_base_url, "--origin", APP_ORIGIN)
    assert code == 1
    assert "its preflight is answered 401" in findings["native browser"].message
    assert findings["native"].message == "the shim is still needed for browsers (CORS)"


async def test_a_key_that_no_header_helps_is_no_reason_for_the_shim(standin: Standin) -> None:
    code, findings, _ = await doctor(standin.base_url, key="not-a-key-of-apim")
    assert (code, list(findings)) == (1, ["native key"])
    assert "this is no key of this API" in findings["native key"].message


async def test_a_model_that_only_the_shim_knows_is_named_as_such(v1_api: Standin) -> None:
    _, findings, _ = await doctor(v1_api.v1_base_url, "--model", "gpt-99")
    assert "there is no deployment gpt-99" in findings["native paths"].message


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/api", "elsewhere"])
async def test_nothing_is_concluded_from_a_url_that_is_no_api(standin: Standin, base: str) -> None:
    url = base if base.startswith("http") else f"{standin.base_url}/elsewhere"
    code, findings, said = await doctor(url)
    assert code == 1
    assert "still needed" not in said
    assert "not needed" not in said
    assert findings["native"].next_step


async def test_without_a_key_or_a_model_nothing_is_tried() -> None:
    code, findings, _ = await doctor("https://apim.example/openai/v1", "--model", "", key="")
    assert (code, findings["native"].message) == (1, "not tried")


def test_a_key_is_sent_to_no_url_where_it_could_be_read() -> None:
    result = CliRunner().invoke(app, ["doctor", "--native", "http://apim.example/openai"])
    assert (result.exit_code, result.stderr) == (
        2,
        "--native must begin with https://, since keys travel to it\n",
    )


async def test_the_doctor_says_how_many_days_are_left(standin: Standin) -> None:
    for settings, words in (
        ({"SHIM_SUNSET": "2099-12-31"}, "days away; after it calls are still served"),
        (
            {"SHIM_SUNSET": "2026-01-31", "SHIM_AFTER_SUNSET": "refuse"},
            "SHIM_SUNSET has passed, and calls are refused",
        ),
    ):
        findings = await examined(local(standin, **settings))
        assert [words in finding.message for finding in findings if finding.check == "retirement"] == [True]
