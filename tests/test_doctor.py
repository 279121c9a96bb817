"""The doctor, on the real parts: what it says about each, what to do next, and nothing that is secret.

It is read when something is already broken; a wrong diagnosis costs more time than none.
"""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from devhost.azure.faults import forbidden
from devhost.azure.vault import Clock, Credential, VaultDouble, running_vault
from devhost.host import Host
from devhost.standin import Standin
from shim.cli.doctor.checks import CHECKS, run_checks
from shim.cli.doctor.finding import Finding
from shim.cli.doctor.target import Target
from shim.keys.azure.key_vault import VaultSecrets
from shim.settings import SettingsError
from tests.conftest import KEY, StartHost

ORIGIN = "https://app.example.com"


async def examined(environ: dict[str, str], **options: Any) -> list[Finding]:
    return [finding async for finding in run_checks(Target.read(environ, **options))]


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def local(standin: Standin, **settings: str) -> dict[str, str]:
    return {"APIM_BASE_URL": standin.base_url, "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}", **settings}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Starts an API whose every answer is a test's own; gives its port."""
    runners = []

    async def start(answer: Callable[[web.Request], Any], tls: ssl.SSLContext | None = None) -> int:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


def saying(status: int, content: object, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(content, status=status, headers=headers)

    return answer


# All of it


async def test_a_shim_that_works_gets_a_line_for_everything_and_no_failure(
    standin: Standin, host: Host
) -> None:
    findings = await examined(
        local(standin, CORS_ORIGINS=ORIGIN),
        shim_url=host.url,
        origin=ORIGIN,
        model="gpt-4o",
        key=KEY,
    )
    assert [finding for finding in findings if finding.outcome == "failed"] == []
    assert [finding.check for finding in findings] == [
        *("settings", "identity", "dns", "tls", "no key", "wrong key", "given key", "APIM_API"),
        *("shim", "cors", "streaming", "streaming", "clock"),
    ]
    # The stand-in has no TLS; and its stream takes no time, so that a busy machine may deliver it all at once.
    warnings = {finding.check for finding in findings if finding.outcome == "warning"}
    assert warnings - {"streaming"} == {"tls"}
    assert KEY not in repr(findings)


async def test_every_line_that_is_not_ok_says_what_to_do_next(standin: Standin) -> None:
    findings = await examined(
        {"APIM_BASE_URL": "http://127.0.0.1:9/api", "KEY_CACHE_TTL": "soon"}, origin=ORIGIN
    )
    troubled = [finding for finding in findings if finding.outcome != "ok"]
    assert len(troubled) >= 6
    assert all(finding.next_step for finding in troubled)


async def test_a_check_that_breaks_ends_no_other(standin: Standin) -> None:
    def broken(_: object) -> Any:
        raise RuntimeError("of a key: s3cret")

    environ = {"APIM_BASE_URL": standin.base_url, "KEY_VAULT_URL": "https://v.vault.azure.net"}
    findings = await examined(environ, open_vault=broken)
    assert of(findings, "vault")[0].message == "the check itself failed (RuntimeError)"
    assert of(findings, "clock")
    assert "s3cret" not in repr(findings)


def test_the_checks_come_in_the_order_in_which_faults_hide_each_other() -> None:
    assert [name for name, _ in CHECKS] == [
        *("settings", "vault", "dns", "tls", "keys", "APIM_API", "shim", "cors", "streaming", "clock")
    ]


# Settings


async def test_every_problem_of_the_settings_is_a_line(standin: Standin) -> None:
    environ = {"APIM_BASE_URL": standin.base_url, "KEY_CACHE_TTL": "soon", "CORS_MAX_AGE": "-1"}
    problems = of(await examined(environ), "settings")
    assert [problem.message.split()[0] for problem in problems] == [
        "KEY_CACHE_TTL",
        "CORS_MAX_AGE",
        "KEY_VAULT_URL",
    ]
    assert {problem.outcome for problem in problems} == {"failed"}


async def test_a_base_url_that_was_pasted_too_long_is_noticed(standin: Standin) -> None:
    findings = await examined(local(standin), base_url=f"{standin.base_url}/deployments")
    assert of(findings, "settings")[0].outcome == "warning"


def test_without_any_base_url_there_is_nothing_to_examine() -> None:
    with pytest.raises(SettingsError, match="APIM_BASE_URL"):
        Target.read({})


# Identity and vault


@pytest.fixture
async def vault() -> AsyncIterator[VaultDouble]:
    clock = Clock()
    async with running_vault(Credential(), clock) as vault:
        yield vault


async def with_vault(standin: Standin, vault: VaultDouble, **settings: str) -> list[Finding]:
    environ = {"APIM_BASE_URL": standin.base_url, "KEY_VAULT_URL": vault.url, **settings}

    def open_vault(_: object) -> tuple[Any, VaultSecrets]:
        credential = vault.credential
        return credential, VaultSecrets(vault.url, credential=credential, transport=vault.transport())

    return await examined(environ, open_vault=open_vault)


async def test_the_identity_is_named_and_what_it_may_do(standin: Standin, vault: VaultDouble) -> None:
    findings = await with_vault(standin, vault)
    (identity,) = of(findings, "identity")
    assert identity.message.startswith("principal 0f1e2d3c-1111-4222-8333-444455556666 (client 9a8b7c6d-")
    assert [finding.outcome for finding in of(findings, "vault")] == ["ok", "ok"]


async def test_an_identity_without_a_token_is_told_to_sign_in(standin: Standin, vault: VaultDouble) -> None:
    vault.credential.refuses = True
    findings = await with_vault(standin, vault)
    (identity,) = of(findings, "identity")
    assert (identity.outcome, of(findings, "vault")) == ("failed", [])
    assert "az login" in identity.next_step


@pytest.mark.parametrize(
    ("inner", "next_step"),
    [
        ("ForbiddenByRbac", "grant the role 'Key Vault Secrets User' on it to principal 0f1e2d3c"),
        ("ForbiddenByFirewall", "allow the app's network"),
    ],
    ids=["role", "firewall"],
)
async def test_a_vault_that_refuses_names_the_remedy(
    standin: Standin, vault: VaultDouble, inner: str, next_step: str
) -> None:
    vault.fault = forbidden(inner)
    reading, listing = of(await with_vault(standin, vault), "vault")
    assert reading.outcome == "failed"
    assert reading.message == f"Key Vault {vault.url} answered 403 {inner}"
    assert next_step in reading.next_step
    assert listing.outcome == "warning"


async def test_a_vault_that_cannot_be_reached_names_name_and_firewall(
    standin: Standin, vault: VaultDouble
) -> None:
    await vault.stop()
    reading = of(await with_vault(standin, vault), "vault")[0]
    assert reading.outcome == "failed"
    assert "firewall or private endpoint" in reading.next_step


async def test_listing_is_needed_only_where_the_settings_say_so(standin: Standin, vault: VaultDouble) -> None:
    vault.fault = forbidden("ForbiddenByRbac")
    _, listing = of(await with_vault(standin, vault, KEY_LOOKUP="scan"), "vault")
    assert listing.outcome == "failed"


# DNS, TLS, clock


async def test_a_host_without_an_address_fails_by_name() -> None:
    findings = await examined({"APIM_BASE_URL": "https://no-such-host.invalid/api"})
    (dns,) = of(findings, "dns")
    assert (dns.outcome, dns.message) == ("failed", "no-such-host.invalid has no address here")


def authority(**certificate: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of a server at localhost and of those who trust it."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("localhost", **certificate).configure_cert(server)
    ca.configure_trust(client)
    return server, client


@pytest.mark.parametrize(
    ("days", "trusted", "outcome", "words"),
    [
        (365, True, "ok", "whose certificate is valid for 36"),
        (5, True, "warning", "whose certificate is valid for "),
        (365, False, "failed", "is not trusted: "),
        (-1, True, "failed", "certificate has expired"),
    ],
    ids=["good", "ends soon", "unknown authority", "expired"],
)
async def test_the_certificate_is_judged(
    serve: Callable[..., Any], days: int, trusted: bool, outcome: str, words: str
) -> None:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    server, client = authority(not_before=now - timedelta(days=400), not_after=ends)
    port = await serve(saying(401, {}), server)
    trust = {"trust": client} if trusted else {}
    findings = await examined({"APIM_BASE_URL": f"https://localhost:{port}/api"}, **trust)
    (tls,) = of(findings, "tls")
    assert (tls.outcome, words in tls.message) == (outcome, True), tls
    if outcome == "failed":
        (api,) = of(findings, "api")
        assert api.message == f"the certificate of localhost:{port} is not trusted here"


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(0, "ok"), (120, "warning"), (3600, "failed")],
    ids=["equal", "two minutes", "an hour"],
)
async def test_the_clocks_are_compared(serve: Callable[..., Any], seconds: int, outcome: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        date = format_datetime(datetime.now(UTC) - timedelta(seconds=seconds), usegmt=True)
        return web.Response(status=401, headers={"Date": date})

    findings = await examined({"APIM_BASE_URL": f"http://127.0.0.1:{await serve(answer)}/api"})
    assert of(findings, "clock")[0].outcome == outcome


# The APIM API


async def test_a_wrong_path_is_told_from_a_missing_deployment(standin: Standin) -> None:
    findings = await examined(local(standin), base_url=standin.base_url.replace("/openai", "/elsewhere"))
    (no_key,) = of(findings, "no key")
    assert no_key.outcome == "failed"
    assert "compare APIM_BASE_URL" in no_key.next_step


async def test_a_key_that_apim_does_not_know_fails(standin: Standin) -> None:
    findings = await examined(local(standin), key="not-a-key-of-apim")
    (given,) = of(findings, "given key")
    assert given.outcome == "failed"
    assert "invalid subscription key" in given.message
    assert "not-a-key-of-apim" not in repr(findings)


async def test_a_header_that_apim_does_not_look_at_is_named(standin: Standin) -> None:
    findings = await examined(local(standin, APIM_KEY_HEADER="ocp-apim-subscription-key"), key=KEY)
    (wrong,) = of(findings, "wrong key")
    assert wrong.outcome == "failed"
    assert (
        wrong.next_step == "set APIM_KEY_HEADER to the name in the API's settings, which APIM says is api-key"
    )


AOAI_401 = {
    "error": {
        "code": "401",
        "message": "Access denied due to invalid subscription key or wrong API endpoint.",
    }
}


@pytest.mark.parametrize(
    ("status", "content", "check", "outcome", "words"),
    [
        (200, {}, "no key", "warning", "asks for no subscription key"),
        (403, {"statusCode": 403, "message": "Forbidden"}, "no key", "failed", "IP filter"),
        (302, {}, "no key", "failed", "not the API itself"),
        (401, AOAI_401, "given key", "failed", "backend's credential in APIM"),
        (403, {"message": "Out of call volume quota."}, "given key", "failed", "wait for the quota"),
        (429, {"message": "Rate limit is exceeded."}, "given key", "warning", "its rate limit is used up"),
        (500, {}, "given key", "failed", "the API behind it fails"),
    ],
    ids=["open", "filtered", "redirected", "backend's key", "quota", "rate", "broken"],
)
async def test_answers_of_the_api_are_read(
    serve: Callable[..., Any], status: int, content: object, check: str, outcome: str, words: str
) -> None:
    port = await serve(saying(status, content))
    findings = await examined({"APIM_BASE_URL": f"http://127.0.0.1:{port}/api"}, key="a-key")
    (finding,) = of(findings, check)
    assert (finding.outcome, words in finding.next_step) == (outcome, True), finding


async def test_an_answer_that_echoes_the_key_is_not_shown_with_it(serve: Callable[..., Any]) -> None:
    port = await serve(saying(500, {"message": "unknown key s3cret-key"}))
    findings = await examined({"APIM_BASE_URL": f"http://127.0.0.1:{port}/api"}, key="s3cret-key", model="m")
    assert "s3cret-key" not in repr(findings)
    assert "<key>" in repr(findings)


async def test_a_cookie_is_not_sent_back(serve: Callable[..., Any]) -> None:
    cookies = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(status=401, headers={"Set-Cookie": "affinity=one; Path=/"})

    await examined({"APIM_BASE_URL": f"http://127.0.0.1:{await serve(answer)}/api"})
    assert len(cookies) > 1
    assert set(cookies) == {None}


@pytest.mark.parametrize(
    ("configured", "spoken", "outcome"),
    [
        ("legacy", {"legacy"}, "ok"),
        ("v1", {"legacy"}, "failed"),
        ("legacy", {"v1"}, "failed"),
        ("v1", {"legacy", "v1"}, "ok"),
        ("legacy", set(), "failed"),
    ],
)
async def test_what_the_api_speaks_is_found_out_without_a_key(
    serve: Callable[..., Any], configured: str, spoken: set[str], outcome: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        dialect = "v1" if "/v1/" in request.path else "legacy"
        if dialect in spoken:
            return web.json_response({"statusCode": 401, "message": "missing"}, status=401)
        return web.json_response({"statusCode": 404, "message": "Resource not found"}, status=404)

    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    (finding,) = of(await examined({"APIM_BASE_URL": base_url, "APIM_API": configured}), "APIM_API")
    assert finding.outcome == outcome
    if len(spoken) == 1 and outcome == "failed":
        assert finding.next_step == f"set APIM_API={spoken.pop()}"


@pytest.mark.parametrize("at", [0, 150, 180, 199, 200, 400])
def test_what_is_quoted_of_a_response_holds_no_part_of_the_key(standin: Standin, at: int) -> None:
    target = Target.read(local(standin), key=KEY)
    quoted = target.excerpt("." * at + KEY + "." * 400)
    assert not [part for part in (KEY[:8], KEY[8:16], KEY[-8:]) if part in quoted]
    assert len(quoted) <= 200


# CORS and streaming


async def test_an_origin_that_is_not_allowed_is_named(standin: Standin, host: Host) -> None:
    for said in ({}, {"shim_url": host.url}):
        findings = await examined(
            local(standin, CORS_ORIGINS=ORIGIN), origin="https://evil.example.org", **said
        )
        (cors,) = of(findings, "cors")
        assert cors.outcome == "failed"
        assert "add https://evil.example.org to CORS_ORIGINS" in cors.next_step


async def test_a_preflight_that_two_tiers_answer_is_noticed(
    standin: Standin, serve: Callable[..., Any]
) -> None:
    port = await serve(saying(204, None, **{"Access-Control-Allow-Origin": f"{ORIGIN}, *"}))
    findings = await examined(local(standin), origin=ORIGIN, shim_url=f"http://127.0.0.1:{port}")
    assert "two tiers" in of(findings, "cors")[0].message


async def test_a_shim_that_is_not_ready_tells_why(standin: Standin, start_host: StartHost) -> None:
    broken = await start_host(APIM_BASE_URL="http://127.0.0.1:9/api", READYZ_DETAILS="true")
    (finding,) = of(await examined(local(standin), shim_url=broken.url), "shim")
    assert finding.outcome == "failed"
    assert finding.message.startswith("upstream: The APIM API could not be reached")


@pytest.mark.parametrize(("buffers", "outcome"), [(False, "ok"), (True, "warning")], ids=["live", "buffered"])
async def test_a_tier_that_buffers_is_noticed(serve: Callable[..., Any], buffers: bool, outcome: str) -> None:
    events = [b'data: {"choices": []}\n\n' for _ in range(20)]

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await asyncio.sleep(0.025)
            if not buffers:
                await response.write(event)
        if buffers:
            await response.write(b"".join(events))
        return response

    # The head comes at once either way: it is the events that are held back.
    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    (finding,) = of(await examined({"APIM_BASE_URL": base_url}, key="a-key", model="gpt-4o"), "streaming")
    assert finding.outcome == outcome, finding
    assert "20 events" in finding.message


@pytest.mark.parametrize(
    ("api", "path"),
    [("legacy", "/api/deployments/prod/chat/completions"), ("v1", "/v1/chat/completions")],
)
async def test_apim_is_asked_for_the_deployment_and_the_shim_for_the_model(
    serve: Callable[..., Any], api: str, path: str
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, (await request.json())["model"]))
        return web.Response(text='data: {"choices": []}\n\n', content_type="text/event-stream")

    url = f"http://127.0.0.1:{await serve(answer)}"
    said = {"APIM_BASE_URL": f"{url}/api", "APIM_V1_BASE_URL": f"{url}/v1", "APIM_API": api}
    await examined({**said, "MODEL_DEPLOYMENTS": "gpt-4o=prod"}, key="a-key", model="gpt-4o", shim_url=url)
    streamed = [(path, model) for path, model in asked if model in ("gpt-4o", "prod")]
    assert streamed == [(path, "prod"), ("/openai/v1/chat/completions", "gpt-4o")]


# The command


async def command(*arguments: str, standin: Standin, key: str = "", **environ: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shim", "doctor", *arguments),
        cwd=Path(__file__).parent.parent,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **local(standin), **environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(f"{key}\n".encode())
    return process.returncode or 0, said.decode()


async def test_the_command_takes_a_key_from_stdin_and_ends_with_0(standin: Standin) -> None:
    code, said = await command("--key-stdin", "--model", "gpt-4o", standin=standin, key=KEY)
    assert code == 0, said
    assert "ok      given key: accepted" in said
    assert "ok      streaming: from APIM: first byte after" in said
    assert KEY not in said


async def test_the_command_ends_with_1_and_the_next_step_when_something_failed(standin: Standin) -> None:
    code, said = await command("--key-stdin", standin=standin, key="not-a-key-of-apim")
    assert code == 1
    assert "failed  given key: answered 401" in said
    assert "        → use a key of an active subscription" in said


async def test_the_command_speaks_json(standin: Standin) -> None:
    code, said = await command("--json", standin=standin)
    report = json.loads(said)
    assert (code, report["ok"]) == (0, True)
    assert set(report["findings"][0]) == {"check", "outcome", "message", "next_step"}


async def test_the_command_says_what_it_needs_when_it_knows_nothing(standin: Standin) -> None:
    code, said = await command(standin=standin, APIM_BASE_URL="")
    assert code == 2
    assert "python -m shim doctor --base-url https://" in said


async def test_a_base_url_on_the_command_line_wins(standin: Standin) -> None:
    code, said = await command(
        "--base-url", standin.base_url, standin=standin, APIM_BASE_URL="http://127.0.0.1:9"
    )
    assert code == 0, said
    assert standin.base_url in said


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    import subprocess

    heavy = "print([m for m in ('azure', 'aiohttp', 'httpx', 'starlette', 'openai') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, shim.__main__; {heavy}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert run.stdout.strip() == "[]"


async def test_proxies_of_the_environment_are_not_asked(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is examined is the way that the shim takes; a proxy answers for hosts that cannot be reached."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    findings = await examined(local(standin))
    assert [finding.outcome for check in ("no key", "wrong key") for finding in of(findings, check)] == [
        "ok",
        "ok",
    ]
