"""The tokens that a response says it used, read from its bytes as they pass. Pure."""

import json
from typing import Any, NamedTuple, Self

# A string in JSON that ends in this has its quote escaped, so that these bytes are a whole string: a key, or a value,
# which no colon follows.
_MARKER = b'"usage"'
_BLANKS = b" \t\r\n"
# `usage` with all its details has some 400 bytes, indented some 800.
_MAX_BYTES = 4096
# With those inside it: `prompt_tokens_details` and the like.
_MAX_OBJECTS = 16
# Chat completions and embeddings say `prompt` and `completion`, all later APIs `input` and `output`.
_NAMES = (("input", "output"), ("prompt", "completion"))


class Usage(NamedTuple):
    """Tokens; `cached` are among `input`, and `reasoning` among `output`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, found: Any) -> Self | None:
        """None for what is no usage in tokens, as of a transcription that is billed by its seconds."""
        if not isinstance(found, dict):
            return None
        for into, out in _NAMES:
            if _is_count(found.get(f"{into}_tokens")):
                return cls(
                    found[f"{into}_tokens"],
                    _count(found, f"{out}_tokens"),
                    _count(found.get(f"{into}_tokens_details"), "cached_tokens"),
                    _count(found.get(f"{out}_tokens_details"), "reasoning_tokens"),
                )
        return None


class UsageReader:
    """Fed with a body in pieces, plain JSON or server-sent events; `usage` is the last that was complete.

    What holds no `"usage"` is not parsed, and nothing is kept of it but the few bytes in which one might have begun. Of
    what follows one, no more than 4 KB are kept until it is complete.
    """

    __slots__ = ("_tail", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        if self._tail:
            chunk, self._tail = self._tail + chunk, b""
        at = chunk.find(_MARKER)
        while at >= 0:
            end = self._read(chunk, at)
            if end is None:
                if len(chunk) - at <= _MAX_BYTES:
                    self._tail = bytes(chunk[at:])
                    return
                end = at + len(_MARKER)
            at = chunk.find(_MARKER, end)
        self._tail = _beginning(chunk)

    def _read(self, chunk: bytes, at: int) -> int | None:
        """Reads one `"usage": {…}`; where to go on, None if more must come first."""
        after = at + len(_MARKER)
        following = chunk[after : after + _MAX_BYTES].lstrip(_BLANKS)
        if following[:1] not in (b"", b":"):
            return after
        following = following[1:].lstrip(_BLANKS)
        if following[:1] not in (b"", b"{"):
            return after
        end = _end_of_object(following)
        if end is None:
            return None
        if end == 0:
            return after
        try:
            found = Usage.of(json.loads(following[:end]))
        except ValueError:
            return after
        self.usage = found or self.usage
        return after


def _end_of_object(text: bytes) -> int | None:
    """Where the object ends with which `text` begins: None if that is still to come, 0 if it is no usage.

    Usages hold no strings with braces.
    """
    end = 0
    for _ in range(_MAX_OBJECTS):
        end = text.find(b"}", end) + 1
        if not end:
            return None
        if text.count(b"{", 0, end) == text.count(b"}", 0, end):
            return end
    return 0


def _beginning(chunk: bytes) -> bytes:
    """The end of `chunk` in which the marker may have begun."""
    at = chunk.rfind(b'"', -len(_MARKER) + 1)
    while at >= 0:
        if _MARKER.startswith(chunk[at:]):
            return bytes(chunk[at:])
        at = chunk.find(b'"', at + 1)
    return b""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(found: Any, name: str) -> int:
    value: Any = found.get(name) if isinstance(found, dict) else None
    return int(value) if _is_count(value) else 0
