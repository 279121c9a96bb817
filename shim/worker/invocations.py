"""The two legs of a request, brought together by the runtime's coordinator: neither is left waiting for ever.

The host calls twice for each request: an invocation by gRPC, and the HTTP request itself, to the worker's own server.
The runtime's `HttpCoordinator` brings the two together by the header `x-ms-invocation-id`, and waits without limit for
either; so whatever the server refuses, it must tell the coordinator, or the invocation hangs until functionTimeout.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from shim.errors import IncompleteBody, InternalError, ResponseLost, ShimError, describe_defect

log = logging.getLogger("shim")

# The two legs of a request arrive within milliseconds of each other, or with the host's retries within 2.5 s. One never
# comes if the caller sent a header that is not ASCII: the host announces the call, and then cannot forward it.
LEG_TIMEOUT_SECONDS = 5.0
# How many invocations that are over are remembered.
_REMEMBERED = 1_000
#: Set in the ASGI scope's state once a request has arrived to its last byte.
ARRIVED = "arrived"


class Invocations:
    """Ends invocations whose request never became one, and forgets those that are over.

    Reaches into the runtime's coordinator (1.3.0), which keeps its entry for every request for ever: about 2 KB each.
    Where a later runtime has no such attribute, this does nothing.
    """

    def __init__(self, coordinator: Any | None = None) -> None:
        self._coordinator: Any = coordinator or _coordinator()
        self._entries: dict[str, Any] = getattr(self._coordinator, "_context_references", {})
        self._half_arrived: set[str] = set()
        self._begun: dict[str, Mapping[str, Any]] = {}
        # By id, whether the request had arrived to its last byte.
        self._over: OrderedDict[str, bool] = OrderedDict()

    def begin(self, invocation_id: str, state: Mapping[str, Any]) -> None:
        """Registers the first request under that id, which is then to be released; `state` is that of its ASGI scope.

        Raises IncompleteBody or ResponseLost for any further request. The host sends a request again, under the same
        id, after any HttpRequestException of its client (RetryProxyHandler.cs): it could not read the caller's body
        to its end, or could not use the response. No invocation comes for the repetition, and the runtime would have
        both wait for the one response.
        """
        if invocation_id in self._begun:
            raise _repeated(self._begun[invocation_id].get(ARRIVED, False))
        if invocation_id in self._over:
            raise _repeated(self._over[invocation_id])
        self._begun[invocation_id] = state

    def release(self, invocation_id: str) -> None:
        """Forgets an invocation whose response is done, but for its id and whether its request had arrived."""
        state = self._begun.pop(invocation_id, {})
        self._entries.pop(invocation_id, None)
        self._over[invocation_id] = state.get(ARRIVED, False)
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    async def refuse(self, invocation_id: str) -> None:
        """Ends an invocation whose HTTP request could not be understood; the runtime reports it as failed."""
        if self._coordinator is None:
            return
        try:
            self.begin(invocation_id, {})
        except ShimError:
            return  # the first request under that id ends it
        self._coordinator.set_http_request(invocation_id, None)
        try:
            async with asyncio.timeout(LEG_TIMEOUT_SECONDS):
                await self._coordinator.await_http_response_async(invocation_id)
        except (TimeoutError, ValueError):
            pass  # the invocation never came, or its response is of no use: either way it is over
        finally:
            self.release(invocation_id)

    async def sweep_forever(self, interval: float = LEG_TIMEOUT_SECONDS) -> None:
        """Sweeps every `interval` seconds, so that a leg waits for the other for one to two of them."""
        while True:
            await asyncio.sleep(interval)
            try:
                self.sweep()
            except Exception as defect:  # one bad entry must not end the sweep of all others
                log.error("the sweep of invocations failed: %s", describe_defect(defect))

    def sweep(self) -> None:
        """Ends what was half arrived at the last sweep already: an invocation without a request, or the reverse."""
        half_arrived = {key for key, entry in self._entries.items() if not _has_met(entry)}
        for invocation_id in half_arrived & self._half_arrived:
            self._end(invocation_id)
        self._half_arrived = half_arrived

    def _end(self, invocation_id: str) -> None:
        log.error("invocation %s was half arrived for too long; ended", invocation_id)
        entry = self._entries[invocation_id]
        if entry.http_request is not None:
            self._coordinator.set_http_response(
                invocation_id,
                InternalError("The Functions host announced no invocation for this request. Try again."),
            )
        elif entry.http_response_available_event.is_set():
            self.release(invocation_id)
        else:
            self._coordinator.set_http_request(invocation_id, None)


def _repeated(arrived: bool) -> ShimError:
    if arrived:
        return ResponseLost(
            "The response to this call was lost between the shim and the Functions host, which sent the call again."
            " It may have run and been billed, so it was not run again: repeat it only if that does no harm."
        )
    return IncompleteBody(
        "The body of this call could not be read to its end: its chunks are not valid HTTP/1.1, or it arrived too"
        " slowly, is too large, or broke off. Send the call again with a complete body."
    )


def _has_met(entry: Any) -> bool:
    """Whether the invocation has taken the request, and a response is awaited by somebody."""
    taken = entry.http_request_available_event.is_set() and entry.http_request is None
    failed = entry.http_response_available_event.is_set() and isinstance(entry.http_response, Exception)
    return taken and not failed


def _coordinator() -> Any | None:
    try:
        from azure_functions_runtime.http_v2 import http_coordinator
    except ImportError:
        return None
    return http_coordinator
