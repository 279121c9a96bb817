"""Subscription keys from the settings, for running without Azure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from shim.keys.subscription import Subscription


class LocalKeyStore:
    """Holds its subscriptions in memory."""

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self._by_digest = {subscription.digest: subscription for subscription in subscriptions}

    async def find(self, digest: str) -> Subscription | None:
        found = self._by_digest.get(digest)
        return found if found and found.is_valid_at(datetime.now(UTC)) else None

    async def warm(self) -> None:
        """Nothing to prepare."""

    async def check(self) -> None:
        """Always ready."""

    async def close(self) -> None:
        """Nothing to close."""
