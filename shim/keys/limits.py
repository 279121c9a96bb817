"""How often a key store may be called: a budget for keys never seen good, and a pause while it fails."""

import math
from collections.abc import Callable

# Seconds. However long a store asks to be left alone, it is called again after this.
MAX_PAUSE = 60
# Seconds after the last failure for which the store still counts as failing. Only then are keys good beyond the
# cache's ttl, so that an outage long past does not prolong a revoked key.
OUTAGE_MEMORY = 30


class Budget:
    """A token bucket: `burst` lookups at once, and `per_second` more in the long run."""

    def __init__(self, *, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._counted_at = clock()

    def take(self) -> bool:
        """Takes one lookup; False if none is left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Returns a lookup that was not spent; `take` keeps the budget within `burst`."""
        self._left += 1


class Outage:
    """Whether a store is failing, and for how long it is left alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed_at = -math.inf
        self._paused_until = -math.inf

    def begin(self, retry_after: int) -> None:
        """A call failed, and none is to be made for `retry_after` seconds."""
        self._failed_at = self._clock()
        self._paused_until = self._failed_at + min(retry_after, MAX_PAUSE)

    def end(self) -> None:
        """A call succeeded."""
        self._failed_at = self._paused_until = -math.inf

    @property
    def lasts(self) -> bool:
        """Whether keys may be good beyond the cache's ttl."""
        return self._clock() < max(self._failed_at + OUTAGE_MEMORY, self._paused_until)

    @property
    def pause(self) -> int:
        """Seconds for which the store is still left alone; 0 if it may be called."""
        return math.ceil(max(0.0, self._paused_until - self._clock()))
