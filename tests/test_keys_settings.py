"""The settings about keys, each at an odd value and seen to act.

A value that is read and then goes astray shows nowhere else.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from devhost.azure.services import RESOURCE_ID, Azure, Subscribed, running_azure
from devhost.azure.vault import Clock, Credential, VaultDouble
from shim.errors import KeyStoreUnavailable
from shim.keys import open_key_store
from shim.keys.admin.opening import open_secrets
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.vault_errors import VaultError
from shim.keys.store import KeyStore
from shim.keys.subscription import digest_of
from shim.settings import Settings
from tests.conftest import ROOT

KEY, OLD_KEY = "a-key-of-an-odd-vault", "its-predecessor-in-that-vault"
TTL, STALE, GRACE = 7.0, 100.0, 50.0
CLIENT_ID = "2b1a0c9d-7777-4666-8555-123412341234"

type Open = Callable[..., KeyStore]


@pytest.fixture
async def open_store(vault: VaultDouble, credential: Credential, clock: Clock) -> AsyncIterator[Open]:
    """Opens the key store of settings with odd values, by simulated time."""
    opened: list[KeyStore] = []

    def open_one(**environ: str) -> KeyStore:
        settings = Settings.from_environment(
            {
                "APIM_BASE_URL": "https://a.example",
                "KEY_VAULT_URL": vault.url,
                "KEY_SECRET_PREFIX": "odd-",
                "KEY_CACHE_TTL": f"{TTL}",
                "KEY_CACHE_STALE": f"{STALE}",
                "KEY_ROTATION_GRACE": f"{GRACE}",
                **environ,
            }
        )
        secrets = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
        opened.append(open_key_store(settings, secrets=secrets, clock=clock, now=clock.now))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


def put(vault: VaultDouble, lookup: str) -> str:
    """Puts KEY into the vault, as `lookup` wants it; returns the secret's name."""
    name = f"odd-{digest_of(KEY)}" if lookup == "digest" else "odd-team-a"
    vault.put(name, KEY)
    return name


@pytest.mark.parametrize("lookup", ["digest", "scan"])
async def test_ttl_is_how_long_a_revoked_key_stays_good(
    vault: VaultDouble, clock: Clock, open_store: Open, lookup: str
) -> None:
    name = put(vault, lookup)
    store = open_store(KEY_LOOKUP=lookup)
    assert await store.find(digest_of(KEY))
    vault.delete(name)
    clock.advance(TTL / 2)
    assert await store.find(digest_of(KEY))
    clock.advance(TTL / 2)
    assert await store.find(digest_of(KEY)) is None


@pytest.mark.parametrize("lookup", ["digest", "scan"])
async def test_stale_is_how_long_a_key_stays_good_without_the_vault(
    vault: VaultDouble, clock: Clock, open_store: Open, lookup: str
) -> None:
    put(vault, lookup)
    store = open_store(KEY_LOOKUP=lookup)
    assert await store.find(digest_of(KEY))
    await vault.stop()
    clock.advance(STALE - 1)
    assert await store.find(digest_of(KEY))
    clock.advance(1)
    with pytest.raises(KeyStoreUnavailable):
        await store.find(digest_of(KEY))


@pytest.mark.parametrize("lookup", ["digest", "scan"])
async def test_prefix_is_what_the_names_of_keys_begin_with(
    vault: VaultDouble, open_store: Open, lookup: str
) -> None:
    put(vault, lookup)
    vault.put(f"apim-sub-{digest_of(OLD_KEY)}" if lookup == "digest" else "apim-sub-team-b", OLD_KEY)
    store = open_store(KEY_LOOKUP=lookup)
    assert await store.find(digest_of(KEY))
    assert await store.find(digest_of(OLD_KEY)) is None


async def test_grace_is_how_long_the_version_before_stays_good_in_a_scanned_vault(
    vault: VaultDouble, clock: Clock, open_store: Open
) -> None:
    vault.put("odd-team-a", OLD_KEY)
    clock.advance(10)
    vault.put("odd-team-a", KEY)
    store = open_store(KEY_LOOKUP="scan")
    clock.advance(GRACE - 1)
    assert await store.find(digest_of(OLD_KEY))
    clock.advance(1)
    assert await store.find(digest_of(OLD_KEY)) is None
    assert await store.find(digest_of(KEY))


@pytest.mark.parametrize("lookup", ["digest", "scan"])
async def test_a_key_ends_with_its_expiry_however_it_is_looked_up(
    vault: VaultDouble, clock: Clock, open_store: Open, lookup: str
) -> None:
    vault.change(put(vault, lookup), expires=clock.now() + timedelta(seconds=3))
    store = open_store(KEY_LOOKUP=lookup)
    assert await store.find(digest_of(KEY))
    clock.advance(3)
    assert await store.find(digest_of(KEY)) is None


async def test_an_operator_waits_half_a_minute_for_a_call_and_a_caller_of_the_shim_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Azure CLI alone may take five seconds for a token."""
    bounds: list[float | None] = []
    bounded = asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        bounds.append(seconds)
        return bounded(seconds)

    monkeypatch.setattr(asyncio, "timeout", timeout)
    settings = Settings.from_environment(
        {"APIM_BASE_URL": "https://a.example", "KEY_VAULT_URL": "https://127.0.0.1:9"}
    )
    secrets = open_secrets(settings)
    assert secrets is not None
    with pytest.raises(VaultError):
        await secrets.get("any")
    await secrets.close()
    assert bounds[0] == 30
    bounds.clear()
    store = open_key_store(settings)
    with pytest.raises(KeyStoreUnavailable):
        await store.check()
    await store.close()
    assert bounds[0] == 5


# Whose token it is.

OPENERS = """
import asyncio, gc, os, socket
from shim.keys import open_key_store
from shim.keys.admin.opening import open_apim, open_secrets
from shim.settings import Settings

def assert_the_loop_alone_closes_sockets():
    sockets = [each for each in gc.get_objects() if issubclass(type(each), socket.socket)]
    kinds = {type(each).__name__ for each in sockets if each.fileno() != -1 and each.family == socket.AF_INET}
    assert kinds == {"LoopsOwnSocket"}, kinds

async def main():
    settings = Settings.from_environment(os.environ)
    store = open_key_store(settings)
    await store.check()
    assert_the_loop_alone_closes_sockets()
    await store.close()
    async with open_secrets(settings) as secrets:
        _ = [item async for item in secrets.list()]
        assert_the_loop_alone_closes_sockets()
    async with open_apim(settings) as apim:
        _ = [item async for item in apim.subscriptions()]
        assert_the_loop_alone_closes_sockets()

asyncio.run(main())
"""


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with running_azure(tmp_path) as running:
        running.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"))
        yield running


def azure_cli(azure: Azure, folder: Path) -> Path:
    """An `az` that is signed in, and notes what it was asked for."""
    token = {"accessToken": azure.credential.token, "expires_on": 4102444800, "tokenType": "Bearer"}
    folder.mkdir()
    program = folder / "az"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/asked\ncat <<'END'\n{json.dumps(token)}\nEND\n")
    program.chmod(0o755)
    return folder


@pytest.fixture
def open_all(azure: Azure, tmp_path: Path) -> Callable[..., Awaitable[list[str]]]:
    """Opens and uses everything that signs in, in a process of its own; returns what the Azure CLI was asked for."""

    async def run(**environ: str) -> list[str]:
        cli = azure_cli(azure, tmp_path / "bin")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPENERS, cwd=ROOT, stderr=asyncio.subprocess.PIPE,
            env={
                **azure.environ, "PATH": f"{cli}{os.pathsep}{os.environ['PATH']}",
                "APIM_BASE_URL": "https://a.example", "APIM_RESOURCE_ID": RESOURCE_ID, **environ,
            },
        )  # fmt: skip
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        asked = cli / "asked"
        return asked.read_text().splitlines() if asked.exists() else []

    return run


async def test_in_azure_everything_signs_in_as_the_identity_with_the_client_id(
    azure: Azure, open_all: Callable[..., Awaitable[list[str]]]
) -> None:
    by_cli = await open_all(WEBSITE_SITE_NAME="shim", AZURE_CLIENT_ID=CLIENT_ID)
    assert by_cli == []
    assert len(azure.asked) == 3
    assert {client_id for client_id, _ in azure.asked} == {CLIENT_ID}


async def test_elsewhere_everything_signs_in_as_the_developer(
    azure: Azure, open_all: Callable[..., Awaitable[list[str]]]
) -> None:
    by_cli = await open_all(AZURE_TOKEN_CREDENTIALS="AzureCliCredential", AZURE_CLIENT_ID=CLIENT_ID)
    assert len(by_cli) == 3
    assert azure.asked == []
