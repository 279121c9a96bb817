"""Errors of API Management and Azure OpenAI, in the shape that SDKs parse and with what to do next. Pure."""

import json
import re
from typing import Any, NamedTuple

from shim import errors
from shim.errors import SOURCE_HEADER
from shim.headers import Headers, values_of

# What API Management says, and the code for it: the first that fits by status and words.
# https://learn.microsoft.com/azure/api-management/api-management-error-handling-policies#predefined-errors-for-built-in-steps
_CODES: tuple[tuple[int, re.Pattern[str], str], ...] = (
    (401, re.compile("missing subscription key", re.IGNORECASE), "apim_key_missing"),
    (401, re.compile("invalid subscription key", re.IGNORECASE), "apim_key_invalid"),
    (403, re.compile("quota", re.IGNORECASE), "apim_quota_exceeded"),
    (404, re.compile("resource not found", re.IGNORECASE), "apim_operation_missing"),
    (429, re.compile("token limit", re.IGNORECASE), "apim_token_limited"),
    (429, re.compile("rate limit", re.IGNORECASE), "apim_rate_limited"),
)
# All others are an `invalid_request_error`, or from 500 on an `api_error`.
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Headers about the body that is replaced.
_FRAMING = frozenset([b"content-encoding", b"content-length", b"content-type"])
# Characters of the caller's own that a message repeats.
_MAX_SHOWN = 256
_SECONDS = re.compile(r"[Tt]ry again in (\d{1,9}) seconds?")
_REPLENISHED = re.compile(r"replenished in (?:(\d{1,4})\.)?(\d{1,2}):(\d\d):(\d\d)")


class FailedCall(NamedTuple):
    """The call that was refused: `method` and `path` of the v1 API, and, where the shim knows them, the `model` that
    the caller named and the `deployment` that it led to.
    """

    method: str
    path: str
    model: str | None
    deployment: str | None


def reshape(
    status: int, headers: Headers, content: bytes, failed: FailedCall
) -> tuple[Headers, bytes] | None:
    """Headers and body for the caller; None where they pass unchanged.

    `headers` have lower-case names, and `content` is uncompressed.
    """
    document = _object(content)
    if document is None or status < 400:
        return None
    if _is_apim(document):
        return _reshape_apim(status, headers, document["message"], failed)
    if failed.deployment is not None and _code(document) == "DeploymentNotFound":
        words = _explain_deployment(failed.deployment, failed.model)
        document["error"]["message"] = f"{document['error'].get('message', '')} {words}"
        return framed(headers, errors.encode_json(document))
    return None


def _reshape_apim(status: int, headers: Headers, message: str, failed: FailedCall) -> tuple[Headers, bytes]:
    code = _code_for(status, message)
    if code == "apim_operation_missing":
        message += _explain_operation(failed)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    kept = [*headers, (SOURCE_HEADER, b"apim")]
    wait = _wait(message)
    if wait is not None and not values_of(headers, b"retry-after"):
        kept.append((b"retry-after", b"%d" % wait))
    return framed(kept, errors.body(message, kind, code))


def _is_apim(document: dict[str, Any]) -> bool:
    """Whether an error has API Management's own shape, without an `error` object."""
    return (
        "error" not in document
        and isinstance(document.get("statusCode"), int)
        and isinstance(document.get("message"), str)
    )


def framed(headers: Headers, content: bytes) -> tuple[Headers, bytes]:
    """The headers and body of a response whose body is replaced with JSON `content`."""
    kept = [header for header in headers if header[0] not in _FRAMING]
    return [*kept, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))], content


def _code_for(status: int, message: str) -> str:
    fitting = (code for of, words, code in _CODES if of == status and words.search(message))
    return next(fitting, "apim_error")


def _wait(message: str) -> int | None:
    """The seconds to wait that API Management states in its message."""
    if match := _SECONDS.search(message):
        return int(match[1])
    if match := _REPLENISHED.search(message):
        days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return None


def _explain_operation(failed: FailedCall) -> str:
    """Which operation is missing, and how the API's operator can add it."""
    models = failed.path.startswith("/models")
    return (
        f": the APIM API behind this shim has no operation {failed.method} {failed.path[:_MAX_SHOWN]}."
        " Its operator can add the operation to that API in Azure API Management"
        + (", or name the models in the shim's setting MODELS." if models else ".")
    )


def _explain_deployment(deployment: str, model: str | None) -> str:
    """Which deployment the call went to, and why."""
    words = f'The deployment asked for was "{deployment[:_MAX_SHOWN]}"'
    if model is None:
        return f"{words}, which the call itself names."
    if model == deployment:
        return (
            f"{words}, which is the model that the call names: the setting MODEL_DEPLOYMENTS of the shim has no other"
            " deployment for it."
        )
    return (
        f'{words}, to which the setting MODEL_DEPLOYMENTS of the shim maps the model "{model[:_MAX_SHOWN]}".'
    )


def _code(document: dict[str, Any]) -> object:
    error = document.get("error")
    return error.get("code") if isinstance(error, dict) else None


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
