"""What becomes of a worker's logs: which reach Application Insights, and which are dropped on the way.

As azure-functions-host 4.1037 does it:
- records come as RpcLog messages. Microsoft's own go to Microsoft; the app's are dropped unless their invocation is
  executing, and it is no longer once the function has returned, even if the response still streams
  (WebJobs.Script.Grpc/Channel/GrpcWorkerChannel.cs: ProcessItem, Log, InvokeResponse).
- lines on stdout and stderr become records of Host.Function.Console, invocation or not, with a level guessed from their
  words (WebJobs.Script/Workers/ProcessManagement/WorkerProcess.cs, WorkerConsoleLogService.cs).
- host.json's `logging.logLevel` has the last word, by the longest prefix of the category. Sampling is not imitated.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

CONSOLE = "Host.Function.Console"
_CONSOLE_PREFIXES = ("languageworkerconsolelog", "azfuncjsonlog:")
_ERROR_WORDS = ("error", "fail", "severe", "unhandled exception")
_KEPT = 100_000
# The names of .NET's LogLevel, as logging numbers them.
_LEVELS = {
    "trace": 0,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}


class Fate(Enum):
    ARRIVED = "reached Application Insights"
    NO_INVOCATION = "dropped: its invocation was not executing, or it had none"
    LEVEL = "dropped: host.json wants none of its level"
    SYSTEM = "Microsoft's own, which the app's owner never sees"


@dataclass(frozen=True, slots=True)
class Record:
    """`level` is logging's number; `logger` the name in the worker, which does not reach Application Insights."""

    category: str
    level: int
    message: str
    fate: Fate
    invocation_id: str | None = None
    logger: str = ""


class Logs:
    """The last records of a worker; those that arrive are logged here too, under their category."""

    def __init__(self, levels: Mapping[str, int], *, drops: bool) -> None:
        self.records: deque[Record] = deque(maxlen=_KEPT)
        self._levels = levels
        self._drops = drops
        self._waiting: dict[asyncio.Future[Record], Callable[[Record], bool]] = {}

    @property
    def arrived(self) -> list[Record]:
        """What an operator would find."""
        return [record for record in self.records if record.fate is Fate.ARRIVED]

    @property
    def dropped(self) -> list[Record]:
        """The app's records that an operator would want, by their level, and not find."""
        return [record for record in self.records if record.fate is Fate.NO_INVOCATION]

    async def first(self, matching: Callable[[Record], bool], timeout: float = 10) -> Record:
        """The first record that matches, waiting up to `timeout` seconds for it. Raises TimeoutError."""
        for record in self.records:
            if matching(record):
                return record
        waiting: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = matching
        try:
            return await asyncio.wait_for(waiting, timeout)
        finally:
            del self._waiting[waiting]

    def rpc(
        self,
        message: str,
        level: int,
        logger: str,
        *,
        system: bool,
        invocation: str | None,
        function: str | None,
    ) -> None:
        """A record of the worker's; `function` is the one that its invocation executes, None if it executes none."""
        category = f"Function.{function}.User" if function else logger
        fate = self._fate_by_level(category, level)
        if system:
            fate = Fate.SYSTEM
        elif function is None and self._drops and fate is Fate.ARRIVED:
            fate = Fate.NO_INVOCATION
        self._add(Record(category, level, message, fate, invocation, logger))

    def console(self, line: str, *, is_error: bool) -> None:
        """A line on stdout, or on stderr."""
        level = _level_of_error(line) if is_error else logging.INFO
        system = line.lower().startswith(_CONSOLE_PREFIXES)
        fate = Fate.SYSTEM if system else self._fate_by_level(CONSOLE, level)
        self._add(Record(CONSOLE, level, line, fate))

    def _fate_by_level(self, category: str, level: int) -> Fate:
        prefixes = [name for name in self._levels if category.startswith(name)]
        least = self._levels.get(max(prefixes, key=len, default="default"), logging.INFO)
        return Fate.ARRIVED if level >= least else Fate.LEVEL

    def _add(self, record: Record) -> None:
        self.records.append(record)
        if record.fate is Fate.ARRIVED:
            logging.getLogger(record.category).log(record.level, "%s", record.message)
        for waiting, matching in self._waiting.items():
            if not waiting.done() and matching(record):
                waiting.set_result(record)


def levels_of(folder: Path) -> dict[str, int]:
    """host.json's `logging.logLevel`."""
    levels = json.loads((folder / "host.json").read_text()).get("logging", {}).get("logLevel", {})
    return {category: _LEVELS[level.lower()] for category, level in levels.items()}


def _level_of_error(line: str) -> int:
    lower = line.lower()
    if "warn" in lower:
        return logging.WARNING
    return logging.ERROR if any(word in lower for word in _ERROR_WORDS) else logging.INFO
