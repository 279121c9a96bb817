"""CORS, owned by the shim alone: upstream's headers are removed and one set is computed here. Pure."""

import re
from collections.abc import Mapping

from shim import errors
from shim.errors import Headers
from shim.settings import Settings

_METHODS = b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Browsers show these without being told (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name)
# or never show them (#forbidden-response-header-name).
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
_PREFLIGHT_VARY = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


class Cors:
    """Answers preflights and decorates responses for the origins that the settings allow."""

    def __init__(self, settings: Settings) -> None:
        self._patterns = settings.cors_allowed_origins
        self._any = any(pattern.is_any for pattern in self._patterns)
        self._credentials = settings.cors_allow_credentials
        self._max_age = b"%d" % settings.cors_max_age

    def allows(self, origin: str) -> bool:
        return any(pattern.covers(origin) for pattern in self._patterns)

    def preflight(self, method: str, headers: Mapping[str, str]) -> tuple[int, Headers, bytes] | None:
        """The answer to a preflight (https://fetch.spec.whatwg.org/#cors-preflight-request); None if it is none."""
        if method != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
            return None
        origin = headers["origin"]
        if not self.allows(origin):
            return self._refusal(origin)
        answer = [
            *self._allow(origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", self._max_age),
            _PREFLIGHT_VARY,
        ]
        if names := _valid_names(headers.get("access-control-request-headers", "")):
            answer.append((b"access-control-allow-headers", names))
        if headers.get("access-control-request-private-network") == "true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return 204, answer, b""

    def decorate(self, headers: Headers, origin: str | None) -> Headers:
        """The response headers with upstream's CORS headers removed and, for an allowed origin, ours added."""
        kept = [header for header in headers if not header[0].startswith(b"access-control-")]
        if not self._patterns:
            return kept
        if not self._any or self._credentials:
            # On every answer, or a cache would hand one origin's answer to another.
            kept = _varying_by_origin(kept)
        if origin is None or not self.allows(origin):
            return kept
        exposed = b", ".join(dict.fromkeys(name for name, _ in kept if name not in _NOT_EXPOSED))
        if exposed:
            kept.append((b"access-control-expose-headers", exposed))
        return kept + self._allow(origin)

    def _allow(self, origin: str) -> Headers:
        if self._any and not self._credentials:
            return [(b"access-control-allow-origin", b"*")]
        allow = [(b"access-control-allow-origin", origin.encode("latin-1"))]
        if self._credentials:
            allow.append((b"access-control-allow-credentials", b"true"))
        return allow

    def _refusal(self, origin: str) -> tuple[int, Headers, bytes]:
        shown = origin if len(origin) <= 200 and origin.isprintable() else "This origin"
        content = errors.body(
            f"{shown} is not among the origins that may call from a browser."
            " Add it to the shim's setting CORS_ALLOWED_ORIGINS.",
            "invalid_request_error",
            "cors_origin_not_allowed",
        )
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (errors.SOURCE_HEADER, b"shim"),
            _PREFLIGHT_VARY,
        ]
        return 403, headers, content


def _valid_names(requested: str) -> bytes:
    names = (name.strip() for name in requested.split(","))
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
