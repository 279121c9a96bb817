"""Subscription keys in Key Vault under the name `<prefix><digest>`: one GET tells whether a key is good.

To rotate a key, add the new one to the vault under its own digest, and set the old secret's expiry to the end of the
time in which both are to be good.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shim.errors import KeyStoreUnavailable
from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.azure.vault_errors import VaultError
from shim.keys.subscription import Subscription
from shim.keys.text import printable

if TYPE_CHECKING:
    from azure.keyvault.secrets import KeyVaultSecret, SecretProperties

log = logging.getLogger(__name__)

# Hex digits of a digest that may be shown: enough to tell keys apart in a log, too few to look one up.
SHOWN_DIGITS = 8
# The digest of no key. Reading it needs the same permission as reading a key.
NO_DIGEST = "0" * 64

# What a header can carry unchanged (RFC 9110, section 5.5), without spaces.
_KEY = re.compile(r"[\x21-\x7e]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class VaultKeyStore:
    """Reads the vault for every lookup; to be wrapped in a CachedKeyStore."""

    def __init__(
        self,
        secrets: VaultSecrets,
        *,
        prefix: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secrets = secrets
        self._prefix = prefix
        self._now = now

    async def find(self, digest: str) -> Subscription | None:
        """As KeyStore.find."""
        try:
            secret = await self._secrets.get(self._prefix + digest)
        except VaultError as failure:
            raise self._secrets.unavailable(failure) from None
        subscription = secret and subscription_of(secret, digest=digest, label=f"key-{digest[:SHOWN_DIGITS]}")
        return subscription if subscription and subscription.is_valid_at(self._now()) else None

    async def digest_pages(self) -> AsyncIterator[Sequence[str]]:
        """As ListableKeyStore.digest_pages; no value is read. Disabled keys are left out."""
        try:
            async for page in self._secrets.pages():
                yield [digest for item in page if (digest := self._digest_in(item))]
        except VaultError as failure:
            raise self._secrets.unavailable(failure) from None

    async def warm(self) -> None:
        """As KeyStore.warm."""
        await self._secrets.warm()

    async def check(self) -> None:
        """As KeyStore.check: reads a secret that does not exist."""
        await check_reading(self._secrets, self._prefix)

    async def close(self) -> None:
        await self._secrets.close()

    def _digest_in(self, item: SecretProperties) -> str | None:
        name = item.name or ""
        rest = name[len(self._prefix) :].casefold()
        is_key = (
            name[: len(self._prefix)].casefold() == self._prefix.casefold()
            and item.enabled is not False
            # A managed secret is the private key of a certificate.
            and not item.managed
        )
        return rest if is_key and _DIGEST.fullmatch(rest) else None


async def check_reading(secrets: VaultSecrets, prefix: str) -> None:
    """Raises KeyStoreUnavailable with an operator's reason if secrets cannot be read."""
    try:
        await secrets.get(prefix + NO_DIGEST)
    except VaultError as failure:
        raise KeyStoreUnavailable(failure.reason, retry_after=failure.retry_after) from None


def key_in(secret: KeyVaultSecret) -> str | None:
    """The secret's value as a key; None, and a line in the log, if a header could not carry it."""
    # `az keyvault secret set --file` keeps the newline at the file's end.
    key = (secret.value or "").strip()
    if _KEY.fullmatch(key):
        return key
    log.warning("the secret %s holds no key: it is empty, or not visible ASCII", shown(secret.name or ""))
    return None


def subscription_of(secret: KeyVaultSecret, *, digest: str, label: str) -> Subscription | None:
    """The subscription that a secret holds; `label` is the default for a secret without such a tag."""
    key = key_in(secret)
    properties = secret.properties
    if key is None or properties.enabled is False:
        return None
    tags = properties.tags or {}
    return Subscription(
        digest=digest,
        key=key,
        label=tags.get("label") or label,
        owner=tags.get("owner", ""),
        source=tags.get("source", ""),
        not_before=properties.not_before,
        expires=properties.expires_on,
    )


def shown(name: str) -> str:
    """A secret's name for the log: digests are cut short."""
    return re.sub(rf"([0-9a-fA-F]{{{SHOWN_DIGITS}}})[0-9a-fA-F]+", r"\1…", printable(name))
