"""Responses as APIM and Azure OpenAI write them: compact JSON, server-sent events, and errors in their own words.

APIM's errors have no `error` object, which is why OpenAI SDKs cannot read them.
"""

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

Json = dict[str, Any]
_COMPACT = ",", ":"


def json_response(body: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> web.Response:
    """JSON without a charset."""
    content = json.dumps(body, separators=_COMPACT).encode()
    response = web.Response(body=content, status=status, content_type="application/json")
    response.headers.extend(headers)
    return response


def event(data: object, name: str | None = None) -> bytes:
    """A server-sent event with JSON data, named where the operation names its events."""
    return f"{f'event: {name}\n' if name else ''}data: {json.dumps(data, separators=_COMPACT)}\n\n".encode()


class Refusal(Exception):
    """Ends a call with a status, a body and headers, in which `{key_header}` stands for the API's own."""

    def response(self, key_header: str) -> web.Response:
        """A new response each time, as an aiohttp response serves one request."""
        status, body, *headers = self.args
        return json_response(
            body, status, [(name, text.replace("{key_header}", key_header)) for name, text in headers]
        )


def _apim(status: int, message: str, *headers: tuple[str, str]) -> tuple[Any, ...]:
    return status, {"statusCode": status, "message": message}, *headers


def _azure(status: int, code: str, message: str, *headers: tuple[str, str]) -> tuple[Any, ...]:
    return status, {"error": {"code": code, "message": message}}, *headers


_REALM = "https://standin.azure-api.net/openai"
_CHALLENGE = "WWW-Authenticate", f'AzureApiManagementKey realm="{_REALM}",name="{{key_header}}",type="header"'

# By the name that a script calls them by.
FAULTS = {
    "apim_key_missing": _apim(401, "Access denied due to missing subscription key. "
        "Make sure to include subscription key when making requests to an API.", _CHALLENGE),
    "apim_key_invalid": _apim(401, "Access denied due to invalid subscription key. "
        "Make sure to provide a valid key for an active subscription.", _CHALLENGE),
    "apim_quota": _apim(403, "Out of call volume quota. Quota will be replenished in 00:06:46."),
    "apim_not_found": _apim(404, "Resource not found"),
    "apim_rate_limit": _apim(429, "Rate limit is exceeded. Try again in 57 seconds.", ("Retry-After", "57")),
    "apim_token_limit": _apim(429, "Token limit is exceeded. Try again in 57 seconds.", ("Retry-After", "57")),
    "aoai_401": _azure(401, "401", "Access denied due to invalid subscription key or wrong API endpoint. "
        "Make sure to provide a valid key for an active subscription "
        "and use a correct regional API endpoint for your resource."),
    "aoai_404": _azure(404, "404", "Resource not found"),
    "aoai_404_deployment": _azure(404, "DeploymentNotFound",
        "The API deployment for this resource does not exist. "
        "If you created the deployment within the last 5 minutes, please wait a moment and try again."),
    "aoai_429": _azure(429, "429",
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 "
        "have exceeded token rate limit of your current OpenAI S0 pricing tier. "
        "Please retry after 6 seconds. Please go here: https://aka.ms/oai/quotaincrease "
        "if you would like to further increase the default rate limit.", ("Retry-After", "6")),
}  # fmt: skip


def fault(name: str) -> Refusal:
    """One of FAULTS, to raise."""
    return Refusal(*FAULTS[name])


def bad_request(message: str, param: str | None = None, status: int = 400) -> Refusal:
    """A request that the operation cannot use."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return Refusal(status, {"error": error})


def missing(param: str) -> Refusal:
    """A body without something that the operation needs."""
    return bad_request(f"'{param}' is a required property", param)
