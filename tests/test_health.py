"""/healthz says that the process is alive, /readyz whether it could serve a call, and neither says too much.

Anybody may ask: they must neither learn names from the response nor overload the vault by asking.
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from devhost.azure.faults import failing
from devhost.azure.services import running_azure
from devhost.host import Host
from devhost.standin import Standin
from shim.errors import KeyStoreUnavailable
from shim.monitoring.health import Check, Readiness
from tests.conftest import StartHost

DEAD = "http://127.0.0.1:9/my-api/openai"


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Part:
    """Something to check, which counts how often it is asked and can be held up."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked = 0
        self.failure = failure
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def check(self) -> None:
        self.asked += 1
        self.begun.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


async def report(readiness: Readiness) -> tuple[int, dict[str, Any]]:
    response = await readiness.report()
    return response.status_code, json.loads(bytes(response.body))


async def fetch(http: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with http.get(url) as answer:
        return answer.status, await answer.json()


async def test_healthz_is_alive_whatever_else_is_broken(
    http: aiohttp.ClientSession, start_host: StartHost
) -> None:
    host = await start_host(APIM_BASE_URL="", LOCAL_SUBSCRIPTION_KEYS="")
    assert await fetch(http, f"{host.url}/healthz") == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_load_balancers_may_ask_for_the_head_alone(
    http: aiohttp.ClientSession, host: Host, path: str
) -> None:
    async with http.head(host.url + path) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_a_working_shim_is_ready_with_each_check_by_name_and_latency(
    http: aiohttp.ClientSession, host: Host
) -> None:
    status, content = await fetch(http, f"{host.url}/readyz")
    assert (status, content["status"]) == (200, "ready")
    assert [check["name"] for check in content["checks"]] == ["settings", "key store", "upstream"]
    assert all(check["ok"] and check["milliseconds"] >= 0 for check in content["checks"])


@pytest.mark.parametrize(
    ("details", "shows"),
    [
        (
            "false",
            "the APIM API could not be reached; the log says why, and so does this page with READYZ_DETAILS=true",
        ),
        ("true", "could not be reached (ConnectionRefusedError), and nothing was sent"),
    ],
)
async def test_an_upstream_that_is_down_makes_the_shim_not_ready(
    http: aiohttp.ClientSession, start_host: StartHost, details: str, shows: str
) -> None:
    host = await start_host(APIM_BASE_URL=DEAD, READYZ_DETAILS=details)
    status, content = await fetch(http, f"{host.url}/readyz")
    assert (status, content["status"]) == (503, "not ready")
    failed = [check for check in content["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["upstream"]
    assert shows in failed[0]["reason"]
    assert "127.0.0.1" not in json.dumps(content)


@pytest.mark.parametrize("details", ["", "false"])
async def test_faulty_settings_are_named_to_anonymous_callers_and_never_quoted(
    http: aiohttp.ClientSession, start_host: StartHost, details: str
) -> None:
    faulty = {
        "CORS_ORIGINS": "https://secret.contoso.com/path,https:///",
        "KEY_CACHE_TTL": "soon",
        "SHIM_AFTER_SUNSET": "refuse",
    }
    status, content = await fetch(http, f"{(await start_host(**faulty, READYZ_DETAILS=details)).url}/readyz")
    reason = content["checks"][0]["reason"]
    assert (status, len(content["checks"])) == (503, 1)
    assert reason == (
        "missing or wrong: CORS_ORIGINS, KEY_CACHE_TTL, SHIM_AFTER_SUNSET;"
        " the log says why, and so does this page with READYZ_DETAILS=true"
    )


async def test_faulty_settings_are_told_in_full_to_the_operator_and_where_that_is_asked_for(
    http: aiohttp.ClientSession, start_host: StartHost
) -> None:
    faulty = {"CORS_ORIGINS": "https://secret.contoso.com/path", "KEY_CACHE_TTL": "soon"}
    # As a person types it, and in Bicep's letters.
    host = await start_host(**faulty, READYZ_DETAILS=" True ")
    reason = (await fetch(http, f"{host.url}/readyz"))[1]["checks"][0]["reason"]
    for problem in ("KEY_CACHE_TTL must be a number", "secret.contoso.com/path' is not an origin"):
        assert problem in reason
        record = await host.logs.first(lambda record, told=problem: told in record.message)  # type: ignore[misc]
        assert "setting: " in record.message
        assert record.level == logging.ERROR


async def test_what_operators_are_warned_of_is_named_to_anonymous_callers_and_never_quoted(
    http: aiohttp.ClientSession, start_host: StartHost
) -> None:
    odd = {"CORS_ORIGINS": "", "CORS_ALLOWED_ORIGINS": '["https://secret.contoso.com/path"]'}
    status, content = await fetch(http, f"{(await start_host(**odd)).url}/readyz")
    assert (status, content["status"]) == (200, "ready")
    (warning,) = content["warnings"]
    assert warning.startswith("CORS_ALLOWED_ORIGINS: the log says why")
    host = await start_host(**odd, READYZ_DETAILS="true")
    _, detailed = await fetch(http, f"{host.url}/readyz")
    assert "secret.contoso.com/path' is not an origin" in detailed["warnings"][0]
    record = await host.logs.first(
        lambda record: "setting: CORS_ALLOWED_ORIGINS: 'https://secret." in record.message
    )
    assert record.level == logging.WARNING
    assert record in host.logs.arrived


async def test_where_there_is_nothing_to_warn_of_no_warnings_are_stated(
    http: aiohttp.ClientSession, host: Host
) -> None:
    _, content = await fetch(http, f"{host.url}/readyz")
    assert set(content) == {"status", "checks"}


async def test_a_vault_that_fails_makes_the_shim_not_ready_and_is_named_to_the_operator_alone(
    http: aiohttp.ClientSession, start_host: StartHost, tmp_path: Path
) -> None:
    async with running_azure(tmp_path) as azure:
        azure.vault.fault = failing(403)
        host = await start_host(**azure.environ, WEBSITE_SITE_NAME="shim")
        status, content = await fetch(http, f"{host.url}/readyz")
        record = await host.logs.first(lambda record: "not ready: key store: " in record.message)
    assert status == 503
    assert {check["name"]: check.get("reason") for check in content["checks"]} == {
        "settings": None,
        "key store": "the key store could not be read;"
        " the log says why, and so does this page with READYZ_DETAILS=true",
        "upstream": None,
    }
    assert azure.environ["KEY_VAULT_URL"] in record.message


async def test_readyz_asks_again_only_after_some_seconds() -> None:
    clock, part = Clock(), Part()
    readiness = Readiness([Check("part", part.check, "plain")], clock=clock)
    for _ in range(100):
        await readiness.report()
    assert part.asked == 1
    clock.at += 4.9
    await readiness.report()
    assert part.asked == 1
    clock.at += 0.2
    await readiness.report()
    assert part.asked == 2


async def test_readyz_reaches_upstream_once_for_many_callers(
    http: aiohttp.ClientSession, start_host: StartHost
) -> None:
    standin = await Standin.start()
    base = standin.base_url
    # It is the base that is asked for: where v1 calls go may be anywhere.
    host = await start_host(APIM_BASE_URL=base, APIM_V1_BASE_URL=DEAD)
    answers = await asyncio.gather(*(fetch(http, f"{host.url}/readyz") for _ in range(30)))
    received = list(standin.received.values())
    await standin.stop()
    assert {status for status, _ in answers} == {200}
    [asked] = received
    assert (asked.method, asked.target) == ("GET", urlsplit(base).path)
    assert asked.header("api-key") is None


async def test_a_check_that_took_long_is_remembered_from_its_end() -> None:
    """From its beginning, a slow part would be asked again by each who comes after: the most when it is overloaded."""
    clock, part = Clock(), Part()
    part.gate.clear()
    readiness = Readiness([Check("part", part.check, "plain")], clock=clock)
    asking = asyncio.create_task(report(readiness))
    await part.begun.wait()
    clock.at += 4.5
    part.gate.set()
    _, content = await asking
    assert content["checks"] == [{"name": "part", "ok": True, "milliseconds": 4500}]
    clock.at += 4.9
    await report(readiness)
    assert part.asked == 1


async def test_what_is_stated_beside_the_checks_is_asked_for_each_time() -> None:
    days = iter([2, 1])
    readiness = Readiness([], warnings=["odd"], also=lambda: {"days_left": next(days)})
    for left in (2, 1):
        assert await report(readiness) == (
            200,
            {"status": "ready", "checks": [], "warnings": ["odd"], "days_left": left},
        )


async def test_checks_run_side_by_side_and_those_who_wait_share_them() -> None:
    slow, other = Part(), Part()
    slow.gate.clear()
    readiness = Readiness([Check("slow", slow.check, ""), Check("other", other.check, "")])
    asking = [asyncio.create_task(report(readiness)) for _ in range(20)]
    await slow.begun.wait()
    await other.begun.wait()
    slow.gate.set()
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}
    assert (slow.asked, other.asked) == (1, 1)


async def test_a_check_that_hangs_makes_the_shim_not_ready_within_seconds() -> None:
    """Probes give up after a few seconds themselves, and would then not learn which part it is."""
    hanging, other = Part(), Part()
    hanging.gate.clear()
    checks = [Check("vault", hanging.check, "the vault is slow"), Check("other", other.check, "")]
    async with asyncio.timeout(8):
        status, content = await report(Readiness(checks, details=True))
    assert status == 503
    assert [(check["name"], check["ok"]) for check in content["checks"]] == [
        ("vault", False),
        ("other", True),
    ]
    assert content["checks"][0]["reason"] == "no answer within 5 s"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            KeyStoreUnavailable("Key Vault https://v.vault.azure.net answered 403"),
            "https://v.vault.azure.net",
        ),
        (RuntimeError("of a key: s3cret"), "the check itself failed (RuntimeError)"),
    ],
    ids=["an operator's reason", "a defect"],
)
async def test_an_operators_reason_is_shown_only_on_request(failure: Exception, reason: str) -> None:
    check = Check("vault", Part(failure).check, "the vault could not be read")
    status, content = await report(Readiness([check]))
    assert (status, content["checks"][0]["reason"]) == (503, "the vault could not be read")
    status, content = await report(Readiness([check], details=True))
    assert status == 503
    assert reason in content["checks"][0]["reason"]
    assert "s3cret" not in json.dumps(content)


async def test_why_it_is_not_ready_reaches_the_operator_as_a_warning(
    http: aiohttp.ClientSession, start_host: StartHost
) -> None:
    host = await start_host(APIM_BASE_URL=DEAD)
    assert (await fetch(http, f"{host.url}/readyz"))[0] == 503
    record = await host.logs.first(lambda record: "not ready: upstream: " in record.message)
    assert record.level == logging.WARNING
    assert record in host.logs.arrived
