"""The query as the APIM API wants it. Pure."""

import re
from functools import lru_cache
from urllib.parse import quote, unquote_plus

from shim.settings import Api

# Subscription keys and Functions keys: never the caller's to send upstream.
_KEYS = frozenset(["subscription-key", "code", "clientid"])
_API_VERSION = "api-version"
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
# Encodings of encodings, of which a gateway and the service behind it may each undo one.
_MAX_ENCODINGS = 4


# Of at most 8 KB each, the host's limit; most callers send few queries, again and again.
@lru_cache(maxsize=128)
def for_upstream(query: str, *, dialect: Api, api: Api, default_version: str) -> str:
    """The caller's parameters for the API of kind `api`, less any key.

    The legacy API gets exactly one api-version: the caller's if it can use it, else `default_version`. A caller of the
    legacy dialect always sends one, which means nothing to a v1 API.
    """
    parameters = [p for p in query.split("&") if p and not _is_key(p)]
    if api == "legacy":
        parameters = _with_one_version(parameters, dialect, default_version)
    elif dialect == "legacy":
        parameters = [p for p in parameters if _name(p) != _API_VERSION]
    return "&".join(parameters)


def _with_one_version(parameters: list[str], dialect: Api, default: str) -> list[str]:
    versions = [p for p in parameters if _name(p) == _API_VERSION]
    usable = next((p for p in versions if _is_usable(p, dialect)), None)
    if usable is None:
        others = [p for p in parameters if p not in versions]
        return [*others, f"{_API_VERSION}={quote(default)}"]
    kept: list[str] = []
    for parameter in parameters:
        if parameter not in versions or (parameter == usable and usable not in kept):
            kept.append(parameter)
    return kept


def _is_usable(version: str, dialect: Api) -> bool:
    value = version.partition("=")[2]
    # What v1 callers may send (`preview`) means nothing to the dated API.
    return bool(value) if dialect == "legacy" else _DATED.match(value) is not None


def _is_key(parameter: str) -> bool:
    """Whether any reader of the parameter, after any number of decodings, could take it for a key."""
    name = parameter.partition("=")[0]
    for _ in range(_MAX_ENCODINGS):
        decoded = unquote_plus(name)
        if decoded.partition("=")[0].strip().lower() in _KEYS:
            return True
        if decoded == name:
            return False
        name = decoded
    return True  # no client encodes a name that often


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).lower()
