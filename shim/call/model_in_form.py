"""The part `model` of a multipart/form-data body: found as the body streams by, and put right in its place."""

from collections.abc import Iterator

from multipart import MultipartSegment, PushMultipartParser

from shim.call.splice import Splice
from shim.errors import InvalidRequest

_MAX_MODEL_BYTES = 1024
_PART = b'--%s\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'


class FormModel:
    """The `model` that a form names, wherever its part stands; `name` is None until it is known.

    The parser raises MultipartError for what is no form.
    """

    def __init__(self, boundary: str, max_bytes: int) -> None:
        self.name: str | None = None
        self._parser = PushMultipartParser(boundary, max_segment_size=max_bytes)
        self._boundary = boundary.encode()
        self._delimiter = b"\r\n--" + self._boundary
        self._fed = 0
        # The line break that the first delimiter lacks; then the end of what was fed, where one may have begun.
        self._tail = b"\r\n"
        self._first_delimiter: int | None = None
        self._value: bytearray | None = None
        self._place = Splice(0, 0, b"")

    def feed(self, chunk: bytes) -> bool:
        """Whether `model` is known now. Raises MultipartError, InvalidRequest."""
        return any(self._feed(piece, ends) for piece, ends in self._pieces(chunk))

    def splice(self, name: str) -> Splice:
        """What makes the form name `name`: another value, or another part before the first.

        Raises InvalidRequest where it has no parts at all.
        """
        value = name.encode("utf-8", "replace")
        if self.name is not None:
            return Splice(self._place.start, self._place.end, value)
        if self._first_delimiter is None:
            raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.")
        at = self._first_delimiter
        return Splice(at, at, _PART % (self._boundary, value))

    def _feed(self, piece: bytes, ends_with_delimiter: bool) -> bool:
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
                self._place = Splice(end - len(self._value), end, b"")
                return True
            elif event and self._value is not None:
                self._value += event
                if len(self._value) > _MAX_MODEL_BYTES:
                    raise InvalidRequest("The part `model` is too long to be a model's name.")
        return False

    def _pieces(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """The chunk cut behind each delimiter and the two bytes that follow it, so that a part's end has a place."""
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
