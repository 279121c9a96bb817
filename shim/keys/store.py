"""What a key store is."""

from typing import Protocol

from shim.keys.subscription import Subscription


class KeyStore(Protocol):
    """Finds subscriptions by the SHA-256 of their key."""

    async def find(self, digest: str) -> Subscription | None:
        """The subscription with this digest; None if no key that is good now has it.

        Raises KeyStoreUnavailable when the store cannot say, which is never the same as None.
        """
        ...

    async def warm(self) -> None:
        """Prepares for the first question, and asks the store nothing."""
        ...

    async def check(self) -> None:
        """Asks the store whether it could answer. Raises KeyStoreUnavailable with an operator's reason."""
        ...

    async def close(self) -> None: ...
