"""One line for each call that an operator may want to look into, and one for each start of the process."""

import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import fields

from shim.monitoring.record import CallRecord
from shim.settings import LogCalls, Settings

# Its lines reach the operator though the invocation is over when a stream ends: logs.py sees to that.
LOGGER = "shim.calls"

log = logging.getLogger(LOGGER)

_LIBRARIES = (
    "azure-functions-runtime",
    "azure-functions",
    "httptools",
    "azure-keyvault-secrets",
)
# In a minute, of each process: 100 KB, or 4 GB a month at the worst.
MAX_LINES = 300
_MINUTE = 60.0
# The caller's own doing: metrics count it.
_CALLER_GONE = "caller_gone"


class CallLog:
    """Writes the calls that LOG_CALLS asks for: all, or those that were refused, failed or broke off.

    Strangers may not run up a bill: of `errors` no more than MAX_LINES a minute are written, and how many were not.
    """

    def __init__(self, mode: LogCalls, clock: Callable[[], float] = time.monotonic) -> None:
        self._mode = mode
        self._clock = clock
        self._since = clock()
        self._written = 0

    def __call__(self, record: CallRecord) -> None:
        is_error = record.code not in ("", _CALLER_GONE)
        if self._mode == "all" or (self._mode == "errors" and is_error and self._is_in_bounds()):
            log.log(_level(record), "call %s", line(record))

    def _is_in_bounds(self) -> bool:
        now = self._clock()
        if now - self._since >= _MINUTE:
            if self._written > MAX_LINES:
                log.warning("%d calls with errors got no line: metrics count them", self._written - MAX_LINES)
            self._since, self._written = now, 0
        self._written += 1
        return self._written <= MAX_LINES


def line(record: CallRecord) -> str:
    """The call as JSON: no path, header or body, and no value where there is none."""
    took = (record.over or record.began) - record.began
    told = {
        "request_id": record.request_id.decode("latin-1"),
        "label": record.label,
        "operation": record.operation,
        "model": record.model,
        "status": record.status,
        "code": record.code,
        "reason": record.reason,
        "ms": round(took * 1000),
        "received": record.received,
        "sent": record.sent,
        "client": record.client,
        "key_header": record.scheme,
        "dialect": record.dialect,
        "trace_id": record.span.trace_id if record.span else "",
        "tokens": record.usage._asdict() if record.usage else None,
    }
    return json.dumps({name: value for name, value in told.items() if value not in ("", None)})


def announce(settings: Settings) -> None:
    """What is in force, said once: versions, and every setting that is no secret. Blocks while versions are read."""
    told = {one.name: getattr(settings, one.name) for one in fields(settings) if one.repr}
    libraries = {name: _version(name) for name in _LIBRARIES}
    log.info(
        "started %s",
        json.dumps({"python": platform.python_version(), **libraries, "settings": told}, default=_plain),
    )


def _level(record: CallRecord) -> int:
    """A warning is what the shim itself could not do; a status that upstream gave is upstream's own."""
    is_ours = not record.code.isdigit() and record.code not in ("", _CALLER_GONE)
    return logging.WARNING if is_ours and (record.status >= 500 or record.status < 400) else logging.INFO


def _version(name: str) -> str:
    from importlib.metadata import (  # takes its time, and nobody waits for it here
        PackageNotFoundError,
        version,
    )

    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _plain(value: object) -> object:
    """Origins by their text, mappings as they are."""
    return getattr(value, "text", None) or str(value)
