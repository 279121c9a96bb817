"""The secrets of one Key Vault, read within a bounded time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from shim.errors import KeyStoreUnavailable
from shim.keys.azure.credential import SharedCredential, open_credential
from shim.keys.azure.sdk import call_options, silent_logger, suppress_span
from shim.keys.azure.vault_errors import (
    Access,
    VaultError,
    explain,
    is_absent,
    is_disabled,
    is_transient,
    timed_out,
)
from shim.transport.tls import default_trust

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncSupportsTokenInfo
    from azure.core.pipeline.transport import AsyncHttpTransport
    from azure.keyvault.secrets import KeyVaultSecret, SecretProperties
    from azure.keyvault.secrets.aio import SecretClient

log = logging.getLogger(__name__)

# Seconds. A call is tried twice, and within the budget in any case, the token and the SDK's import included.
CALL_BUDGET = 5.0
ATTEMPTS = 2
# Seconds in which the same reason is logged once only.
LOG_INTERVAL = 10.0

# Spoken in every cloud; the SDK's own default is newer than that of some.
API_VERSION = "7.6"

UNAVAILABLE = "The API key could not be checked just now, because the key store did not respond. Try again."


class VaultSecrets:
    """Reads secrets within a bounded time; the SDK is imported and the client opened by the first call.

    `credential` and `transport` are handed to the SDK, and closed together with this. `budget` is in seconds.
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
                if is_absent(error) or is_disabled(error):
                    return None
                raise

        return await self._call(ask)

    async def pages(self) -> AsyncIterator[Sequence[SecretProperties]]:
        """Every secret's name and attributes, without values, by the page: a call for each. Raises VaultError."""
        client = await self._call(_itself)
        async for page in self._paged(client.list_properties_of_secrets(**call_options()).by_page()):
            yield page

    async def list(self) -> AsyncIterator[SecretProperties]:
        """Every secret's name and attributes, without values. Raises VaultError."""
        async for page in self.pages():
            for item in page:
                yield item

    async def versions(self, name: str) -> AsyncIterator[SecretProperties]:
        """Every version of a secret, in no useful order, without values. Raises VaultError."""
        client = await self._call(_itself)
        items = client.list_properties_of_secret_versions(name, **call_options())
        async for page in self._paged(items.by_page()):
            for item in page:
                yield item

    async def warm(self) -> None:
        """Imports the SDK and opens its client, which takes half a second, and asks neither vault nor identity."""
        await self._open()

    def unavailable(self, failure: VaultError) -> KeyStoreUnavailable:
        """What callers are told about a failure. Its reason goes to the log."""
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
    ) -> AsyncIterator[Sequence[SecretProperties]]:
        async def next_page(_: SecretClient) -> Sequence[SecretProperties] | None:
            from azure.core.exceptions import HttpResponseError

            try:
                # When a page fails, the SDK's iterator stays where it was: the page can be asked for again.
                page = await anext(pages, None)
            except HttpResponseError as error:
                if is_absent(error):
                    return None
                raise
            return None if page is None else [item async for item in page]

        while (items := await self._call(next_page)) is not None:
            yield items

    async def _call[Result](self, ask: Callable[[SecretClient], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(self._budget):
                return await self._attempt(ask)
        except TimeoutError:
            waiting = self._credential is not None and self._credential.is_asking
            failure = timed_out(self._access(), self._budget, waiting_for_token=waiting)
        except Exception as error:
            failure = explain(error, self._access())
        # Outside of the handler, since the SDK's errors quote URLs, which name the secret.
        raise failure

    async def _attempt[Result](self, ask: Callable[[SecretClient], Awaitable[Result]]) -> Result:
        client = await self._open()
        for _ in range(ATTEMPTS - 1):
            try:
                return await ask(client)
            except Exception as error:
                if not is_transient(error):
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

        from shim.keys.azure.transport import SdkTransport

        default_trust()  # here and not on the loop: reading the system's certificates takes 20 ms
        if self._credential is None:
            self._credential = SharedCredential(
                open_credential(in_azure=self._in_azure, client_id=self._client_id)
            )
        return SecretClient(
            self.url,
            # The SDK asks its credential for nothing but get_token_info, where it has that.
            self._credential,  # type: ignore[arg-type]
            api_version=API_VERSION,
            # Its retries sleep for as long as Retry-After says, past our budget: _attempt retries instead.
            retry_total=0,
            permit_redirects=False,
            logger=silent_logger(),
            logging_enable=False,
            raw_request_hook=suppress_span,
            transport=self._transport or SdkTransport(),
        )

    def _access(self) -> Access:
        return Access(self.url, self._identity(), self.role, self.permissions)

    def _identity(self) -> str:
        if self._credential is not None and self._credential.principal:
            return self._credential.principal
        if self._client_id:
            return f"the identity with client id {self._client_id}"
        return "the app's managed identity" if self._in_azure else "the developer's login"


async def _itself(client: SecretClient) -> SecretClient:
    return client
