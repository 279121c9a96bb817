"""The settings, as the app would read them."""

import time
from collections.abc import AsyncIterator

from shim.answer.retirement import days_left
from shim.cli.doctor.client import Client
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target

_WHERE = "set it in the app (azd env set NAME VALUE, then azd provision), in local.settings.json, or in the environment"
# The end of what people paste from documentation or the portal; the shim adds these itself.
_SUFFIXES = ("/deployments", "/chat/completions", "/responses")


async def check(target: Target, _: Client) -> AsyncIterator[Finding]:
    for problem in target.problems:
        yield failed("settings", problem, _WHERE)
    for text in target.settings.warnings:
        yield warning("settings", text, _WHERE)
    base_url = target.settings.apim_base_url
    if base_url.endswith(_SUFFIXES):
        yield warning(
            "settings",
            f"APIM_BASE_URL ends with {base_url[base_url.rindex('/') :]}, which the shim adds itself",
            "remove that part: the base URL is where all operations of the API begin",
        )
    elif not target.problems:
        yield ok(
            "settings",
            f"complete; the APIM API is {base_url}, keys are in {target.settings.key_vault_url or 'the settings'}",
        )
    if (end := _end_of_the_shim(target)) is not None:
        yield end


def _end_of_the_shim(target: Target) -> Finding | None:
    retirement = target.settings.retirement
    days = days_left(retirement, time.time())
    if days is None:
        return None
    after = "refused" if retirement.refuse_after_sunset else "still served"
    if days > 0:
        return ok("retirement", f"SHIM_SUNSET is {days} days away; after it calls are {after}")
    return warning(
        "retirement",
        f"SHIM_SUNSET has passed, and calls are {after}",
        "delete the shim when nobody calls it any more (docs/retire.md), or set a later date",
    )
