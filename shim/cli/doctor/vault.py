"""Who signs in, and what the vault lets that identity do."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import urlsplit

from shim.cli.doctor.client import Client
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target
from shim.keys.azure.credential import SharedCredential
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.vault_errors import VaultError
from shim.keys.vault import NO_DIGEST
from shim.settings import Settings


async def check(target: Target, _: Client) -> AsyncIterator[Finding]:
    settings = target.settings
    if settings.key_vault_url is None:
        yield _without_vault(target)
        return
    opened, secrets = target.open_vault(settings)
    credential = SharedCredential(opened)
    try:
        identity = await _identity(credential, settings)
        yield identity
        if identity.outcome == "ok":
            yield await _reading(secrets, settings)
            yield await _listing(secrets, settings)
    finally:
        await secrets.close()
        await credential.close()


def _without_vault(target: Target) -> Finding:
    if target.problems:
        return warning("vault", "not checked, since the settings name none", "fix the settings first")
    return ok(
        "identity", "not needed: keys come from LOCAL_SUBSCRIPTION_KEYS, which is for running locally only"
    )


async def _identity(credential: SharedCredential, settings: Settings) -> Finding:
    host = urlsplit(settings.key_vault_url or "").hostname or ""
    # kv.vault.azure.net asks for tokens for vault.azure.net, and so in the other clouds.
    scope = f"https://{host.partition('.')[2]}/.default"
    try:
        await credential.get_token_info(scope)
    except Exception as error:
        # By type alone: the message of azure-identity is a page long and may quote the environment.
        return failed(
            "identity", f"no token could be obtained ({type(error).__name__})", _how_to_sign_in(settings)
        )
    who = credential.principal or "an identity that its token does not name"
    chosen = " by AZURE_CLIENT_ID" if settings.azure_client_id else ""
    return ok("identity", f"{who}{chosen}; its permissions follow")


def _how_to_sign_in(settings: Settings) -> str:
    if settings.in_azure:
        return "assign a user-assigned identity to the app and set AZURE_CLIENT_ID to its client id"
    return "sign in with az login (or azd auth login), to the tenant of the vault"


async def _reading(secrets: VaultSecrets, settings: Settings) -> Finding:
    """Reads a secret that does not exist, which needs the same permission as reading a key."""
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
    return ok("vault", "it may list them, too; whether it may write them is not tried")
