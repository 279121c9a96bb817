"""What a key store is."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from shim.keys.subscription import Subscription


class KeyStore(Protocol):
    """Finds subscriptions by the SHA-256 of their key."""

    async def find(self, digest: str) -> Subscription | None:
        """The subscription with this digest; None if no key that is good now has it.

        Raises KeyStoreUnavailable when the store cannot tell, which never means None.
        """
        ...

    async def warm(self) -> None:
        """Prepares for the first lookup, without calling the store."""
        ...

    async def check(self) -> None:
        """Checks that keys can be looked up. Raises KeyStoreUnavailable with a reason for operators."""
        ...

    async def close(self) -> None: ...


class ListableKeyStore(KeyStore, Protocol):
    """A key store that can also list which keys it has."""

    def digest_pages(self) -> AsyncIterator[Sequence[str]]:
        """The digests of all keys, good or not, one call to the store for each page. Raises KeyStoreUnavailable."""
        ...
