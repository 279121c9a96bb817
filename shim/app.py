"""One request, from the caller to the APIM API and back."""

import logging
import secrets

from starlette.requests import Request
from starlette.responses import Response

from shim import errors, headers, routes
from shim.answer import explain
from shim.auth import authenticate
from shim.body import find_route
from shim.caller import Caller
from shim.cors import Cors
from shim.diagnosis import place_of
from shim.errors import InternalError, ShimError
from shim.keys.store import KeyStore
from shim.rewrite import rewrite
from shim.settings import Settings
from shim.streaming import StreamedResponse
from shim.upstream import Upstream

log = logging.getLogger("shim")


class Shim:
    """What is shared between requests: settings, key store and upstream client."""

    def __init__(self, settings: Settings, keys: KeyStore, upstream: Upstream) -> None:
        self._settings = settings
        self._keys = keys
        self._upstream = upstream
        self._cors = Cors.of(settings)

    async def handle(self, request: Request) -> Response:
        """Answers every call; a refusal is an answer too, in OpenAI's shape and with CORS headers."""
        if preflight := self._cors.preflight(request.method, request.headers):
            return respond(*preflight)
        request_id = _request_id(request)
        try:
            response = await self._forward(request, request_id)
        except ShimError as error:
            response = refuse(error, request_id)
        except Exception as error:
            # By type alone: a message or a traceback could hold what the caller sent.
            log.error("defect: %s request_id=%s", place_of(error), request_id.decode())
            response = refuse(
                InternalError("The shim failed on this call. It is logged by its request id."), request_id
            )
        response.raw_headers = self._cors.decorate(response.raw_headers, request.headers.get("origin"))
        return response

    async def _forward(self, request: Request, request_id: bytes) -> Response:
        received = request.headers.raw
        call = routes.parse(
            request.method, request.scope["raw_path"], request.scope["query_string"], received
        )
        principal = await authenticate(received, self._keys, self._settings.user_token_header)
        caller = Caller(request.receive)
        route, body = await find_route(call, received, caller, self._settings)
        upstream_request = rewrite(call, route, received, principal, body, request_id, self._settings)
        answer = await self._upstream.send(upstream_request, caller)
        await explain(answer, self._upstream, call, route, caller, self._settings)
        log.info(
            "%s %s -> %d subscription=%s scheme=%s dialect=%s request_id=%s",
            call.method, call.path, answer.status,
            principal.subscription.label, principal.scheme, call.dialect, request_id.decode(),
        )  # fmt: skip
        kept = headers.for_caller(answer.headers, status=answer.status, request_id=request_id)
        return StreamedResponse(answer, kept, caller, heartbeat=self._settings.sse_heartbeat)


def _request_id(request: Request) -> bytes:
    given = headers.named(request.headers.raw, b"x-request-id")
    return headers.valid_request_id(given[0] if given else None) or new_request_id()


def new_request_id() -> bytes:
    return secrets.token_hex(16).encode()


def refuse(error: ShimError, request_id: bytes) -> Response:
    """The error's answer, logged by its request id."""
    log.log(
        logging.WARNING if error.status >= 500 else logging.INFO,
        "refused: %d %s request_id=%s", error.status, error.code, request_id.decode(),
    )  # fmt: skip
    status, fields, content = errors.render(error)
    return respond(status, [*fields, (b"x-request-id", request_id)], content)


def respond(status: int, fields: errors.Headers, content: bytes) -> Response:
    """An answer with exactly these headers."""
    response = Response(content, status)
    response.raw_headers = fields
    return response
