"""The part `model` of a multipart/form-data body: found as the body streams by, and replaced in its place."""

from collections.abc import Iterator

from multipart import MultipartSegment, PushMultipartParser

from shim.call.splice import Splice
from shim.errors import InvalidRequest

_MAX_MODEL_BYTES = 1024
_PART = b'--%s\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'


class FormModel:
    """The `model` that a form names, wherever its part stands; `name` is None until it is known.

    The parser raises MultipartError for what is not a form.
    """

    def __init__(self, boundary: str, max_bytes: int) -> None:
        self.name: str | None = None
        self._parser = PushMultipartParser(boundary, max_segment_size=max_bytes)
        self._boundary = boundary.encode()
        self._delimiter = b"\r\n--" + self._boundary
        self._fed = 0
        # The end of what was fed, where a delimiter may have begun. The first delimiter has no line break before it.
        self._tail = b"\r\n"
        self._first_delimiter: int | None = None
        self._value: bytearray | None = None
        self._value_span = (0, 0)

    def feed(self, chunk: bytes) -> bool:
        """Whether `model` is known now. Raises MultipartError, InvalidRequest."""
        return any(self._parse(piece, ends) for piece, ends in self._cut_behind_delimiters(chunk))

    def finish(self) -> None:
        """The form is over; one without a `model` is a form too."""

    def splice(self, name: str) -> Splice:
        """What makes the form name `name`: another value, or another part before the first.

        Raises InvalidRequest if the form has no parts at all.
        """
        value = name.encode("utf-8", "replace")
        if self.name is not None:
            return Splice(*self._value_span, value)
        if self._first_delimiter is None:
            raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.")
        at = self._first_delimiter
        return Splice(at, at, _PART % (self._boundary, value))

    def _parse(self, piece: bytes, ends_with_delimiter: bool) -> bool:
        self._fed += len(piece)
        if ends_with_delimiter and self._first_delimiter is None:
            # Two bytes follow a delimiter, and the line break before it stays where it is.
            self._first_delimiter = self._fed - len(self._delimiter)
        for event in self._parser.parse(piece):
            if isinstance(event, MultipartSegment):
                self._value = bytearray() if event.name == "model" and event.filename is None else None
            elif event is None and self._value is not None:
                self.name = self._value.decode("utf-8", "replace")
                end = self._fed - len(self._delimiter) - 2
                self._value_span = (end - len(self._value), end)
                return True
            elif event and self._value is not None:
                self._value += event
                if len(self._value) > _MAX_MODEL_BYTES:
                    raise InvalidRequest("The part `model` is too long to be a model's name.")
        return False

    def _cut_behind_delimiters(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """The chunk, cut behind each delimiter and the two bytes after it; and whether a piece ends with those.

        When the parser reports a part's end, that is then where the piece ends.
        """
        seen = self._tail + chunk
        before = len(self._tail)
        length = len(self._delimiter) + 2
        cut, found = 0, seen.find(self._delimiter)
        while found >= 0:
            behind = found + length - before
            if cut < behind <= len(chunk):
                yield chunk[cut:behind], True
                cut = behind
            found = seen.find(self._delimiter, found + 1)
        if cut < len(chunk):
            yield chunk[cut:], False
        self._tail = seen[-(length - 1) :]
