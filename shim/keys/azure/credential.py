"""The credential for Azure: whose it is, and one token request at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
    from azure.core.credentials_async import AsyncSupportsTokenInfo

# A token request may take longer than a caller waits: the Azure CLI needs seconds, and so may the
# identity endpoint of an instance that has just started.
TOKEN_BUDGET = 30.0
# azure-core asks its credential again when a token has less than this left, and azure-identity renews then.
TOKEN_MARGIN = 300.0


def open_credential(*, in_azure: bool, client_id: str | None) -> AsyncSupportsTokenInfo:
    """The managed identity in Azure (`client_id` for a user-assigned one), a developer's login elsewhere.

    Takes about a quarter of a second the first time: azure.identity imports msal, requests and cryptography,
    whichever credential is needed.
    """
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    from shim.keys.azure.transport import SdkTransport

    if in_azure:
        # Not the default chain, which would try a developer's credentials in Azure, and bury the fact that the app
        # has no identity in a list of everything that it tried.
        return ManagedIdentityCredential(client_id=client_id, transport=SdkTransport())
    return DefaultAzureCredential(managed_identity_client_id=client_id, transport=SdkTransport())


class TokenTimeoutError(Exception):
    """No token came within the budget."""


class SharedCredential:
    """Asks its credential once for all callers, and goes on when the first caller disconnects.

    Without it every lookup of a cold start would request its own token, and a token that takes longer than a
    lookup may take would never arrive.
    """

    def __init__(
        self,
        credential: AsyncSupportsTokenInfo,
        *,
        budget: float = TOKEN_BUDGET,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.principal = ""
        self._credential = credential
        self._budget = budget
        self._now = now
        # By scopes and tenant: one vault has one of each.
        self._tokens: dict[tuple[Any, ...], AccessTokenInfo] = {}
        self._requests: dict[tuple[Any, ...], asyncio.Task[None]] = {}

    @property
    def is_asking(self) -> bool:
        """Whether a token is being waited for."""
        return bool(self._requests)

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        """A token for these scopes. Raises what the credential raises, and TokenTimeoutError."""
        wanted: TokenRequestOptions = options or {}
        audience = (scopes, wanted.get("tenant_id"))
        # Claims mean that the service has just refused the cached token.
        if not wanted.get("claims") and (token := self._tokens.get(audience)) and self._lasts(token):
            return token
        name = (*audience, wanted.get("claims"))
        request = self._requests.get(name)
        if request is None:
            request = self._requests[name] = asyncio.create_task(self._request(name, scopes, wanted))
            # Nobody may be left to see a failure, which asyncio would then report on its own.
            request.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Unlike await, wait does not cancel the request together with this caller.
        await asyncio.wait([request])
        request.result()
        return self._tokens[audience]

    async def close(self) -> None:
        for request in self._requests.values():
            request.cancel()
        await asyncio.gather(*self._requests.values(), return_exceptions=True)
        self._requests.clear()
        self._tokens.clear()
        await self._credential.close()

    def _lasts(self, token: AccessTokenInfo) -> bool:
        now = self._now()
        return token.expires_on - now > TOKEN_MARGIN and (token.refresh_on is None or now < token.refresh_on)

    async def _request(
        self, name: tuple[Any, ...], scopes: tuple[str, ...], options: TokenRequestOptions
    ) -> None:
        # The token is stored and not returned: in debug mode asyncio prints what tasks return.
        try:
            async with asyncio.timeout(self._budget):
                token = await self._credential.get_token_info(*scopes, options=options)
        except TimeoutError:
            raise TokenTimeoutError from None
        finally:
            self._requests.pop(name, None)
        self._tokens[name[:2]] = token
        self.principal = _principal_of(token.token)


def _principal_of(token: str) -> str:
    """The identity that a token was issued to, for the log; empty if it is not a JWT."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return f"principal {claims['oid']} (client {claims.get('appid') or claims.get('azp')})"
    except (IndexError, KeyError, TypeError, ValueError):
        return ""
