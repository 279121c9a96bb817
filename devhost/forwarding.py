"""Forwarding of a request to the worker: YARP's IHttpForwarder and the host's retries around its client.

From HttpForwarder.cs and StreamCopier.cs of microsoft/reverse-proxy (2.0.1), DefaultHttpProxyService.cs and
RetryProxyHandler.cs of the host (4.1037).
"""

import asyncio
import logging
from typing import NoReturn

from devhost.caller import Caller
from devhost.host_headers import NotAscii, for_caller
from devhost.limits import Limits
from devhost.request import CallerGone
from devhost.sent import SendFailed, Sent
from devhost.worker_http import Response, Truncated, WorkerHttp

log = logging.getLogger("devhost")


class ForwardingFailed(Exception):
    """No whole response was relayed, for a reason that YARP calls ForwarderError."""


class Forwarder:
    def __init__(self, worker: WorkerHttp, limits: Limits) -> None:
        self._worker = worker
        self._limits = limits

    async def forward(self, sent: Sent, caller: Caller) -> None:
        """Relays the worker's response, but for its end. Raises ForwardingFailed, CallerGone.

        Whatever ends it early, a caller who leaves too, breaks the connection to the worker.
        """
        try:
            async with asyncio.timeout(self._limits.activity) as silence:
                await self._forward(sent, caller, _Activity(silence, self._limits.activity))
        except TimeoutError:
            raise ForwardingFailed(f"not a byte for {self._limits.activity} s") from None

    async def _forward(self, sent: Sent, caller: Caller, activity: "_Activity") -> None:
        try:
            response = await self._send(sent, activity)
        except SendFailed as failure:
            _blame(sent, failure)
        activity()
        try:
            caller.respond(response.status, for_caller(response.status, response.headers), response.reason)
            await self._relay(response, caller, activity)
        except NotAscii as error:
            raise ForwardingFailed(f"the response header {error} has a value that Kestrel refuses") from None
        except Truncated as error:
            raise ForwardingFailed(f"the response broke off: {error}") from None
        finally:
            response.close()

    async def _send(self, sent: Sent, activity: "_Activity") -> Response:
        """Tries again whatever has failed: a body that has begun to be sent only fails again."""
        delay = self._limits.first_delay
        for attempt in range(1, self._limits.attempts):
            try:
                return await self._worker.send(sent, activity)
            except SendFailed as failure:
                log.debug("attempt %d at reaching the worker failed: %s", attempt, failure)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._limits.longest_delay)
        return await self._worker.send(sent, activity)

    async def _relay(self, response: Response, caller: Caller, activity: "_Activity") -> None:
        """Each piece as it comes."""
        if not self._limits.buffers:
            caller.flush_head()
        while content := await response.read():
            activity()
            await caller.write(content)
            activity()


class _Activity:
    """YARP's ActivityCancellationTokenSource.cs: each read and each write puts the end off."""

    def __init__(self, silence: asyncio.Timeout, seconds: float) -> None:
        self._silence = silence
        self._seconds = seconds

    def __call__(self) -> None:
        self._silence.reschedule(asyncio.get_running_loop().time() + self._seconds)


def _blame(sent: Sent, failure: SendFailed) -> NoReturn:
    if sent.upload is not None and isinstance(sent.upload.failure, CallerGone):
        raise CallerGone from failure
    reason = sent.upload.failure if sent.upload is not None and sent.upload.failure else failure
    raise ForwardingFailed(f"the worker was not reached: {reason}") from failure
