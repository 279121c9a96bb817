"""The doctor, on the real parts: what it says about each, what to do next, and nothing that is secret.

It is read when something is already broken; a wrong diagnosis costs more time than none.
"""

import asyncio
import functools
import io
import json
import logging
import os
import pty
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from typer.testing import CliRunner, Result

from devhost.azure.faults import CLIENT, PRINCIPAL, forbidden, throttled
from devhost.azure.services import running_azure
from devhost.azure.vault import Clock, Credential, VaultDouble, running_vault
from devhost.host import Host
from devhost.standin import Standin
from shim.__main__ import app
from shim.cli.doctor.checks import CHECKS, run_checks
from shim.cli.doctor.client import Client, open_client
from shim.cli.doctor.finding import Finding
from shim.cli.doctor.target import Target, open_vault
from shim.keys.azure.key_vault import VaultSecrets
from shim.settings import Settings, SettingsError
from tests.conftest import KEY, StartHost

ORIGIN = "https://app.example.com"


async def examined(environ: dict[str, str], **options: Any) -> list[Finding]:
    return [finding async for finding in run_checks(Target.read(environ, **options))]


# What programs know the findings of a check by, where it is not the check's own name.
NAMES = {
    "settings": ["settings", "retirement"],
    "vault": ["identity", "vault"],
    "keys": ["no key", "wrong key", "given key", "api"],
}


async def found_by(check: str, environ: dict[str, str], **options: Any) -> list[Finding]:
    """What one check finds alone, trusting no certificate unless told to."""
    target = Target.read(environ, **{"trust": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), **options})
    async with open_client(target.trust) as client:
        findings = [finding async for finding in dict(CHECKS)[check](target, client)]
    assert {finding.check for finding in findings} <= set(NAMES.get(check, [check]))
    return findings


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def local(standin: Standin, **settings: str) -> dict[str, str]:
    return {"APIM_BASE_URL": standin.base_url, "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}", **settings}


def saying(status: int, content: object, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        if isinstance(content, str):
            return web.Response(text=content, status=status, headers=headers)
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
    [vault] = of(findings, "vault")
    assert (vault.outcome, vault.message) == ("failed", "the check itself failed (RuntimeError)")
    assert vault.next_step == "report this as a defect"
    assert of(findings, "clock")
    assert "s3cret" not in repr(findings)


def test_the_checks_come_in_the_order_in_which_faults_hide_each_other() -> None:
    assert [name for name, _ in CHECKS] == [
        *("settings", "vault", "dns", "tls", "keys", "APIM_API", "shim", "cors", "streaming", "clock")
    ]


def test_a_finding_is_a_line_and_its_next_step_another_whatever_they_quote() -> None:
    finding = Finding("tls", "warning", "answered \x1b[2J", "call\r\nok      tls: forged")
    assert str(finding).splitlines() == [
        "warning tls: answered \ufffd[2J",
        "        → call\ufffd\ufffdok      tls: forged",
    ]
    assert str(Finding("tls", "ok", "TLSv1.3")) == "ok      tls: TLSv1.3"


NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize(
    ("check", "lines"),
    [
        (
            "keys",
            [
                (
                    "failed",
                    f"no connection to {NOBODY}",
                    "fix the failures above first; then look at APIM's own",
                )
            ],
        ),
        ("APIM_API", [("failed", f"no connection to {NOBODY}", "fix the failures above first")]),
        (
            "shim",
            [("failed", f"no connection to {NOBODY}", "check --shim-url; is the app deployed and started?")],
        ),
        ("cors", [("failed", f"no connection to {NOBODY}", "fix the failures above first")]),
        (
            "streaming",
            [
                ("failed", f"from APIM: no connection to {NOBODY}", "fix the failures above first"),
                ("failed", f"through the shim: no connection to {NOBODY}", "fix the failures above first"),
            ],
        ),
        (
            "tls",
            [("warning", "127.0.0.1 is called without TLS", "use https:// for anything but an API on this")],
        ),
        ("clock", [("warning", "not compared, since APIM's response has no date", "fix the failures above")]),
    ],
)
async def test_where_nobody_listens_each_check_says_so_and_goes_on(
    check: str, lines: list[tuple[str, str, str]]
) -> None:
    url = f"http://{NOBODY}"
    options = {"shim_url": url, "origin": ORIGIN, "model": "gpt-4o", "key": "a-key"}
    findings = await found_by(check, {"APIM_BASE_URL": f"{url}/api"}, **options)
    assert [(finding.outcome, finding.message) for finding in findings] == [line[:2] for line in lines]
    for finding, (_, _, next_step) in zip(findings, lines, strict=True):
        assert finding.next_step.startswith(next_step)


@pytest.mark.parametrize(
    ("check", "environ", "lines"),
    [
        ("keys", {}, [("given key", "warning", "not tried", "| python -m shim doctor --key-stdin")]),
        ("shim", {}, []),
        (
            "cors",
            {"CORS_ORIGINS": ORIGIN},
            [("cors", "warning", "not tried", "--origin https://app.example.com")],
        ),
        ("cors", {}, [("cors", "ok", "no web page may call, since CORS_ORIGINS is empty", "")]),
        (
            "streaming",
            {},
            [("streaming", "warning", "not tried", "(--key-stdin) and a model that it may use (--mo")],
        ),
        (
            "vault",
            {"KEY_CACHE_TTL": "soon"},
            [("vault", "warning", "not checked, since the settings name none", "fix the settings first")],
        ),
        (
            "vault",
            {"LOCAL_SUBSCRIPTION_KEYS": "a=b"},
            [
                (
                    "identity",
                    "ok",
                    "not needed: keys come from LOCAL_SUBSCRIPTION_KEYS, which is for running loc",
                    "",
                )
            ],
        ),
    ],
)
async def test_what_is_not_tried_says_what_it_needs(
    standin: Standin, check: str, environ: dict[str, str], lines: list[tuple[str, ...]]
) -> None:
    findings = await found_by(check, {"APIM_BASE_URL": standin.base_url, **environ})
    told = [finding for finding in findings if finding.check not in ("no key", "wrong key")]
    assert [(finding.check, finding.outcome) for finding in told] == [line[:2] for line in lines]
    for finding, (*_, message, next_step) in zip(told, lines, strict=True):
        assert finding.message.startswith(message)
        assert next_step in finding.next_step
        assert bool(next_step) is bool(finding.next_step)


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
    assert {problem.next_step for problem in problems} == {
        "set it in the app (azd env set NAME VALUE, then azd provision), in local.settings.json, or in the environment"
    }


@pytest.mark.parametrize("suffix", ["/deployments", "/chat/completions", "/responses"])
async def test_a_base_url_that_was_pasted_too_long_is_noticed(standin: Standin, suffix: str) -> None:
    findings = await found_by("settings", local(standin), base_url=standin.base_url + suffix)
    [finding] = findings
    end = suffix.rpartition("/")[2]
    assert (finding.outcome, finding.message) == (
        "warning", f"APIM_BASE_URL ends with /{end}, which the shim adds itself"
    )  # fmt: skip
    assert finding.next_step.startswith("remove that part: the base URL is where all operations of the API")


async def test_settings_that_are_complete_say_where_calls_go_and_where_keys_are(standin: Standin) -> None:
    [finding] = await found_by("settings", local(standin))
    assert (finding.outcome, finding.message) == (
        "ok", f"complete; the APIM API is {standin.base_url}, keys are in the settings"
    )  # fmt: skip
    in_vault = {"APIM_BASE_URL": standin.base_url, "KEY_VAULT_URL": "https://v.vault.azure.net"}
    [finding] = await found_by("settings", in_vault)
    assert finding.message.endswith(", keys are in https://v.vault.azure.net")


async def test_a_setting_that_is_risky_is_warned_of_with_where_to_change_it(standin: Standin) -> None:
    environ = local(standin, FUNCTIONS_REQUEST_BODY_SIZE_LIMIT="1000")
    environ |= {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    first, second, complete = await found_by("settings", environ)
    assert [(finding.outcome, finding.message.split()[0]) for finding in (first, second)] == [
        ("warning", "MAX_BODY_BYTES"),
        ("warning", "OTEL_TRACES_SAMPLER"),
    ]
    assert "azd env set NAME VALUE" in first.next_step
    assert complete.outcome == "ok"


@pytest.mark.parametrize(
    "faulty",
    [
        {"KEY_CACHE_TTL": "soon"},
        {"CORS_ORIGINS": "app.example.com"},
        # What is said of these begins with their value, too.
        {"SHIM_AFTER_SUNSET": "refuse"},
        {"CORS_CREDENTIALS": "true", "CORS_ORIGINS": "*"},
    ],
)
async def test_with_a_faulty_setting_the_others_count_all_the_same(
    serve: Callable[..., Any], faulty: dict[str, str]
) -> None:
    headers = []

    async def answer(request: web.Request) -> web.Response:
        headers.append(request.headers.get("x-team-key"))
        return web.Response(status=401)

    said = {"APIM_BASE_URL": f"http://127.0.0.1:{await serve(answer)}/api", "APIM_KEY_HEADER": "X-Team-Key"}
    await found_by("keys", {**said, **faulty}, key="a-key")
    assert headers[-1] == "a-key"
    target = Target.read({**said, "KEY_VAULT_URL": "https://v.vault.azure.net", **faulty})
    assert target.settings.key_vault_url == "https://v.vault.azure.net"


async def test_where_faulty_settings_leave_others_without_sense_the_api_is_examined_by_its_url_alone(
    standin: Standin,
) -> None:
    # Without the date that cannot be read, the refusal after it makes no sense, either.
    target = Target.read(local(standin, SHIM_SUNSET="soon", SHIM_AFTER_SUNSET="refuse"))
    assert target.settings.apim_base_url == standin.base_url
    assert [problem.split()[0] for problem in target.problems] == ["SHIM_SUNSET"]


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
    assert identity.message == f"principal {PRINCIPAL} (client {CLIENT}); its permissions follow"
    reading, listing = of(findings, "vault")
    assert (reading.outcome, listing.outcome) == ("ok", "ok")
    assert reading.message.startswith(f"{vault.url} lets this identity read secrets (")
    assert listing.message == "it may list them, too; whether it may write them is not tried"
    assert vault.credential.closed


async def test_a_secret_is_read_that_holds_no_key_below_the_prefix_of_keys(
    standin: Standin, vault: VaultDouble
) -> None:
    findings = await with_vault(standin, vault, KEY_SECRET_PREFIX="team-", AZURE_CLIENT_ID=CLIENT)
    assert vault.read == ["team-" + "0" * 64]
    assert of(findings, "identity")[0].message.endswith(
        f"(client {CLIENT}) by AZURE_CLIENT_ID; its permissions follow"
    )


async def test_in_azure_the_identity_of_the_settings_signs_in_and_the_vault_is_given_time(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    # As long as the doctor is patient, which the shim itself is not.
    monkeypatch.setattr("shim.cli.doctor.target.PATIENCE", 0.1)
    async with running_azure(tmp_path) as azure, await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
            monkeypatch.setenv(name, azure.environ[name])
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = {"APIM_BASE_URL": standin.base_url, "KEY_VAULT_URL": url, "AZURE_CLIENT_ID": CLIENT}
        in_azure = {**environ, "WEBSITE_SITE_NAME": "shim"}
        identity, reading, _ = await found_by("vault", in_azure)
        assert (identity.outcome, azure.asked[0]) == ("ok", (CLIENT, "https://0.0.1"))
        assert reading.message == f"Key Vault {url} did not respond within 0.1 seconds"
        for given, kind in ((in_azure, "ManagedIdentityCredential"), (environ, "DefaultAzureCredential")):
            credential, secrets = open_vault(Settings.from_environment(given))
            assert type(credential).__name__ == kind
            await secrets.close()


async def test_an_identity_without_a_token_is_told_to_sign_in(standin: Standin, vault: VaultDouble) -> None:
    vault.credential.refuses = True
    findings = await with_vault(standin, vault)
    (identity,) = of(findings, "identity")
    assert (identity.outcome, of(findings, "vault")) == ("failed", [])
    assert identity.message == "no token could be obtained (ClientAuthenticationError)"
    assert vault.credential.closed
    assert "az login" in identity.next_step
    in_azure = of(await with_vault(standin, vault, WEBSITE_SITE_NAME="shim"), "identity")[0]
    assert in_azure.next_step.startswith("assign a user-assigned identity to the app and set AZURE_CLIENT_ID")


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
    assert listing.message.startswith("this identity may not list secrets, which KEY_LOOKUP=scan and")
    assert next_step in listing.next_step


async def test_a_vault_that_is_busy_is_to_be_tried_again(standin: Standin, vault: VaultDouble) -> None:
    vault.fault = throttled(7)
    reading = of(await with_vault(standin, vault), "vault")[0]
    assert reading.message == f"Key Vault {vault.url} answered 429 Throttled"
    assert reading.next_step == "try again; if it persists, look for throttling in the vault's metrics"


async def test_a_vault_that_cannot_be_reached_names_name_and_firewall(
    standin: Standin, vault: VaultDouble
) -> None:
    await vault.stop()
    reading = of(await with_vault(standin, vault), "vault")[0]
    assert reading.outcome == "failed"
    assert reading.next_step.startswith(
        "check the name in KEY_VAULT_URL, and whether the vault's firewall or private"
    )


async def test_listing_is_needed_only_where_the_settings_say_so(standin: Standin, vault: VaultDouble) -> None:
    vault.fault = forbidden("ForbiddenByRbac")
    _, listing = of(await with_vault(standin, vault, KEY_LOOKUP="scan"), "vault")
    assert listing.outcome == "failed"


# DNS, TLS, clock


async def test_a_host_without_an_address_fails_by_name() -> None:
    findings = await examined({"APIM_BASE_URL": "https://no-such-host.invalid/api"})
    (dns,) = of(findings, "dns")
    assert (dns.outcome, dns.message) == ("failed", "no-such-host.invalid has no address here")
    assert dns.next_step.startswith("check the host in APIM_BASE_URL; an internal APIM resolves only inside")
    (tls,) = of(findings, "tls")
    assert tls.message.startswith("no connection to no-such-host.invalid:443 (")
    assert tls.next_step.startswith("check firewalls, the network security groups of APIM's subnet")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "127.0.0.1 is 127.0.0.1 (private)"),
        ("8.8.8.8", "8.8.8.8 is 8.8.8.8"),
        ("[fd00::1]", "fd00::1 is fd00::1 (private)"),
    ],
)
async def test_an_address_is_named_with_whether_it_is_private(host: str, words: str) -> None:
    [dns] = await found_by("dns", {"APIM_BASE_URL": f"https://{host}/api"})
    assert (dns.outcome, dns.message) == ("ok", words)


async def test_a_name_with_several_addresses_is_private_only_if_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolved(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        assert (host, port) == ("contoso.azure-api.net", 443)
        addresses = ("8.8.8.8", "10.0.0.4", "10.0.0.4")
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved, raising=False)
    [dns] = await found_by("dns", {"APIM_BASE_URL": "https://contoso.azure-api.net/openai"})
    assert dns.message == "contoso.azure-api.net is 10.0.0.4, 8.8.8.8"


def authority(**certificate: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of a server at localhost and of those who trust it."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("localhost", **certificate).configure_cert(server)
    ca.configure_trust(client)
    return server, client


@pytest.mark.parametrize(
    ("days", "trusted", "outcome", "words", "next_step"),
    [
        (365, True, "ok", "TLSv1.3 with localhost, whose certificate is valid for 365 days", ""),
        (15, True, "ok", "whose certificate is valid for 15 days", ""),
        (
            13,
            True,
            "warning",
            "whose certificate is valid for 13 days",
            "renew the certificate of the APIM gateway",
        ),
        (
            365,
            False,
            "failed",
            "certificate of localhost is not trusted: ",
            "renew it, or trust its issuer here and",
        ),
        (
            -1,
            True,
            "failed",
            "certificate has expired",
            "renew it, or trust its issuer here and in the app; a proxy",
        ),
    ],
    ids=["good", "good for a while", "ends soon", "unknown authority", "expired"],
)
async def test_the_certificate_is_judged(
    serve: Callable[..., Any], days: int, trusted: bool, outcome: str, words: str, next_step: str
) -> None:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    server, client = authority(not_before=now - timedelta(days=400), not_after=ends)
    port = await serve(saying(401, {}), server)
    trust = {"trust": client} if trusted else {}
    findings = await examined({"APIM_BASE_URL": f"https://localhost:{port}/api"}, **trust)
    (tls,) = of(findings, "tls")
    assert (tls.outcome, words in tls.message) == (outcome, True), tls
    assert tls.next_step.startswith(next_step)
    assert bool(tls.next_step) is bool(next_step)
    if outcome == "failed":
        (api,) = of(findings, "api")
        assert api.message == f"the certificate of localhost:{port} is not trusted here"
    else:
        assert of(findings, "no key")[0].outcome == "ok"


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(0, "ok"), (25, "ok"), (35, "warning"), (-295, "warning"), (310, "failed"), (-3600, "failed")],
    ids=["equal", "some seconds", "half a minute", "less than five", "more than five", "an hour"],
)
async def test_the_clocks_are_compared(serve: Callable[..., Any], seconds: int, outcome: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        date = format_datetime(datetime.now(UTC) - timedelta(seconds=seconds), usegmt=True)
        return web.Response(status=401, headers={"Date": date})

    [clock] = await found_by("clock", {"APIM_BASE_URL": f"http://127.0.0.1:{await serve(answer)}/api"})
    assert clock.outcome == outcome
    apart, words = clock.message.split(maxsplit=1)
    # The header has no fractions of a second.
    assert abs(int(apart) - abs(seconds)) <= 3
    assert words == "s apart from APIM's"
    if outcome != "ok":
        assert clock.next_step.startswith("synchronise this machine's clock: tokens and the expiry of keys")


async def test_without_a_date_that_can_be_read_the_clocks_are_not_compared(serve: Callable[..., Any]) -> None:
    for date in ("soon", ""):
        base_url = f"http://127.0.0.1:{await serve(saying(401, {}, Date=date))}/api"
        [clock] = await found_by("clock", {"APIM_BASE_URL": base_url})
        assert (clock.outcome, clock.message) == (
            "warning",
            "not compared, since APIM's response has no date",
        )


# The APIM API


async def test_a_wrong_path_is_told_from_a_missing_deployment(standin: Standin) -> None:
    findings = await examined(local(standin), base_url=standin.base_url.replace("/openai", "/elsewhere"))
    (no_key,) = of(findings, "no key")
    assert no_key.outcome == "failed"
    assert "compare APIM_BASE_URL" in no_key.next_step


async def test_each_call_says_what_is_to_be_judged_and_names_no_model_that_would_be_billed(
    serve: Callable[..., Any],
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(
            (request.method, request.path_qs, request.headers.get("x-key"), (await request.json())["model"])
        )
        return web.json_response({"message": "invalid"}, status=401)

    url = f"http://127.0.0.1:{await serve(answer)}"
    said = {"APIM_BASE_URL": f"{url}/api", "APIM_V1_BASE_URL": f"{url}/v1", "APIM_KEY_HEADER": "x-key"}
    said["APIM_API_VERSION"] = "2025-01-01-preview"
    nobodys = "shim-doctor-no-such-model"
    dated = f"/api/deployments/{nobodys}/chat/completions?api-version=2025-01-01-preview"
    await found_by("keys", said, key="a-key")
    assert {(method, path, model) for method, path, _, model in asked} == {("POST", dated, nobodys)}
    without, wrong, given = [key for *_, key, _ in asked]
    assert (without, given) == (None, "a-key")
    assert len(wrong or "") == 32
    asked.clear()
    await found_by("keys", {**said, "APIM_API": "v1"})
    assert {path for _, path, _, _ in asked} == {"/v1/chat/completions"}
    assert wrong not in [key for *_, key, _ in asked]
    asked.clear()
    [finding] = await found_by("APIM_API", said, key="a-key")
    assert asked == [
        ("POST", dated, "a-key", nobodys),
        ("POST", "/v1/chat/completions", "a-key", nobodys),
    ]
    assert finding.message == "legacy is right: the API has chat completions as legacy and v1"


async def test_a_key_that_was_pasted_wrongly_is_for_apim_to_judge(serve: Callable[..., Any]) -> None:
    keys = []

    async def answer(request: web.Request) -> web.Response:
        keys.append(request.headers.get("api-key", "").encode("utf-8", "surrogateescape"))
        return web.json_response({"message": "invalid"}, status=401)

    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    for check in ("keys", "streaming"):
        findings = await found_by(check, {"APIM_BASE_URL": base_url}, key="schlüssel“", model="gpt-4o")
        assert "answered 401" in findings[-1].message
        assert keys[-1] == "schlüssel“".encode()
        # Bytes on stdin that are no UTF-8, where the locale takes them.
        findings = await found_by(check, {"APIM_BASE_URL": base_url}, key="schl\udcfcssel", model="gpt-4o")
        assert findings[-1].message.endswith("failed (UnicodeEncodeError)")


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


MISSING = {"message": "Access denied due to missing subscription key."}
NO_DEPLOYMENT = {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
AOAI_401 = {
    "error": {
        "code": "401",
        "message": "Access denied due to invalid subscription key or wrong API endpoint.",
    }
}


@pytest.mark.parametrize(
    ("status", "content", "check", "outcome", "message", "words"),
    [
        (200, {}, "no key", "warning", "answered 200: {}", "asks for no subscription key: require"),
        (400, {}, "no key", "warning", "answered 400: {}", "asks for no subscription key: require"),
        (404, NO_DEPLOYMENT, "no key", "warning", "answered 404: {", "asks for no subscription key: require"),
        (401, {}, "no key", "ok", "refused, as it should be (", ""),
        (
            403,
            {"message": "Forbidden"},
            "no key",
            "failed",
            'answered 403: {"message": "Forb',
            "an IP filter",
        ),
        (302, {}, "no key", "failed", "answered 302: {}", "this is not the API itself: check APIM_BASE_URL"),
        (399, {}, "no key", "failed", "answered 399: {}", "this is not the API itself: check APIM_BASE_URL"),
        (500, {}, "no key", "failed", "answered 500: {}", "this is not the API itself: check APIM_BASE_URL"),
        (404, {}, "no key", "failed", "answered 404: {}", "no such operation: compare APIM_BASE_URL"),
        (405, [], "no key", "failed", "answered 405: []", "no such operation: compare APIM_BASE_URL"),
        (
            404,
            {"error": {"code": "404"}},
            "no key",
            "failed",
            "answered 404: {",
            "no such operation: compare",
        ),
        (404, {"error": {"code": 405}}, "no key", "failed", "answered 404: {", "no such operation: compare"),
        (
            401,
            MISSING,
            "wrong key",
            "failed",
            "APIM did not see it in the header api-key",
            "set APIM_KEY_HEADER",
        ),
        (401, {}, "wrong key", "ok", "refused, as it should be", ""),
        (404, {}, "wrong key", "failed", "no such operation", "as above"),
        (
            404,
            NO_DEPLOYMENT,
            "wrong key",
            "warning",
            "answered 404: {",
            "the API takes any key: require a subsc",
        ),
        (
            401,
            AOAI_401,
            "given key",
            "failed",
            "answered 401: {",
            "refused APIM: fix the backend's credential in",
        ),
        (
            401,
            MISSING,
            "given key",
            "failed",
            "answered 401: {",
            "set APIM_KEY_HEADER to the name in the API's",
        ),
        (
            401,
            {},
            "given key",
            "failed",
            "answered 401: {}",
            "use a key of an active subscription to this API",
        ),
        (
            403,
            {"message": "Out of call volume quota."},
            "given key",
            "failed",
            "answered 403: {",
            "wait for the quo",
        ),
        (
            403,
            {},
            "given key",
            "failed",
            "answered 403: {}",
            "a policy refuses this key or this network: see APIM",
        ),
        (
            429,
            {"message": "Rate limit"},
            "given key",
            "warning",
            "answered 429: {",
            "rate limit is used up: try ag",
        ),
        (
            500,
            {},
            "given key",
            "failed",
            "answered 500: {}",
            "the key is good, but the API behind it fails: see",
        ),
        (
            405,
            {},
            "given key",
            "failed",
            "answered 405: {}",
            "the key is good, but there is no such operation: se",
        ),
        (404, NO_DEPLOYMENT, "given key", "ok", "accepted (", ""),
        (
            404,
            "not found",
            "given key",
            "failed",
            "answered 404: ",
            "the key is good, but there is no such operati",
        ),
        (200, {}, "given key", "ok", "accepted (", ""),
    ],
)
async def test_answers_of_the_api_are_read(
    serve: Callable[..., Any],
    status: int,
    content: object,
    check: str,
    outcome: str,
    message: str,
    words: str,
) -> None:
    port = await serve(saying(status, content))
    findings = await found_by("keys", {"APIM_BASE_URL": f"http://127.0.0.1:{port}/api"}, key="a-key")
    (finding,) = of(findings, check)
    assert (finding.outcome, finding.message[: len(message)]) == (outcome, message), finding
    assert words in finding.next_step
    assert bool(finding.next_step) is bool(words)


async def test_no_redirect_is_followed_with_a_key(serve: Callable[..., Any]) -> None:
    asked = set()

    async def answer(request: web.Request) -> web.Response:
        asked.add(request.path.partition("/deployments")[0])
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    for check in ("keys", "streaming"):
        await found_by(check, {"APIM_BASE_URL": base_url}, key="a-key", model="gpt-4o")
    assert asked == {"/api"}


async def test_where_apim_names_no_header_none_is_suggested(serve: Callable[..., Any]) -> None:
    port = await serve(saying(401, MISSING))
    findings = await found_by("keys", {"APIM_BASE_URL": f"http://127.0.0.1:{port}/api"})
    assert of(findings, "wrong key")[0].next_step == "set APIM_KEY_HEADER to the name in the API's settings"


async def test_bytes_that_are_no_text_are_quoted_as_well_as_they_can_be(serve: Callable[..., Any]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=500, body=b"\xffno")

    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    for check in ("keys", "streaming"):
        findings = await found_by(check, {"APIM_BASE_URL": base_url}, key="a-key", model="gpt-4o")
        assert findings[-1].message.endswith("answered 500: \ufffdno")


async def test_what_is_no_answer_is_told_in_words(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr("shim.cli.doctor.client.PATIENCE", 0.05)
    for answer, words in (
        (cut, "the request to {} failed ("),
        (never, "{} did not respond within 0.05 s"),
    ):
        host = f"127.0.0.1:{await serve(answer)}"
        async with asyncio.timeout(3):
            for check in ("keys", "streaming"):
                environ = {"APIM_BASE_URL": f"http://{host}/api"}
                [finding] = await found_by(check, environ, key="a-key", model="gpt-4o")
                assert finding.outcome == "failed"
                assert words.format(host) in finding.message


async def test_a_response_without_an_end_is_not_waited_for(serve: Callable[..., Any]) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=401)
        await response.prepare(request)
        await response.write(b"x" * 70_000)
        await asyncio.Event().wait()
        return response

    base_url = f"http://127.0.0.1:{await serve(answer)}/api"
    async with asyncio.timeout(5):
        findings = await found_by("keys", {"APIM_BASE_URL": base_url})
    assert of(findings, "no key")[0].outcome == "ok"


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
    if not spoken:
        assert finding.message == "the API has chat completions neither as legacy nor as v1"
        assert finding.next_step.startswith("compare APIM_BASE_URL (and APIM_V1_BASE_URL) with the API's URL")
    elif outcome == "failed":
        [other] = spoken
        assert finding.message == f"the API has chat completions as {other}, not as {configured}"
        assert finding.next_step == f"set APIM_API={other}"


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
        # Flex Consumption answers it with a 204 that allows nothing.
        by = "by the deployed shim (204)" if said else "by these settings (403)"
        assert (cors.outcome, cors.message) == (
            "failed", f"a preflight from https://evil.example.org is refused {by}"
        )  # fmt: skip
        assert "add https://evil.example.org to CORS_ORIGINS" in cors.next_step


async def test_an_origin_of_the_settings_is_allowed_without_a_shim_to_ask(standin: Standin) -> None:
    [cors] = await found_by("cors", local(standin, CORS_ORIGINS=ORIGIN), origin=ORIGIN)
    assert (cors.outcome, cors.message) == ("ok", f"a preflight from {ORIGIN} is allowed by these settings")


@pytest.mark.parametrize(
    ("status", "origin", "headers", "outcome", "words"),
    [
        (204, ORIGIN, "Authorization, Content-Type", "ok", "is allowed by the deployed shim"),
        (200, "*", "authorization,content-type", "ok", "is allowed by the deployed shim"),
        (204, ORIGIN, "*", "failed", "may not send authorization by the deployed shim"),
        (204, ORIGIN, "authorization", "failed", "may not send content-type by the deployed shim"),
        (204, ORIGIN, None, "failed", "may not send authorization, content-type by the deployed shim"),
        (204, None, "*", "failed", "is refused by the deployed shim (204)"),
        (204, "https://other.example", "*", "failed", "is refused by the deployed shim (204)"),
        (302, ORIGIN, "authorization,content-type", "failed", "is refused by the deployed shim (302)"),
    ],
)
async def test_a_preflight_is_judged_as_a_browser_does(
    serve: Callable[..., Any], status: int, origin: str | None, headers: str | None, outcome: str, words: str
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, dict(request.headers)))
        said = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Headers": headers}
        return web.Response(status=status, headers={name: value for name, value in said.items() if value})

    url = f"http://127.0.0.1:{await serve(answer)}"
    [cors] = await found_by("cors", {"APIM_BASE_URL": f"{url}/api"}, origin=ORIGIN, shim_url=url)
    assert (cors.outcome, cors.message) == (outcome, f"a preflight from {ORIGIN} {words}")
    assert cors.next_step.startswith(f"add {ORIGIN} to CORS_ORIGINS") is (outcome == "failed")
    [(method, path, sent)] = asked
    assert (method, path) == ("OPTIONS", "/openai/v1/chat/completions")
    lower = {name.lower(): value for name, value in sent.items()}
    assert lower["origin"] == ORIGIN
    assert lower["access-control-request-method"] == "POST"
    assert lower["access-control-request-headers"] == "authorization,content-type"


async def test_a_preflight_that_two_tiers_answer_is_noticed(
    standin: Standin, serve: Callable[..., Any]
) -> None:
    port = await serve(saying(204, None, **{"Access-Control-Allow-Origin": f"{ORIGIN}, *"}))
    findings = await examined(local(standin), origin=ORIGIN, shim_url=f"http://127.0.0.1:{port}")
    [cors] = of(findings, "cors")
    assert (cors.outcome, cors.message) == (
        "failed", f"two tiers answer a preflight from {ORIGIN} by the deployed shim, which browsers refuse"
    )  # fmt: skip
    assert cors.next_step.startswith("leave CORS to one of them: empty the list in the portal")


async def test_a_shim_that_is_not_ready_tells_why(standin: Standin, start_host: StartHost) -> None:
    broken = await start_host(APIM_BASE_URL="http://127.0.0.1:9/api", READYZ_DETAILS="true")
    (finding,) = of(await examined(local(standin), shim_url=broken.url), "shim")
    assert finding.outcome == "failed"
    assert finding.message.startswith("upstream: The APIM API could not be reached")
    assert finding.next_step == "set READYZ_DETAILS=true to see the whole reason"


@pytest.mark.parametrize(
    ("status", "content", "lines"),
    [
        (200, {"checks": []}, [r"ok      shim: ready \(\d+ ms\)"]),
        (
            200,
            {"checks": [], "retirement": {"days_left": 12}},
            [r"ok      shim: ready \(\d+ ms\), 12 days before its sunset"],
        ),
        (
            200,
            {"checks": [{"name": "upstream", "ok": True}], "warnings": ["LOG_CALLS is all"]},
            [r"ok      shim: ready \(\d+ ms\)", "warning shim: LOG_CALLS is all"],
        ),
        (
            503,
            {
                "checks": [
                    {"name": "upstream", "ok": True},
                    {"name": "vault", "ok": False, "reason": "no role"},
                ]
            },
            ["failed  shim: vault: no role"],
        ),
        (200, {"status": "fine"}, ["failed  shim: the response to /readyz is not a shim's"]),
        (200, ["checks"], ["failed  shim: the response to /readyz is not a shim's"]),
        (200, {"checks": [], "retirement": []}, ["failed  shim: the response to /readyz is not a shim's"]),
    ],
)
async def test_what_the_shim_says_of_itself_is_passed_on(
    serve: Callable[..., Any], status: int, content: object, lines: list[str]
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.method, request.path))
        return web.json_response(content, status=status)

    url = f"http://127.0.0.1:{await serve(answer)}"
    findings = await found_by("shim", {"APIM_BASE_URL": f"{url}/api"}, shim_url=url)
    assert asked == [("GET", "/readyz")]
    for finding, line in zip(findings, lines, strict=True):
        assert re.fullmatch(line, str(finding).splitlines()[0])
        assert bool(finding.next_step) is not line.startswith("ok")


async def test_a_page_in_place_of_the_shims_health_is_not_taken_for_one(serve: Callable[..., Any]) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    url = f"http://127.0.0.1:{await serve(page)}"
    [shim] = await found_by("shim", {"APIM_BASE_URL": f"{url}/api"}, shim_url=url)
    assert shim.message == "the response to /readyz is not a shim's"
    assert shim.next_step.startswith("check --shim-url; is the app deployed and started? See its log stream")


class Played(Client):
    """Streams what a test says, each chunk with the second in which it is to have arrived."""

    def __init__(self, status: int, *chunks: tuple[float, bytes]) -> None:
        self._chunks = [(0.0, str(status).encode()), *chunks]

    async def stream(
        self, url: str, *, headers: Mapping[str, str], body: object
    ) -> AsyncIterator[tuple[float, bytes]]:
        for chunk in self._chunks:
            yield chunk


@pytest.mark.parametrize(
    ("arrivals", "outcome", "message"),
    [
        (
            [1.0, 1.5, 2.0, 2.25],
            "ok",
            "first byte after 1000 ms, 4 events in 4 chunks over 1250 ms, longest gap 500 ms",
        ),
        (
            [1.0, 1.0625, 1.09375],
            "warning",
            "first byte after 1000 ms, 3 events in 3 chunks over 94 ms, longest gap 62 ms: all at once, so something"
            " buffers",
        ),
        (
            [1.0, 1.0, 1.125],
            "ok",
            "first byte after 1000 ms, 3 events in 3 chunks over 125 ms, longest gap 125 ms",
        ),
        # So few events say nothing of a buffer, and so fast a stream neither.
        ([1.0, 1.0], "ok", "first byte after 1000 ms, 2 events in 2 chunks over 0 ms, longest gap 0 ms"),
        (
            [0.25, 0.25, 0.25],
            "ok",
            "first byte after 250 ms, 3 events in 3 chunks over 0 ms, longest gap 0 ms",
        ),
        ([1.0], "ok", "first byte after 1000 ms, 1 events in 1 chunks over 0 ms, longest gap 0 ms"),
    ],
)
async def test_a_stream_is_judged_by_when_its_chunks_arrived(
    standin: Standin, arrivals: list[float], outcome: str, message: str
) -> None:
    client = Played(200, *((at, b"data: {}\n\n") for at in arrivals))
    target = Target.read(local(standin), key="a-key", model="gpt-4o")
    [finding] = [finding async for finding in dict(CHECKS)["streaming"](target, client)]
    assert (finding.outcome, finding.message) == (outcome, f"from APIM: {message}")
    if outcome == "warning":
        assert finding.next_step.startswith("in APIM, set buffer-response to false on forward-request")


@pytest.mark.parametrize(
    ("status", "chunks", "seen"),
    [
        (404, [b"no key ", b"a-key"], "answered 404: no key <key>"),
        (200, [], "answered 200: nothing"),
    ],
)
async def test_a_stream_that_does_not_begin_is_quoted_with_what_to_look_at(
    standin: Standin, status: int, chunks: list[bytes], seen: str
) -> None:
    client = Played(status, *((1.0, chunk) for chunk in chunks))
    target = Target.read(local(standin), key="a-key", model="gpt-4o")
    [finding] = [finding async for finding in dict(CHECKS)["streaming"](target, client)]
    assert (finding.outcome, finding.message) == ("failed", f"from APIM: {seen}")
    assert finding.next_step == "check --model and its deployment"


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
        sent = {name.lower(): value for name, value in request.headers.items()}
        keys = {name: sent[name] for name in ("authorization", "x-key") if name in sent}
        body = await request.json()
        asked.append((request.path, body["model"], body["stream"], keys))
        return web.Response(text='data: {"choices": []}\n\n', content_type="text/event-stream")

    url = f"http://127.0.0.1:{await serve(answer)}"
    said = {"APIM_BASE_URL": f"{url}/api", "APIM_V1_BASE_URL": f"{url}/v1", "APIM_API": api}
    said |= {"MODEL_DEPLOYMENTS": "gpt-4o=prod,gpt-5=next", "APIM_KEY_HEADER": "x-key"}
    # By default with the first model that the settings name.
    for model in ("gpt-4o", None):
        findings = await found_by("streaming", said, key="a-key", model=model, shim_url=url)
        assert asked == [
            (path, "prod", True, {"x-key": "a-key"}),
            ("/openai/v1/chat/completions", "gpt-4o", True, {"authorization": "Bearer a-key"}),
        ]
        assert [finding.message.partition(":")[0] for finding in findings] == [
            "from APIM",
            "through the shim",
        ]
        asked.clear()


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
    assert said.count("given key: ") == 1
    assert "failed  given key: answered 401" in said
    assert "        → use a key of an active subscription" in said


async def test_the_command_speaks_json(standin: Standin) -> None:
    code, said = await command("--json", standin=standin)
    report = json.loads(said)
    assert (code, report["ok"]) == (0, True)
    assert set(report["findings"][0]) == {"check", "outcome", "message", "next_step"}


async def invoked(*arguments: str, stdin: str = "", **environ: str) -> Result:
    """The command in this process, in a thread of its own since it has its own event loop."""
    run = functools.partial(CliRunner().invoke, app, ["doctor", *arguments], input=stdin, env=environ)
    return await asyncio.to_thread(run)


async def test_options_say_what_is_examined_and_the_environment_wins_over_a_file_of_settings(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers.get("x-key"), request.headers.get("origin")))
        return web.json_response({"checks": [], "message": "invalid"}, status=401)

    url = f"http://127.0.0.1:{await serve(answer)}"
    file = tmp_path / "settings.json"
    values = {"APIM_BASE_URL": f"{url}/file", "APIM_KEY_HEADER": "x-key", "APIM_API": "v1"}
    file.write_text(json.dumps({"Values": values | {"LOCAL_SUBSCRIPTION_KEYS": "a=b"}}))
    given = (
        "--settings",
        str(file),
        "--shim-url",
        f"{url}/",
        "--origin",
        ORIGIN,
        "--model",
        "gpt-4o",
        "--json",
    )
    done = await invoked(*given, "--key-stdin", stdin="a-key\n", APIM_BASE_URL=f"{url}/environment")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    paths = {path for path, _, _ in asked}
    assert "/environment/v1/chat/completions" in paths
    assert "/readyz" in paths
    assert ("/openai/v1/chat/completions", None, ORIGIN) in asked
    assert not [path for path in paths if "/file" in path]
    assert "a-key" in {key for _, key, _ in asked}
    assert [each["message"].partition(":")[0] for each in report["findings"] if each["check"] == "streaming"] == [
        "from APIM", "through the shim"
    ]  # fmt: skip


async def test_a_file_of_settings_that_is_not_there_is_a_mistake(standin: Standin, tmp_path: Path) -> None:
    done = await invoked("--settings", str(tmp_path / "none.json"), **local(standin))
    assert (done.exit_code, done.stdout) == (2, "")


async def test_each_finding_is_printed_as_soon_as_it_is_made(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, seen = io.StringIO(), []

    async def answer(_: web.Request) -> web.Response:
        seen.append(said.getvalue())
        return web.Response(status=401)

    monkeypatch.setenv("APIM_BASE_URL", f"http://127.0.0.1:{await serve(answer)}/api")
    monkeypatch.setenv("LOCAL_SUBSCRIPTION_KEYS", "a=b")
    with redirect_stdout(said):
        await asyncio.to_thread(functools.partial(app, ["doctor"], standalone_mode=False))
    # When the API is called, all that was found before is told already.
    assert [line.split()[1] for line in seen[0].splitlines() if "→" not in line] == [
        "settings:", "identity:", "dns:", "tls:"
    ]  # fmt: skip


async def test_a_key_on_stdin_is_read_only_where_that_is_asked_for(standin: Standin) -> None:
    for arguments, stdin in (((), f"{KEY}\n"), (("--key-stdin",), "\n")):
        done = await invoked("--json", *arguments, stdin=stdin, **local(standin))
        findings = json.loads(done.stdout)["findings"]
        assert [each["message"] for each in findings if each["check"] == "given key"] == ["not tried"]


def test_libraries_of_azure_do_not_tell_of_each_credential_that_they_tried() -> None:
    logger = logging.getLogger("azure")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    try:
        CliRunner().invoke(app, ["doctor", "--native", "http://apim.example/openai"])
        assert not logging.getLogger("azure.identity").isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before)


async def test_the_command_says_what_it_needs_when_it_knows_nothing(standin: Standin) -> None:
    code, said = await command(standin=standin, APIM_BASE_URL="")
    assert code == 2
    assert "failed  settings: APIM_BASE_URL is missing: set it to the base URL of the APIM API" in said
    assert "python -m shim doctor --base-url https://" in said


async def test_a_key_that_is_typed_is_not_shown() -> None:
    reader, writer = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shim", "doctor", "--native", "https://apim.example/openai", "--key-stdin"),
        cwd=Path(__file__).parent.parent,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        stdin=writer,
        stdout=writer,
        stderr=writer,
        # Without a terminal of its own, it asks at the one that it is given.
        start_new_session=True,
    )
    screen = asyncio.StreamReader()
    shown, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(screen), os.fdopen(reader, "rb", 0)
    )
    async with asyncio.timeout(30):
        await screen.readuntil(b"Subscription key: ")
        os.write(reader, b"s3cret\n")
        said = await screen.readuntil(b"not tried")
        assert await process.wait() == 1
    os.close(writer)
    shown.close()
    assert b"s3cret" not in said


async def test_a_base_url_on_the_command_line_wins(standin: Standin) -> None:
    code, said = await command(
        "--base-url", standin.base_url, standin=standin, APIM_BASE_URL="http://127.0.0.1:9"
    )
    assert code == 0, said
    assert standin.base_url in said


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    import subprocess

    heavy = "print([m for m in ('azure', 'aiohttp', 'httpx', 'openai') if m in sys.modules])"
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
