"""The secrets of one Key Vault: the only place that knows the Azure SDK and what its failures mean."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from shim.errors import KeyStoreUnavailable, describe_defect
from shim.keys.azure.credential import SharedCredential, TokenTimeoutError, open_credential

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncSupportsTokenInfo
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline import PipelineRequest
    from azure.core.pipeline.transport import AsyncHttpTransport
    from azure.keyvault.secrets import KeyVaultSecret, SecretProperties
    from azure.keyvault.secrets.aio import SecretClient

log = logging.getLogger(__name__)

# Seconds. A call is tried twice, and within the budget in any case, the token and the SDK's import included.
CALL_BUDGET = 5.0
CONNECT_TIMEOUT = 1.5
READ_TIMEOUT = 2.0
ATTEMPTS = 2
# Seconds until another try, where the vault names none: the first for what mends itself, the second for what
# an operator must mend.
RETRY_SOON = 2
RETRY_LATER = 15
# The same reason is logged once in so many seconds.
LOG_INTERVAL = 10.0

# Spoken in every cloud; the SDK's own default is newer than that of some.
API_VERSION = "7.6"

UNAVAILABLE = "The API key could not be checked just now, because the key store did not answer. Try again."

# Spans would carry the URL, or an error that quotes the secret's name, and with it the whole digest.
_NO_SPAN = {"enabled": False}


# What an operator must mend: a login, a right, a network rule or an address. Others mend themselves, or are
# defects.
type Fault = Literal["identity", "permission", "firewall", "unreachable", "other"]


class VaultError(Exception):
    """The vault gave no answer.

    `reason` is for operators and holds no key, token or digest; `retry_after` is in seconds.
    """

    def __init__(self, reason: str, *, retry_after: int = RETRY_SOON, fault: Fault = "other") -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.fault: Fault = fault


class VaultSecrets:
    """Reads secrets within a bounded time; the SDK is imported and the client opened by the first call.

    `credential` and `transport` are the SDK's own seams, closed together with this. `budget` is in seconds.
    """

    # The role, and the secret permissions where the vault has access policies instead:
    # https://learn.microsoft.com/azure/key-vault/general/rbac-guide#azure-built-in-roles-for-key-vault-data-plane-operations
    role: ClassVar[str] = "Key Vault Secrets User"
    permissions: ClassVar[str] = "Get and List"

    def __init__(
        self,
        url: str,
        *,
        in_azure: bool = True,
        client_id: str | None = None,
        credential: AsyncSupportsTokenInfo | None = None,
        transport: AsyncHttpTransport[Any, Any] | None = None,
        budget: float = CALL_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._in_azure = in_azure
        self._client_id = client_id
        self._transport = transport
        self._budget = budget
        self._clock = clock
        self._credential = SharedCredential(credential) if credential is not None else None
        self._opening: asyncio.Task[SecretClient] | None = None
        self._logged: dict[str, float] = {}

    async def get(self, name: str, version: str | None = None) -> KeyVaultSecret | None:
        """A secret with its value; None if there is none of this name, or it is deleted or disabled.

        Not-before and expiry are the caller's to check: Key Vault hands out such secrets all the same
        (https://learn.microsoft.com/azure/key-vault/secrets/about-secrets#date-time-controlled-operations).
        Raises VaultError.
        """

        async def ask(client: SecretClient) -> KeyVaultSecret | None:
            from azure.core.exceptions import HttpResponseError

            try:
                return await client.get_secret(name, version, **call_options())
            except HttpResponseError as error:
                if _is_absent(error) or _codes(error)[-1] == "SecretDisabled":
                    return None
                raise

        return await self._call(ask)

    async def list(self) -> AsyncIterator[SecretProperties]:
        """Every secret's name and attributes, page by page, without values. Raises VaultError."""
        client = await self._call(_itself)
        items = client.list_properties_of_secrets(**call_options())
        async for item in self._paged(items.by_page()):
            yield item

    async def versions(self, name: str) -> AsyncIterator[SecretProperties]:
        """Every version of a secret, in no useful order, without values. Raises VaultError."""
        client = await self._call(_itself)
        items = client.list_properties_of_secret_versions(name, **call_options())
        async for item in self._paged(items.by_page()):
            yield item

    async def warm(self) -> None:
        """Imports the SDK and opens its client, which takes half a second, and asks neither vault nor identity."""
        await self._open()

    def unavailable(self, failure: VaultError) -> KeyStoreUnavailable:
        """What callers are told of a failure. Its reason goes to the log."""
        now = self._clock()
        if now - self._logged.get(failure.reason, -math.inf) >= LOG_INTERVAL:
            self._logged = {reason: at for reason, at in self._logged.items() if now - at < LOG_INTERVAL}
            self._logged[failure.reason] = now
            log.error("%s", failure.reason)
        return KeyStoreUnavailable(UNAVAILABLE, retry_after=failure.retry_after)

    async def close(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opened = (await asyncio.gather(opening, return_exceptions=True))[0]
            if not isinstance(opened, BaseException):
                await opened.close()
        elif self._transport is not None:
            await self._transport.close()
        if self._credential is not None:
            await self._credential.close()

    async def _paged(
        self, pages: AsyncIterator[AsyncIterator[SecretProperties]]
    ) -> AsyncIterator[SecretProperties]:
        async def next_page(_: SecretClient) -> list[SecretProperties] | None:
            from azure.core.exceptions import HttpResponseError

            try:
                # When a page fails, the SDK's iterator stays where it was: the page can be asked for again.
                page = await anext(pages, None)
            except HttpResponseError as error:
                if _is_absent(error):
                    return None
                raise
            return None if page is None else [item async for item in page]

        while (items := await self._call(next_page)) is not None:
            for item in items:
                yield item

    async def _call[Answer](self, ask: Callable[[SecretClient], Awaitable[Answer]]) -> Answer:
        try:
            async with asyncio.timeout(self._budget):
                return await self._attempt(ask)
        except TimeoutError:
            failure = self._delay()
        except Exception as error:
            failure = self._failure(error)
        # Outside of the handler, since the SDK's errors quote URLs, which name the secret.
        raise failure

    async def _attempt[Answer](self, ask: Callable[[SecretClient], Awaitable[Answer]]) -> Answer:
        client = await self._open()
        for _ in range(ATTEMPTS - 1):
            try:
                return await ask(client)
            except Exception as error:
                if not _mends_itself(error):
                    raise
        return await ask(client)

    async def _open(self) -> SecretClient:
        if self._opening is None:
            # In a thread: importing the SDK takes half a second, in which streams would stand still.
            self._opening = asyncio.create_task(asyncio.to_thread(self._build))
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except Exception:
            if self._opening is opening:
                self._opening = None
            raise

    def _build(self) -> SecretClient:
        from azure.keyvault.secrets.aio import SecretClient

        if self._credential is None:
            self._credential = SharedCredential(
                open_credential(in_azure=self._in_azure, client_id=self._client_id)
            )
        options: dict[str, Any] = {} if self._transport is None else {"transport": self._transport}
        return SecretClient(
            self.url,
            # The SDK asks its credential for nothing but get_token_info, where it has that.
            self._credential,  # type: ignore[arg-type]
            api_version=API_VERSION,
            connection_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            # Its retries sleep for as long as Retry-After says, past our budget: _attempt retries instead.
            retry_total=0,
            permit_redirects=False,
            # Its log lines quote the URL, and with it the whole digest. A logger that is in no hierarchy and
            # disabled cannot be turned on by a log level.
            logger=silent_logger(),
            logging_enable=False,
            raw_request_hook=suppress_span,
            **options,
        )

    def _delay(self) -> VaultError:
        if self._credential is not None and self._credential.is_asking:
            return VaultError(
                f"no token came for {self._identity()} within {self._budget:g} seconds", fault="identity"
            )
        return VaultError(
            f"Key Vault {self.url} did not answer within {self._budget:g} seconds", fault="unreachable"
        )

    def _failure(self, error: Exception) -> VaultError:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        # call_options leaves this type to the credential, whatever the vault answers.
        if isinstance(error, ClientAuthenticationError | TokenTimeoutError):
            return VaultError(
                f"no token for Key Vault {self.url} could be had for {self._identity()}"
                f" ({type(error).__name__}): assign the identity to the app, or log in where it runs locally",
                retry_after=RETRY_LATER,
                fault="identity",
            )
        if isinstance(error, HttpResponseError) and error.status_code:
            return self._refusal(error, error.status_code)
        cause = getattr(error, "inner_exception", None) or error
        if isinstance(error, AzureError):
            return VaultError(
                f"no connection to Key Vault {self.url} ({type(cause).__name__})", fault="unreachable"
            )
        return VaultError(
            f"no sense could be made of the answer at {self.url} ({describe_defect(error)}): is KEY_VAULT_URL the"
            " URL of a Key Vault?",
            retry_after=RETRY_LATER,
            fault="unreachable",
        )

    def _refusal(self, error: HttpResponseError, status: int) -> VaultError:
        code = _codes(error)[-1]
        says = f"Key Vault {self.url} answered {status} {code}".rstrip()
        if status == 429 or status >= 500:
            return VaultError(says, retry_after=_retry_after(error))
        fault: Fault = "permission"
        if status == 409:
            fault = "other"
            remedy = (
                "a deleted secret has this name; recover it with 'az keyvault secret recover', or purge it"
                if code == "ObjectIsDeletedButRecoverable"
                else "another change to this secret is under way; try again"
            )
        elif status == 401:
            fault = "identity"
            remedy = f"it refused the token of {self._identity()}: is the vault in another tenant?"
        elif status != 403:
            fault = "unreachable"
            remedy = "is KEY_VAULT_URL the URL of a Key Vault?"
        elif code in ("ForbiddenByFirewall", "ForbiddenByConnection"):
            fault = "firewall"
            remedy = "allow the app's network in the vault's networking settings"
        elif code in ("AccessDenied", "ForbiddenByPolicy"):
            remedy = (
                f"give {self._identity()} the secret permissions {self.permissions} in its access policies"
            )
        else:
            remedy = f"grant the role '{self.role}' on it to {self._identity()}"
        return VaultError(f"{says}: {remedy}", retry_after=RETRY_LATER, fault=fault)

    def _identity(self) -> str:
        if self._credential is not None and self._credential.principal:
            return self._credential.principal
        if self._client_id:
            return f"the identity with client id {self._client_id}"
        return "the app's managed identity" if self._in_azure else "the developer's login"


async def _itself(client: SecretClient) -> SecretClient:
    return client


def call_options() -> dict[str, Any]:
    from azure.core.exceptions import HttpResponseError

    return {
        # For the span around the call, which would record an error with its message.
        "tracing_options": _NO_SPAN,
        # Else the SDK logs the body of an answer that it cannot read, and a 401 of the vault looks like a
        # failure of the credential.
        "error_map": dict.fromkeys(range(300, 600), HttpResponseError),
    }


def suppress_span(request: PipelineRequest[Any]) -> None:
    # The policy that makes spans takes its option away, and after a challenge the request passes it again.
    request.context.options["tracing_options"] = _NO_SPAN


def silent_logger() -> logging.Logger:
    logger = logging.Logger("shim.keys.silent")
    logger.disabled = True
    return logger


def _codes(error: HttpResponseError) -> list[str]:
    """The error's code and, after it, the inner one, if the body has them.

    https://learn.microsoft.com/azure/key-vault/general/rest-error-codes
    """
    try:
        outer = json.loads(error.response.text())["error"]  # type: ignore[union-attr]
        inner = outer.get("innererror") or {}
        return [str(code) for code in (outer.get("code"), inner.get("code")) if code] or [""]
    except (AttributeError, KeyError, TypeError, ValueError):
        return [""]


def _is_absent(error: HttpResponseError) -> bool:
    """Whether a vault says that it has no such secret; any other 404 says that there is no vault."""
    # Key Vault's code is SecretNotFound, but emulators have their own.
    return error.status_code == 404 and "NotFound" in _codes(error)[-1]


def _retry_after(error: HttpResponseError) -> int:
    """Seconds of a Retry-After; Key Vault sends no dates. https://learn.microsoft.com/azure/key-vault/general/overview-throttling"""
    try:
        return max(1, math.ceil(float(_headers(error).get("Retry-After", RETRY_SOON))))
    except (OverflowError, ValueError):
        return RETRY_SOON


def _headers(error: HttpResponseError) -> Mapping[str, str]:
    # Every response of the SDK has them; the type that it declares here does not.
    return getattr(error.response, "headers", {})


def _mends_itself(error: Exception) -> bool:
    """Whether to try again at once: a broken connection, or a server's error without a Retry-After."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    if isinstance(error, HttpResponseError):
        return (error.status_code or 0) >= 500 and "Retry-After" not in _headers(error)
    return isinstance(error, ServiceRequestError | ServiceResponseError)
