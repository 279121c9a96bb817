"""No key, no token, and no more than eight digits of a digest, in whatever is printed, logged, raised or traced.

The key store's own paths are in test_keys_vault and test_keys_scan; these are the processes: the worker, and commands.
"""

import asyncio
import logging
import os
import pty
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from azure.core.settings import settings as azure_settings

from devhost.azure.faults import Fault, broken_connection, failing, forbidden, throttled
from devhost.azure.services import IDENTITY_HEADER, RESOURCE_ID, Azure, Subscribed, running_azure
from devhost.host import Host
from devhost.platform import CORE_TOOLS
from shim.cli.keys.new_key import NewKey
from shim.cli.keys.rotation import RotateKey
from shim.keys.admin.importing import Filters, Import
from shim.keys.admin.inventory import KeyRecord
from shim.keys.azure.api_management import ApimKeys
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import digest_of
from shim.settings import Settings
from tests.conftest import KEY, ROOT, StartHost
from tests.support.secrets import secrets_in

# Digits and letters that no date, port, id or line number has by chance.
PRIMARY, SECONDARY = "q7Zx9kVw2LmPr4Tn", "h3Bd8sYf6GjKc1Xe"
OWN, UNKNOWN = "operators-0wn-Key-w8Rt", "nobody-h4s-This-Key-m2Qp"
NAME = f"apim-sub-{digest_of(OWN)}"
FAULTS = [throttled(1), forbidden("ForbiddenByRbac"), failing(502), failing(200), broken_connection]


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with running_azure(tmp_path) as running:
        running.apim.subscribe(Subscribed("s1", PRIMARY, SECONDARY, label="team s1"))
        running.vault.put(NAME, OWN, tags={"label": "team-own"})
        yield running


def forbidden_strings(azure: Azure, *generated: str) -> list[str]:
    keys = [KEY, PRIMARY, SECONDARY, OWN, UNKNOWN, *generated]
    token = azure.credential.token.split(".")[1]
    return [*keys, *map(digest_of, keys), token, IDENTITY_HEADER]


async def command(azure: Azure, *arguments: str, stdin: str = "") -> tuple[str, str]:
    """What a command prints at DEBUG, in a process of its own, with the real identity and its loggers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shim", "keys", "--verbose", *arguments, cwd=ROOT,
        env={"PATH": os.environ["PATH"], **azure.environ, "APIM_RESOURCE_ID": RESOURCE_ID},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    return out.decode(), err.decode()


async def test_commands_print_no_secret_but_a_new_key_once(azure: Azure) -> None:
    added, rotated, *others = await asyncio.gather(
        command(azure, "add", "--label", "new"),
        command(azure, "rotate", "team-own"),
        command(azure, "add", "--label", "given", "--stdin", stdin=UNKNOWN),
        command(azure, "import-apim", "--prune"),
    )
    new = [added[0].strip(), rotated[0].strip()]
    assert [len(key) for key in new] == [64, 64]
    others += await asyncio.gather(
        command(azure, "list"),
        command(azure, "show", digest_of(PRIMARY)[:8], "--json"),
        command(azure, "check", stdin=PRIMARY),
        command(azure, "check", stdin=KEY),
    )
    assert "accepted: team s1" in others[-2][0]
    assert "team s1" in others[2][0]
    assert "azure.identity" in others[2][1]
    printed = [added[1], rotated[1], *(text for texts in others for text in texts)]
    assert secrets_in("\n".join(printed), forbidden_strings(azure, *new)) == []


def test_what_holds_a_key_or_a_whole_digest_shows_neither_in_its_repr() -> None:
    """As a debugger, a log line or a failed assertion would."""
    holders = [
        NewKey(OWN, "team-a", generated=True, stands_for=PRIMARY, json=False),
        RotateKey("team-a", UNKNOWN, lifetime=None, grace=None, dry_run=False, json=False),
        KeyRecord(NAME, "apim-sub-", True, None, None, None, None, {"label": "team-a", "note": SECONDARY}),
        ApimKeys(PRIMARY, SECONDARY),
    ]
    keys = [OWN, PRIMARY, SECONDARY, UNKNOWN]
    assert secrets_in(repr(holders), [*keys, *map(digest_of, keys)]) == []


async def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once nobody writes to it."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(terminal, arrived.set)
    try:
        await arrived.wait()
        return os.read(terminal, 4096)
    except OSError:
        return b""  # Linux fails such a read, others do not
    finally:
        loop.remove_reader(terminal)


async def test_key_that_is_typed_at_a_terminal_is_asked_for_and_never_shown(azure: Azure) -> None:
    azure.vault.put("apim-sub-a", "two words", tags={"label": "team-a"})
    terminal, end = pty.openpty()
    # In a session of its own: the password prompt would find the terminal of whoever runs the tests.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shim", "keys", "check", cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", **azure.environ, "KEY_LOOKUP": "scan"},
        stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    try:
        async with asyncio.timeout(60):
            seen = b""
            while b"Key: " not in seen:
                more = await read(terminal)
                assert more, seen
                seen += more
            os.write(terminal, f"{UNKNOWN}\n".encode())
            while more := await read(terminal):
                seen += more
            assert await process.wait() == 1
    finally:
        os.close(terminal)
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = seen.decode()
    assert "Error: not accepted: no key in the vault" in text
    # How far it is: the vault's two secrets.
    assert "Reading the vault … 2" in text
    # What libraries log is for --verbose.
    assert "holds no key" not in text
    assert secrets_in(text, forbidden_strings(azure)) == []


@pytest.mark.parametrize("fault", FAULTS[1:3], ids=["role", "page"])
async def test_commands_that_fail_print_no_secret(azure: Azure, fault: Fault) -> None:
    azure.vault.fault = fault
    failed = await asyncio.gather(
        command(azure, "check", stdin=OWN), command(azure, "add", "--label", "a", "--stdin", stdin=OWN)
    )
    text = "\n".join(part for parts in failed for part in parts)
    assert sum(line.startswith("Error: ") for line in text.splitlines()) == 2
    assert "defect" not in text
    assert secrets_in(text, forbidden_strings(azure)) == []


async def test_worker_logs_no_secret_on_any_path(
    azure: Azure, start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    # On Flex a worker has started long before it gets the setting that has asyncio tell most.
    host = await start_host(
        platform=CORE_TOOLS,
        **azure.environ,
        APIM_RESOURCE_ID=RESOURCE_ID,
        WEBSITE_SITE_NAME="shim",
        KEY_CACHE_TTL="1",
        DEVHOST_LOG_LEVEL="DEBUG",
        PYTHONASYNCIODEBUG="1",
    )
    [timer] = [function for function in host.worker.functions if function.type == "timerTrigger"]
    answers = [
        await call(host, http, OWN),
        await call(host, http, UNKNOWN),
        str(await host.worker.fire(timer)),
    ]
    answers.append(await call(host, http, PRIMARY))
    azure.vault.change(NAME, enabled=False)
    for number, fault in enumerate(FAULTS):
        azure.vault.fault = fault
        answers += [await call(host, http, f"{UNKNOWN}-{number}"), str(await host.worker.fire(timer))]
    azure.vault.fault = None
    azure.apim.status = 403
    answers.append(str(await host.worker.fire(timer)))
    await host.stop()
    logged = "\n".join(f"{record.logger} {record.message}" for record in host.logs.records)
    assert "key_store_unavailable" in "\n".join(answers)
    assert "azure.identity" in logged
    assert "import from API Management" in logged
    text = "\n".join([logged, *answers])
    assert secrets_in(text, forbidden_strings(azure)) == []


async def call(host: Host, http: aiohttp.ClientSession, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    async with http.get(f"{host.url}/openai/v1/models", headers=headers) as answer:
        return f"{answer.status} {dict(answer.headers)} {await answer.text()}"


async def test_import_raises_traces_and_shows_no_secret(
    azure: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.from_environment(
        {
            "APIM_BASE_URL": "https://a.example",
            "APIM_RESOURCE_ID": RESOURCE_ID,
            "KEY_VAULT_URL": azure.vault.url,
        }
    )
    apim = azure.open_apim(settings)
    assert apim
    shown = []
    # Without an OpenTelemetry tracer the SDK complains where it would have begun a span, which has the URL.
    azure_settings.tracing_enabled.set_value(True)
    try:
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="azure"):
            async with azure.open_secrets(settings) as secrets, apim:
                job = Import(apim, secrets, prefix="apim-sub-", filters=Filters(), prune=True)
                changes = await job.plan()
                shown += [
                    repr(changes),
                    repr(job),
                    repr(vars(job)),
                    repr([change.write for change in changes]),
                ]
                for fault in FAULTS:
                    azure.vault.fault = fault
                    with pytest.raises(VaultError) as raised:
                        await job.apply(changes)
                    shown += traceback.format_exception(raised.value)
    finally:
        azure_settings.tracing_enabled.unset_value()
    assert "OpenTelemetry" not in caplog.text
    text = "\n".join([caplog.text, *shown])
    assert secrets_in(text, forbidden_strings(azure)) == []
