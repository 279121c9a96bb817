"""`python -m shim keys` in this process, on the stand-ins for Azure."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from typer.testing import CliRunner, Result

from devhost.azure.services import Azure, running_azure
from shim.__main__ import app
from shim.cli.session import Dependencies
from shim.keys.subscription import digest_of

PREFIX = "apim-sub-"

type Keys = Callable[..., Awaitable[Result]]


def name_of(key: str) -> str:
    """The name of the secret that holds this key."""
    return PREFIX + digest_of(key)


@asynccontextmanager
async def azure_by_the_wall_clock(folder: Path) -> AsyncIterator[Azure]:
    """Commands know no clock but the machine's."""
    async with running_azure(folder) as running:
        running.clock.at += (datetime.now(UTC) - running.clock.now()).total_seconds()
        yield running


def keys_of(azure: Azure) -> Keys:
    """Runs a command, in a thread of its own since it has its own event loop."""

    async def command(*arguments: str, stdin: str = "", **environ: str) -> Result:
        given = Dependencies(
            {"KEY_VAULT_URL": azure.vault.url, **environ}, azure.open_secrets, azure.open_apim
        )
        run = functools.partial(CliRunner().invoke, app, ["keys", *arguments], input=stdin, obj=given)
        return await asyncio.to_thread(run)

    return command
