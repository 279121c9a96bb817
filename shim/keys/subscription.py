"""A subscription, and the digest by which its key is known."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from shim.keys.text import printable


def digest_of(key: str) -> str:
    """SHA-256 of a subscription key, in hex: keys are compared, cached and named in this form alone."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who may call, and the subscription key that is sent upstream on their behalf.

    `key` is kept out of `repr`, and `digest` is shortened wherever it is shown. `label`, `owner` and `source` come
    from elsewhere: they are made printable here, so that no other form of them reaches a log.
    """

    digest: str = field(repr=False)
    key: str = field(repr=False)
    label: str
    owner: str = ""
    source: str = ""
    not_before: datetime | None = None
    expires: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("label", "owner", "source"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def is_valid_at(self, now: datetime) -> bool:
        """Whether `now` (aware) is within not-before and expiry; Key Vault itself does not enforce expiry."""
        started = self.not_before is None or self.not_before <= now
        return started and (self.expires is None or now < self.expires)
