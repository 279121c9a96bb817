"""One request, from the caller to the APIM API and back."""

import logging
import random
import time
from collections.abc import Awaitable, Callable

from shim import headers
from shim.answer.cors import Cors
from shim.answer.head import fit_for_host
from shim.answer.refusal import refuse, respond
from shim.answer.retirement import announce, refusal
from shim.answer.streaming import StreamedResponse
from shim.answer.upstream_errors import clarify_error
from shim.asgi import Request, Response
from shim.auth import authenticate
from shim.call.body import open_body
from shim.call.caller import Caller
from shim.call.parse import Call, parse
from shim.call.rewrite import rewrite
from shim.call.routes import find_route, model_use
from shim.call.spool import SpoolSpace
from shim.errors import InternalError, ShimError, describe_defect
from shim.keys.store import KeyStore
from shim.monitoring.operation import operation_name
from shim.monitoring.record import CallRecord, Meter
from shim.settings import Settings
from shim.settings.retirement import Retirement
from shim.upstream import Upstream

log = logging.getLogger("shim")

type Handler = Callable[[Request, CallRecord], Awaitable[Response]]

_UNMETERED = Meter()
# Of request ids, which tell calls apart and guard nothing: the kernel's random numbers would cost a system call each.
_ids = random.Random()  # noqa: S311


async def answer(
    request: Request, cors: Cors, retirement: Retirement, handle: Handler, meter: Meter = _UNMETERED
) -> Response:
    """The response to any request, with CORS headers; a refusal is a response too, in OpenAI's shape.

    Whatever it is, it carries what has been announced about the end of the shim.

    `handle` is given the request, and the record of the call, which `meter` has begun.
    """
    request_id = _request_id(request)
    record = meter.begin(request.headers.raw, request_id)
    try:
        if preflight := cors.preflight(request.method, request.headers):
            return respond(204, preflight)
        response = await handle(request, record)
    except ShimError as error:
        record.refused(error.status, error.code)
        response = refuse(error, also=[(b"x-request-id", request_id)])
    except Exception as defect:
        log.error("defect: %s request_id=%s", describe_defect(defect), request_id.decode())
        failure = InternalError(
            "The shim failed on this call. Its operator finds why in the log, by the request id."
        )
        record.refused(failure.status, failure.code)
        response = refuse(failure, also=[(b"x-request-id", request_id)])
    announced = announce(response.raw_headers, retirement)
    response.raw_headers = cors.decorate(announced, request.headers.get("origin"))
    return response


class Shim:
    """What is shared between calls: settings, key store and upstream client."""

    def __init__(self, settings: Settings, keys: KeyStore, upstream: Upstream) -> None:
        self._settings = settings
        self._keys = keys
        self._upstream = upstream
        self._spool_space = SpoolSpace(settings.max_body_bytes)

    async def forward(self, request: Request, record: CallRecord) -> Response:
        """Sends the call on to the APIM API. Raises ShimError for what it refuses."""
        settings, received, request_id = self._settings, request.headers.raw, record.request_id
        if refused := refusal(settings.retirement, time.time()):
            raise refused
        call = parse(request.method, request.scope["raw_path"], request.scope["query_string"], received)
        use = model_use(call, settings)
        _note_call(record, call, unread=use == "unread")
        principal = await authenticate(received, self._keys, settings.user_token_header)
        record.label, record.scheme = principal.subscription.label, principal.scheme
        caller = Caller(request.receive, record.arrived)
        body = await open_body(
            received, caller, model=use, max_bytes=settings.max_body_bytes, space=self._spool_space
        )
        try:
            route = find_route(call, body.model, settings)
            record.model = route.model or route.deployment or record.model
            body.replace_model(route.new_model)
            span = record.begin_span(received, call.method, route.origin)
            upstream_request = rewrite(call, route, received, principal, body, request_id, settings, span)
            response = await self._upstream.send(upstream_request, caller)
            if span is not None:
                span.status = response.status
        except BaseException:
            body.close()
            raise
        try:
            await clarify_error(response, self._upstream, call, route, caller, settings)
            kept, dropped = fit_for_host(
                headers.for_caller(response.headers, status=response.status, request_id=request_id)
            )
        except BaseException:
            await response.close()
            raise
        if dropped:
            names = b", ".join(dropped).decode("ascii", "replace")
            log.warning(
                "headers dropped, as the host takes ASCII only: %s request_id=%s", names, request_id.decode()
            )
        record.answered(response.status, kept)
        return StreamedResponse(response, kept, caller, heartbeat=settings.sse_heartbeat, record=record)


def _note_call(record: CallRecord, call: Call, *, unread: bool) -> None:
    """What the call asks for; of its path only the operation, since the rest may hold names of people and files."""
    record.dialect = call.dialect
    record.operation = operation_name(call.method, call.operation)
    record.has_model = unread and call.has_model_in_body
    # Stored responses and runs say their usage again each time they are read.
    record.has_usage = call.deployment_place is not None and call.method == "POST"


def _request_id(request: Request) -> bytes:
    """The caller's own, if it may go into a log line, else a new one."""
    given = headers.values_of(request.headers.raw, b"x-request-id")
    return headers.valid_request_id(given[0] if given else None) or b"%032x" % _ids.getrandbits(128)
