"""`python -m shim keys`, on a vault over TLS.

Operators act on what it prints and scripts on its exit codes, while each command changes who may call.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devhost.azure.faults import PRINCIPAL, Fault, error, forbidden, throttled
from devhost.azure.services import RESOURCE_ID, Azure, Subscribed
from shim.keys.subscription import digest_of
from tests.conftest import ROOT
from tests.support.key_commands import PREFIX, Keys, azure_by_the_wall_clock, keys_of, name_of

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
APIM_KEY = "apim-key-which-is-known-to-apim-only"
PAST, FUTURE = datetime(2020, 1, 2, tzinfo=UTC), datetime(2050, 1, 2, tzinfo=UTC)


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure_by_the_wall_clock(tmp_path) as running:
        yield running


@pytest.fixture
def keys(azure: Azure) -> Keys:
    return keys_of(azure)


async def test_generated_key_is_strong_and_printed_once_to_stdout(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--owner", "ada", "--expires", "90d")
    assert done.exit_code == 0
    key = done.stdout.strip()
    assert len(bytes.fromhex(key)) == 32
    assert key not in done.stderr
    [version] = azure.vault.secrets[name_of(key)]
    assert version.value == key
    assert version.tags == {"label": "team-a", "owner": "ada", "source": "operator"}
    assert version.expires is not None
    assert timedelta(days=89) < version.expires - datetime.now(UTC) <= timedelta(days=90)


async def test_given_key_comes_from_stdin_and_is_not_printed(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--stdin", stdin=f"{KEY}\n")
    assert done.exit_code == 0
    assert KEY not in done.output
    assert azure.vault.secrets[name_of(KEY)][0].value == KEY


async def test_given_key_comes_from_a_prompt_and_is_not_shown(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--prompt", stdin=f"{KEY}\n{KEY}\n")
    assert done.exit_code == 0
    assert KEY not in done.output
    assert name_of(KEY) in azure.vault.secrets


async def test_key_can_stand_for_one_that_only_apim_knows(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--upstream", stdin=f"{APIM_KEY}\n")
    key = done.stdout.strip()
    assert azure.vault.secrets[name_of(key)][0].value == APIM_KEY
    assert APIM_KEY not in done.output
    rotated = await keys("rotate", "team-a")
    assert azure.vault.secrets[name_of(rotated.stdout.strip())][0].value == APIM_KEY


@pytest.mark.parametrize("command", [["add", "--label", "x"], ["check"], ["show"], ["rotate"], ["revoke"]])
async def test_key_on_the_command_line_is_refused_and_not_repeated(keys: Keys, command: list[str]) -> None:
    more = [] if command[0] in ("add", "check") else ["team-a"]
    done = await keys(*command, *more, KEY)
    assert done.exit_code == 2
    assert KEY[:9] not in done.output
    assert "not taken from the command line" in done.output


@pytest.mark.parametrize("key", ["short", "two words are not a key at all", "schlüssel-schlüssel", "x" * 300])
async def test_what_could_not_be_a_key_is_refused(azure: Azure, keys: Keys, key: str) -> None:
    done = await keys("add", "--label", "a", "--stdin", stdin=f"{key}\n")
    assert done.exit_code == 2
    assert key not in done.output
    assert azure.vault.secrets == {}


async def test_key_that_the_vault_has_is_not_added_again(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-b"})
    done = await keys("add", "--label", "a", "--stdin", stdin=f"{KEY}\n")
    assert done.exit_code == 1
    assert f"{digest_of(KEY)[:8]} (team-b, good)" in done.stderr
    assert len(azure.vault.secrets[name_of(KEY)]) == 1


async def test_list_shows_everything_but_keys(azure: Azure, keys: Keys) -> None:
    tags = {"label": "team-a", "owner": "ada", "source": "operator"}
    azure.vault.put(name_of(KEY), KEY, tags=tags, enabled=False)
    azure.vault.put("unrelated", "x")
    done = await keys("list")
    assert done.exit_code == 0
    row = next(line for line in done.stdout.splitlines() if "team-a" in line)
    assert [word for word in row.split() if ":" not in word and "20" not in word[:2]] == [
        "team-a", "ada", "operator", "no", "disabled", digest_of(KEY)[:8],
    ]  # fmt: skip
    [entry] = json.loads((await keys("list", "--json")).stdout)
    assert entry["label"] == "team-a"
    assert entry["enabled"] is False
    assert set(entry) == {"label", "owner", "source", "created", "expires", "enabled", "state", "digest"}
    assert KEY not in done.output


async def test_private_key_of_a_certificate_is_no_key(azure: Azure, keys: Keys) -> None:
    azure.vault.put(f"{PREFIX}certificate", "private-key", managed=True)
    assert json.loads((await keys("list", "--json")).stdout) == []
    assert (await keys("revoke", f"{PREFIX}certificate")).exit_code == 1
    assert azure.vault.secrets[f"{PREFIX}certificate"][0].enabled


@pytest.mark.parametrize("digits", [1, 2, 3])
async def test_too_few_digits_name_no_key(azure: Azure, keys: Keys, digits: int) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    for command in (["revoke"], ["rotate"], ["show"]):
        assert (await keys(*command, digest_of(KEY)[:digits])).exit_code == 1
    [version] = azure.vault.secrets[name_of(KEY)]
    assert version.enabled
    assert version.expires is None
    assert (await keys("revoke", digest_of(KEY)[:4])).exit_code == 0


async def test_label_is_text_whatever_it_holds(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "[red]team[/red]"})
    assert "[red]team[/red]" in (await keys("list")).stdout


async def test_show_finds_a_key_by_label_or_digest(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a", "cost-centre": "42"})
    for which in ("team-a", digest_of(KEY)[:8], digest_of(KEY)[:4].upper()):
        shown = json.loads((await keys("show", which, "--json")).stdout)
        assert (shown["label"], shown["cost-centre"], shown["state"]) == ("team-a", "42", "good")
    missing = await keys("show", KEY)
    assert missing.exit_code == 1
    assert KEY[:9] not in missing.output


async def test_rotation_leaves_the_old_key_good_for_the_grace(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a", "owner": "ada"})
    done = await keys("rotate", "team-a", KEY_ROTATION_GRACE="7200")
    assert done.exit_code == 0
    new = azure.vault.secrets[name_of(done.stdout.strip())][-1]
    old = azure.vault.secrets[name_of(KEY)][-1]
    labels = {"label": "team-a", "owner": "ada"}
    assert new.tags == {**labels, "replaces": digest_of(KEY)[:8]}
    assert old.tags == {**labels, "replaced-by": digest_of(done.stdout.strip())[:8]}
    assert new.expires is None
    assert old.enabled
    assert old.expires is not None
    assert timedelta(minutes=118) < old.expires - datetime.now(UTC) <= timedelta(minutes=120)
    for key in (KEY, done.stdout):
        assert (await keys("check", stdin=key)).exit_code == 0


async def test_rotation_keeps_the_lifetime_and_never_prolongs_the_old_key(azure: Azure, keys: Keys) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=10)
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"}, expires=soon)
    azure.vault.change(name_of(KEY))
    azure.vault.secrets[name_of(KEY)][0].created = soon - timedelta(days=90)
    done = await keys("rotate", "team-a", "--grace", "2d")
    assert azure.vault.secrets[name_of(KEY)][0].expires == soon.replace(microsecond=0)
    ends = azure.vault.secrets[name_of(done.stdout.strip())][0].expires
    assert ends is not None
    assert timedelta(days=89) < ends - datetime.now(UTC) <= timedelta(days=90)


async def test_rotation_in_a_scanned_vault_is_a_new_version(azure: Azure, keys: Keys) -> None:
    azure.vault.put(f"{PREFIX}team-a", KEY)
    done = await keys("rotate", f"{PREFIX}team-a", KEY_LOOKUP="scan")
    assert [version.value for version in azure.vault.secrets[f"{PREFIX}team-a"]] == [KEY, done.stdout.strip()]
    for key in (KEY, done.stdout):
        assert (await keys("check", stdin=key, KEY_LOOKUP="scan")).exit_code == 0


async def test_imported_key_is_rotated_where_it_comes_from(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a", "source": "apim:contoso"})
    done = await keys("rotate", "team-a")
    assert done.exit_code == 1
    assert "regenerate it there" in done.stderr


async def test_label_that_several_keys_have_means_the_one_that_is_good(azure: Azure, keys: Keys) -> None:
    states: list[dict[str, object]] = [{"expires": PAST}, {"enabled": False}, {}]
    for number, attributes in enumerate(states):
        azure.vault.put(name_of(f"key {number}"), "x", tags={"label": "team-a"}, **attributes)
    shown = json.loads((await keys("show", "team-a", "--json")).stdout)
    assert shown["digest"] == digest_of("key 2")[:8]
    azure.vault.put(name_of("another good one"), "x", tags={"label": "team-a"})
    several = await keys("revoke", "team-a")
    assert several.exit_code == 1
    assert "name one by its digest" in several.stderr


async def test_revoked_key_is_disabled_and_check_says_so(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    done = await keys("revoke", "team-a", KEY_CACHE_TTL="60")
    assert "within 60 seconds" in done.stderr
    assert not azure.vault.secrets[name_of(KEY)][0].enabled
    checked = await keys("check", stdin=KEY)
    assert checked.exit_code == 1
    assert "team-a is disabled: revoked at 20" in checked.stderr


REFUSED = {
    "expired": ({"expires": PAST}, KEY, "expired on 2020-01-02"),
    "not yet": ({"not_before": FUTURE}, KEY, "is good from 2050-01-02"),
    "disabled": ({"enabled": False}, KEY, "is disabled"),
    "unknown": ({}, "another-key-altogether", "no key in the vault has the digest"),
    "malformed": ({}, "two words", "visible ASCII"),
}


@pytest.mark.parametrize(("attributes", "key", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_check_says_why_a_key_is_not_accepted(
    azure: Azure, keys: Keys, attributes: dict[str, object], key: str, reason: str
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"}, **attributes)
    done = await keys("check", "--json", stdin=f"{key}\n")
    assert done.exit_code == 1
    assert reason in json.loads(done.stdout)["reason"]
    assert key not in done.output


async def test_check_finds_the_reason_in_a_scanned_vault(azure: Azure, keys: Keys) -> None:
    azure.vault.put(f"{PREFIX}team-a", KEY, expires=PAST)
    done = await keys("check", stdin=KEY, KEY_LOOKUP="scan")
    assert done.exit_code == 1
    assert f"{PREFIX}team-a expired" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [((), {"s2"}), (("--api", "silver"), {"s3"}), (("--product", "gold"), {"s1", "s2"})],
    ids=["the setting", "the option in its place", "another option beside it"],
)
async def test_an_import_by_hand_chooses_by_the_settings_unless_it_is_told(
    azure: Azure, keys: Keys, arguments: tuple[str, ...], chosen: set[str]
) -> None:
    azure.apim.subscribe(
        Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", scope="/products/gold"),
        Subscribed("s2", "primary-key-of-s2", "secondary-key-of-s2", scope="/apis/gold"),
        Subscribed("s3", "primary-key-of-s3", "secondary-key-of-s3", scope="/apis/silver"),
    )
    done = await keys("import-apim", *arguments, APIM_RESOURCE_ID=RESOURCE_ID, APIM_IMPORT_APIS="gold")
    assert done.exit_code == 0
    imported = {f"{slot}-key-of-{sid}" for sid in chosen for slot in ("primary", "secondary")}
    assert {name_of(key) for key in imported} == set(azure.vault.secrets)


@pytest.mark.parametrize(("arguments", "is_enabled"), [((), True), (("--prune",), False)])
async def test_an_import_by_hand_disables_keys_only_when_it_is_told_to(
    azure: Azure, keys: Keys, arguments: tuple[str, ...], is_enabled: bool
) -> None:
    """APIM_IMPORT_PRUNE is the timer's: nobody looks on while that runs."""
    azure.apim.subscribe(
        Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"),
        Subscribed("s2", "primary-key-of-s2", "secondary-key-of-s2"),
    )
    said = {"APIM_RESOURCE_ID": RESOURCE_ID, "APIM_IMPORT_PRUNE": "true"}
    await keys("import-apim", **said)
    del azure.apim.subscribed["s2"]
    assert (await keys("import-apim", *arguments, **said)).exit_code == 0
    secret = azure.vault.secrets[name_of("primary-key-of-s2")][-1]
    assert (secret.enabled is not False) is is_enabled


WRITING = [["add", "--label", "new"], ["rotate", "team-a"], ["revoke", "team-a"], ["import-apim", "--prune"]]


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
async def test_dry_run_writes_nothing_and_hands_out_no_key(
    azure: Azure, keys: Keys, command: list[str]
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"))
    done = await keys(*command, "--dry-run", APIM_RESOURCE_ID=RESOURCE_ID)
    assert done.exit_code == 0
    assert "Would" in done.stderr
    assert done.stdout.strip() == "" or command[0] == "import-apim"
    assert azure.vault.calls["put"] == azure.vault.calls["change"] == 0


FAILURES: dict[str, tuple[Fault, int, str]] = {
    "role": (forbidden("ForbiddenByRbac"), 5, f"role 'Key Vault Secrets Officer' on it to principal {PRINCIPAL}"),
    "firewall": (forbidden("ForbiddenByFirewall"), 5, "az keyvault network-rule add"),
    "access policy": (forbidden("AccessDenied"), 5, "the secret permissions Get, List and Set"),
    "throttled": (throttled(7), 6, "Try again"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "code", "words"), FAILURES.values(), ids=FAILURES.keys())
async def test_failure_says_what_to_do_next(
    azure: Azure, keys: Keys, fault: Fault, code: int, words: str
) -> None:
    azure.vault.fault = fault
    done = await keys("list")
    assert done.exit_code == code
    assert words in done.stderr.replace("\n", " ")


async def test_who_is_not_signed_in_is_told_to(azure: Azure, keys: Keys) -> None:
    azure.credential.refuses = True
    done = await keys("list")
    assert done.exit_code == 4
    assert "az login" in done.stderr


async def test_vault_that_is_not_there_is_told_from_one_that_is(azure: Azure, keys: Keys) -> None:
    await azure.vault.stop()
    done = await keys("list")
    assert done.exit_code == 6
    assert "az keyvault list" in done.stderr


async def test_without_a_vault_the_setting_is_named(keys: Keys) -> None:
    done = await keys("list", KEY_VAULT_URL="not a url")
    assert done.exit_code == 3
    assert "KEY_VAULT_URL" in done.stderr


async def test_deleted_secret_in_the_way_is_explained(azure: Azure, keys: Keys) -> None:

    async def fault(request: object) -> object:
        message = f"Secret {name_of(KEY)} is currently in a deleted but recoverable state"
        if getattr(request, "method", "") == "PUT":
            return error(409, "Conflict", message, inner="ObjectIsDeletedButRecoverable")
        return error(404, "SecretNotFound", "none")

    azure.vault.fault = fault  # type: ignore[assignment]
    done = await keys("add", "--label", "a", "--stdin", stdin=KEY)
    assert done.exit_code == 6
    assert "az keyvault secret recover" in done.stderr
    assert digest_of(KEY)[:9] not in done.output


def test_completion_knows_the_commands() -> None:
    environ = {"_SHIM_COMPLETE": "complete_bash", "COMP_WORDS": "shim keys ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "shim"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    offered = set(done.stdout.split())
    assert {"add", "list", "show", "rotate", "revoke", "check", "import-apim"} <= offered


def program(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


def test_the_program_says_its_name_and_its_commands_where_none_is_given() -> None:
    shown = program("-m", "shim").stdout
    assert "Usage: shim [OPTIONS] COMMAND [ARGS]..." in shown
    assert "Operates the shim." in shown
    for command in ("doctor", "retire", "usage", "keys"):
        assert re.search(rf"^\W*{command} ", shown, re.MULTILINE)


FAILING = """
from shim.__main__ import app

@app.command()
def fail():
    key = "-".join(["held", "in", "a", "variable"])
    raise LookupError("a defect")

app(["fail"], prog_name="shim")
"""


def test_a_defect_of_a_command_shows_where_it_is_and_no_variable() -> None:
    """Variables hold keys, and what a command prints is pasted into tickets."""
    done = program("-c", FAILING)
    assert done.returncode == 1
    assert "LookupError: a defect" in done.stderr
    assert "╭" not in done.stderr  # the frames that typer would draw, variables and all
    assert "held-in-a-variable" not in done.stdout + done.stderr
