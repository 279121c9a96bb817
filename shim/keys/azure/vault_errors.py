"""What a failed call to Key Vault means: a reason for operators with the remedy, and when to try again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from shim.errors import describe_defect
from shim.keys.azure.credential import TokenTimeoutError
from shim.keys.text import printable

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError

# Seconds until the next attempt where the vault names none: the first for what passes by itself, the second for
# what an operator has to fix.
RETRY_SOON = 2
RETRY_LATER = 15

# What an operator has to fix: a sign-in, a role, a network rule or an address. "other" passes by itself, or is a
# defect.
type Fault = Literal["identity", "permission", "firewall", "unreachable", "other"]


class VaultError(Exception):
    """A call to the vault failed.

    `problem` and `remedy` are for operators and hold no key, token or digest; `retry_after` is in seconds.
    `maybe_done` is whether the vault may have carried out a write all the same.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        retry_after: int = RETRY_SOON,
        fault: Fault = "other",
        maybe_done: bool = False,
    ) -> None:
        # It may quote an error code, which is whatever the other side sent.
        self.problem = printable(problem)
        self.remedy = remedy
        self.reason = f"{self.problem}: {remedy}" if remedy else self.problem
        super().__init__(self.reason)
        self.retry_after = retry_after
        self.fault: Fault = fault
        self.maybe_done = maybe_done


class Access(NamedTuple):
    """Who calls which vault, and the RBAC role or access policy permissions they need there."""

    url: str
    identity: str
    role: str
    permissions: str


def timed_out(access: Access, seconds: float, *, waiting_for_token: bool) -> VaultError:
    if waiting_for_token:
        return VaultError(f"no token for {access.identity} within {seconds:g} seconds", fault="identity")
    return VaultError(
        f"Key Vault {access.url} did not respond within {seconds:g} seconds",
        fault="unreachable",
        maybe_done=True,
    )


def explain(error: Exception, access: Access) -> VaultError:
    """What an exception of the SDK means."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    # call_options leaves this type to the credential, whatever the vault responds.
    if isinstance(error, ClientAuthenticationError | TokenTimeoutError):
        return VaultError(
            f"no token for Key Vault {access.url} could be obtained for {access.identity}"
            f" ({type(error).__name__})",
            remedy="assign the identity to the app, or sign in where it runs locally",
            retry_after=RETRY_LATER,
            fault="identity",
        )
    if isinstance(error, HttpResponseError) and error.status_code:
        return _explain_status(error, error.status_code, access)
    if isinstance(error, AzureError):
        cause = getattr(error, "inner_exception", None) or error
        return VaultError(
            f"no connection to Key Vault {access.url} ({type(cause).__name__})",
            fault="unreachable",
            # Nothing was sent this time, perhaps; but this may have been the second attempt.
            maybe_done=True,
        )
    return VaultError(
        f"unexpected response from {access.url} ({describe_defect(error)})",
        remedy="is KEY_VAULT_URL the URL of a Key Vault?",
        retry_after=RETRY_LATER,
        fault="unreachable",
        maybe_done=True,
    )


def _explain_status(error: HttpResponseError, status: int, access: Access) -> VaultError:
    code = error_codes(error)[-1]
    seen = f"Key Vault {access.url} answered {status} {code}".rstrip()
    if status == 429 or status >= 500:
        return VaultError(seen, retry_after=_retry_after(error), maybe_done=status >= 500)
    fault, remedy = _remedy(status, code, access)
    return VaultError(seen, remedy=remedy, retry_after=RETRY_LATER, fault=fault)


def _remedy(status: int, code: str, access: Access) -> tuple[Fault, str]:
    match status, code:
        case 401, _:
            return "identity", f"it refused the token of {access.identity}: is the vault in another tenant?"
        case 403, "ForbiddenByFirewall" | "ForbiddenByConnection":
            return "firewall", "allow the app's network in the vault's networking settings"
        case 403, "AccessDenied" | "ForbiddenByPolicy":
            return (
                "permission",
                f"give {access.identity} the secret permissions {access.permissions} in its access policies",
            )
        case 403, _:
            return "permission", f"grant the role '{access.role}' on it to {access.identity}"
        case 409, "ObjectIsDeletedButRecoverable":
            return (
                "other",
                "a deleted secret has this name; recover it with 'az keyvault secret recover', or purge it",
            )
        case 409, _:
            return "other", "another change to this secret is in progress; try again"
        case _:
            return "unreachable", "is KEY_VAULT_URL the URL of a Key Vault?"


def error_codes(error: HttpResponseError) -> list[str]:
    """The error's code and, after it, the inner one, if the body has them.

    https://learn.microsoft.com/azure/key-vault/general/rest-error-codes
    """
    try:
        outer = json.loads(error.response.text())["error"]  # type: ignore[union-attr]
        inner = outer.get("innererror") or {}
        return [str(code) for code in (outer.get("code"), inner.get("code")) if code] or [""]
    except (AttributeError, KeyError, TypeError, ValueError):
        return [""]


def is_absent(error: HttpResponseError) -> bool:
    """Whether a vault says that it has no such secret; any other 404 says that there is no vault."""
    # Key Vault's code is SecretNotFound, but emulators have their own.
    return error.status_code == 404 and "NotFound" in error_codes(error)[-1]


def is_disabled(error: HttpResponseError) -> bool:
    """Whether a vault says that the secret is disabled."""
    return error_codes(error)[-1] == "SecretDisabled"


def is_transient(error: Exception) -> bool:
    """Whether to retry at once: a broken connection, or a server error without a Retry-After."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    if isinstance(error, HttpResponseError):
        return (error.status_code or 0) >= 500 and "Retry-After" not in _headers(error)
    return isinstance(error, ServiceRequestError | ServiceResponseError)


def _retry_after(error: HttpResponseError) -> int:
    """Seconds of a Retry-After; Key Vault sends no dates. https://learn.microsoft.com/azure/key-vault/general/overview-throttling"""
    try:
        return max(1, math.ceil(float(_headers(error).get("Retry-After", RETRY_SOON))))
    except (OverflowError, ValueError):
        return RETRY_SOON


def _headers(error: HttpResponseError) -> Mapping[str, str]:
    # Every response of the SDK has them; the type that it declares here does not.
    return getattr(error.response, "headers", {})
