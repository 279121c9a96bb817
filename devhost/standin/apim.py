"""Azure API Management's part: the subscription-key check, and refusals in APIM's own shape.

APIM's bodies have no `error` object, which is why OpenAI SDKs cannot read them.
"""

from collections.abc import Collection, Iterable

from aiohttp import web

from devhost.standin.refusal import Refusal

_REALM = "https://standin.azure-api.net/openai"


def _refusal(status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> Refusal:
    return Refusal(status, {"statusCode": status, "message": message}, headers)


def _challenge(key_header: str) -> list[tuple[str, str]]:
    return [("WWW-Authenticate", f'AzureApiManagementKey realm="{_REALM}",name="{key_header}",type="header"')]


def key_missing(key_header: str) -> Refusal:
    """No subscription key in the one header where APIM looks for it."""
    message = (
        "Access denied due to missing subscription key. "
        "Make sure to include subscription key when making requests to an API."
    )
    return _refusal(401, message, _challenge(key_header))


def key_invalid(key_header: str) -> Refusal:
    """A subscription key that APIM does not know."""
    message = (
        "Access denied due to invalid subscription key. "
        "Make sure to provide a valid key for an active subscription."
    )
    return _refusal(401, message, _challenge(key_header))


def quota_exceeded() -> Refusal:
    """The `quota` policy: a 403, and the wait only in words."""
    return _refusal(403, "Out of call volume quota. Quota will be replenished in 00:06:46.")


def operation_missing() -> Refusal:
    """No operation of the API matches the method and path."""
    return _refusal(404, "Resource not found")


def rate_limited() -> Refusal:
    """The `rate-limit` policy."""
    return _refusal(429, "Rate limit is exceeded. Try again in 57 seconds.", [("Retry-After", "57")])


def token_limited() -> Refusal:
    """The `azure-openai-token-limit` policy."""
    return _refusal(429, "Token limit is exceeded. Try again in 57 seconds.", [("Retry-After", "57")])


def check_key(request: web.Request, key_header: str, keys: Collection[str]) -> None:
    """Raise APIM's 401 unless a known key is in `key_header`.

    Nothing else is looked at: APIM checks the key before any policy runs, so a key in `Authorization` is a
    missing key, with the same words as no key at all.
    """
    if not (key := request.headers.get(key_header)):
        raise key_missing(key_header)
    if key not in keys:
        raise key_invalid(key_header)
