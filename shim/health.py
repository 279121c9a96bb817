"""Whether this instance is alive, and whether it could serve a call."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from shim.errors import ShimError

log = logging.getLogger("shim")

# Anybody may ask, so that asking must not become a way to hammer the vault or the API behind.
_REMEMBERED_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0

type Check = Callable[[], Awaitable[None]]


class Readiness:
    """Runs named checks, remembers the outcome for some seconds, and tells anonymous callers no names of hosts."""

    def __init__(self, checks: dict[str, Check], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._checks = checks
        self._clock = clock
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._outcome: list[dict[str, object]] = []

    async def report(self) -> Response:
        """200 if every check passed, else 503; each by name, with milliseconds and a reason where it failed."""
        async with self._lock:
            if self._clock() - self._checked_at >= _REMEMBERED_SECONDS:
                self._outcome = list(
                    await asyncio.gather(*(self._run(*check) for check in self._checks.items()))
                )
                self._checked_at = self._clock()
        ready = all(check["ok"] for check in self._outcome)
        return _json(
            200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": self._outcome}
        )

    async def _run(self, name: str, check: Check) -> dict[str, object]:
        started = self._clock()
        reason = None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await check()
        except TimeoutError:
            reason = f"no answer within {_PATIENCE_SECONDS:g} s"
        except ShimError as error:
            reason = error.message
        outcome: dict[str, object] = {
            "name": name,
            "ok": reason is None,
            "milliseconds": round((self._clock() - started) * 1000),
        }
        if reason is not None:
            log.warning("not ready: %s: %s", name, reason)
            outcome["reason"] = reason
        return outcome


def alive() -> Response:
    """The process answers; that is all there is to it."""
    return _json(200, {"status": "alive"})


def _json(status: int, content: object) -> Response:
    return Response(
        json.dumps(content), status, media_type="application/json", headers={"cache-control": "no-store"}
    )
