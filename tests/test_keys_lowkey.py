"""Keys in Lowkey Vault: somebody else's vault and token endpoint, with the real SDK and identity over TLS.

Our own double of Key Vault shares our misunderstandings; this one has its own.
"""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from devhost.azure.services import RESOURCE_ID, SERVICE, Subscribed, running_azure
from shim.__main__ import app
from shim.cli.session import Dependencies
from shim.keys.admin.inventory import Inventory
from shim.keys.azure.writing import WritableSecrets
from shim.keys.scan import ScanKeyStore
from shim.keys.subscription import digest_of
from shim.keys.vault import VaultKeyStore
from tests.conftest import KEY, StartHost
from tests.support.lowkey import Lowkey, running_lowkey, what_is_missing

PREFIX = "apim-sub-"

type Keys = Callable[..., Awaitable[Result]]


@pytest.fixture(scope="session")
async def lowkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lowkey]:
    if missing := what_is_missing():
        # In CI they must run, unless its registry was found not to carry Lowkey Vault: see .ci/run.
        if os.environ.get("CI") == "true" and os.environ.get("LOWKEY_VAULT") != "unavailable":
            pytest.fail(missing)
        pytest.skip(missing)
    async with running_lowkey(tmp_path_factory.mktemp("lowkey")) as running:
        yield running


@pytest.fixture
def identity(lowkey: Lowkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process the app: the identity library has no other place to be told."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.setenv(name, lowkey.environ[name])


@pytest.fixture
def open_secrets(lowkey: Lowkey, identity: None) -> Callable[..., WritableSecrets]:
    def open_one(_: object = None) -> WritableSecrets:
        # in_azure: the managed identity, and nothing else.
        return WritableSecrets(lowkey.url, in_azure=True, transport=lowkey.transport(), budget=30.0)

    return open_one


@pytest.fixture
async def secrets(open_secrets: Callable[..., WritableSecrets]) -> AsyncIterator[WritableSecrets]:
    async with open_secrets() as opened:
        yield opened


@pytest.fixture
def keys(lowkey: Lowkey, open_secrets: Callable[..., WritableSecrets]) -> Keys:
    async def command(*arguments: str, stdin: str = "", **more: object) -> Result:
        given = Dependencies({"KEY_VAULT_URL": lowkey.url}, open_secrets, **more)  # type: ignore[arg-type]
        run = functools.partial(CliRunner().invoke, app, ["keys", *arguments], input=stdin, obj=given)
        return await asyncio.to_thread(run)

    return command


def fresh_key(name: str) -> str:
    return f"a-key-of-{name}-{os.urandom(8).hex()}"


async def test_key_is_found_until_it_is_disabled(secrets: WritableSecrets) -> None:
    store, key = VaultKeyStore(secrets, prefix=PREFIX), fresh_key("digest")
    assert await store.find(digest_of(key)) is None
    await secrets.put(PREFIX + digest_of(key), key, tags={"label": "team-a", "owner": "ada"})
    found = await store.find(digest_of(key))
    assert found
    assert (found.key, found.label, found.owner) == (key, "team-a", "ada")
    await secrets.change(PREFIX + digest_of(key), enabled=False)
    assert await store.find(digest_of(key)) is None
    await store.check()


async def test_expiry_is_ours_to_check(secrets: WritableSecrets) -> None:
    key = fresh_key("expiry")
    ends = datetime(2050, 1, 1, tzinfo=UTC)
    await secrets.put(PREFIX + digest_of(key), key, tags={}, expires=ends)
    assert await VaultKeyStore(secrets, prefix=PREFIX).find(digest_of(key))
    after = VaultKeyStore(secrets, prefix=PREFIX, now=lambda: ends)
    assert await after.find(digest_of(key)) is None


async def test_scan_finds_both_versions_of_a_rotation(secrets: WritableSecrets) -> None:
    prefix = f"scan-{os.urandom(4).hex()}-"
    old, new = fresh_key("old"), fresh_key("new")
    await secrets.put(f"{prefix}team-a", old, tags={})
    await secrets.put(f"{prefix}team-a", new, tags={})
    store = ScanKeyStore(secrets, prefix=prefix, ttl=300, stale=3600, grace=3600, patience=30)
    assert await store.find(digest_of(new))
    assert await store.find(digest_of(old))
    assert await store.find(digest_of("unknown")) is None


async def test_list_goes_over_pages(secrets: WritableSecrets) -> None:
    prefix = f"page-{os.urandom(4).hex()}-"
    names = {f"{prefix}{number:02}" for number in range(30)}
    for name in sorted(names):
        await secrets.put(name, "x" * 20, tags={"label": name})
    listed = {record.name async for record in Inventory(secrets, prefix=prefix).records()}
    assert listed == names


async def test_life_of_a_key_by_command(keys: Keys) -> None:
    label = f"team-{os.urandom(4).hex()}"
    key = (await keys("add", "--label", label, "--expires", "90d")).stdout
    assert (await keys("check", stdin=key)).exit_code == 0
    new = (await keys("rotate", label)).stdout
    assert {(await keys("check", stdin=each)).exit_code for each in (key, new)} == {0}
    revoked = await keys("revoke", digest_of(key.strip())[:8])
    assert revoked.exit_code == 0
    refused = await keys("check", stdin=key)
    assert (refused.exit_code, "is disabled" in refused.stderr) == (1, True)
    assert (await keys("check", stdin=new)).exit_code == 0
    assert label in (await keys("list")).stdout


async def test_import_is_idempotent(
    keys: Keys, secrets: WritableSecrets, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with running_azure(tmp_path_factory.mktemp("azure")) as azure:
        subscribed = Subscribed("s1", fresh_key("primary"), fresh_key("secondary"), label="team s1")
        azure.apim.subscribe(subscribed, Subscribed("s2", fresh_key("p"), fresh_key("s"), label="team s2"))
        arguments = ("import-apim", "--resource-id", RESOURCE_ID, "--prune")
        counts = [(await keys(*arguments, open_apim=azure.open_apim)).stderr.strip() for _ in range(2)]
        subscribed.state = "cancelled"
        counts.append((await keys(*arguments, open_apim=azure.open_apim)).stderr.strip())
    begin = f"Imported from {SERVICE}: "
    assert counts == [f"{begin}4 added.", f"{begin}4 unchanged.", f"{begin}2 disabled, 2 unchanged."]
    store = VaultKeyStore(secrets, prefix=PREFIX)
    assert await store.find(digest_of(subscribed.primary)) is None


async def test_call_through_the_worker_is_let_in_by_the_vault(
    lowkey: Lowkey, secrets: WritableSecrets, start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    host = await start_host(**lowkey.environ, WEBSITE_SITE_NAME="shim")
    key = fresh_key("worker")
    # It stands for the key that the stand-in for APIM knows.
    await secrets.put(PREFIX + digest_of(key), KEY, tags={"label": "team-a"})
    statuses = []
    for presented in (key, fresh_key("unknown")):
        headers = {"Authorization": f"Bearer {presented}"}
        async with http.get(f"{host.url}/openai/v1/models", headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 401]
