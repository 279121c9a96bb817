"""The call of a function by HTTP: an invocation and a forwarded request, which end together.

From FunctionInvocationMiddleware.cs and ExceptionMiddleware.cs (WebJobs.Script.WebHost/Middleware),
GrpcWorkerChannel.cs (SendInvocationRequest, InvokeResponse) and DefaultHttpProxyService.cs of the host (4.1037).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from devhost.caller import Caller
from devhost.forwarding import Forwarder, ForwardingFailed
from devhost.host_headers import for_worker
from devhost.limits import Limits
from devhost.process import Function, Worker
from devhost.request import BadBody, CallerGone, Request
from devhost.sent import Sent, Upload
from devhost.trigger_metadata import trigger_metadata

log = logging.getLogger("devhost")

_CHUNK = 65536


class Execution:
    def __init__(self, worker: Worker, forwarder: Forwarder, limits: Limits) -> None:
        self._worker = worker
        self._forwarder = forwarder
        self._limits = limits

    async def execute(
        self, request: Request, target: str, caller: Caller, function: Function, params: dict[str, str]
    ) -> None:
        """Invokes the function and forwards the request, which end together.

        The response is over when both are: before that a response without a body has not even begun. Whatever fails
        before it begins is an empty 500 (ExceptionMiddleware.cs); what fails later breaks the connection.
        """
        try:
            content = await self._read_whole(request, caller)
        except BadBody as error:
            log.error("the request's body was not read: %s", error)
            caller.respond(500, [])
            return
        metadata = trigger_metadata(content or b"", target.partition("?")[2], params, request.headers)
        invocation_id, ended = self._worker.invoke(function, params, metadata)
        headers = for_worker(
            request.headers,
            method=request.method,
            length=request.length,
            invocation_id=invocation_id,
            caller=caller.address,
        )
        read = caller.read if content is None else _reader_of(content)
        sent = Sent(request.method, target, headers, Upload(read) if request.has_body else None)
        forwarded = await self._forward_until_gone(sent, caller)
        failed = await self._failure_of(invocation_id, ended)
        if forwarded and not failed:
            return
        if caller.started:
            raise CallerGone
        caller.respond(500, [])

    async def _read_whole(self, request: Request, caller: Caller) -> bytes | None:
        """A body of known length; None of one that is forwarded as it arrives.

        HttpTriggerAttributeBindingProvider.cs (BindAsync) reads it before the function is invoked, into a temporary
        file and a string.
        """
        if request.length is None or not (self._limits.buffers or request.length == 0):
            return None
        content = bytearray()
        while more := await caller.read():
            content += more
        return bytes(content)

    async def _forward_until_gone(self, sent: Sent, caller: Caller) -> bool:
        """Whether a whole response was relayed. A caller who leaves ends it, and not the invocation."""
        forwarding = asyncio.create_task(self._forwarder.forward(sent, caller))
        gone = asyncio.create_task(caller.gone())
        try:
            await asyncio.wait([forwarding, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not forwarding.done():
                forwarding.cancel()
                await asyncio.wait([forwarding])
        if forwarding.cancelled():
            return False
        try:
            await forwarding
        except ForwardingFailed as failure:
            log.error("forwarding failed: %s", failure)
            return False
        except CallerGone:
            return False
        return True

    async def _failure_of(self, invocation_id: str, ended: asyncio.Future[str | None]) -> str | None:
        """How the invocation failed, if it did. The host waits for it, whatever became of the request."""
        try:
            failure = await asyncio.wait_for(asyncio.shield(ended), self._limits.invocation)
        except TimeoutError:
            failure = "it never ended"
        if failure:
            log.error("invocation %s failed: %s", invocation_id, failure)
        return failure


def _reader_of(content: bytes) -> Callable[[], Awaitable[bytes]]:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]

    left = pieces()

    async def read() -> bytes:
        return next(left, b"")

    return read
