"""The secrets of one Key Vault, for those who may write them: operators, and the import from APIM."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.sdk import call_options

if TYPE_CHECKING:
    from azure.keyvault.secrets import SecretProperties
    from azure.keyvault.secrets.aio import SecretClient

# https://learn.microsoft.com/azure/key-vault/secrets/about-secrets: a free-form type, shown in the portal.
CONTENT_TYPE = "application/x-subscription-key"
# Key Vault rejects longer tags.
MAX_TAG_LENGTH = 256


class WritableSecrets(VaultSecrets):
    """VaultSecrets that can also be written. An identity that only runs the shim needs no permission to do so."""

    role = "Key Vault Secrets Officer"
    permissions = "Get, List and Set"

    async def put(
        self,
        name: str,
        value: str,
        *,
        tags: Mapping[str, str],
        expires: datetime | None = None,
    ) -> SecretProperties:
        """Adds a secret, or a new version of one. Raises VaultError."""

        async def ask(client: SecretClient) -> SecretProperties:
            secret = await client.set_secret(
                name,
                value,
                enabled=True,
                tags=_fitting(tags),
                content_type=CONTENT_TYPE,
                expires_on=expires,
                **call_options(),
            )
            return secret.properties

        return await self._call(ask)

    async def change(
        self,
        name: str,
        *,
        enabled: bool | None = None,
        tags: Mapping[str, str] | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Changes attributes of a secret's latest version; None leaves one as it is. Raises VaultError."""

        async def ask(client: SecretClient) -> None:
            await client.update_secret_properties(
                name,
                enabled=enabled,
                tags=None if tags is None else _fitting(tags),
                expires_on=expires,
                **call_options(),
            )

        await self._call(ask)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _fitting(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:MAX_TAG_LENGTH] for name, value in tags.items() if value}
