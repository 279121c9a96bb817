"""`python -m shim keys`, on a vault over TLS.

Operators act on what it prints and scripts on its exit codes, while each command changes who may call.
"""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from devhost.azure.faults import PRINCIPAL, Fault, error, forbidden, throttled
from devhost.azure.services import RESOURCE_ID, SERVICE, Azure, Subscribed
from shim.__main__ import app
from shim.cli.session import Dependencies
from shim.keys.admin.inventory import KeyRecord
from shim.keys.admin.opening import open_secrets
from shim.keys.subscription import Subscription, digest_of
from tests.conftest import ROOT
from tests.support.key_commands import PREFIX, Keys, azure_by_the_wall_clock, keys_of, name_of

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
APIM_KEY = "apim-key-which-is-known-to-apim-only"
PAST, FUTURE = datetime(2020, 1, 2, tzinfo=UTC), datetime(2050, 1, 2, tzinfo=UTC)
# What is said of a key that no APIM key stands behind.
UNKNOWN_TO_APIM = "APIM must know it too"


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure_by_the_wall_clock(tmp_path) as running:
        yield running


@pytest.fixture
def keys(azure: Azure) -> Keys:
    return keys_of(azure)


def without_a_vault(*arguments: str, stdin: str = "") -> Result:
    """A command that is to end before it opens the vault: to open it would be a defect, with a code of its own."""
    environ = {"KEY_VAULT_URL": "https://v.vault.azure.net", "APIM_RESOURCE_ID": RESOURCE_ID}

    def broken(_: object) -> None:
        raise RuntimeError(f"about {KEY}")

    return CliRunner().invoke(
        app, ["keys", *arguments], input=stdin, obj=Dependencies(environ, broken, broken)
    )


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
    assert "The key is on stdout, and nowhere else" in done.stderr
    assert f"Added team-a until {version.expires:%Y-%m-%d %H:%M} UTC." in done.stderr


async def test_given_key_comes_from_stdin_and_is_not_printed(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--stdin", stdin=f" {KEY} \r\nanother-line-of-the-file")
    assert (done.exit_code, done.stdout) == (0, "")
    assert KEY not in done.stderr
    assert "nowhere else" not in done.stderr
    assert azure.vault.secrets[name_of(KEY)][0].value == KEY


async def test_given_key_comes_from_a_prompt_and_is_not_shown(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--prompt", stdin=f"{KEY} \n{KEY} \n")
    assert done.exit_code == 0
    assert KEY not in done.output
    assert name_of(KEY) in azure.vault.secrets
    # A program that reads stdout is not to find the question there.
    assert done.stdout.strip() == ""
    assert "Key" in done.stderr


async def test_key_that_was_typed_wrong_the_second_time_is_not_stored(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--prompt", stdin=f"{KEY}\n{KEY}x\n")
    assert done.exit_code == 1
    assert "do not match" in done.stderr
    assert azure.vault.secrets == {}


@pytest.mark.parametrize(
    "command", [("add", "--label", "team-b"), ("rotate", "team-a")], ids=["add", "rotate"]
)
async def test_programs_get_the_new_key_in_json_and_never_one_that_they_gave(
    azure: Azure, keys: Keys, command: tuple[str, ...]
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    label = "team-b" if command[0] == "add" else "team-a"
    tried = json.loads((await keys(*command, "--json", "--dry-run")).stdout)
    assert (set(tried), tried["label"]) == ({"label", "digest"}, label)
    done = json.loads((await keys(*command, "--json")).stdout)
    assert done == {"key": done["key"], "label": label, "digest": digest_of(done["key"])[:8]}
    assert azure.vault.secrets[name_of(done["key"])][0].value == done["key"]
    own = "a-key-of-the-operators-choice"
    which = (*command[:1], digest_of(done["key"])[:8]) if command[0] == "rotate" else command
    given = await keys(*which, "--json", "--stdin", stdin=own)
    assert json.loads(given.stdout) == {"label": label, "digest": digest_of(own)[:8]}


def test_key_is_either_piped_or_asked_for() -> None:
    done = without_a_vault("add", "--label", "team-a", "--stdin", "--prompt", stdin=f"{KEY}\n{KEY}\n")
    assert done.exit_code == 2
    assert "either --stdin or --prompt" in done.stderr


async def test_key_can_stand_for_one_that_only_apim_knows(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--upstream", stdin=f"{APIM_KEY}\n")
    key = done.stdout.strip()
    assert azure.vault.secrets[name_of(key)][0].value == APIM_KEY
    assert APIM_KEY not in done.output
    rotated = await keys("rotate", "team-a")
    assert azure.vault.secrets[name_of(rotated.stdout.strip())][0].value == APIM_KEY
    assert UNKNOWN_TO_APIM not in done.stderr + rotated.stderr


async def test_key_of_ones_own_can_stand_for_one_that_only_apim_knows(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--stdin", "--upstream", stdin=f"{KEY}\n{APIM_KEY}\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert {name: versions[0].value for name, versions in azure.vault.secrets.items()} == {
        name_of(KEY): APIM_KEY
    }


async def test_key_cannot_stand_for_another_in_a_scanned_vault(azure: Azure, keys: Keys) -> None:
    done = await keys("add", "--label", "team-a", "--upstream", stdin=f"{APIM_KEY}\n", KEY_LOOKUP="scan")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--upstream needs KEY_LOOKUP=digest" in done.stderr
    assert azure.vault.secrets == {}


@pytest.mark.parametrize(
    "command",
    [
        ["add", "--label", "x"], ["add", "--label", "x", "--stdin"], ["check"], ["show", "team-a"],
        ["rotate", "team-a"], ["rotate", "team-a", "--stdin"], ["revoke", "team-a"], ["list"],
        ["import-apim", "--resource-id", RESOURCE_ID],
    ],
    ids=" ".join,
)  # fmt: skip
def test_key_on_the_command_line_is_refused_and_not_repeated(command: list[str]) -> None:
    done = without_a_vault(*command, KEY)
    assert done.exit_code == 2
    assert KEY[:9] not in done.output
    assert "not taken from the command line" in done.output
    assert "If this was a key, replace it." in done.output


@pytest.mark.parametrize(
    "key", ["short", "fifteen-letters", "two words are not a key at all", "schlüssel-schlüssel", "x" * 257]
)
def test_what_could_not_be_a_key_is_refused(key: str) -> None:
    done = without_a_vault("add", "--label", "a", "--stdin", stdin=f"{key}\n")
    assert done.exit_code == 2
    assert key not in done.output
    assert "16 to 256 visible ASCII characters" in done.stderr


async def test_shortest_and_longest_keys_are_accepted(azure: Azure, keys: Keys) -> None:
    both = ("sixteen-letters!", "x" * 256)
    for key in both:
        assert (await keys("add", "--label", "a", "--stdin", stdin=key)).exit_code == 0
    assert set(azure.vault.secrets) == {name_of(key) for key in both}


async def test_lifetimes_come_in_every_unit(azure: Azure, keys: Keys) -> None:
    lifetimes = {
        "45s": 45, "90m": 5400, "12h": 43_200, "90d": 7_776_000, "2w": 1_209_600, "99999d": 8_639_913_600,
    }  # fmt: skip
    for text, seconds in lifetimes.items():
        before, key = datetime.now(UTC), f"a-key-that-lasts-for-{text}"
        await keys("add", "--label", "a", "--stdin", "--expires", text, stdin=key)
        ends = azure.vault.secrets[name_of(key)][0].expires
        assert ends is not None
        # The vault keeps whole seconds.
        assert -1 < (ends - before).total_seconds() - seconds < 30


@pytest.mark.parametrize("text", ["0d", "5", "d", "-1d", "1.5h", "1y", "2W", "999999d", "90d more"])
def test_what_is_no_lifetime_is_refused(text: str) -> None:
    for command in (("add", "--label", "a", "--expires"), ("rotate", "team-a", "--grace")):
        done = without_a_vault(*command, text)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "use a time like 90d, 12h or 2w" in done.stderr


async def test_key_that_the_vault_has_is_not_added_again(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-b"})
    done = await keys("add", "--label", "a", "--stdin", stdin=f"{KEY}\n")
    assert done.exit_code == 1
    assert f"{digest_of(KEY)[:8]} (team-b, good)" in done.stderr
    assert len(azure.vault.secrets[name_of(KEY)]) == 1


async def test_list_shows_everything_but_keys(azure: Azure, keys: Keys) -> None:
    # In the vault's order of names it is neither by label nor by age.
    newer, older = "key 2", "key 1"
    assert digest_of(newer) < digest_of(older) < digest_of(KEY)
    tags = {"label": "équipe-a", "owner": "ada", "source": "operator"}
    azure.vault.put(name_of(KEY), KEY, tags=tags, enabled=False, expires=FUTURE)
    for key, label in ((newer, "équipe-b"), (older, "équipe-b")):
        azure.vault.put(name_of(key), key, tags={"label": label})
    azure.vault.put("unrelated", "x")
    created = {KEY: "2026-03-04T05:06:07Z", newer: "2026-01-02T00:00:00Z", older: "2025-12-31T00:00:00Z"}
    for key, at in created.items():
        azure.vault.secrets[name_of(key)][0].created = datetime.fromisoformat(at)
    done = await keys("list")
    assert done.exit_code == 0
    heads, _, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert heads == ["label", "owner", "source", "created", "expires", "enabled", "state", "digest"]
    assert rows == [
        [
            "équipe-a", "ada", "operator", "2026-03-04", "05:06", "2050-01-02", "00:00", "no", "disabled",
            digest_of(KEY)[:8],
        ],
        ["équipe-b", "2025-12-31", "00:00", "yes", "good", digest_of(older)[:8]],
        ["équipe-b", "2026-01-02", "00:00", "yes", "good", digest_of(newer)[:8]],
    ]  # fmt: skip
    # A program that reads stdout is not to find the count there, nor a progress bar in a log.
    assert done.stderr == "3 keys\n"
    listed = await keys("list", "--json")
    first, second, third = json.loads(listed.stdout)
    assert first == {
        "label": "équipe-a", "owner": "ada", "source": "operator", "created": "2026-03-04T05:06:07Z",
        "expires": "2050-01-02T00:00:00Z", "enabled": False, "state": "disabled", "digest": digest_of(KEY)[:8],
    }  # fmt: skip
    assert [second["digest"], third["digest"]] == [digest_of(older)[:8], digest_of(newer)[:8]]
    assert (second["enabled"], second["expires"], second["owner"]) == (True, None, "")
    assert "équipe" in listed.stdout
    assert KEY not in done.output


async def test_list_that_is_piped_cuts_no_text(azure: Azure, keys: Keys) -> None:
    label, owner = "l" * 60, "o" * 60
    azure.vault.put(name_of(KEY), KEY, tags={"label": label, "owner": owner})
    listed = (await keys("list")).stdout
    assert label in listed
    assert owner in listed
    # What is wider than the table goes on in the next line.
    azure.vault.change(name_of(KEY), tags={"label": "L" * 180, "owner": "O" * 180})
    listed = (await keys("list")).stdout
    assert (listed.count("L"), listed.count("O")) == (180, 180)


async def test_keys_named_in_capitals_are_keys_as_well(azure: Azure, keys: Keys) -> None:
    """Names of secrets ignore case."""
    azure.vault.put(name_of(KEY).upper(), KEY)
    digits = digest_of(KEY)[:8]
    [entry] = json.loads((await keys("list", "--json")).stdout)
    assert (entry["digest"], entry["label"]) == (digits, f"key-{digits}")
    assert (await keys("revoke", digits)).exit_code == 0
    assert not azure.vault.secrets[name_of(KEY).upper()][0].enabled


async def test_every_command_keeps_to_the_prefix_of_the_settings(azure: Azure, keys: Keys) -> None:
    odd = {"KEY_SECRET_PREFIX": "odd-", "APIM_RESOURCE_ID": RESOURCE_ID}
    azure.vault.put(name_of(APIM_KEY), APIM_KEY, tags={"label": "under another prefix"})
    assert (await keys("add", "--label", "team-a", "--stdin", stdin=KEY, **odd)).exit_code == 0
    [entry] = json.loads((await keys("list", "--json", **odd)).stdout)
    assert entry["digest"] == digest_of(KEY)[:8]
    for lookup in ("digest", "scan"):
        checked = [
            (await keys("check", stdin=key, **odd, KEY_LOOKUP=lookup)).exit_code for key in (KEY, APIM_KEY)
        ]
        assert checked == [0, 1]
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"))
    assert (await keys("import-apim", **odd)).exit_code == 0
    expected = {f"odd-{digest_of(key)}" for key in (KEY, "primary-key-of-s1", "secondary-key-of-s1")}
    assert set(azure.vault.secrets) == {*expected, name_of(APIM_KEY)}


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("command", "shown"),
    [("list", "Reading the vault … 3"), ("import-apim", "Importing … 3")],
    ids=["list", "import"],
)
async def test_commands_that_take_long_count_at_a_terminal(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, command: str, shown: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    # An import reads one subscription, and writes two keys.
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"))
    for key in ("key 1", "key 2", "key 3"):
        azure.vault.put(name_of(key), key)
    environ = {"KEY_VAULT_URL": azure.vault.url, "APIM_RESOURCE_ID": RESOURCE_ID}
    given = Dependencies(environ, azure.open_secrets, azure.open_apim)
    with redirect_stderr(Terminal()) as terminal, redirect_stdout(io.StringIO()):
        await asyncio.to_thread(app, ["keys", command], standalone_mode=False, obj=given)
    assert shown in terminal.getvalue()


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NEXT = MOMENT + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("not_before", "expires", "state"),
    [(None, None, "good"), (MOMENT, NEXT, "good"), (NEXT, None, "not yet"), (None, MOMENT, "expired")],
)
def test_key_is_good_from_its_first_moment_until_its_last_to_commands_as_to_the_app(
    not_before: datetime | None, expires: datetime | None, state: str
) -> None:
    record = KeyRecord(name_of(KEY), PREFIX, True, None, None, not_before, expires, {})
    assert record.state(MOMENT) == state
    subscription = Subscription(
        digest=digest_of(KEY), key=KEY, label="team-a", not_before=not_before, expires=expires
    )
    assert subscription.is_valid_at(MOMENT) is (state == "good")


async def test_label_is_text_whatever_it_holds(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "[red]team[/red]"})
    assert "[red]team[/red]" in (await keys("list")).stdout


async def test_show_finds_a_key_by_label_or_digest(azure: Azure, keys: Keys) -> None:
    # A tag by the name of a fact does not take its place.
    tags = {"label": "team-a", "cost-centre": "42", "state": "excellent"}
    secret = azure.vault.put(name_of(KEY), KEY, tags=tags, enabled=False)
    secret.created = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    secret.updated = datetime(2026, 3, 5, tzinfo=UTC)
    digits = digest_of(KEY)[:8]
    for which in ("team-a", digits, digits[:4].upper(), f"{digits}…", digest_of(KEY), f"{PREFIX}{digits}…"):
        shown = json.loads((await keys("show", which, "--json")).stdout)
        assert shown == {
            "label": "team-a", "owner": "", "source": "", "created": "2026-03-04T05:06:07Z", "expires": None,
            "enabled": False, "state": "disabled", "digest": digits, "updated": "2026-03-05T00:00:00Z",
            "cost-centre": "42",
        }  # fmt: skip
    table = (await keys("show", "team-a")).stdout
    assert ["cost-centre", "42"] in [line.split() for line in table.splitlines()]
    assert ["enabled", "no"] in [line.split() for line in table.splitlines()]
    missing = await keys("show", KEY)
    assert missing.exit_code == 1
    assert KEY[:9] not in missing.output
    assert "'keys list' shows all" in missing.stderr


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
    assert UNKNOWN_TO_APIM in done.stderr
    until = f"{old.expires:%Y-%m-%d %H:%M} UTC"
    assert f"Rotated team-a: the old key {digest_of(KEY)[:8]} is good until {until}." in done.stderr
    for key in (KEY, done.stdout):
        assert (await keys("check", stdin=key)).exit_code == 0


async def test_rotation_takes_its_own_grace_and_lifetime(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"}, expires=FUTURE)
    tried = await keys("rotate", "team-a", "--grace", "3h", "--dry-run", KEY_ROTATION_GRACE="7200")
    assert f"Would rotate team-a: the old key {digest_of(KEY)[:8]} would be good until 20" in tried.stderr
    done = await keys("rotate", "team-a", "--grace", "3h", "--expires", "2w", KEY_ROTATION_GRACE="7200")
    ends = [azure.vault.secrets[name_of(key)][-1].expires for key in (KEY, done.stdout.strip())]
    left = [at - datetime.now(UTC) for at in ends if at is not None]
    assert timedelta(minutes=178) < left[0] <= timedelta(minutes=180)
    assert timedelta(days=13, hours=23) < left[1] <= timedelta(days=14)


async def test_rotation_keeps_an_operators_tags_but_none_that_tells_of_the_old_keys_life(
    azure: Azure, keys: Keys
) -> None:
    marks = {"revoked": "2026-01-01T00:00:00Z", "replaces": "00000000", "replaced-by": "11111111"}
    mine = {"label": "team-a", "owner": "ada", "source": "operator", "cost-centre": "42"}
    azure.vault.put(name_of(KEY), KEY, tags={**mine, **marks})
    new = (await keys("rotate", "team-a")).stdout.strip()
    assert azure.vault.secrets[name_of(new)][-1].tags == {**mine, "replaces": digest_of(KEY)[:8]}
    assert azure.vault.secrets[name_of(KEY)][-1].tags == {**mine, **marks, "replaced-by": digest_of(new)[:8]}


async def test_key_that_was_stored_with_its_files_last_newline_stands_for_no_other(
    azure: Azure, keys: Keys
) -> None:
    """As `az keyvault secret set --file` stores it: the new key must not be sent to APIM as the old one."""
    azure.vault.put(name_of(KEY), f"{KEY}\n", tags={"label": "team-a"})
    new = (await keys("rotate", "team-a")).stdout.strip()
    assert azure.vault.secrets[name_of(new)][-1].value == new


@pytest.mark.parametrize(
    ("attributes", "state"),
    [({"expires": PAST}, "expired"), ({"not_before": FUTURE}, "not yet"), ({"enabled": False}, "disabled")],
    ids=["expired", "not yet", "disabled"],
)
async def test_only_a_key_that_is_good_is_rotated(
    azure: Azure, keys: Keys, attributes: dict[str, object], state: str
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"}, **attributes)
    done = await keys("rotate", "team-a")
    assert (done.exit_code, done.stdout) == (1, "")
    assert (
        f"team-a ({digest_of(KEY)[:8]}) is {state}: there is nothing to replace; use 'keys add'"
        in done.stderr
    )
    assert azure.vault.calls["put"] == azure.vault.calls["change"] == 0


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
    azure.vault.put(f"{PREFIX}team-a", KEY, tags={"owner": "ada"})
    done = await keys("rotate", f"{PREFIX}team-a", "--expires", "90d", KEY_LOOKUP="scan")
    assert [version.value for version in azure.vault.secrets[f"{PREFIX}team-a"]] == [KEY, done.stdout.strip()]
    new = azure.vault.secrets[f"{PREFIX}team-a"][-1]
    assert new.tags == {"owner": "ada"}
    assert new.expires is not None
    assert timedelta(days=89) < new.expires - datetime.now(UTC) <= timedelta(days=90)
    assert UNKNOWN_TO_APIM in done.stderr
    for key in (KEY, done.stdout):
        assert (await keys("check", stdin=key, KEY_LOOKUP="scan")).exit_code == 0


@pytest.mark.parametrize(("grace", "code"), [("1800", 1), ("7200", 0)], ids=["over", "not over"])
async def test_check_of_a_scanned_vault_knows_the_grace(
    azure: Azure, keys: Keys, grace: str, code: int
) -> None:
    hour = timedelta(hours=1)
    for key, age in ((KEY, 2 * hour), ("the-key-in-its-place", hour)):
        azure.vault.put(f"{PREFIX}team-a", key).created = datetime.now(UTC) - age
    checked = await keys("check", stdin=KEY, KEY_LOOKUP="scan", KEY_ROTATION_GRACE=grace)
    assert checked.exit_code == code


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
    more = ["another good one", "a third", "a fourth"]
    for key in more:
        azure.vault.put(name_of(key), "x", tags={"label": "team-a"})
    several = await keys("revoke", "team-a")
    assert several.exit_code == 1
    assert "6 keys have this name: name one by its digest (" in several.stderr
    # The first few are enough to see what it is about.
    all_digits = {digest_of(key)[:8] for key in (*more, "key 0", "key 1", "key 2")}
    assert len([digits for digits in all_digits if digits in several.stderr]) == 5


async def test_revoked_key_is_disabled_and_check_says_so(azure: Azure, keys: Keys) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a", "owner": "ada"})
    done = await keys("revoke", "team-a", KEY_CACHE_TTL="60")
    digits = digest_of(KEY)[:8]
    said = f"Revoked team-a ({digits}): every instance refuses it within 60 seconds.\n"
    assert (done.stdout, done.stderr) == ("", said)
    secret = azure.vault.secrets[name_of(KEY)][0]
    assert not secret.enabled
    at = secret.tags.pop("revoked")
    assert secret.tags == {"label": "team-a", "owner": "ada"}
    assert abs(datetime.strptime(at, "%Y-%m-%dT%H:%M:%S%z") - datetime.now(UTC)) < timedelta(minutes=1)
    secret.tags["revoked"] = at
    checked = await keys("check", stdin=KEY)
    assert (checked.exit_code, checked.stdout) == (1, "")
    assert f"not accepted: team-a is disabled: revoked at {at}\n" in checked.stderr


async def test_check_shows_whose_key_it_is_and_until_when_it_is_good(azure: Azure, keys: Keys) -> None:
    tags = {"label": "team-a", "owner": "ada", "source": "operator"}
    azure.vault.put(name_of(KEY), KEY, tags=tags, expires=FUTURE)
    done = await keys("check", stdin=KEY)
    assert (done.exit_code, done.stdout) == (0, "accepted: team-a until 2050-01-02 00:00 UTC\n")
    assert json.loads((await keys("check", "--json", stdin=KEY)).stdout) == {
        "accepted": True, "digest": digest_of(KEY)[:8], "expires": "2050-01-02T00:00:00Z", **tags,
    }  # fmt: skip


async def test_check_tells_of_the_latest_version(azure: Azure, keys: Keys) -> None:
    """A vault lists versions in no order in time."""
    ages: dict[int, dict[str, object]] = {
        3: {"expires": PAST},
        1: {"not_before": FUTURE},
        2: {"enabled": False},
    }
    for days, attributes in ages.items():
        version = azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"}, **attributes)
        version.created = datetime.now(UTC) - timedelta(days=days)
    # What a GET answers with is the latest to the double as well.
    azure.vault.secrets[name_of(KEY)].sort(key=lambda version: version.created)
    checked = await keys("check", stdin=KEY)
    assert (checked.exit_code, "team-a is good from 2050-01-02" in checked.stderr) == (1, True)


NOTHING_TO_SEND = "team-a: its secret holds nothing that could be sent as a key"
REFUSED = {
    "expired": ({"expires": PAST}, KEY, "team-a expired on 2020-01-02 00:00 UTC"),
    "expired and disabled": ({"expires": PAST, "enabled": False}, KEY, "team-a is disabled"),
    "not yet": ({"not_before": FUTURE}, KEY, "team-a is good from 2050-01-02 00:00 UTC"),
    "disabled": ({"enabled": False}, KEY, "team-a is disabled"),
    "no value": ({"value": "two words"}, KEY, NOTHING_TO_SEND),
    "unknown": ({}, "another-key-altogether", "no key in the vault has the digest ab926247…"),
    "malformed": ({}, "two words", "visible ASCII"),
}


@pytest.mark.parametrize(("attributes", "key", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_check_says_why_a_key_is_not_accepted(
    azure: Azure, keys: Keys, attributes: dict[str, Any], key: str, reason: str
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    azure.vault.change(name_of(KEY), **attributes)
    done = await keys("check", "--json", stdin=f"{key}\n")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert reason in told["reason"]
    assert told == {"accepted": False, "digest": digest_of(key)[:8], "reason": told["reason"]}
    assert "values of disabled secrets" not in told["reason"]
    assert f"Error: not accepted: {told['reason']}" in done.stderr
    assert key not in done.output
    # A vault of thousands is not read for one key: its name says which secret it would be.
    assert azure.vault.calls["list"] == 0


async def test_check_finds_the_reason_in_a_scanned_vault(azure: Azure, keys: Keys) -> None:
    azure.vault.put(f"{PREFIX}team-0", APIM_KEY, enabled=False)
    azure.vault.put(f"{PREFIX}team-a", f"{KEY}\n", expires=PAST)
    done = await keys("check", stdin=KEY, KEY_LOOKUP="scan")
    assert done.exit_code == 1
    assert f"{PREFIX}team-a expired" in done.stderr
    unseen = await keys("check", stdin=APIM_KEY, KEY_LOOKUP="scan")
    assert unseen.exit_code == 1
    assert "(the values of disabled secrets cannot be read)" in unseen.stderr
    assert f"{PREFIX}team-0" not in azure.vault.read


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


async def test_an_import_reports_each_key_and_why(azure: Azure, keys: Keys) -> None:
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", label="team s1"))
    digits = {slot: digest_of(f"{slot}-key-of-s1")[:8] for slot in ("primary", "secondary")}
    assert digits["secondary"] < digits["primary"]
    named = {"APIM_RESOURCE_ID": RESOURCE_ID}
    planned = await keys("import-apim", "--dry-run", **named)
    assert planned.stderr == f"Would import from {SERVICE}: 2 added.\n"
    heads, _, *rows = [line.split() for line in planned.stdout.splitlines() if line.strip()]
    assert heads == ["label", "owner", "digest", "why"]
    assert rows == [
        ["added", "team", "s1", "ada", digits[slot], slot, "key;", "new"] for slot in ("secondary", "primary")
    ]
    await keys("import-apim", **named)
    again = await keys("import-apim", **named)
    # What is as it was is counted only, unless a program reads it.
    assert (again.stdout, again.stderr) == ("", f"Imported from {SERVICE}: 2 unchanged.\n")
    assert json.loads((await keys("import-apim", "--json", **named)).stdout) == [
        {
            "action": "unchanged", "label": "team s1", "owner": "ada", "shown": digits[slot],
            "reason": f"{slot} key; as it was",
        }
        for slot in ("secondary", "primary")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "named",
    [RESOURCE_ID, f"{RESOURCE_ID}/", RESOURCE_ID.replace("/service/", "/Service/")],
    ids=["as it is", "with a slash at its end", "in other letters"],
)
async def test_an_import_is_from_the_service_that_is_named_before_that_of_the_settings(
    azure: Azure, keys: Keys, named: str
) -> None:
    other = RESOURCE_ID.replace(SERVICE, "another-service")
    done = await keys("import-apim", "--resource-id", named, APIM_RESOURCE_ID=other)
    assert (done.exit_code, done.stderr) == (0, f"Imported from {SERVICE}: nothing to do.\n")


async def test_an_import_asks_for_the_name_of_the_service(azure: Azure, keys: Keys) -> None:
    done = await keys("import-apim")
    assert done.exit_code == 2
    assert "set APIM_RESOURCE_ID, or use --resource-id" in done.stderr


@pytest.mark.parametrize(
    "resource_id",
    [
        "", SERVICE, RESOURCE_ID.removesuffix(f"/{SERVICE}"), f"{RESOURCE_ID}/apis/chat",
        RESOURCE_ID.replace("/Microsoft.ApiManagement/service/", "/Microsoft.Web/sites/"),
    ],
)  # fmt: skip
def test_what_is_no_id_of_a_service_is_refused(resource_id: str) -> None:
    done = without_a_vault("import-apim", "--resource-id", resource_id)
    assert done.exit_code == 2
    assert "it looks like" in done.stderr


APIM_FAILURES = {
    "another tenant": (401, 4, "Sign in with 'az login'"),
    "no role": (403, 5, "az role assignment create"),
    "no such service": (404, 6, "az apim list"),
    "other": (400, 6, "Try again in a while."),
}


@pytest.mark.parametrize(("status", "code", "words"), APIM_FAILURES.values(), ids=APIM_FAILURES.keys())
async def test_failure_of_apim_says_what_to_do_next(
    azure: Azure, keys: Keys, status: int, code: int, words: str
) -> None:
    azure.apim.status = status
    done = await keys("import-apim", APIM_RESOURCE_ID=RESOURCE_ID)
    assert done.exit_code == code
    problem, step = done.stderr.splitlines()
    assert problem.startswith("Error: ")
    assert words in step
    assert "KEY_VAULT_URL" not in done.stderr


WRITING = {
    "add": (["--label", "new", "--expires", "90d"], "Would add new until 20"),
    "rotate": (["team-a"], "Would rotate team-a: the old key 435cdbd5 would be good until 20"),
    "revoke": (["team-a"], "Would revoke team-a (435cdbd5)"),
    "import-apim": (["--prune"], f"Would import from {SERVICE}: 2 added."),
}


@pytest.mark.parametrize(
    ("command", "arguments", "words"), [(name, *rest) for name, rest in WRITING.items()], ids=WRITING.keys()
)
async def test_dry_run_writes_nothing_and_hands_out_no_key(
    azure: Azure, keys: Keys, command: str, arguments: list[str], words: str
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1"))
    done = await keys(command, *arguments, "--dry-run", APIM_RESOURCE_ID=RESOURCE_ID)
    assert done.exit_code == 0
    assert words in done.stderr
    # An operator who reads that it has been done would believe it.
    assert not any(word in done.stderr for word in ("Added", "Rotated", "Revoked", "Imported"))
    assert done.stdout.strip() == "" or command == "import-apim"
    assert azure.vault.calls["put"] == azure.vault.calls["change"] == 0


FAILURES: dict[str, tuple[Fault, int, str, str]] = {
    "role": (
        forbidden("ForbiddenByRbac"), 5, f"role 'Key Vault Secrets Officer' on it to principal {PRINCIPAL}",
        "az role assignment create",
    ),
    "firewall": (forbidden("ForbiddenByFirewall"), 5, "", "az keyvault network-rule add"),
    "access policy": (
        forbidden("AccessDenied"), 5, "the secret permissions Get, List and Set", "az role assignment create",
    ),
    "throttled": (throttled(7), 6, "429 Throttled", "Try again in a while."),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "code", "words", "step"), FAILURES.values(), ids=FAILURES.keys())
async def test_failure_says_what_to_do_next(
    azure: Azure, keys: Keys, fault: Fault, code: int, words: str, step: str
) -> None:
    azure.vault.fault = fault
    for command in ("list", "check"):
        done = await keys(command, stdin=KEY)
        assert (done.exit_code, done.stdout) == (code, "")
        problem, next_step = done.stderr.splitlines()
        assert problem.startswith("Error: ")
        assert words in problem
        assert step in next_step


async def test_vault_is_let_go_of_however_a_command_ends(azure: Azure, keys: Keys) -> None:
    codes = []
    for which, fault in (("team-a", None), ("team-b", None), ("team-a", forbidden("ForbiddenByRbac"))):
        azure.vault.put(name_of(KEY), KEY, tags={"label": "team-a"})
        azure.vault.fault, azure.credential.closed = fault, False
        codes.append((await keys("show", which)).exit_code)
        assert azure.credential.closed
    assert codes == [0, 1, 5]


def test_defect_of_a_command_is_told_by_its_place_alone() -> None:
    """Its message might quote anything."""
    done = without_a_vault("list")
    assert done.exit_code == 7
    assert done.stderr.startswith("Error: this is a defect in the command: RuntimeError")
    assert KEY[:9] not in done.output


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


async def test_every_setting_that_is_wrong_is_named_with_where_to_set_it(keys: Keys) -> None:
    done = await keys("list", KEY_VAULT_URL="not a url", KEY_CACHE_TTL="soon")
    assert done.exit_code == 3
    problems, step = done.stderr.splitlines()
    assert "KEY_VAULT_URL" in problems
    assert "; KEY_CACHE_TTL" in problems
    assert step == "Set it in the environment, or in local.settings.json."


LOCAL_KEYS = {"LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}"}


@pytest.mark.parametrize("environ", [{}, LOCAL_KEYS], ids=["nothing is set", "local keys are set"])
def test_without_a_vault_its_setting_is_named(environ: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["keys", "list"], obj=Dependencies(environ, open_secrets))
    assert done.exit_code == 3
    assert "KEY_VAULT_URL" in done.stderr
    assert KEY[:9] not in done.output


async def test_local_keys_do_not_keep_a_command_from_the_vault(azure: Azure, keys: Keys) -> None:
    """The app would refuse to start with both; an operator's local.settings.json has them from its sample."""
    assert (await keys("list", **LOCAL_KEYS)).stderr == "0 keys\n"


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
