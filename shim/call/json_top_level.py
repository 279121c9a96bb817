"""The top level of a JSON document, kept while the document streams by; whatever is nested in it is left out. Pure.

A decoder needs the whole document at once and blocks the event loop for a second over 90 MiB of it. This reads the
document in pieces, does nearly all of its work in C (at most about 15 ms for 64 KiB, whatever is in them) and keeps a
few kilobytes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate, pairwise

from shim.errors import InvalidRequest

# Bytes as steps of depth: 255 is -1 as a signed char.
_DEPTH_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BRACKETS_ALIKE = bytes.maketrans(b"[]{}", b"[[[[")
# As many as are looked at one by one, in Python. Pieces with more are halved, since most halves can be skipped.
MAX_BRACKETS = 2048
# A longer string at the top level is a prompt, and no name.
MAX_STRING_BYTES = 12 * 256
# Stands for what is left out of a string. JSON strings cannot contain it (RFC 8259, section 7).
CUT = b"\0"
_LONG_STRING = re.compile(rb"\0{%d,}" % (MAX_STRING_BYTES + 1))
# Requests have a few dozen short members at their top level.
MAX_BYTES = 128 * 1024


class JsonTopLevel:
    """Feed it a document in pieces; `text` is then the document with every nested array as `[]`, every nested object
    as `{}`, and CUT where strings of more than MAX_STRING_BYTES go on.

    It follows strings and brackets and judges nothing else: what is not JSON is for the reader of `text` and for
    upstream to refuse.
    """

    def __init__(self) -> None:
        self.text = bytearray()
        # Where the stretches of `text` come from: their positions in `text` and in the document.
        self._stretches: list[tuple[int, int]] = []
        self._position = 0
        self._depth = 0
        self._in_string = False
        self._string_bytes = 0  # of the string that goes on in the next piece
        self._held_back = b""

    @property
    def is_complete(self) -> bool:
        """Whether every bracket and every string has been closed."""
        return self._depth == 0 and not self._in_string and not self._held_back

    def feed(self, piece: bytes) -> None:
        """Takes time in proportion to the piece. Raises InvalidRequest where the top level alone is too long."""
        piece, self._held_back = self._held_back + piece, b""
        harmless = piece
        if b"\\" in piece:  # escaped quotes end no string
            harmless = piece.replace(rb"\\", b"__").replace(rb"\"", b"__")
        parts = harmless.split(b'"')  # by turns outside and inside strings
        outside = b"".join(parts[self._in_string :: 2])
        steps = memoryview(outside.translate(_DEPTH_STEPS, _NOT_BRACKETS)).cast("b")
        depths = list(accumulate(steps, initial=self._depth))
        is_nested = min(depths) > 1
        if not is_nested and len(depths) > MAX_BRACKETS:
            self.feed(piece[: len(piece) // 2])
            self.feed(piece[len(piece) // 2 :])
            return
        if harmless.endswith(b"\\"):  # it escapes what the next piece begins with
            piece, parts[-1], self._held_back = piece[:-1], parts[-1][:-1], b"\\"
        if not is_nested:
            self._keep_top_level(piece, parts, depths)
        self._string_bytes = len(parts[-1]) + (self._string_bytes if len(parts) == 1 else 0)
        self._in_string ^= len(parts) % 2 == 0
        self._depth = depths[-1]
        self._position += len(piece)

    def position_of(self, index: int) -> int:
        """Where in the document the byte at `index` of `text` stands."""
        stretch = bisect_right(self._stretches, index, key=lambda positions: positions[0]) - 1
        in_text, in_document = self._stretches[stretch]
        return in_document + index - in_text

    def _keep_top_level(self, piece: bytes, parts: list[bytes], depths: list[int]) -> None:
        start = 0
        if self._in_string and self._depth <= 1 and self._string_bytes + len(parts[0]) > MAX_STRING_BYTES:
            start = len(parts[0])
            self._cut()
        inside = slice(not self._in_string, None, 2)
        parts[inside] = map(bytes, map(len, parts[inside]))
        blanked = b'"'.join(parts)  # the piece, with zeros for what is inside strings
        brackets = blanked.translate(_BRACKETS_ALIKE)
        bracket = -1
        for before, after in pairwise(depths):
            bracket = brackets.find(b"[", bracket + 1)
            if before <= 1 < after:
                self._keep(piece, blanked, start, bracket + 1)
            elif after <= 1 < before:
                start = bracket
        if depths[-1] <= 1:
            self._keep(piece, blanked, start, len(piece))

    def _keep(self, piece: bytes, blanked: bytes, start: int, end: int) -> None:
        for long in _LONG_STRING.finditer(blanked, start, end):
            self._copy(piece, start, long.start())
            self._cut()
            start = long.end()
        self._copy(piece, start, end)

    def _copy(self, piece: bytes, start: int, end: int) -> None:
        if start < end:
            self._stretches.append((len(self.text), self._position + start))
            self.text += piece[start:end]
        if len(self.text) > MAX_BYTES:
            raise InvalidRequest(f"The body has more than {MAX_BYTES} bytes at the top level of its JSON.")

    def _cut(self) -> None:
        if not self.text.endswith(CUT):
            self.text += CUT
