"""Which keys exist, by digest: how a good key is told from a flood of unknown ones without a lookup for each."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence

from shim.errors import KeyStoreUnavailable, describe_defect

log = logging.getLogger(__name__)

# Seconds. A key that is added during a flood is known by the next listing, this much later at the earliest.
MIN_INTERVAL = 30.0
# List calls per second in the long run: a listing of many pages is repeated less often. Key Vault's pages hold 25.
CALLS_PER_SECOND = 5.0
# Seconds until the next attempt if a listing failed, unless the store asks for more.
RETRY_AFTER_FAILURE = 30.0
# Digests, at about 100 bytes each: 10 MB. The keys beyond depend on the budget alone.
MAX_LISTED = 100_000
# Digests waited for, and seconds: only the first listing is waited for, later ones replace it when complete.
MAX_WAITING = 10_000
PATIENCE = 10.0


class Listing:
    """The digests that a store lists, as a hint: whether a key is good only a lookup tells.

    `pages` lists the store's digests, with one call for each page. Times are in seconds of `clock`.
    """

    def __init__(
        self,
        pages: Callable[[], AsyncIterator[Sequence[str]]],
        *,
        clock: Callable[[], float],
        max_listed: int = MAX_LISTED,
    ) -> None:
        self._pages = pages
        self._clock = clock
        self._max_listed = max_listed
        self._listed: frozenset[bytes] | set[bytes] = frozenset()
        # What the listing in progress has found so far.
        self._found: set[bytes] = set()
        self._is_complete = False
        self._due_at = -math.inf
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def __contains__(self, digest: str) -> bool:
        packed = bytes.fromhex(digest)
        return packed in self._listed or packed in self._found

    @property
    def retry_after(self) -> int:
        """Whole seconds after which a digest that is not listed is worth another try."""
        return max(1, math.ceil(self._due_at - self._clock())) if self._is_complete else 1

    async def finds(self, digest: str) -> bool:
        """Whether the store lists this digest. Begins a listing if one is due, and waits for the first one."""
        if self._task is None and self._clock() >= self._due_at:
            self._task = asyncio.create_task(self._list())
        if self._task is not None and not self._is_complete and digest not in self:
            await self._wait_for(digest)
        return digest in self

    async def close(self) -> None:
        """Ends a listing in progress."""
        self._due_at = math.inf
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _wait_for(self, digest: str) -> None:
        found = self._waiting.get(digest)
        if found is None:
            if len(self._waiting) >= MAX_WAITING:
                return
            found = self._waiting[digest] = asyncio.get_running_loop().create_future()
        # Unlike await, wait does not cancel the future together with this caller.
        await asyncio.wait([found], timeout=PATIENCE)

    async def _list(self) -> None:
        begun_at = self._clock()
        calls = 0
        try:
            async for page in self._pages():
                calls += 1
                self._add(page)
        except KeyStoreUnavailable as failure:
            self._due_at = self._clock() + max(
                RETRY_AFTER_FAILURE, failure.retry_after, calls / CALLS_PER_SECOND
            )
        except Exception as defect:
            log.error("listing the keys failed: %s", describe_defect(defect))
            self._due_at = self._clock() + RETRY_AFTER_FAILURE
        else:
            self._listed, self._found = self._found, set()
            self._is_complete = True
            self._due_at = begun_at + max(MIN_INTERVAL, calls / CALLS_PER_SECOND)
        finally:
            self._task = None
            for found in self._waiting.values():
                if not found.done():
                    found.set_result(None)
            self._waiting.clear()

    def _add(self, page: Sequence[str]) -> None:
        room = self._max_listed - len(self._found)
        for digest in page[: max(0, room)]:
            self._found.add(bytes.fromhex(digest))
            waited_for = self._waiting.pop(digest, None)
            if waited_for is not None:
                waited_for.set_result(None)
