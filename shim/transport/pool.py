"""Idle connections to one origin, kept for the next call as long as they can be trusted."""

import asyncio
import logging
from dataclasses import dataclass

from shim.transport.connection import Connection

log = logging.getLogger("shim")

# Idle connections are let go before API Management's load balancer drops them, without a word, after four minutes:
# https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset
KEEPALIVE_SECONDS = 90.0
# For which an origin that has sent a response nobody asked for is not trusted with a kept connection.
_DISTRUST_SECONDS = 60.0


@dataclass(slots=True)
class Counts:
    """What has become of connections: `stale` were found dead or spoilt when they were to be used again, and `repeated`
    are the requests that went out a second time because of it.
    """

    opened: int = 0
    reused: int = 0
    stale: int = 0
    repeated: int = 0


class Pool:
    """Hands out the connection used last, so that those that are not needed grow old and go."""

    def __init__(self, host: str, counts: Counts, keepalive: float = KEEPALIVE_SECONDS) -> None:
        self.idle: list[Connection] = []
        self._host = host
        self._counts = counts
        self._keepalive = keepalive
        self._loop = asyncio.get_running_loop()
        self._distrusted_until = 0.0
        self._sweeping: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if self._is_fresh(connection):
                self._counts.reused += 1
                return connection
            self._counts.stale += 1
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Takes back a connection whose response has ended."""
        if self._loop.time() < self._distrusted_until:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self.idle.append(connection)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keepalive, self._sweep)

    def keep_opened(self, opening: asyncio.Task[Connection]) -> None:
        """Takes a connection that was opened for nobody, if it could be opened."""
        if not opening.cancelled() and opening.exception() is None:
            self.release(opening.result())

    def distrust(self) -> None:
        """A response came that nobody had asked for: the next might come just after a request, and pass for its own."""
        if self._loop.time() >= self._distrusted_until:
            log.error(
                "%s sent a response that nobody asked for: its connections are not reused for %d s",
                self._host,
                _DISTRUST_SECONDS,
            )
        self._distrusted_until = self._loop.time() + _DISTRUST_SECONDS
        self._close_idle()

    def close(self) -> None:
        """For good: what is released from now on is closed, too."""
        self._distrusted_until = float("inf")
        self._close_idle()

    def _close_idle(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def _is_fresh(self, connection: Connection) -> bool:
        return self._loop.time() - connection.idle_since < self._keepalive and connection.is_fresh()

    def _sweep(self) -> None:
        """Closes what has been idle for too long, so that upstream need not hold it either."""
        self._sweeping = None
        fresh = [connection for connection in self.idle if self._is_fresh(connection)]
        for connection in set(self.idle).difference(fresh):
            connection.close()
        self.idle = fresh
        if fresh:
            self._sweeping = self._loop.call_later(self._keepalive / 3, self._sweep)
