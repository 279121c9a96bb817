"""The settings, as the app would read them."""

from collections.abc import AsyncIterator

from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.patient import Client, Patient

_WHERE = "set it in the app (azd env set NAME VALUE, then azd provision), in local.settings.json, or in the environment"
# What is pasted from documentation or the portal ends with these, and the shim adds them itself.
_TOO_LONG = ("/deployments", "/chat/completions", "/responses")


async def examine(patient: Patient, _: Client) -> AsyncIterator[Finding]:
    for problem in patient.problems:
        yield failed("settings", problem, _WHERE)
    for text in patient.settings.warnings:
        yield warning("settings", text, _WHERE)
    base_url = patient.settings.apim_base_url
    if base_url.endswith(_TOO_LONG):
        yield warning(
            "settings",
            f"APIM_BASE_URL ends with {base_url[base_url.rindex('/') :]}, which the shim adds itself",
            "leave that part away: the base ends where all operations of the API begin",
        )
    elif not patient.problems:
        yield ok(
            "settings",
            f"complete; the APIM API is {base_url}, keys are in {patient.settings.key_vault_url or 'the settings'}",
        )
