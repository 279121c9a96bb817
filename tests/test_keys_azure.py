"""What Key Vault and API Management answer: how it is read, how long it may take, and what operators are told of it.

Whoever reads one of these sentences has an app that lets nobody in, and does what it says.
"""

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import ClientAuthenticationError

from devhost.azure.faults import (
    CLIENT,
    PRINCIPAL,
    Fault,
    broken_connection,
    error,
    failing,
    forbidden,
    redirecting,
    throttled,
    unauthorized,
)
from devhost.azure.services import (
    RESOURCE_ID,
    SERVICE,
    Azure,
    ManagementCredential,
    Subscribed,
    running_azure,
)
from devhost.azure.tls import client_tls, server_tls
from devhost.azure.vault import START, Clock, Credential, VaultDouble
from shim.keys.azure.api_management import Apim, ApimApi, ApimError, ApimService, ApimSubscription
from shim.keys.azure.credential import SharedCredential, TokenTimeoutError
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.transport import SdkTransport
from shim.keys.azure.vault_errors import Access, VaultError, explain
from shim.keys.azure.writing import WritableSecrets
from shim.transport.sockets import make_socket
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time, turns_until

SCOPE = "https://vault.azure.net/.default"
NAME = "apim-sub-0123456789abcdef"
WHO = f"principal {PRINCIPAL} (client {CLIENT})"
NO_VAULT = "is KEY_VAULT_URL the URL of a Key Vault?"
NETWORK = "allow the app's network in the vault's networking settings"
POLICIES = f"give {WHO} the secret permissions Get and List in its access policies"
ROLE = f"grant the role 'Key Vault Secrets User' on it to {WHO}"
TENANT = f"it refused the token of {WHO}: is the vault in another tenant?"
DELETED = "a deleted secret has this name; recover it with 'az keyvault secret recover', or purge it"


# Key Vault's failures.


@asynccontextmanager
async def signed_in[Secrets: VaultSecrets](
    kind: type[Secrets], vault: VaultDouble, clock: Clock
) -> AsyncIterator[Secrets]:
    """The vault's secrets, with a token at hand, so that a failure can say who was refused."""
    opened = kind(vault.url, credential=vault.credential, transport=vault.transport(), clock=clock)
    await opened.get("any")
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def secrets(vault: VaultDouble, clock: Clock) -> AsyncIterator[WritableSecrets]:
    async with signed_in(WritableSecrets, vault, clock) as opened:
        yield opened


@pytest.fixture
async def reader(vault: VaultDouble, clock: Clock) -> AsyncIterator[VaultSecrets]:
    async with signed_in(VaultSecrets, vault, clock) as opened:
        yield opened


def requests_of(vault: VaultDouble) -> list[web.Request]:
    """The requests that reach the vault from now on; it answers them as usual."""
    reached: list[web.Request] = []

    async def note(request: web.Request) -> web.Response:
        await request.read()  # kept in the request, for tests to read it again
        reached.append(request)
        vault.fault = None
        try:
            return await vault.answer(request)
        finally:
            vault.fault = note

    vault.fault = note
    return reached


def says(status: int, content: Any, headers: dict[str, str] | None = None) -> Fault:
    async def fault(_: web.Request) -> web.Response:
        return web.json_response(content, status=status, headers=headers)

    return fault


def conflict(inner: str | None) -> Fault:
    async def fault(_: web.Request) -> web.Response:
        return error(409, "Conflict", "Not now.", inner=inner)

    return fault


# The fault, the problem after "Key Vault <url> ", the remedy, whose it is, seconds until the next attempt, and whether
# a write may have been done all the same.
FAILURES: dict[str, tuple[Fault, str, str, str, int, bool]] = {
    "firewall": (
        forbidden("ForbiddenByFirewall"), "answered 403 ForbiddenByFirewall", NETWORK, "firewall", 15, False,
    ),
    "private endpoint": (
        forbidden("ForbiddenByConnection"), "answered 403 ForbiddenByConnection", NETWORK, "firewall", 15, False,
    ),
    "access policy": (forbidden("AccessDenied"), "answered 403 AccessDenied", POLICIES, "permission", 15, False),
    "no policy": (
        forbidden("ForbiddenByPolicy"), "answered 403 ForbiddenByPolicy", POLICIES, "permission", 15, False,
    ),
    "role": (forbidden("ForbiddenByRbac"), "answered 403 ForbiddenByRbac", ROLE, "permission", 15, False),
    "no code at all": (says(403, {}), "answered 403", ROLE, "permission", 15, False),
    "a code that is no text": (says(403, {"error": {"code": 7}}), "answered 403 7", ROLE, "permission", 15, False),
    "an error that is no object": (says(403, {"error": "no"}), "answered 403", ROLE, "permission", 15, False),
    "an error that is a list": (says(403, ["no"]), "answered 403", ROLE, "permission", 15, False),
    "an inner error of none": (
        says(403, {"error": {"code": "Forbidden", "innererror": None}}),
        "answered 403 Forbidden", ROLE, "permission", 15, False,
    ),
    "tenant": (unauthorized, "answered 401 Unauthorized", TENANT, "identity", 15, False),
    "deleted": (
        conflict("ObjectIsDeletedButRecoverable"),
        "answered 409 ObjectIsDeletedButRecoverable", DELETED, "other", 15, False,
    ),
    "conflict": (
        conflict(None), "answered 409 Conflict", "another change to this secret is in progress; try again", "other",
        15, False,
    ),
    "no vault": (failing(404), "answered 404", NO_VAULT, "unreachable", 15, False),
    "no request of its": (failing(400), "answered 400", NO_VAULT, "unreachable", 15, False),
    "redirect": (failing(302, {"Location": "/"}), "answered 302", NO_VAULT, "unreachable", 15, False),
    "no JSON": (failing(200), "answered 200", NO_VAULT, "unreachable", 15, False),
    "throttled": (throttled(17), "answered 429 Throttled", "", "other", 17, False),
    "server error": (failing(500), "answered 500", "", "other", 2, True),
    "gateway error": (failing(504), "answered 504", "", "other", 2, True),
    "unavailable": (failing(503, {"Retry-After": "9"}), "answered 503", "", "other", 9, True),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "problem", "remedy", "kind", "retry_after", "maybe_done"),
    FAILURES.values(),
    ids=FAILURES.keys(),
)
async def test_a_failure_of_the_vault_has_its_words_its_remedy_and_its_time(
    vault: VaultDouble,
    reader: VaultSecrets,
    fault: Fault,
    problem: str,
    remedy: str,
    kind: str,
    retry_after: int,
    maybe_done: bool,
) -> None:
    vault.fault = fault
    with pytest.raises(VaultError) as raised:
        await reader.get(NAME)
    failure = raised.value
    assert failure.problem == f"Key Vault {vault.url} {problem}"
    assert failure.remedy == remedy
    assert failure.reason == str(failure) == (f"{failure.problem}: {remedy}" if remedy else failure.problem)
    assert (failure.fault, failure.retry_after, failure.maybe_done) == (kind, retry_after, maybe_done)


async def whole_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


CALLS: dict[str, Callable[[WritableSecrets], Awaitable[object]]] = {
    "get": lambda secrets: secrets.get(NAME),
    "list": lambda secrets: whole_of(secrets.list()),
    "versions": lambda secrets: whole_of(secrets.versions(NAME)),
    "put": lambda secrets: secrets.put(NAME, "x", tags={}),
    "change": lambda secrets: secrets.change(NAME, enabled=False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_token_that_is_refused_is_not_one_that_is_missing_whatever_it_is_for(
    vault: VaultDouble, secrets: WritableSecrets, call: Callable[[WritableSecrets], Awaitable[object]]
) -> None:
    vault.fault = unauthorized
    with pytest.raises(VaultError) as raised:
        await call(secrets)
    assert raised.value.reason == f"Key Vault {vault.url} answered 401 Unauthorized: {TENANT}"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [("0", 1), ("-3", 1), ("1.2", 2), ("61", 61), ("soon", 2), ("inf", 2), ("nan", 2), ("", 2)],
)
async def test_a_retry_after_is_read_as_whole_seconds_and_else_is_two(
    vault: VaultDouble, reader: VaultSecrets, sent: str, seconds: int
) -> None:
    vault.fault = says(429, {}, {"Retry-After": sent})
    with pytest.raises(VaultError) as raised:
        await reader.get(NAME)
    assert raised.value.retry_after == seconds


async def test_a_vault_without_a_connection_is_unreachable_and_may_have_done_what_it_was_asked(
    vault: VaultDouble, reader: VaultSecrets
) -> None:
    vault.fault = broken_connection
    with pytest.raises(VaultError) as cut:
        await reader.get(NAME)
    await vault.stop()
    with pytest.raises(VaultError) as stopped:
        await reader.get(NAME)
    assert stopped.value.reason == f"no connection to Key Vault {vault.url} (ConnectionRefusedError)"
    for failure in (cut.value, stopped.value):
        assert failure.reason.startswith(f"no connection to Key Vault {vault.url} (")
        assert (failure.fault, failure.retry_after, failure.maybe_done) == ("unreachable", 2, True)


async def test_an_answer_that_is_none_of_a_vaults_has_operators_check_the_setting(
    vault: VaultDouble, reader: VaultSecrets
) -> None:
    vault.fault = says(200, ["no secret"])
    with pytest.raises(VaultError) as raised:
        await reader.get(NAME)
    failure = raised.value
    assert failure.problem.startswith(f"unexpected response from {vault.url} (")
    assert failure.remedy == NO_VAULT
    assert (failure.fault, failure.retry_after, failure.maybe_done) == ("unreachable", 15, True)


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ({}, "the app's managed identity"),
        ({"client_id": CLIENT}, f"the identity with client id {CLIENT}"),
        ({"in_azure": False}, "the developer's login"),
    ],
    ids=["the app's", "one by its client id", "a developer's"],
)
async def test_an_identity_without_a_token_is_named_by_what_is_known_of_it(
    vault: VaultDouble, credential: Credential, who: dict[str, Any], named: str
) -> None:
    credential.refuses = True
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), **who)
    with pytest.raises(VaultError) as raised:
        await reader.get(NAME)
    await reader.close()
    failure = raised.value
    assert failure.reason == (
        f"no token for Key Vault {vault.url} could be obtained for {named} (ClientAuthenticationError):"
        " assign the identity to the app, or sign in where it runs locally"
    )
    assert (failure.fault, failure.retry_after, failure.maybe_done) == ("identity", 15, False)


def test_a_token_that_never_comes_is_a_matter_of_the_identity() -> None:
    access = Access("https://v.vault.azure.net", WHO, "a role", "permissions")
    failure = explain(TokenTimeoutError(), access)
    assert f"could be obtained for {WHO} (TokenTimeoutError)" in failure.problem
    assert (failure.fault, failure.retry_after) == ("identity", 15)


@pytest.mark.parametrize("waits_for", ["the token", "the vault"])
async def test_a_call_past_its_budget_says_what_it_waited_for(
    vault: VaultDouble, credential: Credential, waits_for: str
) -> None:
    if waits_for == "the token":
        credential.gate.clear()
    else:
        vault.fault = vault.slow()
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), budget=0.25)
    await reader.warm()
    with pytest.raises(VaultError) as raised:
        await reader.get(NAME)
    await reader.close()
    failure = raised.value
    if waits_for == "the token":
        assert failure.reason == "no token for the app's managed identity within 0.25 seconds"
        assert (failure.fault, failure.maybe_done) == ("identity", False)
    else:
        assert failure.reason == f"Key Vault {vault.url} did not respond within 0.25 seconds"
        assert (failure.fault, failure.maybe_done) == ("unreachable", True)
    assert failure.retry_after == 2


@pytest.mark.parametrize("code", ["SecretNotFound", "NotFound", "KeyVaultSecretNotFound"])
async def test_a_vault_says_that_a_secret_is_absent_in_its_own_code(
    vault: VaultDouble, reader: VaultSecrets, code: str
) -> None:
    async def fault(_: web.Request) -> web.Response:
        return error(404, code, "There is none.")

    vault.fault = fault
    assert await reader.get(NAME) is None


async def test_a_secret_that_goes_while_it_is_read_has_no_versions(
    vault: VaultDouble, reader: VaultSecrets
) -> None:
    async def fault(_: web.Request) -> web.Response:
        return error(404, "SecretNotFound", "There is none.")

    vault.fault = fault
    assert [item async for item in reader.versions(NAME)] == []


async def test_two_failures_that_alternate_are_logged_once_each(
    reader: VaultSecrets, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for reason in ("one", "another", "one", "another"):
        reader.unavailable(VaultError(reason))
    assert [record.message for record in caplog.records] == ["one", "another"]
    clock.advance(9.9)
    reader.unavailable(VaultError("one"))
    assert len(caplog.records) == 2
    clock.advance(0.1)
    reader.unavailable(VaultError("one"))
    assert len(caplog.records) == 3


async def test_the_vault_is_spoken_to_in_a_version_that_every_cloud_knows(
    vault: VaultDouble, secrets: WritableSecrets
) -> None:
    reached = requests_of(vault)
    await secrets.put(NAME, "x", tags={})
    await secrets.get(NAME)
    _ = [item async for item in secrets.versions(NAME)]
    _ = [item async for item in secrets.list()]
    assert {request.query["api-version"] for request in reached} == {"7.6"}


async def test_a_client_that_could_not_be_opened_is_opened_by_the_next_call(
    vault: VaultDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The identity library refuses to choose among credentials that it does not know.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    reader = VaultSecrets(vault.url, in_azure=False, transport=vault.transport())
    with pytest.raises(ValueError, match="nonsense"):
        await reader.warm()
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    await reader.warm()
    await reader.close()


async def test_a_vault_that_could_not_be_opened_closes_what_it_was_given(
    vault: VaultDouble, credential: Credential
) -> None:
    transport = SdkTransport()
    await transport.open()
    reader = VaultSecrets(vault.url, credential=credential, transport=transport, budget=1)
    await reader.close()
    assert credential.closed
    assert not transport.is_open


# Writing.


async def test_a_key_is_written_with_its_tags_its_end_and_its_type(
    vault: VaultDouble, secrets: WritableSecrets
) -> None:
    reached = requests_of(vault)
    long = "é" * 257
    await secrets.put(NAME, "x", tags={"label": long, "owner": ""}, expires=START)
    await secrets.change(NAME, tags={"label": long, "note": ""})
    await secrets.change(NAME, enabled=False)
    await secrets.change(NAME, expires=START)
    put, tagged, disabled, ended = [await request.json() for request in reached]
    assert put["contentType"] == "application/x-subscription-key"
    assert put["value"] == "x"
    assert put["tags"] == tagged["tags"] == {"label": "é" * 256}
    assert put["attributes"] == {"enabled": True, "exp": int(START.timestamp())}
    # What is not named stays as it is.
    assert "enabled" not in (tagged.get("attributes") or {})
    assert disabled.get("tags") is None
    assert disabled["attributes"]["enabled"] is False
    assert ended.get("tags") is None
    assert ended["attributes"] == {"exp": int(START.timestamp())}


# API Management.


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with running_azure(tmp_path) as running:
        yield running


def apim_of(azure: Azure, resource_id: str = RESOURCE_ID) -> Apim:
    return Apim(
        resource_id,
        resource_manager_url=azure.apim.url,
        credential=ManagementCredential(azure.credential),
        transport=Hurried(client_tls()),
    )


@pytest.mark.parametrize("resource_id", [RESOURCE_ID, f"{RESOURCE_ID}/", RESOURCE_ID[1:]])
async def test_a_service_is_named_by_its_resource_id_with_or_without_slashes(
    azure: Azure, resource_id: str
) -> None:
    async with apim_of(azure, resource_id) as apim:
        assert apim.name == "contoso-apim"
        assert await apim.service() == ApimService("https://contoso-apim.azure-api.net", is_internal=False)


@pytest.mark.parametrize(
    ("network", "is_internal"),
    [("Internal", True), ("internal", True), ("External", False), ("None", False), (None, False)],
)
async def test_a_service_is_internal_where_its_network_says_so(
    azure: Azure, network: str | None, is_internal: bool
) -> None:
    azure.apim.service = {"gatewayUrl": "https://gw.example/", "virtualNetworkType": network}  # type: ignore[dict-item]
    async with apim_of(azure) as apim:
        assert await apim.service() == ApimService("https://gw.example", is_internal)


@pytest.mark.parametrize(
    ("properties", "api"),
    [
        (
            {
                "path": "/ai/openai/",
                "serviceUrl": "https://contoso.openai.azure.com/openai/",
                "subscriptionKeyParameterNames": {"header": "api-key", "query": "key"},
            },
            ApimApi("ai/openai", "https://contoso.openai.azure.com/openai", "api-key"),
        ),
        ({}, ApimApi("", "", "Ocp-Apim-Subscription-Key")),
        (
            {"path": "a", "subscriptionKeyParameterNames": {"query": "key"}},
            ApimApi("a", "", "Ocp-Apim-Subscription-Key"),
        ),
    ],
    ids=["with all", "with nothing", "without a header"],
)
async def test_an_api_is_read_with_its_path_its_backend_and_the_header_of_its_keys(
    azure: Azure, properties: dict[str, Any], api: ApimApi
) -> None:
    azure.apim.apis["openai"] = properties
    async with apim_of(azure) as apim:
        assert await apim.api("openai") == api


async def test_subscriptions_are_read_with_their_keys_and_what_they_give_access_to(azure: Azure) -> None:
    azure.apim.subscribe(
        Subscribed("s1", "first", "second", label="Team A", owner="ada", scope="/products/OpenAI/"),
        Subscribed("s2", "third", "fourth", owner="", scope="/apis", state="Suspended"),
        Subscribed("s3", "fifth", "sixth", label="Team C", scope="/apis/Chat", state="Active"),
    )
    azure.apim.products_of["chat"] = ["OpenAI", "Gold"]
    async with apim_of(azure) as apim:
        read = [found async for found in apim.subscriptions()]
        keys = await apim.keys("s1")
        products = await apim.products_of("chat")
    assert read == [
        ApimSubscription("s1", "Team A", "ada", "products/openai", "active"),
        ApimSubscription("s2", "s2", "", "apis", "suspended"),
        ApimSubscription("s3", "Team C", "ada", "apis/chat", "active"),
    ]
    assert [found.is_active for found in read] == [True, False, True]
    assert (keys.primary, keys.secondary) == ("first", "second")
    assert "first" not in repr(keys)
    assert "second" not in repr(keys)
    assert products == {"openai", "gold"}


ACTIONS = (
    "Microsoft.ApiManagement/service/subscriptions/read,"
    " Microsoft.ApiManagement/service/subscriptions/listSecrets/action,"
    " Microsoft.ApiManagement/service/apis/products/read"
)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "{url} refused the token: is the service in another tenant?", "identity"),
        (
            403,
            f"API Management {SERVICE} answered 403: grant {WHO} the role 'API Management Service Contributor' on it,"
            f" or one with the actions {ACTIONS}",
            "permission",
        ),
        (
            404,
            f"API Management {SERVICE} was not found, or part of it: check APIM_RESOURCE_ID, products and APIs",
            "unreachable",
        ),
        (400, f"API Management {SERVICE} answered 400; try again", "other"),
        (429, f"API Management {SERVICE} answered 429; try again", "other"),
        (503, f"API Management {SERVICE} answered 503; try again", "other"),
    ],
)
async def test_a_failure_of_the_service_has_its_words_and_whose_it_is(
    azure: Azure, status: int, reason: str, kind: str
) -> None:
    azure.apim.status = status
    async with apim_of(azure) as apim:
        for reading in (apim.service(), apim.keys("s1"), anext(apim.subscriptions()), apim.products_of("a")):
            azure.apim.subscribe(Subscribed("s1", "first", "second"))
            with pytest.raises(ApimError) as raised:
                await reading
            assert raised.value.reason == str(raised.value) == reason.format(url=azure.apim.url)
            assert raised.value.fault == kind
            # What the SDK has raised may hold the response.
            assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "refusal", [ClientAuthenticationError("no"), TokenTimeoutError()], ids=lambda e: type(e).__name__
)
async def test_without_a_token_the_service_is_a_matter_of_the_identity(
    azure: Azure, refusal: Exception
) -> None:
    class Refusing(Credential):
        async def get_token_info(
            self, *scopes: str, options: TokenRequestOptions | None = None
        ) -> AccessTokenInfo:
            raise refusal

    opened = Apim(RESOURCE_ID, resource_manager_url=azure.apim.url, credential=Refusing())
    async with opened as apim:
        with pytest.raises(ApimError) as raised:
            await apim.service()
    assert raised.value.reason == (
        f"no token for {azure.apim.url} could be obtained ({type(refusal).__name__})"
    )
    assert raised.value.fault == "identity"


async def test_a_defect_while_the_service_is_read_is_told_by_its_place(azure: Azure) -> None:
    azure.apim.service = []  # type: ignore[assignment]
    async with apim_of(azure) as apim:
        with pytest.raises(ApimError, match=f"reading API Management {SERVICE} failed: ") as raised:
            await apim.service()
    assert raised.value.fault == "other"


async def test_a_service_is_left_with_everything_closed(azure: Azure) -> None:
    credential, transport = Credential(), Hurried()
    await transport.open()
    opened = Apim(
        RESOURCE_ID,
        resource_manager_url=azure.apim.url,
        credential=credential,
        transport=transport,
    )
    async with opened:
        before = (credential.closed, transport.is_open)
    assert before == (False, True)
    assert (credential.closed, transport.is_open) == (True, False)


class OfAnyScope(Credential):
    """Gives its token for whatever it is asked for, and notes that."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[tuple[str, ...]] = []

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        self.scopes.append(scopes)
        return await super().get_token_info(SCOPE)


async def test_a_redirect_of_the_service_is_not_followed(vault: VaultDouble) -> None:
    vault.credential = OfAnyScope()
    vault.fault = redirecting
    opened = Apim(
        RESOURCE_ID,
        resource_manager_url=vault.url,
        credential=vault.credential,
        transport=vault.transport(),
    )
    async with opened as apim:
        with pytest.raises(ApimError, match="answered 307"):
            await apim.service()
    assert vault.hosts == {vault.host}


async def test_a_token_for_the_service_is_one_for_its_clouds_resource_manager(azure: Azure) -> None:
    credential = OfAnyScope()
    opened = Apim(
        RESOURCE_ID,
        resource_manager_url=azure.apim.url,
        credential=credential,
        transport=Hurried(client_tls()),
    )
    async with opened as apim:
        await apim.service()
    assert credential.scopes == [(f"{azure.apim.url}/.default",)]


# The credential.


class Issuer(Credential):
    """Gives whatever token it is to give, and notes what for."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.options: list[TokenRequestOptions] = []

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        self.options.append(options or {})
        return await super().get_token_info(SCOPE)


def jwt(claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("token", "principal"),
    [
        # Of each length, since the padding is left out, and with the two characters that base64 has twice.
        (jwt({"oid": "a", "appid": "b"}), "principal a (client b)"),
        (jwt({"oid": "aa", "appid": "b"}), "principal aa (client b)"),
        (jwt({"oid": "aaa", "appid": "b"}), "principal aaa (client b)"),
        (jwt({"oid": "a", "azp": "c"}), "principal a (client c)"),
        (f"e30.{base64.urlsafe_b64encode(b'{"oid": "a", "appid": "\xc3\xbf\xc3\xbe?>~"}').decode()}.c2ln",
         "principal a (client ÿþ?>~)"),
        (jwt({"appid": "b"}), ""),
        (jwt(["oid"]), ""),
        ("no.jwt", ""),
        ("opaque", ""),
    ],
)  # fmt: skip
async def test_a_token_says_as_whom_the_app_calls(token: str, principal: str) -> None:
    shared = SharedCredential(Issuer(token))
    await shared.get_token_info(SCOPE)
    assert shared.principal == principal
    await shared.close()


async def test_a_token_is_for_its_scopes_and_its_tenant_alone() -> None:
    issuer = Issuer("opaque")
    shared = SharedCredential(issuer)
    asked: list[tuple[str, TokenRequestOptions]] = [
        (SCOPE, {}),
        ("https://another.example/.default", {}),
        (SCOPE, {"tenant_id": "t"}),
    ]
    for scope, options in asked * 2:
        await shared.get_token_info(scope, options=options)
    assert issuer.options == [{}, {}, {"tenant_id": "t"}]
    await shared.close()


async def test_callers_with_different_claims_do_not_share_a_request() -> None:
    issuer = Issuer("opaque")
    issuer.gate.clear()
    shared = SharedCredential(issuer)
    asking = [
        asyncio.ensure_future(shared.get_token_info(SCOPE, options={"claims": claims}))
        for claims in ("one", "another", "one")
    ]
    await asyncio.sleep(0)
    is_asking = [shared.is_asking]
    issuer.gate.set()
    await asyncio.gather(*asking)
    assert [*is_asking, shared.is_asking] == [True, False]
    assert sorted(options["claims"] for options in issuer.options) == ["another", "one"]
    await shared.close()


async def test_a_request_that_failed_is_made_anew(credential: Credential) -> None:
    shared = SharedCredential(credential)
    credential.refuses = True
    for _ in range(2):
        with pytest.raises(ClientAuthenticationError):
            await shared.get_token_info(SCOPE)
    assert credential.asked == 2
    credential.refuses = False
    assert (await shared.get_token_info(SCOPE)).token == credential.token
    await shared.close()


async def test_closing_ends_a_request_for_a_token(credential: Credential) -> None:
    credential.gate.clear()
    shared = SharedCredential(credential)
    asking = asyncio.ensure_future(shared.get_token_info(SCOPE))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await shared.close()
        await asyncio.wait([asking])
    assert asking.cancelled()
    assert credential.closed
    assert not shared.is_asking


def test_a_token_that_does_not_come_is_given_up_after_half_a_minute() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        issuer = Credential()
        issuer.gate.clear()
        shared = SharedCredential(issuer)
        asking = asyncio.ensure_future(shared.get_token_info(SCOPE))
        await loop.pass_until(0)  # it is asked for
        await loop.pass_until(29.75)
        assert not asking.done()
        await loop.pass_until(30)
        await turns_until(asking.done)
        assert isinstance(asking.exception(), TokenTimeoutError)
        await shared.close()

    run_in_virtual_time(scenario)


# The way there.


def test_a_socket_that_is_collected_leaves_its_number_to_the_loop() -> None:
    opened = make_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443)))
    number = opened.fileno()
    assert (opened.family, opened.type, opened.proto) == (
        socket.AF_INET,
        socket.SOCK_STREAM,
        socket.IPPROTO_TCP,
    )
    del opened
    os.close(number)  # which fails if somebody has closed it already


async def test_the_vault_is_reached_by_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, credential: Credential
) -> None:
    asked: list[bytes] = []

    async def refuse(reading: asyncio.StreamReader, writing: asyncio.StreamWriter) -> None:
        asked.append(await reading.readline())
        writing.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writing.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    reader = VaultSecrets("https://v.vault.azure.net", credential=credential)
    with pytest.raises(VaultError, match="no connection to Key Vault"):
        await reader.get(NAME)
    await reader.close()
    proxy.close()
    await proxy.wait_closed()
    assert set(asked) == {b"CONNECT v.vault.azure.net:443 HTTP/1.1\r\n"}


# How long Azure may take.


def test_a_vault_that_hangs_is_asked_twice_within_the_budget_of_a_call() -> None:
    def open_one(url: str, transport: SdkTransport) -> Callable[[], Any]:
        reader = VaultSecrets(url, credential=Credential(), transport=transport)

        async def ask() -> None:
            try:
                await reader.get(NAME)
            finally:
                await reader.close()

        return ask

    for tls, seconds in ((False, 1.5), (True, 2.0)):
        failure = failure_of_what_hangs(open_one, tls=tls, attempts=2, seconds=seconds)
        assert isinstance(failure, VaultError)
        assert "no connection to Key Vault https://127.0.0.1:" in failure.reason


def test_an_api_management_that_hangs_is_asked_four_times() -> None:
    def open_one(url: str, transport: SdkTransport) -> Callable[[], Any]:
        async def ask() -> None:
            opened = Apim(
                RESOURCE_ID,
                resource_manager_url=url,
                credential=ManagementCredential(Credential()),
                transport=transport,
            )
            async with opened as apim:
                _ = [found async for found in apim.subscriptions()]

        return ask

    for tls, seconds in ((False, 5.0), (True, 30.0)):
        failure = failure_of_what_hangs(open_one, tls=tls, attempts=4, seconds=seconds)
        assert isinstance(failure, ApimError)
        assert failure.reason.startswith("no connection to https://127.0.0.1:")
        assert failure.fault == "unreachable"


class Hurried(SdkTransport):
    """Does not wait between attempts."""

    async def sleep(self, duration: float) -> None:
        """Not now."""


def failure_of_what_hangs(
    open_one: Callable[[str, SdkTransport], Callable[[], Any]],
    *,
    tls: bool,
    attempts: int,
    seconds: float,
) -> BaseException | None:
    """What is raised where a server accepts connections (with or without their TLS), and then says nothing.

    Each attempt is to take exactly so many seconds, and there are to be so many of them.
    """
    failures: list[BaseException | None] = []

    async def scenario(loop: VirtualLoop) -> None:
        reached = asyncio.Event()
        connections: list[asyncio.StreamWriter] = []

        async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            reached.set()

        server = await asyncio.start_server(hang, "127.0.0.1", 0, ssl=server_tls() if tls else None)
        ask = open_one(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", Hurried(client_tls()))
        asking = asyncio.ensure_future(ask())
        try:
            await reached.wait()  # the SDK is imported first
            for _ in range(attempts):
                await turns_until(reached.is_set)
                reached.clear()
                # The request is on its way before its time counts.
                await loop.pass_until(loop.now)
                await loop.pass_until(loop.now + seconds - 0.25)
                assert not asking.done()
                await loop.pass_until(loop.now + 0.25)
            await turns_until(asking.done)
            failures.append(asking.exception())
            assert len(connections) == attempts
        finally:
            asking.cancel()
            for connection in connections:
                connection.transport.abort()
            server.close()
            await server.wait_closed()

    run_in_virtual_time(scenario)
    return failures[0]
