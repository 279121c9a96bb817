"""`keys rotate`, interrupted at each of its steps and run again.

Nobody may be left without a good key, and no good key may be left that nobody has.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from devhost.azure.faults import Fault, broken_connection, failing, forbidden
from devhost.azure.services import Azure
from shim.keys.subscription import digest_of
from tests.support.key_commands import Keys, azure_by_the_wall_clock, keys_of, name_of

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
APIM_KEY = "apim-key-which-is-known-to-apim-only"


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure_by_the_wall_clock(tmp_path) as running:
        running.vault.put(name_of(KEY), KEY, tags={"label": "team-a", "owner": "ada"})
        yield running


@pytest.fixture
def keys(azure: Azure) -> Keys:
    return keys_of(azure)


def fail_on(azure: Azure, method: str, fault: Fault, *, after_doing_it: bool = False) -> None:
    """From now on the vault fails calls of this method, and carries the others out."""

    async def selective(request: web.Request) -> web.Response:
        azure.vault.fault = None
        try:
            fails = request.method == method
            if not fails or after_doing_it:
                done = await azure.vault.answer(request)
            return await fault(request) if fails else done
        finally:
            azure.vault.fault = selective

    azure.vault.fault = selective


def secrets_of(azure: Azure) -> dict[str, str]:
    """Values of every enabled secret without an end, by name."""
    return {
        name: versions[-1].value
        for name, versions in azure.vault.secrets.items()
        if versions[-1].enabled and versions[-1].expires is None
    }


async def assert_rotated_to(azure: Azure, keys: Keys, key: str) -> None:
    assert secrets_of(azure) == {name_of(key): key}
    old = azure.vault.secrets[name_of(KEY)][-1]
    assert old.expires is not None
    assert timedelta(hours=23) < old.expires - datetime.now(UTC) <= timedelta(hours=24)
    # By this the next run knows that there is nothing to finish.
    assert old.tags["replaced-by"] == digest_of(key)[:8]
    for each in (KEY, key):
        assert (await keys("check", stdin=each)).exit_code == 0


async def test_new_key_is_shown_though_the_old_one_cannot_be_given_its_end_and_a_second_run_does_that(
    azure: Azure, keys: Keys
) -> None:
    fail_on(azure, "PATCH", forbidden("ForbiddenByRbac"))
    interrupted = await keys("rotate", "team-a")
    key = interrupted.stdout.strip()
    assert interrupted.exit_code == 5
    assert azure.vault.secrets[name_of(key)][-1].value == key
    assert f"the old key {digest_of(KEY)[:8]} has not been given its end" in interrupted.stderr
    assert "run the same command again" in interrupted.stderr

    azure.vault.fault = None
    tried = await keys("rotate", "team-a", "--json", "--dry-run")
    assert json.loads(tried.stdout) == {"label": "team-a", "digest": digest_of(key)[:8]}
    again = await keys("rotate", "team-a")
    assert (again.exit_code, again.stdout) == (0, "")
    assert f"Rotated team-a: the old key {digest_of(KEY)[:8]} is good until 20" in again.stderr
    assert f"stored the key {digest_of(key)[:8]}" in again.stderr
    await assert_rotated_to(azure, keys, key)


async def test_rotation_that_was_interrupted_is_finished_under_the_old_digest_too(
    azure: Azure, keys: Keys
) -> None:
    fail_on(azure, "PATCH", failing(500))
    key = (await keys("rotate", digest_of(KEY)[:8])).stdout.strip()
    azure.vault.fault = None
    assert (await keys("rotate", digest_of(KEY)[:8])).exit_code == 0
    await assert_rotated_to(azure, keys, key)


async def test_rotation_whose_first_write_is_refused_leaves_everything_as_it_was(
    azure: Azure, keys: Keys
) -> None:
    fail_on(azure, "PUT", forbidden("ForbiddenByRbac"))
    refused = await keys("rotate", "team-a")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert secrets_of(azure) == {name_of(KEY): KEY}
    azure.vault.fault = None
    key = (await keys("rotate", "team-a")).stdout.strip()
    await assert_rotated_to(azure, keys, key)


@pytest.mark.parametrize("fault", [broken_connection, failing(502)], ids=["cut", "gateway"])
async def test_key_that_the_vault_stored_without_saying_so_is_shown_and_used_by_the_next_run(
    azure: Azure, keys: Keys, fault: Fault
) -> None:
    fail_on(azure, "PUT", fault, after_doing_it=True)
    interrupted = await keys("rotate", "team-a")
    key = interrupted.stdout.strip()
    assert interrupted.exit_code == 6
    assert f"may have stored the key {digest_of(key)[:8]} all the same: keep it until" in interrupted.stderr
    assert azure.vault.secrets[name_of(key)][-1].value == key
    azure.vault.fault = None
    assert (await keys("rotate", "team-a")).exit_code == 0
    await assert_rotated_to(azure, keys, key)


async def test_end_that_the_vault_stored_without_saying_so_is_left_as_it_is(azure: Azure, keys: Keys) -> None:
    fail_on(azure, "PATCH", failing(502), after_doing_it=True)
    key = (await keys("rotate", digest_of(KEY)[:8])).stdout.strip()
    await assert_rotated_to(azure, keys, key)
    azure.vault.fault = None
    # Both keys have the label now, as after any rotation.
    assert (await keys("rotate", "team-a")).exit_code == 1
    await assert_rotated_to(azure, keys, key)


async def test_interrupted_rotation_to_an_operators_own_key_is_finished_with_it_and_with_no_other(
    azure: Azure, keys: Keys
) -> None:
    own, other = "a-key-of-the-operators-choice", "another-key-of-the-operators-choice"
    fail_on(azure, "PATCH", failing(500))
    await keys("rotate", "team-a", "--stdin", stdin=own)
    azure.vault.fault = None
    refused = await keys("rotate", "team-a", "--stdin", stdin=other)
    assert refused.exit_code == 1
    assert digest_of(own)[:8] in refused.stderr
    assert (await keys("rotate", "team-a", "--stdin", stdin=own)).exit_code == 0
    await assert_rotated_to(azure, keys, own)


async def test_interrupted_rotation_begins_anew_once_the_key_that_it_stored_is_revoked(
    azure: Azure, keys: Keys
) -> None:
    fail_on(azure, "PATCH", failing(500))
    first = (await keys("rotate", "team-a")).stdout.strip()
    azure.vault.fault = None
    assert (await keys("revoke", digest_of(first)[:8])).exit_code == 0
    second = (await keys("rotate", "team-a")).stdout.strip()
    assert second not in ("", first)
    await assert_rotated_to(azure, keys, second)


async def test_interrupted_rotation_is_not_finished_once_the_old_key_is_revoked(
    azure: Azure, keys: Keys
) -> None:
    fail_on(azure, "PATCH", failing(500))
    second = (await keys("rotate", "team-a")).stdout.strip()
    azure.vault.fault = None
    assert (await keys("revoke", digest_of(KEY)[:8])).exit_code == 0
    third = (await keys("rotate", "team-a")).stdout.strip()
    assert secrets_of(azure) == {name_of(third): third}
    assert azure.vault.secrets[name_of(second)][-1].tags["replaced-by"] == digest_of(third)[:8]


async def test_interrupted_rotation_of_a_key_that_stands_for_another_is_finished(
    azure: Azure, keys: Keys
) -> None:
    azure.vault.put(name_of(KEY), APIM_KEY, tags={"label": "team-a"})
    fail_on(azure, "PATCH", failing(500))
    key = (await keys("rotate", "team-a")).stdout.strip()
    azure.vault.fault = None
    assert (await keys("rotate", "team-a")).exit_code == 0
    assert secrets_of(azure) == {name_of(key): APIM_KEY}


async def test_dry_run_of_an_interrupted_rotation_writes_nothing(azure: Azure, keys: Keys) -> None:
    fail_on(azure, "PATCH", failing(500))
    await keys("rotate", "team-a")
    azure.vault.fault = None
    before = azure.vault.calls["change"]
    assert "Would finish" in (await keys("rotate", "team-a", "--dry-run")).stderr
    assert azure.vault.calls["change"] == before
    assert azure.vault.secrets[name_of(KEY)][-1].expires is None


async def test_key_of_a_finished_rotation_is_rotated_in_its_turn(azure: Azure, keys: Keys) -> None:
    second = (await keys("rotate", "team-a")).stdout.strip()
    third = (await keys("rotate", digest_of(second)[:8])).stdout.strip()
    assert secrets_of(azure) == {name_of(third): third}


async def test_new_key_that_may_have_been_stored_is_shown_by_add_as_well(azure: Azure, keys: Keys) -> None:
    fail_on(azure, "PUT", broken_connection, after_doing_it=True)
    done = await keys("add", "--label", "team-b")
    assert done.exit_code == 6
    assert azure.vault.secrets[name_of(done.stdout.strip())]
    azure.vault.fault = None
    assert (await keys("check", stdin=done.stdout)).exit_code == 0
