"""A subscription, and the digest by which its key is known."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime


def digest_of(key: str) -> str:
    """SHA-256 of a subscription key, in hex: the only form in which keys are compared, cached or named."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who may call, and the subscription key that is sent upstream for them.

    `key` is kept out of `repr`, and `digest` is shortened wherever it is shown.
    """

    digest: str = field(repr=False)
    key: str = field(repr=False)
    label: str
    owner: str = ""
    source: str = ""
    not_before: datetime | None = None
    expires: datetime | None = None

    def is_valid_at(self, now: datetime) -> bool:
        """Whether `now` (aware) lies within not-before and expiry; Key Vault itself does not enforce expiry."""
        started = self.not_before is None or self.not_before <= now
        return started and (self.expires is None or now < self.expires)
