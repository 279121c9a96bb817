"""The member `model` of a JSON object: found as the body streams by, and replaced in its place."""

import json
import re

from shim.call.json_top_level import CUT, JsonTopLevel
from shim.call.splice import Splice
from shim.errors import InvalidRequest, ModelRequired

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]|\\.)*+"'
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?%b(?P<bracket>[\[{])?%b" % (_SPACE, _SPACE))
_MEMBER = re.compile(
    rb"(?P<name>%b)%b:%b(?P<value>%b|\[\]|\{\}|[-+.\w]++)%b(?P<separator>[,}])%b"
    % (_STRING, _SPACE, _SPACE, _STRING, _SPACE, _SPACE),
    re.DOTALL,
)
# Of a name that is taken from Python's own decoder: what is longer is looked at more closely.
_MAX_NAME_LENGTH = 256


class JsonModel:
    """The `model` that a JSON object names; `name` is None where it names none, and until `finish`.

    Of several members `model` the last counts, as it does for most readers of JSON (RFC 8259, section 4).
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._top_level = JsonTopLevel()
        self._value: tuple[int, int] | None = None
        self._insert_at = 0
        self._is_empty = False
        self._unread = b""

    def read_whole(self, document: bytes) -> bool:
        """Whether Python's decoder, several times as fast, finds the name in a short document.

        If not, nothing is known yet: `feed` and `finish` tell why, and are not particular about what is nested.
        """
        try:
            decoded = json.loads(document.decode())
        except (ValueError, RecursionError):
            return False
        name = decoded.get("model") if isinstance(decoded, dict) else None
        if not isinstance(name, str) or not name.isascii() or len(name) > _MAX_NAME_LENGTH:
            return False
        self.name, self._unread = name, document
        return True

    def feed(self, piece: bytes) -> bool:
        """False: nothing is certain before the end. Raises InvalidRequest."""
        self._top_level.feed(piece)
        return False

    def finish(self) -> None:
        """Raises InvalidRequest if the body is no JSON object, ModelRequired if that can name no model."""
        text = bytes(self._top_level.text)
        beginning = _BEGINNING.match(text)
        assert beginning is not None, "the pattern matches the empty text too"
        if not self._top_level.is_complete or beginning["bracket"] is None:
            raise _not_json()
        if beginning["bracket"] == b"[":
            raise ModelRequired("The body must be a JSON object that names a `model`.")
        self._insert_at = end = beginning.end()
        self._is_empty = text[end:].rstrip() == b"}"
        if self._is_empty:
            return
        member = None
        while member is None or member["separator"] == b",":
            member = _MEMBER.match(text, end)
            if member is None:
                raise _not_json()
            end = member.end()
            if _is_model(member["name"]):
                self._value = member.span("value")
        if end != len(text):
            raise _not_json()
        if self._value is not None:
            self.name = _decoded(text[slice(*self._value)])

    def splice(self, name: str) -> Splice:
        """What makes the object name `name` and changes no other byte."""
        if self._unread:
            self.feed(self._unread)
            self.finish()
            self._unread = b""
        value = json.dumps(name).encode("ascii")
        if self._value is not None:
            start, end = self._value
            position = self._top_level.position_of(start)
            return Splice(position, position + end - start, value)
        position = self._top_level.position_of(self._insert_at)
        return Splice(position, position, b'"model":' + value + (b"" if self._is_empty else b","))


def _is_model(member_name: bytes) -> bool:
    if b"\\" not in member_name:
        return member_name == b'"model"'
    try:
        return bool(json.loads(member_name) == "model")
    except ValueError:
        return False


def _decoded(value: bytes) -> str | None:
    if value == b"null":
        return None
    if not value.startswith(b'"'):
        raise ModelRequired("`model` must be a string.")
    if CUT in value:
        raise InvalidRequest("`model` is too long to be a model's name.")
    try:
        name: str = json.loads(value.decode())
        name.encode()  # which a lone surrogate, "\ud800", cannot be
    except ValueError:
        raise InvalidRequest("`model` is not JSON in UTF-8.") from None
    return name


def _not_json() -> InvalidRequest:
    return InvalidRequest("The body is not a JSON object in UTF-8, so no `model` can be read from it.")
