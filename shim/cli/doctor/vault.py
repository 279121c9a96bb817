"""Whose token it is, and what the vault lets its owner do."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import urlsplit

from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.patient import Client, Patient
from shim.keys.azure.credential import SharedCredential
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.vault_errors import VaultError
from shim.keys.vault import NO_DIGEST
from shim.settings import Settings


async def examine(patient: Patient, _: Client) -> AsyncIterator[Finding]:
    settings = patient.settings
    if settings.key_vault_url is None:
        yield _without_vault(patient)
        return
    given, secrets = patient.open_vault(settings)
    credential = SharedCredential(given)
    try:
        identity = await _identity(credential, settings)
        yield identity
        if identity.outcome == "ok":
            yield await _reading(secrets, settings)
            yield await _listing(secrets, settings)
    finally:
        await secrets.close()
        await credential.close()


def _without_vault(patient: Patient) -> Finding:
    if patient.problems:
        return warning("vault", "not examined, since the settings name none", "mend the settings first")
    return ok("identity", "none needed: keys come from LOCAL_SUBSCRIPTION_KEYS, for local running only")


async def _identity(credential: SharedCredential, settings: Settings) -> Finding:
    host = urlsplit(settings.key_vault_url or "").hostname or ""
    # kv.vault.azure.net asks for tokens for vault.azure.net, and so in the other clouds.
    scope = f"https://{host.partition('.')[2]}/.default"
    try:
        await credential.get_token_info(scope)
    except Exception as error:
        # By type alone: azure-identity's message is a page long and may quote the environment.
        return failed(
            "identity", f"no token could be had ({type(error).__name__})", _how_to_sign_in(settings)
        )
    who = credential.principal or "an identity that its token does not name"
    chosen = " by AZURE_CLIENT_ID" if settings.azure_client_id else ""
    return ok("identity", f"{who}{chosen}; what it may do follows")


def _how_to_sign_in(settings: Settings) -> str:
    if settings.in_azure:
        return "assign a user-assigned identity to the app and set AZURE_CLIENT_ID to its client id"
    return "sign in with az login (or azd auth login), to the tenant of the vault"


async def _reading(secrets: VaultSecrets, settings: Settings) -> Finding:
    """Reads a secret that does not exist, which needs the same right as reading a key."""
    began = time.monotonic()
    try:
        await secrets.get(settings.key_secret_prefix + NO_DIGEST)
    except VaultError as error:
        return failed("vault", error.problem, error.remedy or _how_to_reach(error))
    milliseconds = (time.monotonic() - began) * 1000
    return ok("vault", f"{secrets.url} lets this identity read secrets ({milliseconds:.0f} ms)")


def _how_to_reach(error: VaultError) -> str:
    if error.fault == "unreachable":
        return "check the name in KEY_VAULT_URL, and whether the vault's firewall or private endpoint lets you in"
    return "try again; if it persists, look for throttling in the vault's metrics"


async def _listing(secrets: VaultSecrets, settings: Settings) -> Finding:
    try:
        async with aclosing(secrets.list()) as names:  # type: ignore[type-var]
            await anext(names, None)
    except VaultError as error:
        outcome = failed if settings.key_lookup == "scan" else warning
        return outcome(
            "vault",
            "this identity may not list secrets, which KEY_LOOKUP=scan and `python -m shim keys list` need",
            error.reason,
        )
    return ok("vault", "it may list them as well; whether it may write them is not tried")
