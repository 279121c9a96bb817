"""The caller's side of one request: the body as it arrives, and notice of the caller's disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager

from shim.asgi import Receive
from shim.errors import CallerGone


class Caller:
    """Wraps ASGI's `receive`, which can have only one reader at a time.

    The body reads first; from its end on, a watcher waits for `http.disconnect`. The worker cancels no function
    when its caller disconnects, so without this an abandoned completion would run on, and be billed.

    `sent_all` says that the whole body has arrived, `gone` that the caller has disconnected; `task` is then cancelled.
    `arrived` is told of every piece of the body, those that nobody reads included.
    """

    __slots__ = ("_arrived", "_receive", "_watcher", "gone", "sent_all", "task")

    def __init__(self, receive: Receive, arrived: Callable[[bytes], None] | None = None) -> None:
        self._receive = receive
        self._arrived = arrived or _ignore
        self.task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.gone = False
        self.sent_all = False

    async def body(self) -> AsyncGenerator[bytes]:
        """The body's chunks as they arrive, at most 64 KiB ahead of their reader. Raises CallerGone."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._disconnect()
                    raise CallerGone
                if not message.get("more_body", False):
                    self.sent_all = True
                    self.watch()
                if chunk := message.get("body", b""):
                    self._arrived(chunk)
                    yield chunk
                if self.sent_all:
                    return
        finally:
            self.watch()

    def sent_nothing(self) -> None:
        """The call has no body: only the caller's disconnect is left to wait for."""
        self.sent_all = True
        self.watch()

    def watch(self) -> None:
        """Starts waiting for the caller's disconnect. Call it when nothing more will be read of the body."""
        if self._watcher is None and not self.gone:
            # Eagerly: most watchers only wait, and can start to without a turn of the loop.
            loop = asyncio.get_running_loop()
            self._watcher = asyncio.Task(self._watch(), loop=loop, eager_start=True)

    def cancelling(self) -> AbstractContextManager[None]:
        """Cancels the block as soon as the caller disconnects; the block then raises CallerGone."""
        return _Cancelling(self)

    async def _watch(self) -> None:
        while (message := await self._receive())["type"] != "http.disconnect":
            # The rest of a body that upstream did not want: counted, and dropped.
            self._arrived(message.get("body", b""))
        self._disconnect()

    def _disconnect(self) -> None:
        self.gone = True
        if self.task is not None:
            self.task.cancel()


class _Cancelling:
    """A class, since a generator for contextlib takes several times as long, and every call has two."""

    __slots__ = ("_caller", "_cancelled")

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        if self._caller.gone:
            raise CallerGone
        task = asyncio.current_task()
        assert task is not None
        self._cancelled = self._caller.task = task

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._caller.task = None
        if kind is asyncio.CancelledError and self._caller.gone:
            self._cancelled.uncancel()
            raise CallerGone from None


def _ignore(_: bytes) -> None:
    """Nobody counts."""
