"""Keys come from APIM into the vault, by command and by timer.

A key that is not imported locks a caller out; one that is not pruned, or enabled against an operator's will, lets one
in.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from devhost.azure.faults import failing
from devhost.azure.services import RESOURCE_ID, SERVICE, Azure, Subscribed, running_azure
from devhost.host import Host
from shim.keys.admin.importing import Change, Filters, Import, count, import_keys
from shim.keys.azure.api_management import ApimError
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import digest_of
from shim.settings import Settings
from tests.conftest import KEY as KNOWN_TO_STANDIN
from tests.conftest import StartHost

PREFIX = "apim-sub-"

type Run = Callable[..., Awaitable[list[Change]]]


def subscribed(sid: str, **more: str) -> Subscribed:
    return Subscribed(sid, f"primary-key-of-{sid}", f"secondary-key-of-{sid}", label=f"team {sid}", **more)


def name_of(key: str) -> str:
    return PREFIX + digest_of(key)


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with running_azure(tmp_path) as running:
        yield running


def settings_for(azure: Azure, **more: str) -> Settings:
    return Settings.from_environment(
        {
            "APIM_BASE_URL": "https://a.example",
            "APIM_RESOURCE_ID": RESOURCE_ID,
            "KEY_VAULT_URL": azure.vault.url,
            **more,
        }
    )


@pytest.fixture
def run(azure: Azure) -> Run:
    """Imports, and returns what was done."""
    settings = settings_for(azure)

    async def once(*, prune: bool = False, filters: Filters | None = None) -> list[Change]:
        apim = azure.open_apim(settings)
        assert apim
        async with azure.open_secrets(settings) as secrets, apim:
            job = Import(apim, secrets, prefix=PREFIX, filters=filters or Filters(), prune=prune)
            changes = await job.plan()
            await job.apply(changes)
            return changes

    return once


def actions(changes: list[Change]) -> dict[str, int]:
    return dict(Counter(change.action for change in changes))


def enabled(azure: Azure, key: str) -> bool:
    return azure.vault.secrets[name_of(key)][-1].enabled


async def test_both_keys_of_every_subscription_arrive_with_label_owner_and_source(
    azure: Azure, run: Run
) -> None:
    azure.apim.subscribe(*(subscribed(f"s{number}") for number in range(5)))
    assert actions(await run()) == {"added": 10}
    assert azure.apim.calls == {"list": 3, "secrets": 5}
    version = azure.vault.secrets[name_of("secondary-key-of-s3")][-1]
    assert version.value == "secondary-key-of-s3"
    assert version.tags == {
        "label": "team s3", "owner": "ada", "source": f"apim:{SERVICE}", "subscription": "s3", "slot": "secondary",
    }  # fmt: skip


async def test_each_change_says_whose_key_it_is_and_why(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(*(subscribed(f"s{number}") for number in range(1, 7)))
    azure.vault.put(name_of("secondary-key-of-s6"), "x")
    [first, *others] = await run()
    assert (first.action, first.label, first.owner) == ("added", "team s1", "ada")
    assert first.shown == min(digest_of(f"{slot}-key-of-s1")[:8] for slot in ("primary", "secondary"))
    labels = [change.label for change in others]
    assert labels == sorted(labels)
    azure.apim.subscribed["s1"].owner = "bob"
    azure.apim.subscribed["s2"].primary = "regenerated-key-of-s2"
    azure.apim.subscribed["s3"].state = "suspended"
    del azure.apim.subscribed["s4"]
    azure.vault.change(name_of("primary-key-of-s5"), enabled=False)
    revoked = name_of("secondary-key-of-s5")
    tags = {**azure.vault.secrets[revoked][-1].tags, "revoked": "2026-01-01T00:00:00Z"}
    azure.vault.change(revoked, enabled=False, tags=tags)
    azure.vault.change(name_of("primary-key-of-s6"), tags={"source": "apim:another", "label": "x"})
    changes = await run(prune=True)
    assert {(change.label, change.action, change.reason) for change in changes} == {
        ("team s1", "changed", "primary key; label or owner"),
        ("team s1", "changed", "secondary key; label or owner"),
        ("team s2", "added", "primary key; new"),
        ("team s2", "unchanged", "secondary key; as it was"),
        ("team s2", "disabled", "key regenerated"),
        ("team s3", "disabled", "subscription suspended"),
        ("team s4", "disabled", "subscription gone"),
        ("team s5", "kept", "primary key; disabled by an operator"),
        ("team s5", "kept", "secondary key; revoked by an operator"),
        ("team s6", "kept", "primary key; in the vault from apim:another"),
        ("team s6", "kept", "secondary key; in the vault from elsewhere"),
    }
    [disabled] = [change for change in changes if change.label == "team s2" and change.action == "disabled"]
    assert (disabled.owner, disabled.shown) == ("ada", digest_of("primary-key-of-s2")[:8])
    assert azure.vault.secrets[name_of("primary-key-of-s1")][-1].tags["owner"] == "bob"
    azure.apim.subscribed["s3"].state = "active"
    assert ("team s3", "changed", "primary key; enabled again") in {
        (change.label, change.action, change.reason) for change in await run()
    }


async def test_subscription_with_one_key_brings_one(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(
        Subscribed("s1", "primary-key-of-s1", ""), Subscribed("s2", "", "secondary-key-of-s2")
    )
    assert actions(await run()) == {"added": 2}
    assert set(azure.vault.secrets) == {name_of("primary-key-of-s1"), name_of("secondary-key-of-s2")}


async def test_progress_is_told_for_every_subscription_and_every_write(azure: Azure) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    azure.vault.put(name_of("primary-key-of-s2"), "x", tags={"source": "operator"})
    told: list[str] = []
    settings = settings_for(azure)
    apim = azure.open_apim(settings)
    assert apim
    async with azure.open_secrets(settings) as secrets, apim:
        job = Import(apim, secrets, prefix=PREFIX, filters=Filters(), prune=False, progress=told.append)
        changes = await job.plan()
        assert sorted(told) == ["team s1", "team s2"]
        await job.apply(changes)
    assert Counter(told) == {"team s1": 3, "team s2": 2}


async def test_second_run_changes_nothing(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run(prune=True)
    written = azure.vault.calls["put"]
    assert actions(await run(prune=True)) == {"unchanged": 4}
    assert azure.vault.calls["put"] == written
    assert azure.vault.calls["change"] == azure.vault.calls["get"] == 0


@pytest.mark.parametrize(
    "more", [{"owner": ""}, {"label": "x" * 257}], ids=["without an owner", "with a label longer than a tag"]
)
async def test_second_run_changes_nothing_of_a_subscription(
    azure: Azure, run: Run, more: dict[str, str]
) -> None:
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", **more))
    await run()
    assert actions(await run()) == {"unchanged": 2}


async def test_tags_of_an_operators_own_stay_whatever_an_import_changes(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run()
    name = name_of("primary-key-of-s1")
    azure.vault.change(name, tags={**azure.vault.secrets[name][-1].tags, "cost-centre": "42"})
    for attribute, value in (("label", "another team"), ("state", "suspended"), ("state", "active")):
        setattr(azure.apim.subscribed["s1"], attribute, value)
        assert actions(await run(prune=True)).keys() >= {"disabled" if value == "suspended" else "changed"}
        tags = azure.vault.secrets[name][-1].tags
        assert {"cost-centre": "42", "subscription": "s1", "slot": "primary"}.items() <= tags.items()
        assert ("pruned" in tags) is (value == "suspended")


async def test_new_label_reaches_the_vault_without_a_new_version(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"))
    await run()
    azure.apim.subscribed["s1"].label = "another team"
    assert actions(await run()) == {"changed": 2}
    [version] = azure.vault.secrets[name_of("primary-key-of-s1")]
    assert version.tags["label"] == "another team"


@pytest.mark.parametrize("state", ["suspended", "cancelled", "rejected", "submitted", "expired"])
async def test_subscription_that_is_not_active_is_disabled_by_prune_and_only_by_it(
    azure: Azure, run: Run, state: str
) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run()
    azure.apim.subscribed["s1"].state = state
    await run()
    assert enabled(azure, "primary-key-of-s1")
    assert actions(await run(prune=True)) == {"disabled": 2, "unchanged": 2}
    assert not enabled(azure, "primary-key-of-s1")
    assert not enabled(azure, "secondary-key-of-s1")
    assert actions(await run(prune=True)) == {"unchanged": 2}


async def test_subscription_that_is_gone_is_disabled_and_good_again_when_it_is_back(
    azure: Azure, run: Run
) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run()
    gone = azure.apim.subscribed.pop("s1")
    assert actions(await run(prune=True)) == {"disabled": 2, "unchanged": 2}
    azure.apim.subscribe(gone)
    assert actions(await run()) == {"changed": 2, "unchanged": 2}
    assert enabled(azure, "primary-key-of-s1")


async def test_regenerated_key_takes_the_place_of_the_old_one(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"))
    await run()
    azure.apim.subscribed["s1"].primary = "regenerated-key-of-s1"
    assert actions(await run(prune=True)) == {"added": 1, "disabled": 1, "unchanged": 1}
    assert not enabled(azure, "primary-key-of-s1")
    assert enabled(azure, "regenerated-key-of-s1")


async def test_what_came_from_elsewhere_is_not_touched(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"))
    azure.vault.put(name_of("primary-key-of-s1"), "x", tags={"source": "operator", "label": "mine"})
    azure.vault.put(name_of("a key of another service"), "x", tags={"source": "apim:another"})
    azure.vault.put("a-secret-of-another-app", "x")
    before = {name: versions[-1] for name, versions in azure.vault.secrets.items()}
    assert actions(await run(prune=True)) == {"kept": 1, "added": 1}
    for name, version in before.items():
        assert azure.vault.secrets[name] == [version]
        assert version.updated == version.created
        assert version.enabled


async def test_key_that_an_operator_revoked_stays_revoked(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"))
    await run()
    name = name_of("primary-key-of-s1")
    tags = {**azure.vault.secrets[name][-1].tags, "revoked": "2026-01-01T00:00:00Z"}
    azure.vault.change(name, enabled=False, tags=tags)
    assert actions(await run()) == {"kept": 1, "unchanged": 1}
    assert not enabled(azure, "primary-key-of-s1")


@pytest.mark.parametrize("prune", [False, True])
async def test_key_that_was_disabled_in_the_portal_stays_disabled(
    azure: Azure, run: Run, prune: bool
) -> None:
    azure.apim.subscribe(subscribed("s1"))
    await run()
    azure.vault.change(name_of("primary-key-of-s1"), enabled=False)
    assert actions(await run(prune=prune)) == {"kept": 1, "unchanged": 1}
    assert not enabled(azure, "primary-key-of-s1")


async def test_pruned_key_that_is_good_again_loses_its_tag_and_can_be_disabled_in_the_portal(
    azure: Azure, run: Run
) -> None:
    name = name_of("primary-key-of-s1")
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run()
    azure.apim.subscribed["s1"].state = "suspended"
    await run(prune=True)
    at = datetime.strptime(azure.vault.secrets[name][-1].tags["pruned"], "%Y-%m-%dT%H:%M:%S%z")
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)
    azure.apim.subscribed["s1"].state = "active"
    await run()
    assert enabled(azure, "primary-key-of-s1")
    assert "pruned" not in azure.vault.secrets[name][-1].tags
    azure.vault.change(name, enabled=False)
    await run()
    assert not enabled(azure, "primary-key-of-s1")


async def test_pruned_key_that_an_operator_enabled_is_an_operators_to_disable(azure: Azure, run: Run) -> None:
    name = name_of("primary-key-of-s1")
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    await run()
    azure.apim.subscribed["s1"].state = "suspended"
    await run(prune=True)
    azure.vault.change(name, enabled=True)
    azure.apim.subscribed["s1"].state = "active"
    await run()
    azure.vault.change(name, enabled=False)
    assert actions(await run(prune=True)) == {"kept": 1, "unchanged": 3}
    assert not enabled(azure, "primary-key-of-s1")


async def test_new_label_does_not_enable_a_key_that_is_disabled_while_the_import_runs(azure: Azure) -> None:
    settings = settings_for(azure)
    azure.apim.subscribe(subscribed("s1"))
    await import_keys(settings, open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    azure.apim.subscribed["s1"].label = "another team"
    apim = azure.open_apim(settings)
    assert apim
    async with azure.open_secrets(settings) as secrets, apim:
        job = Import(apim, secrets, prefix=PREFIX, filters=Filters(), prune=False)
        changes = await job.plan()
        azure.vault.change(name_of("primary-key-of-s1"), enabled=False)
        await job.apply(changes)
    assert not enabled(azure, "primary-key-of-s1")


async def test_built_in_subscription_to_everything_is_left_out(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(Subscribed("master", "master-key-1", "master-key-2", scope="/"))
    assert await run() == []
    assert azure.apim.calls["secrets"] == 0


async def test_service_that_lists_no_subscription_prunes_nothing(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"))
    await run()
    azure.apim.subscribed.clear()
    assert await run(prune=True) == []


SCOPES = {
    "own": "/products/openai",
    "other": "/products/other",
    "api": "/apis/chat",
    "every": "/apis",
}
FILTERS = {
    "a product": (Filters(products=("OpenAI",)), {"own"}),
    "an API": (Filters(apis=("chat",)), {"api", "every", "own"}),
    "an API in other letters": (Filters(apis=("Chat",)), {"api", "every"}),
    "both": (Filters(products=("other",), apis=("chat",)), {"api", "every", "own", "other"}),
    "another API": (Filters(apis=("images",)), {"every"}),
}


@pytest.mark.parametrize(("filters", "chosen"), FILTERS.values(), ids=FILTERS.keys())
async def test_filters_choose_subscriptions_that_give_access(
    azure: Azure, run: Run, filters: Filters, chosen: set[str]
) -> None:
    azure.apim.products_of = {"chat": ["openai"]}
    azure.apim.subscribe(*(subscribed(sid, scope=scope) for sid, scope in SCOPES.items()))
    changes = await run(filters=filters)
    assert {change.label for change in changes} == {f"team {sid}" for sid in chosen}


async def test_prune_leaves_what_is_outside_of_the_filters(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2", scope="/products/other"))
    await run()
    assert actions(await run(prune=True, filters=Filters(products=("openai",)))) == {"unchanged": 2}
    azure.apim.subscribed["s2"].state = "cancelled"
    await run(prune=True, filters=Filters(products=("openai",)))
    assert not enabled(azure, "primary-key-of-s2")


FAILURES = {
    "no role": (403, "permission", "listSecrets/action"),
    "no such service": (404, "unreachable", "APIM_RESOURCE_ID"),
    "another tenant": (401, "identity", "another tenant"),
}


@pytest.mark.parametrize(("status", "fault", "words"), FAILURES.values(), ids=FAILURES.keys())
async def test_failure_of_apim_writes_nothing_and_says_why(
    azure: Azure, run: Run, status: int, fault: str, words: str
) -> None:
    azure.apim.subscribe(subscribed("s1"))
    azure.apim.status = status
    with pytest.raises(ApimError) as raised:
        await run(prune=True)
    assert raised.value.fault == fault
    assert words in raised.value.reason
    assert azure.vault.calls["put"] == 0


def failing_write(azure: Azure, number: int) -> None:
    """The vault fails from its `number`th write on, counted from 0."""

    async def selective(request: web.Request) -> web.Response:
        nonlocal number
        if request.method in ("PUT", "PATCH"):
            number -= 1
        if number < 0:
            return await failing(503)(request)
        azure.vault.fault = None
        try:
            return await azure.vault.answer(request)
        finally:
            azure.vault.fault = selective

    azure.vault.fault = selective


def state_of(azure: Azure) -> dict[str, tuple[str, bool, str]]:
    return {
        name: (versions[-1].value, versions[-1].enabled, versions[-1].tags["label"])
        for name, versions in azure.vault.secrets.items()
    }


async def test_eight_keys_are_written_at_once(azure: Azure, run: Run) -> None:
    """One after the other, a service with thousands of subscriptions would keep the timer busy for minutes."""
    azure.apim.subscribe(*(subscribed(f"s{number}") for number in range(4)))
    waiting, all_there = 0, asyncio.Event()

    async def fault(request: web.Request) -> web.Response:
        nonlocal waiting
        if request.method == "PUT":
            waiting += 1
            if waiting == 8:
                all_there.set()
                azure.vault.fault = None
            await all_there.wait()
        if request.method == "GET":
            return web.json_response({"value": []})
        return web.json_response({"id": f"{azure.vault.url}/secrets/x/1", "attributes": {}})

    azure.vault.fault = fault
    assert actions(await run()) == {"added": 8}
    assert waiting == 8


@pytest.mark.parametrize("number", range(6))
async def test_import_that_is_interrupted_at_any_write_is_completed_by_the_next(
    azure: Azure, run: Run, number: int
) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"), subscribed("s3"))
    failing_write(azure, number)
    with pytest.raises(VaultError):
        await run(prune=True)
    azure.vault.fault = None
    assert len(azure.vault.secrets) == number
    assert actions(await run(prune=True)) == {"added": 6 - number} | ({"unchanged": number} if number else {})
    assert actions(await run(prune=True)) == {"unchanged": 6}
    keys = [f"{slot}-key-of-s{number}" for number in (1, 2, 3) for slot in ("primary", "secondary")]
    assert state_of(azure) == {name_of(key): (key, True, f"team {key[-2:]}") for key in keys}


@pytest.mark.parametrize("number", range(4))
async def test_prune_that_is_interrupted_at_any_write_is_completed_by_the_next(
    azure: Azure, run: Run, number: int
) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"), subscribed("s3"))
    await run()
    azure.apim.subscribed["s1"].state = "suspended"
    del azure.apim.subscribed["s2"]
    failing_write(azure, number)
    with pytest.raises(VaultError):
        await run(prune=True)
    azure.vault.fault = None
    disabled = [name for name, (_, is_enabled, _) in state_of(azure).items() if not is_enabled]
    assert len(disabled) == number
    await run(prune=True)
    assert {name: is_enabled for name, (_, is_enabled, _) in state_of(azure).items()} == {
        name_of(f"{slot}-key-of-{sid}"): sid == "s3"
        for sid in ("s1", "s2", "s3")
        for slot in ("primary", "secondary")
    }
    # And it can be undone, whichever run disabled the key.
    azure.apim.subscribed["s1"].state = "active"
    await run(prune=True)
    assert enabled(azure, "primary-key-of-s1")
    assert enabled(azure, "secondary-key-of-s1")


async def test_import_whose_reading_fails_halfway_writes_nothing(azure: Azure, run: Run) -> None:
    azure.apim.subscribe(*(subscribed(f"s{number}") for number in range(5)))
    azure.apim.fails_after = 4
    with pytest.raises(ApimError):
        await run(prune=True)
    assert azure.apim.calls["list"] == 3
    assert azure.vault.secrets == {}


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        ({"APIM_IMPORT_PRODUCTS": "gold"}, {"s1"}),
        ({"APIM_IMPORT_APIS": "gold"}, {"s2"}),
        ({"APIM_IMPORT_PRODUCTS": "SILVER"}, {"s3"}),
        ({}, {"s1", "s2", "s3"}),
    ],
    ids=["products", "APIs", "in other letters", "neither"],
)
async def test_settings_choose_what_the_timer_imports(
    azure: Azure, environ: dict[str, str], chosen: set[str]
) -> None:
    azure.apim.subscribe(
        subscribed("s1", scope="/products/gold"),
        subscribed("s2", scope="/apis/gold"),
        subscribed("s3", scope="/products/Silver"),
    )
    settings = settings_for(azure, **environ, KEY_SECRET_PREFIX="odd-")
    await import_keys(settings, open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    keys = [f"{slot}-key-of-{sid}" for sid in chosen for slot in ("primary", "secondary")]
    assert set(azure.vault.secrets) == {f"odd-{digest_of(key)}" for key in keys}


@pytest.mark.parametrize("prune", [False, True])
async def test_settings_say_whether_the_timer_prunes(azure: Azure, prune: bool) -> None:
    azure.apim.subscribe(subscribed("s1"), subscribed("s2"))
    settings = settings_for(azure, APIM_IMPORT_PRUNE=str(prune).lower())
    await import_keys(settings, open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    azure.apim.subscribed["s1"].state = "suspended"
    await import_keys(settings, open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    assert enabled(azure, "primary-key-of-s1") is not prune
    assert enabled(azure, "primary-key-of-s2")


async def test_timers_import_is_reported_in_the_log(azure: Azure, caplog: pytest.LogCaptureFixture) -> None:
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "", label="team s1"))
    for _ in range(2):
        with caplog.at_level(logging.INFO, logger="shim"):
            await import_keys(settings_for(azure), open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    # What is as it was is counted only: the timer would say it every five minutes.
    digits = digest_of("primary-key-of-s1")[:8]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("shim")] == [
        f"key {digits}… of team s1: added, primary key; new",
        f"import from API Management {SERVICE}: 1 added",
        f"import from API Management {SERVICE}: 1 unchanged",
    ]


@pytest.mark.parametrize("status", [None, 403])
async def test_timers_import_lets_go_of_the_vault_however_it_ends(azure: Azure, status: int | None) -> None:
    azure.apim.status = status
    with nullcontext() if status is None else pytest.raises(ApimError):
        await import_keys(settings_for(azure), open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    assert azure.credential.closed


async def test_without_a_service_there_is_nothing_to_import(azure: Azure) -> None:
    # With what production opens: it connects to nothing before its first call.
    await import_keys(settings_for(azure, APIM_RESOURCE_ID=""))
    assert azure.vault.calls == {}


def test_counting_is_readable() -> None:
    change = Change("added", "a", "", "", "")
    assert count([change, change, Change("kept", "a", "", "", "")]) == "2 added, 1 kept"
    assert count([]) == "nothing to do"


async def fire(host: Host) -> str | None:
    [timer] = [function for function in host.worker.functions if function.type == "timerTrigger"]
    return await host.worker.fire(timer)


async def test_timer_is_there_only_where_a_service_is_named(host: Host) -> None:
    assert {function.type for function in host.worker.functions} == {"httpTrigger"}


async def test_key_from_the_portal_works_after_the_timer_without_anybodys_help(
    azure: Azure, start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    host = await start_host(**azure.environ, APIM_RESOURCE_ID=RESOURCE_ID, WEBSITE_SITE_NAME="shim")
    [timer] = [function for function in host.worker.functions if function.type == "timerTrigger"]
    assert timer.name == "import_keys"
    azure.apim.subscribe(Subscribed("s1", KNOWN_TO_STANDIN, "another-key-of-this-subscription"))
    assert await fire(host) is None
    headers = {"Authorization": f"Bearer {KNOWN_TO_STANDIN}"}
    async with http.get(f"{host.url}/openai/v1/models", headers=headers) as answer:
        assert answer.status == 200
    azure.apim.status = 403
    failure = await fire(host)
    assert failure
    assert "listSecrets/action" in failure
    assert KNOWN_TO_STANDIN not in failure
