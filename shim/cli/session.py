"""One command on the settings' vault: what it needs, and what its failures mean to whoever typed it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import typer

from shim.errors import describe_defect
from shim.keys import open_apim, open_secrets
from shim.keys.admin.inventory import Ledger, NoSuchKeyError
from shim.keys.azure.api_management import Apim, ApimError
from shim.keys.azure.key_vault import Fault, VaultError
from shim.keys.azure.writing import WritableSecrets
from shim.settings import Settings, SettingsError

LOCAL_SETTINGS = Path(__file__).parent.parent.parent / "local.settings.json"

# Exit codes; 2 is the command line's own, for wrong usage.
DONE, NO, USAGE, SETTINGS, NOT_SIGNED_IN, NOT_PERMITTED, NO_ANSWER, DEFECT = range(8)

_CODES: dict[Fault, int] = {
    "identity": NOT_SIGNED_IN,
    "permission": NOT_PERMITTED,
    "firewall": NOT_PERMITTED,
    "unreachable": NO_ANSWER,
    "other": NO_ANSWER,
}
_NEXT_STEPS: dict[Fault, str] = {
    "identity": "Sign in with 'az login' (--tenant if you have several), and try again.",
    "permission": "Whoever owns it grants it with 'az role assignment create --assignee <you> --role <role>"
    " --scope <resource id>'. It takes some minutes to have effect.",
    "firewall": "Let your address in with 'az keyvault network-rule add --name <vault> --ip-address <yours>',"
    " or run this from a network that is allowed.",
    "unreachable": "Check KEY_VAULT_URL: 'az keyvault list --query [].properties.vaultUri' shows yours.",
    "other": "Try again in a while.",
}


@dataclass(frozen=True, slots=True)
class Seams:
    """What commands are given from outside; tests give their own."""

    environ: Mapping[str, str]
    open_secrets: Callable[[Settings], WritableSecrets | None] = open_secrets
    open_apim: Callable[[Settings], Apim | None] = open_apim


@dataclass(slots=True)
class Session:
    """The settings, and the vault that they name."""

    settings: Settings
    secrets: WritableSecrets
    open_apim: Callable[[Settings], Apim | None]
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.secrets, prefix=self.settings.key_secret_prefix)

    @property
    def scans(self) -> bool:
        return self.settings.key_lookup == "scan"


class Refused(Exception):
    """The command cannot do this; with its exit code."""

    def __init__(self, reason: str, code: int = NO) -> None:
        super().__init__(reason)
        self.code = code


def run(
    context: typer.Context, work: Callable[[Session], Coroutine[None, None, None]], **settings: object
) -> None:
    """Does `work` and exits with what came of it. `settings` win over the environment's."""
    refuse_arguments(context)
    seams = context.obj if isinstance(context.obj, Seams) else Seams(environment())
    try:
        chosen = {name: value for name, value in settings.items() if value is not None}
        asyncio.run(_work(replace(_settings(seams.environ), **chosen), seams, work))  # type: ignore[arg-type]
    except SettingsError as error:
        _end("; ".join(error.problems), "Set it in the environment, or in local.settings.json.", SETTINGS)
    except (VaultError, ApimError) as error:
        _end(error.reason, _NEXT_STEPS[error.fault], _CODES[error.fault])
    except NoSuchKeyError as error:
        _end(str(error), "", NO)
    except Refused as error:
        _end(str(error), "", error.code)
    except Exception as error:
        # By place alone: a message might quote anything.
        _end(f"this is a defect of the command: {describe_defect(error)}", "", DEFECT)


def refuse_arguments(context: typer.Context) -> None:
    """Exits if there are any that no command takes; what they are is not said."""
    if context.args:
        _end(
            "keys are not taken from the command line, where others see them and the shell's history keeps them",
            "Give it on stdin. If this was a key, replace it.",
            USAGE,
        )


def environment() -> dict[str, str]:
    """The environment, over the Values of local.settings.json: as with Core Tools."""
    values: dict[str, str] = {}
    if LOCAL_SETTINGS.exists():
        values = json.loads(LOCAL_SETTINGS.read_text()).get("Values", {})
    return {**values, **os.environ}


def say(text: str) -> None:
    """To whoever typed the command; stdout is for what was asked for."""
    typer.echo(text, err=True)


def log_everything() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def log_little() -> None:
    """Failures are told in the command's own words, and not by each library as well."""
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)


async def _work(
    settings: Settings, seams: Seams, work: Callable[[Session], Coroutine[None, None, None]]
) -> None:
    secrets = seams.open_secrets(settings)
    if secrets is None:
        raise SettingsError(["KEY_VAULT_URL is not set: it names the vault that holds the keys"])
    async with secrets:
        await work(Session(settings, secrets, seams.open_apim))


def _settings(environ: Mapping[str, str]) -> Settings:
    # Where calls go does not matter here, so that an operator need not say it.
    values = {"APIM_BASE_URL": "https://not-set.invalid", **environ}
    if values.get("KEY_VAULT_URL"):
        values.pop("LOCAL_SUBSCRIPTION_KEYS", None)
    return Settings.from_environment(values)


def _end(reason: str, next_step: str, code: int) -> NoReturn:
    say(f"Error: {reason}")
    if next_step:
        say(next_step)
    raise typer.Exit(code)
