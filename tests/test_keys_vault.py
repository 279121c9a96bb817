"""Keys in Key Vault by their digest: what each response of the vault means, how long it may take, and who is told.

"Unknown" and "could not be checked" must never be confused: one is a 401 that clients give up on.
"""

import asyncio
import gc
import json
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.core.settings import settings as azure_settings

from devhost.azure.faults import (
    CLIENT,
    PRINCIPAL,
    Fault,
    broken_connection,
    failing,
    forbidden,
    redirecting,
    throttled,
    unauthorized,
)
from devhost.azure.vault import START, Clock, Credential, VaultDouble
from shim.errors import KeyStoreUnavailable, render
from shim.keys import open_key_store
from shim.keys.azure import credential as credentials
from shim.keys.azure import key_vault as secrets
from shim.keys.azure import sdk
from shim.keys.azure.credential import SharedCredential, open_credential
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.cache import CachedKeyStore
from shim.keys.local import LocalKeyStore
from shim.keys.scan import ScanKeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.keys.vault import VaultKeyStore
from shim.settings import Settings
from shim.transport.sockets import LoopsOwnSocket
from tests.support.secrets import secrets_in

PREFIX = "apim-sub-"
KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
DIGEST = digest_of(KEY)
NAME = PREFIX + DIGEST
# Seconds that a test waits for a vault that never answers.
SHORT = 0.3


type Open = Callable[..., VaultKeyStore]


@pytest.fixture
async def open_store(vault: VaultDouble, credential: Credential, clock: Clock) -> AsyncIterator[Open]:
    """Opens stores on the vault, and closes them."""
    opened: list[VaultKeyStore] = []

    def open_one(budget: float = secrets.CALL_BUDGET) -> VaultKeyStore:
        reader = VaultSecrets(
            vault.url, credential=credential, transport=vault.transport(), budget=budget, clock=clock
        )
        opened.append(VaultKeyStore(reader, prefix=PREFIX, now=clock.now))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Open) -> VaultKeyStore:
    return open_store()


async def test_key_is_found_by_its_digest(vault: VaultDouble, store: VaultKeyStore) -> None:
    vault.put(NAME, "upstream-key", tags={"label": "team-a", "owner": "ada", "source": "apim/sub-1"})
    found = await store.find(DIGEST)
    assert found
    assert (found.digest, found.key) == (DIGEST, "upstream-key")
    assert (found.label, found.owner, found.source) == ("team-a", "ada", "apim/sub-1")


async def test_one_get_answers_once_the_vault_has_said_how_to_authenticate(
    vault: VaultDouble, store: VaultKeyStore, credential: Credential
) -> None:
    vault.put(NAME, KEY)
    for _ in range(5):
        assert await store.find(DIGEST)
    assert vault.calls == {"challenge": 1, "get": 5}
    assert credential.asked == 1


async def test_warming_opens_the_sdk_and_asks_nobody(
    vault: VaultDouble, store: VaultKeyStore, credential: Credential
) -> None:
    await store.warm()
    assert not vault.calls
    assert credential.asked == 0


@pytest.mark.parametrize("tags", [{}, {"label": ""}], ids=["none", "an empty one"])
async def test_secret_without_a_label_is_called_by_the_beginning_of_its_digest(
    vault: VaultDouble, store: VaultKeyStore, tags: dict[str, str]
) -> None:
    vault.put(NAME, KEY, tags=tags)
    found = await store.find(DIGEST)
    assert found
    assert found.label == f"key-{DIGEST[:8]}"


@pytest.mark.parametrize("value", [f"{KEY}\n", f"{KEY}\r\n", f" {KEY}", f"\n{KEY} "])
async def test_white_space_around_a_value_is_no_part_of_the_key(
    vault: VaultDouble, store: VaultKeyStore, value: str
) -> None:
    vault.put(NAME, value)
    found = await store.find(DIGEST)
    assert found
    assert found.key == KEY


@pytest.mark.parametrize("value", ["", "two words", "line\r\nx-injected: 1", "schlüssel"])
async def test_value_that_no_header_could_carry_is_no_key(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    vault.put(NAME, value)
    assert await store.find(DIGEST) is None
    assert f"the secret {PREFIX}{DIGEST[:8]}… holds no key" in caplog.text


async def test_absent_deleted_and_disabled_secrets_are_unknown_keys(
    vault: VaultDouble, store: VaultKeyStore
) -> None:
    assert await store.find(DIGEST) is None
    vault.put(NAME, KEY)
    assert await store.find(DIGEST)
    vault.change(NAME, enabled=False)
    assert await store.find(DIGEST) is None
    vault.change(NAME, enabled=True)
    assert await store.find(DIGEST)
    vault.delete(NAME)
    assert await store.find(DIGEST) is None


async def test_a_secret_that_is_handed_out_though_it_is_disabled_is_no_key(
    vault: VaultDouble, store: VaultKeyStore
) -> None:
    async def fault(_: web.Request) -> web.Response:
        attributes = {"enabled": False}
        return web.json_response(
            {"value": KEY, "id": f"{vault.url}/secrets/{NAME}/1", "attributes": attributes}
        )

    vault.fault = fault
    assert await store.find(DIGEST) is None


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX.upper()])
async def test_keys_are_listed_whatever_letters_their_names_are_written_in(
    vault: VaultDouble, credential: Credential, prefix: str
) -> None:
    vault.put(f"{PREFIX}{digest_of('one')}", "x")
    vault.put(f"{PREFIX.upper()}{digest_of('another').upper()}", "x")
    store = VaultKeyStore(
        VaultSecrets(vault.url, credential=credential, transport=vault.transport()), prefix=prefix
    )
    [page] = [page async for page in store.digest_pages()]
    await store.close()
    assert sorted(page) == sorted([digest_of("one"), digest_of("another")])


async def test_keys_are_listed_by_digest_without_values_disabled_ones_or_certificates(
    vault: VaultDouble, store: VaultKeyStore
) -> None:
    vault.page_size = 2
    good = [digest_of(f"key {number}") for number in range(3)]
    for digest in good:
        vault.put(PREFIX + digest, "x")
    vault.put(PREFIX + digest_of("disabled"), "x", enabled=False)
    vault.put(PREFIX + digest_of("certificate"), "x", managed=True)
    vault.put(f"{PREFIX}team-a", "x")
    vault.put(f"other-{digest_of('other')}", "x")
    pages = [page async for page in store.digest_pages()]
    assert sorted(digest for page in pages for digest in page) == sorted(good)
    assert vault.calls["list"] == len(pages) == 4
    assert vault.read == []


async def test_list_that_is_refused_is_logged_with_its_remedy(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.fault = forbidden("AccessDenied")
    with pytest.raises(KeyStoreUnavailable):
        _ = [page async for page in store.digest_pages()]
    assert "Get and List in its access policies" in caplog.text


async def test_expiry_and_not_before_are_honoured_though_the_vault_hands_out_the_secret(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock
) -> None:
    vault.put(NAME, KEY, not_before=START + timedelta(seconds=10), expires=START + timedelta(seconds=20))
    assert await store.find(DIGEST) is None
    clock.advance(10)
    found = await store.find(DIGEST)
    assert found
    assert found.expires == START + timedelta(seconds=20)
    clock.advance(10)
    assert await store.find(DIGEST) is None
    assert vault.calls["get"] == 3


async def test_old_key_of_a_rotation_is_good_until_the_expiry_it_was_given(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock
) -> None:
    new = digest_of("the new key")
    vault.put(NAME, KEY)
    vault.put(PREFIX + new, "the-new-key")
    vault.change(NAME, expires=clock.now() + timedelta(seconds=60))
    assert await store.find(DIGEST)
    assert await store.find(new)
    clock.advance(60)
    assert await store.find(DIGEST) is None
    assert await store.find(new)


async def failure_of(store: VaultKeyStore) -> KeyStoreUnavailable:
    with pytest.raises(KeyStoreUnavailable) as raised:
        await store.find(DIGEST)
    return raised.value


async def test_slow_vault_is_unavailable_within_the_budget(vault: VaultDouble, open_store: Open) -> None:
    vault.fault = vault.slow()
    store = open_store(budget=SHORT)
    started = asyncio.get_running_loop().time()
    await failure_of(store)
    assert asyncio.get_running_loop().time() - started < secrets.CALL_BUDGET


def test_budgets_keep_a_caller_waiting_for_a_few_seconds_at_most() -> None:
    assert secrets.CALL_BUDGET <= 5
    assert sdk.CONNECT_TIMEOUT + sdk.READ_TIMEOUT < secrets.CALL_BUDGET


async def test_vault_down_at_a_cold_start_is_unavailable_and_found_when_it_is_up(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(NAME, KEY)
    await vault.stop()
    await failure_of(store)
    assert f"no connection to Key Vault {vault.url} (ConnectionRefusedError)" in caplog.text
    await vault.start()
    assert await store.find(DIGEST)


async def test_keys_outlive_a_vault_that_goes_down_and_end_with_stale(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock
) -> None:
    vault.put(NAME, KEY)
    cached = CachedKeyStore(store, ttl=300, stale=3600, clock=clock, now=clock.now)
    assert await cached.find(DIGEST)
    await vault.stop()
    clock.advance(3599)
    assert await cached.find(DIGEST)
    with pytest.raises(KeyStoreUnavailable):
        await cached.find(digest_of("never seen"))
    clock.advance(1)
    with pytest.raises(KeyStoreUnavailable):
        await cached.find(DIGEST)
    await cached.close()


async def test_connection_that_breaks_is_tried_once_more(vault: VaultDouble, store: VaultKeyStore) -> None:
    vault.put(NAME, KEY)
    # The connection that is to break is there already: aiohttp itself replaces one that was closed while idle.
    await store.find(DIGEST)
    answers = iter([failing(503)])

    async def fault(request: web.Request) -> web.Response:
        vault.fault = None
        return await next(answers)(request)

    vault.fault = fault
    assert await store.find(DIGEST)
    vault.fault = broken_connection
    await failure_of(store)


@pytest.mark.parametrize(
    ("headers", "calls"), [({}, 2), ({"Retry-After": "9"}, 1)], ids=["at once", "when it says"]
)
async def test_a_vault_that_fails_is_asked_again_at_once_unless_it_says_when(
    vault: VaultDouble, store: VaultKeyStore, headers: dict[str, str], calls: int
) -> None:
    vault.fault = failing(503, headers)
    await failure_of(store)
    assert vault.calls["get"] == calls


async def test_throttled_vault_is_asked_once_and_its_retry_after_reaches_the_caller(
    vault: VaultDouble, store: VaultKeyStore
) -> None:
    vault.put(NAME, KEY)
    vault.fault = throttled(17)
    failure = await failure_of(store)
    assert vault.calls["get"] == 1
    assert (b"retry-after", b"17") in render(failure)[1]


async def test_throttled_vault_is_left_alone_by_the_cache(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock
) -> None:
    vault.put(NAME, KEY)
    cached = CachedKeyStore(store, ttl=300, stale=3600, clock=clock, now=clock.now)
    vault.fault = throttled(17)
    for number in range(10):
        with pytest.raises(KeyStoreUnavailable):
            await cached.find(digest_of(f"key {number}"))
    vault.fault = None
    clock.advance(16)
    with pytest.raises(KeyStoreUnavailable):
        await cached.find(DIGEST)
    assert vault.calls["get"] == 1
    clock.advance(1)
    assert await cached.find(DIGEST)
    await cached.close()


async def test_thousand_requests_with_one_new_key_are_one_call(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock
) -> None:
    vault.put(NAME, KEY)
    cached = CachedKeyStore(store, ttl=300, stale=3600, clock=clock, now=clock.now)
    found = await asyncio.gather(*(cached.find(DIGEST) for _ in range(1000)))
    assert all(found)
    assert vault.calls == {"challenge": 1, "get": 1}
    await cached.close()


async def test_lookups_of_a_cold_start_share_one_token(
    vault: VaultDouble, store: VaultKeyStore, credential: Credential
) -> None:
    await asyncio.gather(*(store.find(digest_of(f"key {number}")) for number in range(20)))
    assert vault.calls["get"] == 20
    assert credential.asked == 1


async def test_without_a_token_the_key_is_not_unknown(
    vault: VaultDouble, store: VaultKeyStore, credential: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(NAME, KEY)
    credential.refuses = True
    await failure_of(store)
    assert (
        f"no token for Key Vault {vault.url} could be obtained for the app's managed identity" in caplog.text
    )
    credential.refuses = False
    assert await store.find(DIGEST)


async def test_token_that_takes_longer_than_a_lookup_still_arrives_for_the_next(
    vault: VaultDouble, open_store: Open, credential: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(NAME, KEY)
    credential.gate.clear()
    store = open_store(budget=SHORT)
    await failure_of(store)
    assert "no token for the app's managed identity within" in caplog.text
    credential.gate.set()
    assert await store.find(DIGEST)
    assert credential.asked == 1


async def test_missing_role_is_our_fault_and_the_log_names_it_with_the_identity_and_the_vault(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(NAME, KEY)
    vault.fault = forbidden("ForbiddenByRbac")
    failure = await failure_of(store)
    # What the caller is told has nothing of it.
    assert failure.message == (
        "The API key could not be checked just now, because the key store did not respond. Try again."
    )
    assert failure.retry_after == 15
    [record] = [record for record in caplog.records if record.name == "shim.keys.azure.key_vault"]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"Key Vault {vault.url} answered 403 ForbiddenByRbac: grant the role 'Key Vault Secrets User' on it to"
        f" principal {PRINCIPAL} (client {CLIENT})"
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(forbidden("ForbiddenByFirewall"), "networking settings", id="firewall"),
        pytest.param(forbidden("ForbiddenByConnection"), "networking settings", id="private"),
        pytest.param(forbidden("AccessDenied"), "Get and List in its access policies", id="policies"),
        pytest.param(forbidden("ForbiddenByTomorrow"), "grant the role", id="unheard-of"),
        pytest.param(unauthorized, "answered 401 Unauthorized: it refused the token", id="tenant"),
        pytest.param(failing(404), "is KEY_VAULT_URL the URL of a Key Vault?", id="not-a-vault"),
        pytest.param(failing(200), "is KEY_VAULT_URL the URL of a Key Vault?", id="not-json"),
        pytest.param(failing(500), "answered 500", id="server-error"),
        pytest.param(broken_connection, "no connection to Key Vault", id="cut"),
    ],
)
async def test_whatever_else_the_vault_answers_is_unavailable_and_the_log_says_why(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture, fault: Fault, says: str
) -> None:
    vault.put(NAME, KEY)
    vault.fault = fault
    await failure_of(store)
    assert says in caplog.text
    assert vault.url in caplog.text


async def test_repeated_failure_is_logged_once_in_a_while(
    vault: VaultDouble, store: VaultKeyStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    vault.fault = forbidden("ForbiddenByRbac")
    for _ in range(5):
        await failure_of(store)
    assert len(caplog.records) == 1
    clock.advance(secrets.LOG_INTERVAL)
    await failure_of(store)
    assert len(caplog.records) == 2


async def test_check_passes_where_secrets_can_be_read_and_else_gives_the_operators_reason(
    vault: VaultDouble, store: VaultKeyStore
) -> None:
    await store.check()
    vault.fault = forbidden("ForbiddenByRbac")
    with pytest.raises(KeyStoreUnavailable, match="grant the role 'Key Vault Secrets User'"):
        await store.check()


async def test_token_is_never_sent_to_a_host_that_is_no_vault(
    vault: VaultDouble, credential: Credential, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    reader = VaultSecrets(
        "https://vault.example.vault.azure.net.example.com",
        credential=credential,
        # Its certificate is not even for this name.
        transport=vault.transport(),
        clock=clock,
    )
    store = VaultKeyStore(reader, prefix=PREFIX)
    await failure_of(store)
    await store.close()
    assert "(SSLCertVerificationError)" in caplog.text
    assert credential.asked == 0


async def test_redirect_is_not_followed(vault: VaultDouble, store: VaultKeyStore) -> None:
    vault.fault = redirecting
    await failure_of(store)
    assert vault.hosts == {vault.host}


async def test_close_closes_the_credential(
    vault: VaultDouble, open_store: Open, credential: Credential
) -> None:
    store = open_store()
    await store.find(DIGEST)
    await store.close()
    assert credential.closed


async def test_store_that_was_never_asked_closes() -> None:
    store = VaultKeyStore(VaultSecrets("https://example.vault.azure.net"), prefix=PREFIX)
    await store.close()


# Hygiene.


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(None, id="found"),
        pytest.param(throttled(1), id="throttled"),
        pytest.param(forbidden("ForbiddenByRbac"), id="role-missing"),
        pytest.param(forbidden("SecretDisabled"), id="disabled"),
        pytest.param(failing(502), id="a-page-with-the-url"),
        pytest.param(failing(200), id="an-answer-that-is-not-json"),
        pytest.param(unauthorized, id="token-refused"),
        pytest.param(broken_connection, id="cut"),
    ],
)
async def test_no_key_token_or_digest_is_logged_or_shown_at_any_level(
    vault: VaultDouble,
    store: VaultKeyStore,
    credential: Credential,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    fault: Fault | None,
) -> None:
    upstream_key = "f9e8d7c6b5a4938271605f4e3d2c1b0a"
    vault.put(NAME, upstream_key)
    vault.fault = fault
    cached = CachedKeyStore(store, ttl=300, stale=3600, clock=clock, now=clock.now)
    shown = []
    loop = asyncio.get_running_loop()
    # In its debug mode asyncio logs every step with what it calls and what tasks returned.
    loop.set_debug(True)
    slow, loop.slow_callback_duration = loop.slow_callback_duration, 0.0
    try:
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="azure"):
            assert logging.getLogger("azure.core.pipeline.policies").isEnabledFor(logging.DEBUG)
            for _ in range(2):
                try:
                    shown.append(repr(await cached.find(DIGEST)))
                except KeyStoreUnavailable as error:
                    shown += [repr(error), "".join(traceback.format_exception(error)), repr(render(error))]
                shown += [repr(task) for task in asyncio.all_tasks()]
            await cached.close()
    finally:
        loop.set_debug(False)
        loop.slow_callback_duration = slow
    assert "Executing" in caplog.text
    text = "\n".join([caplog.text, *shown, repr(cached), repr(store), repr(vars(store))])
    assert secrets_in(text, [KEY, upstream_key, DIGEST, credential.token]) == []


async def test_no_span_is_made_of_a_call_though_tracing_is_on(
    vault: VaultDouble, store: VaultKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(NAME, KEY)
    # Without an OpenTelemetry tracer the SDK complains where it would have begun a span, which has the URL.
    azure_settings.tracing_enabled.set_value(True)
    try:
        assert await store.find(DIGEST)
    finally:
        azure_settings.tracing_enabled.unset_value()
    assert vault.calls["get"] == 1
    assert "OpenTelemetry" not in caplog.text


def test_the_search_for_secrets_finds_them() -> None:
    assert secrets_in(f"GET /secrets/{NAME}", [DIGEST])
    assert not secrets_in(f"GET /secrets/{PREFIX}{DIGEST[:8]}…", [DIGEST])


# What opens a store.


def settings(**environ: str) -> Settings:
    return Settings.from_environment({"APIM_BASE_URL": "https://contoso.azure-api.net/api/openai", **environ})


async def test_local_keys_are_found_without_a_vault() -> None:
    store = open_key_store(settings(LOCAL_SUBSCRIPTION_KEYS=f"dev={KEY}"))
    assert isinstance(store, LocalKeyStore)
    found = await store.find(DIGEST)
    assert found
    assert (found.key, found.label, found.source) == (KEY, "dev", "local settings")
    assert await store.find(digest_of("another key")) is None


async def test_a_local_key_that_has_expired_is_not_found() -> None:
    expired = Subscription(digest=DIGEST, key=KEY, label="dev", expires=datetime(2020, 1, 1, tzinfo=UTC))
    assert await LocalKeyStore([expired]).find(DIGEST) is None


@pytest.mark.parametrize(("lookup", "kind"), [("digest", CachedKeyStore), ("scan", ScanKeyStore)])
async def test_settings_say_how_keys_are_looked_up(lookup: str, kind: type) -> None:
    store = open_key_store(settings(KEY_VAULT_URL="https://example.vault.azure.net", KEY_LOOKUP=lookup))
    assert isinstance(store, kind)
    await store.close()


@pytest.mark.parametrize("lookup", ["digest", "scan"])
async def test_warming_a_store_opens_the_sdk_however_keys_are_looked_up(
    monkeypatch: pytest.MonkeyPatch, lookup: str
) -> None:
    # The identity library refuses to choose among credentials that it does not know.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    store = open_key_store(settings(KEY_VAULT_URL="https://example.vault.azure.net", KEY_LOOKUP=lookup))
    with pytest.raises(ValueError, match="nonsense"):
        await store.warm()
    await store.close()


def test_opening_a_store_imports_neither_the_sdk_nor_aiohttp() -> None:
    code = (
        "import json, sys; from shim.keys import open_key_store; from shim.settings import Settings;"
        "open_key_store(Settings.from_environment({'APIM_BASE_URL': 'https://contoso.azure-api.net/openai',"
        " 'KEY_VAULT_URL': 'https://example.vault.azure.net'}));"
        "print(json.dumps([name for name in sys.modules if name.startswith(('azure', 'aiohttp', 'msal'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("in_azure", [True, False], ids=["in Azure", "elsewhere, if told so"])
async def test_a_managed_identity_is_the_one_with_the_client_id(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_azure: bool
) -> None:
    asked: list[web.Request] = []
    sockets: list[type] = []
    double = Credential()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        sockets.extend(
            type(each)
            for each in gc.get_objects()
            if issubclass(type(each), socket.socket)
            and each.fileno() != -1
            and each.family == socket.AF_INET
            and each.getsockname()[1] == request.get_extra_info("peername")[1]
        )
        return web.json_response(
            {
                "access_token": double.token,
                "expires_on": "4102444800",
                "resource": "https://vault.azure.net",
                "token_type": "Bearer",
                "client_id": CLIENT,
            }
        )

    app = web.Application()
    app.router.add_get("/msi/token", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # What the platform tells an app with an identity; the SDK reads the environment and nothing else.
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="azure"):
        credential = SharedCredential(open_credential(in_azure=in_azure, client_id=CLIENT))
        tokens = await asyncio.gather(
            *(credential.get_token_info("https://vault.azure.net/.default") for _ in range(10))
        )
        await credential.close()
    await runner.cleanup()
    assert {token.token for token in tokens} == {double.token}
    [request] = asked
    assert request.query["client_id"] == CLIENT
    assert request.query["resource"] == "https://vault.azure.net"
    assert credential.principal == f"principal {PRINCIPAL} (client {CLIENT})"
    assert sockets == [LoopsOwnSocket]
    assert secrets_in(caplog.text, [double.token]) == []


async def test_elsewhere_the_credential_is_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    credential = open_credential(in_azure=False, client_id=None)
    assert type(credential).__name__ == "DefaultAzureCredential"
    await credential.close()


SCOPE = "https://vault.azure.net/.default"


class ShortLived(Credential):
    """Gives tokens that last an hour of a clock moved by hand; the service may ask for their renewal before."""

    def __init__(self, clock: Clock, refresh_after: int | None) -> None:
        super().__init__()
        self._clock = clock
        self._refresh_after = refresh_after

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        token = await super().get_token_info(*scopes, options=options)
        issued = int(self._clock())
        refresh_on = None if self._refresh_after is None else issued + self._refresh_after
        return AccessTokenInfo(token.token, issued + 3600, refresh_on=refresh_on)


@pytest.mark.parametrize(
    ("refresh_after", "renewed_at"),
    [(None, 3600 - credentials.TOKEN_MARGIN), (1800, 1800)],
    ids=["before its end", "when the service wants"],
)
async def test_token_is_renewed_before_it_ends(
    clock: Clock, refresh_after: int | None, renewed_at: float
) -> None:
    short_lived = ShortLived(clock, refresh_after)
    shared = SharedCredential(short_lived, now=clock)
    await shared.get_token_info(SCOPE)
    clock.advance(renewed_at - 1)
    await shared.get_token_info(SCOPE)
    assert short_lived.asked == 1
    clock.advance(1)
    renewed = await shared.get_token_info(SCOPE)
    assert short_lived.asked == 2
    assert renewed.expires_on == clock() + 3600
    await shared.get_token_info(SCOPE)
    assert short_lived.asked == 2
    await shared.close()


async def test_token_that_the_vault_refused_is_replaced(credential: Credential) -> None:
    shared = SharedCredential(credential)
    assert (await shared.get_token_info(SCOPE)).token == credential.token
    await shared.get_token_info(SCOPE)
    assert credential.asked == 1
    # The vault has refused the token, and says what a new one must satisfy.
    await shared.get_token_info(SCOPE, options={"claims": '{"access_token": {}}'})
    assert credential.asked == 2
    await shared.close()
