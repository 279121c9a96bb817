"""Keys in a vault under names of their own: all are read once, and after that whatever has changed.

The index is the cache here, so that a change it misses is a revoked key that works or a new one that does not.
"""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from azure.keyvault.secrets import SecretProperties

from devhost.azure.faults import failing, forbidden, throttled
from devhost.azure.vault import START, Clock, Credential, VaultDouble
from shim.errors import KeyStoreUnavailable
from shim.keys import scan
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.scan import ScanKeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.monitoring.counts import Process
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time

TTL = 300.0
STALE = 3600.0
GRACE = 1000.0
OLD, NEW, OTHER = "key-of-the-first-version", "key-of-the-second-version", "another-key"


@pytest.fixture
async def store(vault: VaultDouble, credential: Credential, clock: Clock) -> AsyncIterator[ScanKeyStore]:
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    opened = ScanKeyStore(
        reader, prefix="apim-", ttl=TTL, stale=STALE, grace=GRACE, clock=clock, now=clock.now, patience=2.0
    )
    yield opened
    await opened.close()


async def find(store: ScanKeyStore, key: str) -> Subscription | None:
    return await store.find(digest_of(key))


async def rescan(store: ScanKeyStore, clock: Clock, after: float = TTL) -> None:
    """Lets the index grow as old as its ttl, and has it read anew by a question."""
    clock.advance(after)
    assert await find(store, "a key that nobody has") is None


async def test_key_under_a_name_of_its_own_is_found_by_its_digest(
    vault: VaultDouble, store: ScanKeyStore
) -> None:
    vault.put("apim-team-a", f"{OLD}\n", tags={"owner": "ada", "source": "apim/sub-1"})
    found = await find(store, OLD)
    assert found == Subscription(
        digest=digest_of(OLD), key=OLD, label="apim-team-a", owner="ada", source="apim/sub-1"
    )


async def test_only_enabled_secrets_with_the_prefix_are_read(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.put("apim-team-a", OLD)
    vault.put("APIM-team-b", OTHER)
    vault.put("database-password", "not-a-key")
    vault.put("apim-off", "key-that-is-off", enabled=False)
    vault.put("apim-certificate", "private-key-of-a-certificate", managed=True)
    assert await find(store, OLD)
    assert await find(store, OTHER)
    assert await find(store, "not-a-key") is None
    assert await find(store, "key-that-is-off") is None
    assert await find(store, "private-key-of-a-certificate") is None
    assert sorted(vault.read) == ["APIM-team-b", "apim-team-a"]


async def test_every_page_of_the_list_is_read(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.page_size = 3
    for number in range(10):
        vault.put(f"apim-{number}", f"key-{number}")
    assert all([await find(store, f"key-{number}") for number in range(10)])
    assert vault.calls["list"] == 4
    assert vault.calls["get"] == 10
    assert vault.calls["challenge"] == 1


async def test_page_that_fails_is_asked_for_once_more_and_not_the_ones_before(
    vault: VaultDouble, store: ScanKeyStore
) -> None:
    vault.page_size = 3
    for number in range(6):
        vault.put(f"apim-{number}", f"key-{number}")

    async def fail_second_page(request: web.Request) -> web.Response:
        if "$skiptoken" in request.query:
            vault.fault = None
            return await failing(503)(request)
        # The first one, as if there were no fault.
        vault.fault = None
        answer = await vault.answer(request)
        vault.fault = fail_second_page
        vault.calls["list"] -= 1
        return answer

    vault.fault = fail_second_page
    assert await find(store, "key-5")
    assert vault.calls["list"] == 3


async def test_only_changed_secrets_are_read_again(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    for number in range(5):
        vault.put(f"apim-{number}", f"key-{number}")
    clock.advance(GRACE)
    assert await find(store, "key-0")
    vault.read.clear()

    vault.put("apim-3", NEW)
    vault.change("apim-4", tags={"label": "renamed"})
    vault.delete("apim-1")
    vault.put("apim-5", OTHER)
    await rescan(store, clock)
    # The value of the rotated one's first version has been read before, and never changes.
    assert sorted(vault.read) == ["apim-3", "apim-4", "apim-5"]
    assert await find(store, "key-3")
    assert await find(store, NEW)
    assert await find(store, OTHER)
    assert await find(store, "key-1") is None
    renamed = await find(store, "key-4")
    assert renamed
    assert renamed.label == "renamed"

    vault.read.clear()
    await rescan(store, clock)
    assert vault.read == []


async def test_index_is_read_anew_in_the_background_before_its_ttl_ends(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    clock.advance(TTL * scan.REFRESH_AFTER)
    vault.fault = vault.slow()
    with pytest.raises(StopIteration):
        store.find(digest_of(OLD)).send(None)
    await vault.waiting.wait()
    assert vault.calls["list"] == 2
    assert store.peek(digest_of(OLD))


@pytest.mark.parametrize("revoke", ["delete", "disable", "expire"])
async def test_revoked_key_is_refused_when_the_ttl_ends(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock, revoke: str
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    clock.advance(1)
    if revoke == "delete":
        vault.delete("apim-a")
    elif revoke == "disable":
        vault.change("apim-a", enabled=False)
    else:
        vault.change("apim-a", expires=clock.now())
    clock.advance(TTL - 1)
    assert await find(store, OLD) is None


async def test_expiry_and_not_before_are_checked_at_each_use(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    now = clock.now()
    vault.put("apim-a", OLD, not_before=now + timedelta(seconds=10), expires=now + timedelta(seconds=20))
    assert await find(store, OLD) is None
    clock.advance(10)
    assert await find(store, OLD)
    clock.advance(10)
    assert await find(store, OLD) is None


async def test_unknown_key_has_the_vault_read_again_at_most_once_in_ten_seconds(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    assert await find(store, OLD) is None
    vault.put("apim-a", OLD)
    for number in range(100):
        assert await find(store, f"unknown {number}") is None
    assert await find(store, OLD) is None
    assert vault.calls["list"] == 1
    clock.advance(scan.RESCAN_INTERVAL)
    assert await find(store, OLD)
    assert vault.calls["list"] == 2


async def test_a_scan_that_takes_longer_than_the_ttl_refuses_no_good_key(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", NEW)

    async def late(request: web.Request) -> web.Response:
        clock.advance(TTL + 1)
        vault.fault = None
        return await vault.answer(request)

    vault.fault = late
    assert await find(store, NEW)
    assert await find(store, NEW)
    assert await find(store, OTHER) is None


async def test_thousand_callers_share_one_scan(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.put("apim-a", OLD)
    found = await asyncio.gather(*(find(store, OLD if number % 2 else "unknown") for number in range(1000)))
    assert sum(each is not None for each in found) == 500
    assert vault.calls == {"challenge": 1, "list": 1, "get": 1, "versions": 1}


async def test_cancelled_caller_does_not_cancel_the_scan(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.put("apim-a", OLD)
    callers = [asyncio.create_task(find(store, OLD)) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.wait([callers[0]])
    assert callers[0].cancelled()
    assert all(await asyncio.gather(*callers[1:]))
    assert vault.calls["list"] == 1


async def test_secrets_are_read_a_few_at_a_time(vault: VaultDouble, store: ScanKeyStore) -> None:
    at_once = most = 0
    all_there = asyncio.Event()

    async def count(request: web.Request) -> web.Response:
        nonlocal at_once, most
        if request.path == "/secrets":
            vault.fault, fault = None, vault.fault
            answer = await vault.answer(request)
            vault.fault = fault
            return answer
        at_once += 1
        most = max(most, at_once)
        if at_once == scan.CONCURRENCY:
            all_there.set()
        await all_there.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        at_once -= 1
        return await failing(404)(request)

    for number in range(40):
        vault.put(f"apim-{number}", f"key-{number}")
    vault.fault = count
    with pytest.raises(KeyStoreUnavailable):
        await find(store, "key-0")
    assert most == scan.CONCURRENCY


async def test_vault_down_at_a_cold_start_is_unavailable_and_never_unknown(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    await vault.stop()
    for _ in range(3):
        with pytest.raises(KeyStoreUnavailable):
            await find(store, OLD)
    await vault.start()
    clock.advance(scan.RESCAN_INTERVAL)
    assert await find(store, OLD)


async def test_index_outlives_a_vault_that_goes_down_and_ends_with_stale(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    await vault.stop()
    clock.advance(STALE - 1)
    assert await find(store, OLD)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OTHER)
    clock.advance(1)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)


async def test_slow_vault_keeps_a_caller_for_a_bounded_time(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.put("apim-a", OLD)
    vault.fault = vault.slow()
    started = asyncio.get_running_loop().time()
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)
    assert asyncio.get_running_loop().time() - started < 3


async def test_scan_that_is_throttled_pauses_and_goes_on_where_it_was(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    for number in range(40):
        vault.put(f"apim-{number:02}", f"key-{number}")
    clock.advance(GRACE)

    async def throttle_later(request: web.Request) -> web.Response:
        if vault.calls["get"] > 20:
            return await throttled(30)(request)
        vault.fault = None
        answer = await vault.answer(request)
        vault.fault = throttle_later
        kind = "list" if request.path == "/secrets" else "get"
        vault.calls[kind] -= 1
        return answer

    vault.fault = throttle_later
    with pytest.raises(KeyStoreUnavailable) as first:
        await find(store, "key-39")
    assert first.value.retry_after == 30
    assert await find(store, "key-0"), "what was read before is good"
    read_before = len(vault.read)
    assert read_before == 20
    # Those that were under way, and no more, were asked in vain.
    assert vault.calls["get"] <= 28

    vault.fault = None
    clock.advance(29)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, "key-39")
    clock.advance(1)
    assert await find(store, "key-39")
    assert len(vault.read) == 40


async def test_a_check_that_fails_says_when_to_try_again(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.fault = throttled(30)
    with pytest.raises(KeyStoreUnavailable, match="answered 429 Throttled") as refused:
        await store.check()
    assert refused.value.retry_after == 30


async def test_an_index_that_was_read_anew_after_an_outage_ends_with_its_ttl(
    vault: VaultDouble, credential: Credential, clock: Clock
) -> None:
    """Only while the vault fails are keys good beyond their ttl."""
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=20, stale=STALE, grace=GRACE, clock=clock, now=clock.now, patience=2.0
    )
    vault.put("apim-a", OLD)
    vault.fault = throttled(5)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)
    clock.advance(5)
    vault.fault = None
    assert await find(store, OLD)
    clock.advance(20)
    assert store.peek(digest_of(OLD)) is None
    await store.close()


async def test_what_scans_that_never_complete_have_read_ends_with_stale_counted_from_the_first(
    vault: VaultDouble, credential: Credential, clock: Clock
) -> None:
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=20, stale=100, grace=0, clock=clock, now=clock.now, patience=2.0
    )
    vault.put("apim-a", OLD)
    vault.put("apim-b", OTHER)

    async def fail_one(request: web.Request) -> web.Response:
        vault.fault = None
        try:
            one = request.path.startswith("/secrets/apim-b")
            return await (failing(502)(request) if one else vault.answer(request))
        finally:
            vault.fault = fail_one

    vault.fault = fail_one
    for _ in range(4):
        with pytest.raises(KeyStoreUnavailable):
            await find(store, OTHER)
        assert await find(store, OLD)
        clock.advance(25)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)
    await store.close()


async def test_an_index_is_as_old_as_the_beginning_of_the_scan_that_completed_it(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)

    async def late(request: web.Request) -> web.Response:
        vault.fault = None
        answer = await vault.answer(request)
        clock.advance(50)
        return answer

    vault.fault = late
    assert await find(store, OLD)
    vault.delete("apim-a")
    clock.advance(TTL - 51)
    assert store.peek(digest_of(OLD))
    await store.close()
    clock.advance(1)
    assert store.peek(digest_of(OLD)) is None


async def test_a_secret_that_is_deleted_while_the_vault_is_read_is_no_key(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    vault.put("apim-b", OTHER)
    assert await find(store, OLD)
    clock.advance(1)
    vault.change("apim-a", tags={"label": "changed"})

    async def vanish(request: web.Request) -> web.Response:
        vault.fault = None
        answer = await vault.answer(request)
        vault.delete("apim-a")
        return answer

    vault.fault = vanish
    await rescan(store, clock)
    assert await find(store, OLD) is None
    assert await find(store, OTHER)


async def test_a_version_that_is_deleted_while_the_vault_is_read_is_left_out(
    vault: VaultDouble, store: ScanKeyStore
) -> None:
    old = vault.put("apim-a", OLD)
    vault.put("apim-a", NEW)

    async def vanish(request: web.Request) -> web.Response:
        vault.fault = None
        answer = await vault.answer(request)
        if request.path.endswith("/versions"):
            vault.secrets["apim-a"].remove(old)
        else:
            vault.fault = vanish
        return answer

    vault.fault = vanish
    assert await find(store, NEW)
    assert await find(store, OLD) is None


class Endless(VaultSecrets):
    """A vault whose list never comes."""

    async def list(self) -> AsyncIterator[SecretProperties]:
        await asyncio.Event().wait()
        yield SecretProperties()


@pytest.mark.parametrize(
    ("patience", "seconds"), [({}, 5), ({"patience": 1000}, 120)], ids=["a caller", "a scan"]
)
def test_a_caller_waits_five_seconds_for_a_scan_which_is_given_up_after_two_minutes(
    caplog: pytest.LogCaptureFixture, patience: dict[str, Any], seconds: float
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        store = ScanKeyStore(
            Endless("https://v.vault.azure.net"), prefix="", ttl=TTL, stale=STALE, grace=GRACE, clock=loop.time,
            **patience,
        )  # fmt: skip
        asking = asyncio.create_task(find(store, OLD))
        await loop.pass_until(0)
        await loop.pass_until(seconds - 0.25)
        assert not asking.done()
        await loop.pass_until(seconds)
        await loop.pass_until(seconds)  # the caller hears of the scan's end
        refusal = asking.exception()
        assert isinstance(refusal, KeyStoreUnavailable)
        assert refusal.retry_after == (2 if patience else 1)
        await store.close()

    run_in_virtual_time(scenario)
    given_up = "Key Vault https://v.vault.azure.net was not read within 120 seconds"
    assert (given_up in caplog.text) is bool(patience)


async def test_prefix_and_grace_may_be_as_odd_as_operators_like(
    vault: VaultDouble, credential: Credential, clock: Clock
) -> None:
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(reader, prefix="Apim-", ttl=TTL, stale=STALE, grace=1e15, clock=clock, now=clock.now)
    vault.put("apim-a", OLD)
    clock.advance(1)
    vault.put("apim-a", NEW)
    assert await find(store, NEW)
    assert await find(store, OLD)
    await store.close()


@pytest.mark.parametrize("stale", [0, 10, TTL])
async def test_a_failing_vault_ends_no_key_before_its_ttl_however_short_stale_is(
    vault: VaultDouble, credential: Credential, clock: Clock, stale: float
) -> None:
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=TTL, stale=stale, grace=GRACE, clock=clock, now=clock.now
    )
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    vault.fault = failing(502)
    clock.advance(TTL - 1)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OTHER)
    assert await find(store, OLD)
    await store.close()


async def test_a_value_that_is_no_key_is_named_without_its_whole_digest(
    vault: VaultDouble, store: ScanKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put("apim-0123456789ABCDEF0123", "no key")
    assert await find(store, OLD) is None
    assert "the secret apim-01234567… holds no key" in caplog.text


async def test_check_lists_one_page_however_many_there_are(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.page_size = 3
    for number in range(10):
        vault.put(f"apim-{number}", f"key-{number}")
    await store.check()
    assert vault.calls["list"] == 1


async def test_key_that_has_been_read_is_good_before_the_scan_ends(
    vault: VaultDouble, credential: Credential, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    vault.put("apim-b", OTHER)
    go_on = asyncio.Event()

    async def hold_one(request: web.Request) -> web.Response:
        if request.path.startswith("/secrets/apim-b"):
            await go_on.wait()
        vault.fault = None
        answer = await vault.answer(request)
        vault.fault = hold_one
        return answer

    vault.fault = hold_one
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=TTL, stale=STALE, grace=GRACE, clock=clock, now=clock.now, patience=0.5
    )
    assert await find(store, OLD)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OTHER)
    go_on.set()
    assert await find(store, OTHER)
    await store.close()


async def test_unknown_key_is_worth_another_try_after_a_second_while_a_scan_goes_on(
    vault: VaultDouble, store: ScanKeyStore
) -> None:
    vault.fault = vault.slow()
    with pytest.raises(KeyStoreUnavailable) as refused:
        await find(store, OLD)
    assert refused.value.message == (
        "The API key could not be checked just now, because the key store did not respond. Try again."
    )
    assert refused.value.retry_after == 1


async def test_defect_in_a_scan_is_unavailable_and_its_message_is_not_logged(
    vault: VaultDouble, credential: Credential, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Defective(VaultSecrets):
        async def list(self) -> AsyncIterator[SecretProperties]:
            async for item in super().list():
                yield item
            raise RuntimeError(f"cannot list {OLD}")

    reader = Defective(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=TTL, stale=STALE, grace=GRACE, clock=clock, now=clock.now
    )
    with pytest.raises(KeyStoreUnavailable) as refused:
        await find(store, OLD)
    assert refused.value.retry_after == 15
    await store.close()
    assert "reading the vault failed: RuntimeError in" in caplog.text
    assert OLD not in caplog.text


async def test_versions_are_listed_only_as_long_as_an_earlier_one_is_good(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    clock.advance(GRACE)
    vault.put("apim-a", NEW)
    assert await find(store, OLD)
    for _ in range(3):
        await rescan(store, clock)
    assert vault.calls["versions"] == 4
    clock.advance(GRACE)
    await rescan(store, clock)
    for _ in range(3):
        await rescan(store, clock)
    assert vault.calls["versions"] == 4
    assert await find(store, OLD) is None


async def test_secret_of_one_version_has_its_versions_listed_once(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    for _ in range(3):
        await rescan(store, clock, after=TTL)
    assert vault.calls["versions"] == 1


async def test_nothing_is_read_once_the_store_is_closed(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    await store.close()
    clock.advance(TTL * 0.9)
    before = asyncio.all_tasks()
    assert store.peek(digest_of(OLD))
    assert asyncio.all_tasks() == before
    assert vault.calls["list"] == 1


async def test_missing_role_is_unavailable_and_check_names_it(
    vault: VaultDouble, store: ScanKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put("apim-a", OLD)
    await store.check()
    assert vault.calls == {"challenge": 1, "list": 1, "get": 1}
    vault.fault = forbidden("ForbiddenByRbac")
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)
    assert "grant the role 'Key Vault Secrets User'" in caplog.text
    with pytest.raises(KeyStoreUnavailable, match="grant the role 'Key Vault Secrets User'"):
        await store.check()


async def test_both_keys_are_good_until_the_grace_of_a_rotation_ends(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    assert await find(store, OLD)
    clock.advance(GRACE + 5)
    rotated = clock.now()
    vault.put("apim-a", NEW)
    await rescan(store, clock)
    old = await find(store, OLD)
    assert old
    assert old.expires == rotated + timedelta(seconds=GRACE)
    new = await find(store, NEW)
    assert new
    assert new.expires is None
    clock.advance(GRACE - TTL - 1)
    assert await find(store, OLD)
    clock.advance(1)
    assert await find(store, OLD) is None
    assert await find(store, NEW)


async def test_the_grace_ends_a_previous_key_that_would_have_been_good_for_longer(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD, expires=clock.now() + timedelta(days=365))
    clock.advance(5)
    rotated = clock.now()
    vault.put("apim-a", NEW)
    old = await find(store, OLD)
    assert old
    assert old.expires == rotated + timedelta(seconds=GRACE)


async def test_rotation_before_a_cold_start_is_seen_too(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OTHER)
    clock.advance(GRACE)
    vault.put("apim-a", OLD)
    clock.advance(GRACE / 2)
    vault.put("apim-a", NEW)
    # The first version was followed too long ago, counted from its follower and not from the latest version.
    clock.advance(GRACE / 2)
    assert await find(store, OTHER) is None
    assert await find(store, OLD)
    assert await find(store, NEW)


async def test_previous_key_does_not_outlive_its_own_expiry(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD, expires=clock.now() + timedelta(seconds=100))
    clock.advance(50)
    vault.put("apim-a", NEW)
    assert await find(store, OLD)
    clock.advance(50)
    assert await find(store, OLD) is None
    assert await find(store, NEW)


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"expires": START + timedelta(seconds=100)},
        {"not_before": START + timedelta(seconds=900)},
    ],
    ids=["disabled", "ended", "put off"],
)
async def test_previous_key_that_is_changed_in_its_grace_is_refused_within_the_ttl(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock, change: dict[str, Any]
) -> None:
    old = vault.put("apim-a", OLD)
    clock.advance(5)
    vault.put("apim-a", NEW)
    assert await find(store, OLD)
    vault.change("apim-a", old, **change)
    clock.advance(TTL)
    assert await find(store, OLD) is None
    assert await find(store, NEW)


@pytest.mark.parametrize("attribute", ["expires", "not_before"])
async def test_an_end_that_is_set_in_the_second_of_the_last_change_is_seen(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock, attribute: str
) -> None:
    """The vault's times are in whole seconds, so that the time of the last change stays the same."""
    vault.put("apim-a", OLD)
    clock.advance(GRACE)
    vault.change("apim-a")
    assert await find(store, OLD)
    moment = clock.now() + timedelta(seconds=TTL if attribute == "expires" else 2 * TTL)
    change: dict[str, Any] = {attribute: moment}
    vault.change("apim-a", **change)
    clock.advance(TTL)
    assert await find(store, OLD) is None


async def test_disabling_the_latest_version_turns_the_previous_key_off_too(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock
) -> None:
    vault.put("apim-a", OLD)
    clock.advance(5)
    vault.put("apim-a", NEW)
    assert await find(store, OLD)
    vault.change("apim-a", enabled=False)
    clock.advance(TTL)
    assert await find(store, OLD) is None
    assert await find(store, NEW) is None


async def test_versions_of_the_same_second_are_told_apart(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.put("apim-a", OLD)
    vault.put("apim-a", NEW)
    new, old = await find(store, NEW), await find(store, OLD)
    assert new
    assert new.expires is None
    assert old
    assert old.expires is not None


@pytest.mark.parametrize(("expiring", "lasting"), [("apim-a", "apim-b"), ("apim-b", "apim-a")])
async def test_key_in_two_secrets_is_good_as_long_as_one_of_them_is(
    vault: VaultDouble, store: ScanKeyStore, clock: Clock, expiring: str, lasting: str
) -> None:
    vault.put(expiring, OLD, expires=clock.now() + timedelta(seconds=10))
    vault.put(lasting, OLD)
    assert await find(store, OLD)
    clock.advance(10)
    found = await find(store, OLD)
    assert found
    assert found.label == lasting


async def test_close_ends_a_scan_that_is_under_way(vault: VaultDouble, store: ScanKeyStore) -> None:
    vault.fault = vault.slow()
    caller = asyncio.create_task(find(store, OLD))
    await vault.waiting.wait()
    await store.close()
    with pytest.raises(KeyStoreUnavailable):
        await caller
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OLD)


async def test_no_key_or_token_is_logged_or_shown(
    vault: VaultDouble, store: ScanKeyStore, credential: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put("apim-a", OLD)
    vault.put("apim-b", "no key at all")
    shown = []
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="azure"):
        shown.append(repr(await find(store, OLD)))
        vault.fault = failing(502)
        try:
            await store.check()
        except KeyStoreUnavailable as error:
            shown.append("".join(traceback.format_exception(error)))
    shown += [repr(vars(store)), repr(store)]
    text = "\n".join([caplog.text, *shown])
    assert "the secret apim-b holds no key" in text
    assert "answered 502" in text
    for secret in (OLD, "no key at all", credential.token, credential.token.split(".")[1]):
        assert secret not in text


async def test_lookups_and_scans_are_counted_by_what_came_of_them(
    vault: VaultDouble, credential: Credential, clock: Clock
) -> None:
    process = Process()
    reader = VaultSecrets(vault.url, credential=credential, transport=vault.transport(), clock=clock)
    store = ScanKeyStore(
        reader, prefix="apim-", ttl=TTL, stale=STALE, grace=GRACE, clock=clock, now=clock.now, process=process
    )
    vault.put("apim-a", OLD)
    clock.advance(1000)
    assert await find(store, OLD)
    assert process.lookups == {"vault": 1}
    assert await find(store, OLD)
    assert await find(store, OTHER) is None
    assert process.lookups == {"vault": 1, "cached": 1, "refused": 1}
    await vault.stop()
    clock.advance(TTL)
    with pytest.raises(KeyStoreUnavailable):
        await find(store, OTHER)
    assert await find(store, OLD)
    assert process.lookups == {"vault": 1, "cached": 1, "refused": 1, "unavailable": 1, "stale": 1}
    scans = {fault: (calls.count, calls.sum) for fault, calls in process.vault.items()}
    assert scans == {"": (1, 0), "key_store_unavailable": (1, 0)}
    await vault.start()
    await store.close()
