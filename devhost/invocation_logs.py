"""The worker's end of logging: every record goes to the host, with the id of the invocation it belongs to.

As azure-functions-python-worker does it (workers/proxy_worker/dispatcher.py: ContextEnabledTask,
get_current_invocation_id, AsyncLoggingHandler and on_logging; logging.py: is_system_log_category).
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

# The worker's own loggers and the runtime's; their records are Microsoft's, not the app's.
_SYSTEM_LOGGERS = ("proxy_worker", "azure.functions", "azure_functions_runtime")
_TRUE = ("1", "true", "t", "yes", "y")


class InvocationTask(asyncio.Task[Any]):
    """A task that inherits the invocation of the task that created it."""

    invocation_id: str | None = None

    def __init__(self, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        super().__init__(coro, **options)
        if (creator := asyncio.current_task(options["loop"])) is not None:
            self.invocation_id = getattr(creator, "invocation_id", None)

    @classmethod
    def factory(
        cls, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> "InvocationTask":
        return cls(coro, loop=loop, **options)


class Invocations:
    """Knows which invocation the running code belongs to."""

    def __init__(self) -> None:
        # The runtime's, which it sets in the threads of functions that are not async.
        self.in_context: ContextVar[str | None] | None = None
        self._in_thread: dict[int, str] = {}

    def begin(self, invocation_id: str) -> None:
        """Marks the current task and thread. The thread stays marked until another invocation begins in it."""
        task = asyncio.current_task()
        if isinstance(task, InvocationTask):
            task.invocation_id = invocation_id
        self._in_thread[threading.get_ident()] = invocation_id

    def fail(self) -> None:
        """Clears the thread's mark, which is done only where the runtime itself fails."""
        self._in_thread.pop(threading.get_ident(), None)

    def current(self) -> str | None:
        """Of the task, else of the context, else of whichever invocation began last in this thread."""
        found = _of_task()
        if found is None and self.in_context is not None:
            found = self.in_context.get()
        return found or self._in_thread.get(threading.get_ident())


def _of_task() -> str | None:
    try:
        return getattr(asyncio.current_task(), "invocation_id", None)
    except RuntimeError:  # a thread without a loop
        return None


class HostHandler(logging.Handler):
    """Sends each record to the host, as the message that the worker calls RpcLog."""

    def __init__(self, send: Callable[[dict[str, Any]], None], invocations: Invocations) -> None:
        super().__init__()
        self._send_to_host = send
        self._invocations = invocations

    def emit(self, record: logging.LogRecord) -> None:
        self._send_to_host(
            {
                "log": self.format(record),
                "level": record.levelno,
                "logger": record.name,
                "system": record.name.startswith(_SYSTEM_LOGGERS),
                "invocation": self._invocations.current(),
            }
        )


def log_to_host(send: Callable[[dict[str, Any]], None], invocations: Invocations) -> None:
    root = logging.getLogger()
    debug = os.environ.get("PYTHON_ENABLE_DEBUG_LOGGING", "").strip().lower() in _TRUE
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    root.addHandler(HostHandler(send, invocations))
