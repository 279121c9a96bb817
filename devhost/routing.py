"""The host's way with paths: decoding, re-encoding, and the choice of a function. Pure.

As read from the sources of the Functions host, of Kestrel and of YARP; docs/platform.md names them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from devhost.process import Function

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_CATCH_ALL = re.compile(r"\{\*(\w+)\}")
_PARAMETER = re.compile(r"\{(\w+)\}")


class BadTarget(Exception):
    """A request target that Kestrel answers with a bare 400."""


@dataclass(frozen=True, slots=True)
class Route:
    function: Function
    segments: tuple[str, ...]

    def match(self, path: str) -> dict[str, str] | None:
        """The route's parameters, None where it does not match. Literal segments ignore case.

        A catch-all that catches nothing is null to ASP.NET Core (TemplateMatcher.cs), and the host passes no nulls on.
        """
        if path.startswith("//"):
            return None
        parts = path[1:].split("/")
        params: dict[str, str] = {}
        for position, segment in enumerate(self.segments):
            if match := _CATCH_ALL.fullmatch(segment):
                rest = "/".join(parts[position:])
                return {**params, match[1]: rest} if rest else params
            if position >= len(parts) or not parts[position]:
                return None
            if match := _PARAMETER.fullmatch(segment):
                params[match[1]] = parts[position]
            elif segment.lower() != parts[position].lower():
                return None
        return params if parts[len(self.segments) :] in ([], [""]) else None


def routes_of(functions: Iterable[Function], folder: Path) -> list[Route]:
    """The HTTP functions' routes with host.json's prefix, which is `api` where none is set.

    In the order in which the host tries them, that of the functions' names (FunctionMetadataManager.cs).
    """
    settings = json.loads((folder / "host.json").read_text())
    prefix = settings.get("extensions", {}).get("http", {}).get("routePrefix", "api")
    return [
        Route(
            function, tuple(part for part in f"{prefix}/{function.route or function.name}".split("/") if part)
        )
        for function in sorted(functions, key=lambda function: function.name.lower())
        if function.type == "httpTrigger"
    ]


def choose(routes: Iterable[Route], method: str, path: str) -> tuple[Function, dict[str, str]] | None:
    """The first function whose route and methods fit; the host answers 404 where there is none."""
    for route in routes:
        params = route.match(path)
        if params is not None and (not route.function.methods or method in route.function.methods):
            return route.function, params
    return None


def decode_path(raw: str) -> str:
    """As Kestrel decodes a path: UTF-8 escapes are undone but `%2F`, dot segments resolved. Raises BadTarget."""
    if not raw.startswith("/") or not raw.isascii() or "%00" in raw:
        raise BadTarget
    return _without_dot_segments(_ESCAPES.sub(lambda match: _decode(match[0]), raw))


def encode_path(path: str) -> str:
    """As YARP encodes the decoded path anew: `%` is `%25` whatever follows, so that `%2F` becomes `%252F`."""
    return quote(path, safe="/!$&'()*+,;=:@-._~")


def _decode(escapes: str) -> str:
    parts = re.split("(%2[Ff])", escapes)
    return "".join(part if part.upper() == "%2F" else _decode_utf8(part) for part in parts)


def _decode_utf8(escapes: str) -> str:
    try:
        return bytes.fromhex(escapes.replace("%", "")).decode()
    except UnicodeDecodeError:
        return escapes


def _without_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == ".." and kept:
            kept.pop()
        if segment not in (".", ".."):
            kept.append(segment)
        elif last:
            kept.append("")
    return "/" + "/".join(kept)
