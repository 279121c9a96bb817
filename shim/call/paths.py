"""Which paths are safe to send on. Pure."""

import re
from urllib.parse import unquote

from shim.errors import InvalidPath

# What most paths are: nothing in them has a second meaning.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
# Encodings of encodings, of which a gateway and the service behind it may each undo one.
_MAX_ENCODINGS = 4


def refuse_escapes(path: str) -> None:
    """Raises InvalidPath if any reader of the path, after any number of decodings, could see it leave the base."""
    if _PLAIN.fullmatch(path):
        return
    for _ in range(_MAX_ENCODINGS):
        segments = (segment.split(";")[0] for segment in path.split("/"))
        if not path.startswith("/") or path.startswith("//") or any(s in (".", "..") for s in segments):
            raise InvalidPath("The path must begin with one slash and contain no '.' or '..' segments.")
        if "\\" in path or any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
            raise InvalidPath("The path must contain no backslashes and no control characters.")
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded
    raise InvalidPath("The path is percent-encoded too many times over.")
