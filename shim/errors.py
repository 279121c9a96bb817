"""The shim's own refusals, and the only place that knows OpenAI's error JSON.

ShimError
 ├── InvalidRequest            400
 │    ├── InvalidPath          400  a path that could leave the configured base
 │    ├── ModelRequired        400  the route needs `model` and the body names none
 │    ├── IncompleteBody       400  a body whose end never came, or whose framing is not valid
 │    └── BodyTooLarge         413  a body that must be read is over MAX_BODY_BYTES
 ├── AuthenticationFailed      401
 │    ├── MissingKey           401
 │    ├── MalformedKey         401
 │    └── UnknownKey           401
 ├── OriginNotAllowed          403  a preflight from an origin that CORS_ORIGINS does not cover
 ├── NotFound                  404  a path of no API here: mostly a wrong base URL
 ├── MethodNotAllowed          405  CONNECT or TRACE
 ├── Retired                   410  past SHIM_SUNSET
 ├── BrownedOut                410  in a window of SHIM_BROWNOUT
 ├── CallerGone                499  nobody is left to read this one
 ├── InternalError             500  a defect of ours
 ├── RealtimeNotSupported      501  a WebSocket, which a Function cannot carry
 ├── ResponseLost              502  the Functions host could not use the response and sent the call again
 ├── Misconfigured             503  settings are missing or wrong
 ├── TooBusy                   503  no room for another large body
 ├── KeyStoreUnavailable       503  the key could not be checked; never a 401
 └── UpstreamFailed
      ├── UpstreamUnreachable  502  no connection: nothing was sent
      ├── UpstreamBroken       502  the connection broke before a response
      ├── UpstreamHeadTooLarge 502  the response has more headers than the Functions host takes
      └── UpstreamTimeout      504  no response in time
"""

import json
from collections.abc import Iterable
from typing import ClassVar

from shim.headers import METHODS, Headers

SOURCE_HEADER = b"x-shim-error-source"
#: Keeps OpenAI's SDKs from retrying, whatever the status (openai-python, _base_client.py, _should_retry).
NO_RETRY = (b"x-should-retry", b"false")


class ShimError(Exception):
    """A refusal by the shim itself, in the shape of OpenAI's errors.

    `message` is for the caller: it says what to do next and holds no secret.
    `code` is stable, so that programs and docs/troubleshooting.md can rely on it.
    """

    status: ClassVar[int]
    type: ClassVar[str]
    code: ClassVar[str]
    param: ClassVar[str | None] = None

    def __init__(self, message: str, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = tuple(headers)


class InvalidRequest(ShimError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidPath(InvalidRequest):
    code = "invalid_path"


class ModelRequired(InvalidRequest):
    code = "model_required"
    param = "model"


class IncompleteBody(InvalidRequest):
    code = "incomplete_body"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"


class AuthenticationFailed(ShimError):
    """A 401, which HTTP obliges to name the scheme (RFC 9110, section 11.6.1)."""

    status = 401
    type = "authentication_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=[(b"www-authenticate", b"Bearer")])


class MissingKey(AuthenticationFailed):
    code = "missing_api_key"


class MalformedKey(AuthenticationFailed):
    code = "malformed_api_key"


class UnknownKey(AuthenticationFailed):
    # OpenAI's own code for a wrong key: clients that look for it find it.
    code = "invalid_api_key"


class OriginNotAllowed(ShimError):
    """A refused preflight. Browsers show none of it to the page; it is for whoever looks at the failed request."""

    status = 403
    type = "invalid_request_error"
    code = "cors_origin_not_allowed"


class NotFound(ShimError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(ShimError):
    """A 405, which HTTP obliges to list what is allowed (RFC 9110, section 15.5.6)."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=[(b"allow", METHODS)])


class Retired(ShimError):
    """No SDK retries a 410, and it says that the condition is likely to be permanent (RFC 9110, section 15.5.11)."""

    status = 410
    type = "invalid_request_error"
    code = "shim_retired"


class BrownedOut(Retired):
    """A rehearsal of the end. `retry_after` is in seconds."""

    code = "shim_brownout"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers=[(b"retry-after", b"%d" % retry_after)])


class CallerGone(ShimError):
    """The caller closed its connection. 499 is nginx's number for it; it is only ever logged."""

    status = 499
    type = "api_error"
    code = "caller_gone"

    def __init__(self) -> None:
        super().__init__("The caller closed the connection before the response was complete.")


class InternalError(ShimError):
    status = 500
    type = "api_error"
    code = "internal_error"


class RealtimeNotSupported(ShimError):
    status = 501
    type = "invalid_request_error"
    code = "realtime_not_supported"


class ResponseLost(ShimError):
    """The call has run already, perhaps at a price: SDKs, which retry a 502, are told not to."""

    status = 502
    type = "api_error"
    code = "response_lost"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=[NO_RETRY])


class Misconfigured(ShimError):
    status = 503
    type = "api_error"
    code = "shim_misconfigured"


class TooBusy(ShimError):
    """The shim is at one of its own bounds. `retry_after` is in seconds."""

    status = 503
    type = "api_error"
    code = "too_busy"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers=[(b"retry-after", b"%d" % retry_after)])


class KeyStoreUnavailable(ShimError):
    """The key store did not respond, so the key is neither good nor bad.

    `retry_after` is in seconds. The reason for operators goes to the log, not to the caller.
    """

    status = 503
    type = "api_error"
    code = "key_store_unavailable"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        self.retry_after = max(1, retry_after)
        super().__init__(message, headers=[(b"retry-after", b"%d" % self.retry_after)])


class UpstreamFailed(ShimError):
    status = 502
    type = "api_error"
    code = "upstream_failed"


class UpstreamUnreachable(UpstreamFailed):
    code = "upstream_unreachable"


class UpstreamBroken(UpstreamFailed):
    code = "upstream_broken"


class UpstreamHeadTooLarge(UpstreamFailed):
    code = "upstream_head_too_large"


class UpstreamTimeout(UpstreamFailed):
    status = 504
    code = "upstream_timeout"


def body(message: str, type: str, code: str | None, param: str | None = None) -> bytes:
    """The error JSON that OpenAI's SDKs parse: https://platform.openai.com/docs/guides/error-codes."""
    error = {"message": message, "type": type, "param": param, "code": code}
    return encode_json({"error": error})


def encode_json(document: object) -> bytes:
    """JSON in UTF-8; a lone surrogate, which UTF-8 cannot express, becomes a question mark."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def render(error: ShimError) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal."""
    content = body(error.message, error.type, error.code, error.param)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (SOURCE_HEADER, b"shim"),
        *error.headers,
    ]
    return error.status, headers, content


def describe_defect(error: BaseException) -> str:
    """The type of an exception whose message must not be logged, and where it was raised.

    Its message might quote a URL, and with it a digest, or anything that the caller sent.
    """
    if isinstance(error, BaseExceptionGroup):
        return describe_defect(error.exceptions[0])
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}"
    return type(error).__name__ + where
