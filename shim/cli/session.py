"""What a command on the settings' vault needs, and what a failure means to whoever typed it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NoReturn

import typer

from shim.cli.local_settings import environment
from shim.errors import describe_defect
from shim.keys.admin.inventory import Inventory, NoSuchKeyError
from shim.keys.admin.opening import open_apim, open_secrets
from shim.keys.azure.api_management import Apim, ApimError
from shim.keys.azure.vault_errors import Fault, VaultError
from shim.keys.azure.writing import WritableSecrets
from shim.settings import Settings, SettingsError


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    # The key is not accepted, does not exist, or may not be changed like this.
    REFUSED = 1
    # Typer's own, for wrong usage.
    USAGE = 2
    SETTINGS = 3
    NOT_SIGNED_IN = 4
    NOT_PERMITTED = 5
    UNAVAILABLE = 6
    DEFECT = 7


_EXIT_CODES: dict[Fault, ExitCode] = {
    "identity": ExitCode.NOT_SIGNED_IN,
    "permission": ExitCode.NOT_PERMITTED,
    "firewall": ExitCode.NOT_PERMITTED,
    "unreachable": ExitCode.UNAVAILABLE,
    "other": ExitCode.UNAVAILABLE,
}
_NEXT_STEPS: dict[Fault, str] = {
    "identity": "Sign in with 'az login' (add --tenant if you have several), and try again.",
    "permission": "The owner grants it with 'az role assignment create --assignee <you> --role <role>"
    " --scope <resource id>'. It takes a few minutes to take effect.",
    "firewall": "Allow your address with 'az keyvault network-rule add --name <vault> --ip-address <yours>',"
    " or run this from a network that is allowed.",
    "unreachable": "Check KEY_VAULT_URL: 'az keyvault list --query [].properties.vaultUri' shows yours.",
    "other": "Try again in a while.",
}
_NEXT_STEPS_FOR_APIM: dict[Fault, str] = {
    **_NEXT_STEPS,
    "unreachable": "Check APIM_RESOURCE_ID: 'az apim list --query [].id' shows yours.",
}


# For commands that open none.
_NO_VAULT = {"KEY_VAULT_URL": "https://not-set.invalid"}


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What commands take from outside: the environment, and how Azure is reached. Tests pass their own."""

    environ: Mapping[str, str]
    open_secrets: Callable[[Settings], WritableSecrets | None] = open_secrets
    open_apim: Callable[[Settings], Apim | None] = open_apim


@dataclass(slots=True)
class Session:
    """The settings, and the vault that they name."""

    settings: Settings
    secrets: WritableSecrets
    open_apim: Callable[[Settings], Apim | None]
    inventory: Inventory = field(init=False)

    def __post_init__(self) -> None:
        self.inventory = Inventory(self.secrets, prefix=self.settings.key_secret_prefix)

    @property
    def scans(self) -> bool:
        return self.settings.key_lookup == "scan"


class CommandRefused(Exception):
    """The command cannot do this. `next_step` is what to do instead, if the reason does not say so already."""

    def __init__(self, reason: str, code: ExitCode = ExitCode.REFUSED, next_step: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.next_step = next_step


def run(
    context: typer.Context, work: Callable[[Session], Coroutine[None, None, None]], **settings: object
) -> None:
    """Does `work` on the settings' vault, as `run_work` does."""

    async def on_the_vault(chosen: Settings, given: Dependencies) -> None:
        await _work(chosen, given, work)

    run_work(context, on_the_vault, needs_vault=True, **settings)


def run_work(
    context: typer.Context,
    work: Callable[[Settings, Dependencies], Coroutine[None, None, None]],
    *,
    needs_vault: bool = False,
    **settings: object,
) -> None:
    """Does `work`, and exits with a code and words if it fails. `settings` win over the environment's."""
    refuse_arguments(context)
    try:
        given = context.obj if isinstance(context.obj, Dependencies) else Dependencies(environment())
        chosen = {name: value for name, value in settings.items() if value is not None}
        read = _settings(given.environ if needs_vault else {**_NO_VAULT, **given.environ})
        asyncio.run(work(replace(read, **chosen), given))  # type: ignore[arg-type]
    except SettingsError as error:
        _exit(
            ExitCode.SETTINGS,
            "; ".join(error.problems),
            "Set it in the environment, or in local.settings.json.",
        )
    except (VaultError, ApimError) as error:
        # A command adds notes on what it has done by then.
        next_steps = _NEXT_STEPS_FOR_APIM if isinstance(error, ApimError) else _NEXT_STEPS
        steps = [*getattr(error, "__notes__", ()), next_steps[error.fault]]
        _exit(_EXIT_CODES[error.fault], error.reason, " ".join(steps))
    except NoSuchKeyError as error:
        _exit(ExitCode.REFUSED, str(error))
    except CommandRefused as error:
        _exit(error.code, str(error), error.next_step)
    except Exception as error:
        # By place alone: a message might quote anything.
        _exit(ExitCode.DEFECT, f"this is a defect in the command: {describe_defect(error)}")


def refuse_arguments(context: typer.Context) -> None:
    """Exits if there are arguments that the command does not take; what they are is not repeated."""
    if context.args:
        _exit(
            ExitCode.USAGE,
            "keys are not taken from the command line, where other users see them and the shell's history keeps them",
            "Pass it on stdin. If this was a key, replace it.",
        )


def say(text: str) -> None:
    """To whoever typed the command; stdout is for what was asked for."""
    typer.echo(text, err=True)


def log_everything() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def log_little() -> None:
    """Failures are reported in the command's own words, not by each library as well."""
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)


async def _work(
    settings: Settings, given: Dependencies, work: Callable[[Session], Coroutine[None, None, None]]
) -> None:
    secrets = given.open_secrets(settings)
    if secrets is None:
        raise SettingsError(["KEY_VAULT_URL is not set: it names the vault that holds the keys"])
    async with secrets:
        await work(Session(settings, secrets, given.open_apim))


def _settings(environ: Mapping[str, str]) -> Settings:
    # Where calls go does not matter here, so that an operator need not say it.
    values = {"APIM_BASE_URL": "https://not-set.invalid", **environ}
    if values.get("KEY_VAULT_URL"):
        values.pop("LOCAL_SUBSCRIPTION_KEYS", None)
    return Settings.from_environment(values)


def _exit(code: ExitCode, reason: str, next_step: str = "") -> NoReturn:
    say(f"Error: {reason}")
    if next_step:
        say(next_step)
    raise typer.Exit(code)
