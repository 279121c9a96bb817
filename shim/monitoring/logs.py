"""Where log lines go, so that those that matter arrive.

The Functions host drops what a worker logs outside an executing invocation (GrpcWorkerChannel.Log), and an invocation
is over when its function returns: a fault at start, a response cut while it streams, trouble with the vault in the
background would all be lost. Lines on stderr arrive always, as Host.Function.Console, with a level that the host
guesses from their words (WorkerProcess.ParseErrorMessageAndLog); so do lines on stdout, all of them as Information.
"""

import logging
import sys
from typing import TextIO

from shim.monitoring.call_log import LOGGER as CALLS

# Ours, and asyncio's, which tells what nobody else would: tasks that failed.
_LOGGERS = ("shim", "asyncio")
_CHATTY = ("azure", "azure.functions")


def configure(stream: TextIO | None = None, calls: TextIO | None = None) -> None:
    """Sends warnings and errors to `stream`, by default stderr, what is told of calls to `calls`, by default stdout,
    and keeps the runtime's three INFO lines a request, and the Azure SDK's, off the bill.

    Nor does a line look up its thread, process and task, which tell nothing here
    (https://docs.python.org/3/howto/logging.html#optimization).
    """
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)
    handler = Router(stream or sys.stderr)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    told = logging.StreamHandler(calls or sys.stdout)
    told.addFilter(lambda record: record.levelno < logging.WARNING)
    warned = Router(stream or sys.stderr)
    warned.setLevel(logging.WARNING)
    of_calls = logging.getLogger(CALLS)
    of_calls.handlers[:] = [told, warned]
    of_calls.propagate = False
    of_calls.setLevel(logging.INFO)


class Router(logging.Handler):
    """Warnings and errors go to `stream`, one line each; all else goes to the worker's own handlers."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            logging.getLogger().handle(record)
            return
        try:
            # The level first, in letters that the host understands.
            line = " | ".join(f"{record.levelname}: {self.format(record)}".splitlines())
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except Exception:
            self.handleError(record)
