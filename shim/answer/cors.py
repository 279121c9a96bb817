"""CORS, owned by the shim alone: upstream's headers are removed and one set is computed here. Pure.

The rules are those of the Fetch standard: https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Self

from shim.errors import OriginNotAllowed
from shim.headers import METHODS, Headers
from shim.settings import Settings
from shim.settings.origins import OriginPattern

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Browsers show these without being told (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name)
# or never show them (https://fetch.spec.whatwg.org/#forbidden-response-header-name).
_NOT_EXPOSED = frozenset(
    [
        b"cache-control",
        b"content-language",
        b"content-length",
        b"content-type",
        b"expires",
        b"last-modified",
        b"pragma",
        b"set-cookie",
        b"set-cookie2",
    ]
)
_PREFLIGHT_VARY = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers,"
    b" Access-Control-Request-Private-Network",
)
# The longest origin that a refusal repeats.
_LONGEST_SHOWN = 200


class Cors:
    """Answers preflights and decorates responses for the origins that the settings allow.

    `max_age` is in seconds.
    """

    def __init__(self, allowed: Sequence[OriginPattern], *, credentials: bool, max_age: int) -> None:
        self._allowed = tuple(allowed)
        self._any = any(pattern.is_any for pattern in allowed)
        # With both, any page on the web could act for its visitors. Settings refuse that, and so does this.
        self._credentials = credentials and not self._any
        self._max_age = b"%d" % max_age

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            settings.cors_origins,
            credentials=settings.cors_credentials,
            max_age=settings.cors_max_age,
        )

    def allows(self, origin: str) -> bool:
        return any(pattern.covers(origin) for pattern in self._allowed)

    def preflight(self, method: str, headers: Mapping[str, str]) -> Headers | None:
        """The headers of the 204 to a preflight (https://fetch.spec.whatwg.org/#cors-preflight-request).

        None if the request is no preflight. Raises OriginNotAllowed.
        """
        if method != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
            return None
        origin = headers["origin"]
        if not self.allows(origin):
            raise _not_allowed(origin)
        allowed = [
            *self._allow(origin),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", self._max_age),
            _PREFLIGHT_VARY,
        ]
        if names := _valid_names(headers.get("access-control-request-headers", "")):
            # By name: no wildcard covers Authorization (https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name).
            allowed.append((b"access-control-allow-headers", names))
        # https://wicg.github.io/private-network-access/#cors-preflight
        if headers.get("access-control-request-private-network") == "true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        return allowed

    def decorate(self, headers: Headers, origin: str | None) -> Headers:
        """The response headers with upstream's CORS headers removed and, for an allowed origin, ours added."""
        kept = [header for header in headers if not header[0].startswith(b"access-control-")]
        if not self._allowed:
            return kept
        # On every response, or a cache would give one origin's response, or that to no origin, to another. Even with
        # `*`: responses to `null` and to calls without an Origin lack it.
        kept = _varying_by_origin(kept)
        if origin is None or not self.allows(origin):
            return kept
        return [*kept, *_exposing(kept), *self._allow(origin)]

    def _allow(self, origin: str) -> Headers:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        allow = [(b"access-control-allow-origin", origin.encode("ascii"))]
        if self._credentials:
            allow.append((b"access-control-allow-credentials", b"true"))
        return allow


def _not_allowed(origin: str) -> OriginNotAllowed:
    shown = origin if len(origin) <= _LONGEST_SHOWN and origin.isprintable() else "This origin"
    return OriginNotAllowed(
        f"{shown} is not among the origins that may call from a browser."
        " Add it to the shim's setting CORS_ORIGINS.",
        headers=[_PREFLIGHT_VARY],
    )


def _exposing(headers: Headers) -> Headers:
    """By name: with credentials, `*` is a literal name (https://fetch.spec.whatwg.org/#http-new-header-syntax)."""
    names = b", ".join(dict.fromkeys(name for name, _ in headers if name not in _NOT_EXPOSED))
    return [(b"access-control-expose-headers", names)] if names else []


def _valid_names(requested: str) -> bytes:
    names = (name.strip(" \t") for name in requested.split(","))
    return ", ".join(name for name in names if _TOKEN.fullmatch(name)).encode()


def _varying_by_origin(headers: Headers) -> Headers:
    named = [value for name, value in headers if name == b"vary"]
    fields = [field.strip() for value in named for field in value.split(b",") if field.strip()]
    if b"*" in fields or any(field.lower() == b"origin" for field in fields):
        return headers
    return [
        *(header for header in headers if header[0] != b"vary"),
        (b"vary", b", ".join([*fields, b"Origin"])),
    ]
