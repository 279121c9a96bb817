"""Labels are other people's text: none of it forges a log line or steers the operator's terminal.

Anybody who may name an APIM subscription can try.
"""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from devhost.azure.services import RESOURCE_ID, Azure, Subscribed
from shim.cli.doctor.finding import failed
from shim.keys.admin.importing import import_keys
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import Subscription
from shim.keys.text import printable
from shim.settings import Settings
from tests.conftest import KEY, StartHost
from tests.support.key_commands import azure_by_the_wall_clock, keys_of, name_of

# A line of its own, a cleared screen, a title of the terminal's window, and text from right to left.
HOSTILE = "team\nFORGED line\r\x1b[2J\x9b31m\x1b]0;title\x07\u202egnp.exe\u2028\x00"
SAFE = "team\ufffdFORGED line\ufffd\ufffd[2J\ufffd31m\ufffd]0;title\ufffd\ufffdgnp.exe\ufffd\ufffd"


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with azure_by_the_wall_clock(tmp_path) as running:
        yield running


def is_safe(output: str) -> bool:
    lines = output.splitlines()
    return all(line.isprintable() for line in lines) and not any(line.startswith("FORGED") for line in lines)


def test_what_is_not_printable_is_replaced() -> None:
    assert printable(HOSTILE) == SAFE


@pytest.mark.parametrize("text", ["team-a", "Équipe №5", "開発チーム (東京)", "команда", "a" * 256])
def test_names_of_every_script_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_spaces_of_other_scripts_become_plain_ones() -> None:
    assert printable("開発\u3000チーム\u00a0A") == "開発 チーム A"


def test_a_subscription_never_holds_raw_text() -> None:
    raw = Subscription(digest="0" * 64, key="k", label=HOSTILE, owner=HOSTILE, source=HOSTILE)
    assert raw.label == raw.owner == raw.source == SAFE


def test_errors_and_findings_never_hold_raw_text() -> None:
    assert is_safe(VaultError(f"Key Vault answered 403 {HOSTILE}").reason)
    assert is_safe(str(failed("shim", HOSTILE, "fix it")).replace("\n        → fix it", ""))


async def test_hostile_display_name_of_apim_stays_out_of_every_commands_output(azure: Azure) -> None:
    keys = keys_of(azure)
    azure.apim.subscribe(
        Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", label=HOSTILE, owner="a%0Ab\u202e")
    )
    azure.vault.put(name_of(KEY), KEY, tags={"label": HOSTILE, "owner": HOSTILE, "note": HOSTILE})
    outputs = [
        (await keys(*command, stdin=KEY, APIM_RESOURCE_ID=RESOURCE_ID)).output
        for command in (
            ("import-apim",), ("import-apim", "--json"), ("list",), ("list", "--json"),
            ("show", name_of(KEY)), ("show", name_of(KEY), "--json"), ("check",), ("rotate", name_of(KEY)),
            ("revoke", name_of(KEY)),
        )
    ]  # fmt: skip
    assert [output for output in outputs if not is_safe(output)] == []
    assert all("gnp.exe" in output for output in outputs[:6])
    # What the import has written is safe as well.
    assert azure.vault.secrets[name_of("primary-key-of-s1")][-1].tags["label"] == SAFE


async def test_hostile_label_can_be_named_as_it_is_shown(azure: Azure) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": HOSTILE})
    assert (await keys_of(azure)("show", SAFE)).exit_code == 0


async def test_second_import_of_a_hostile_display_name_changes_nothing(azure: Azure) -> None:
    keys = keys_of(azure)
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", label=HOSTILE))
    await keys("import-apim", APIM_RESOURCE_ID=RESOURCE_ID)
    assert "2 unchanged" in (await keys("import-apim", APIM_RESOURCE_ID=RESOURCE_ID)).stderr


@pytest.mark.parametrize("option", ["--label", "--owner"])
async def test_operators_own_label_must_be_printable(azure: Azure, option: str) -> None:
    more = [] if option == "--label" else ["--label", "team-a"]
    done = await keys_of(azure)("add", *more, option, HOSTILE)
    assert done.exit_code == 2
    assert azure.vault.secrets == {}


async def test_hostile_display_name_stays_out_of_the_imports_log(
    azure: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.from_environment(
        {
            "APIM_BASE_URL": "https://a.example",
            "APIM_RESOURCE_ID": RESOURCE_ID,
            "KEY_VAULT_URL": azure.vault.url,
        }
    )
    azure.apim.subscribe(Subscribed("s1", "primary-key-of-s1", "secondary-key-of-s1", label=HOSTILE))
    with caplog.at_level(logging.INFO):
        await import_keys(settings, open_apim=azure.open_apim, open_secrets=azure.open_secrets)
    messages = [record.getMessage() for record in caplog.records]
    assert any("gnp.exe" in message for message in messages)
    assert all(message.isprintable() for message in messages)


async def test_hostile_label_stays_out_of_the_apps_log(
    azure: Azure, start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    azure.vault.put(name_of(KEY), KEY, tags={"label": HOSTILE})
    host = await start_host(**azure.environ, WEBSITE_SITE_NAME="shim", LOG_CALLS="all")
    async with http.get(
        f"{host.url}/openai/v1/models", headers={"Authorization": f"Bearer {KEY}"}
    ) as response:
        assert response.status == 200
    await host.logs.first(lambda record: "gnp.exe" in record.message)
    logged = "\n".join(record.message for record in host.logs.records)
    assert is_safe(logged)
