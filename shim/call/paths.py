"""Which paths are safe to send on. Pure."""

import re
from urllib.parse import unquote

from shim.errors import InvalidPath

# What most paths are: nothing in them has a second meaning.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
# Encodings of encodings, of which a gateway and the service behind it may each undo one.
_MAX_ENCODINGS = 4
# Once decoded, these end a segment for some readers: a parameter of it (RFC 3986, section 3.3), a query, a fragment.
_ENDS_OF_SEGMENTS = re.compile("[;?#]")


def refuse_escapes(path: str) -> None:
    """Raises InvalidPath if any reader of the path, after any number of decodings, could see it leave the base."""
    if _PLAIN.fullmatch(path):
        return
    for _ in range(_MAX_ENCODINGS):
        if not path.startswith("/") or path.startswith("//") or any(map(_is_dots, path.split("/"))):
            raise InvalidPath("The path must begin with one slash and contain no '.' or '..' segments.")
        if "\\" in path or any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
            raise InvalidPath("The path must contain no backslashes and no control characters.")
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded
    raise InvalidPath("The path is percent-encoded too many times over.")


def _is_dots(segment: str) -> bool:
    # Windows drops trailing spaces: https://learn.microsoft.com/windows/win32/fileio/naming-a-file#naming-conventions
    return _ENDS_OF_SEGMENTS.split(segment, maxsplit=1)[0].strip() in (".", "..")
