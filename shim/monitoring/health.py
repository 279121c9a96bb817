"""Whether this instance is alive, and whether it could serve a call."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from shim.asgi import Response
from shim.errors import ShimError

log = logging.getLogger("shim")

# Anybody may ask, so that asking must not become a way to hammer the vault or the API behind.
_REMEMBERED_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0


class Check(NamedTuple):
    """Something that must hold before a call can be served.

    `run` raises ShimError with an operator's reason, which may name hosts and identities; `plain` is the reason
    for anonymous callers, which names none.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    plain: str


class _Outcome(NamedTuple):
    name: str
    seconds: float
    reason: str | None = None
    plain: str | None = None


class Readiness:
    """Runs checks side by side, remembers their outcome for some seconds, and asks each once for all who wait.

    `details` shows anonymous callers the operator's reasons. `warnings` are reported as they are; they do not make the
    instance unready. `also` gives what else is stated, anew each time.
    """

    def __init__(
        self,
        checks: list[Check],
        *,
        details: bool = False,
        warnings: Sequence[str] = (),
        also: Callable[[], Mapping[str, object]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._warnings = warnings
        self._details = details
        self._also = also
        self._clock = clock
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._outcomes: list[_Outcome] = []

    async def report(self, *_: object) -> Response:
        """200 if every check passed, else 503; each by name, with milliseconds and a reason where it failed."""
        async with self._lock:
            if self._clock() - self._checked_at >= _REMEMBERED_SECONDS:
                self._outcomes = list(await asyncio.gather(*map(self._run, self._checks)))
                self._checked_at = self._clock()
        ready = all(outcome.reason is None for outcome in self._outcomes)
        content: dict[str, object] = {
            "status": "ready" if ready else "not ready",
            "checks": [self._shown(outcome) for outcome in self._outcomes],
        }
        if self._warnings:
            content["warnings"] = self._warnings
        content.update(self._also())
        return _json(200 if ready else 503, content)

    async def _run(self, check: Check) -> _Outcome:
        started = self._clock()
        reason = None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await check.run()
        except TimeoutError:
            reason = f"no answer within {_PATIENCE_SECONDS:g} s"
        except ShimError as error:
            reason = error.message
        except Exception as defect:
            # By type alone: its message could hold anything.
            reason = f"the check itself failed ({type(defect).__name__})"
        if reason is not None:
            log.warning("not ready: %s: %s", check.name, reason)
        return _Outcome(check.name, self._clock() - started, reason, check.plain)

    def _shown(self, outcome: _Outcome) -> dict[str, object]:
        shown = {
            "name": outcome.name,
            "ok": outcome.reason is None,
            "milliseconds": round(outcome.seconds * 1000),
        }
        if outcome.reason is not None:
            shown["reason"] = outcome.reason if self._details else outcome.plain
        return shown


async def alive(*_: object) -> Response:
    """The process answers; that is all there is to it."""
    return _json(200, {"status": "alive"})


def _json(status: int, value: object) -> Response:
    content = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
    ]
    return Response(status, headers, content)
