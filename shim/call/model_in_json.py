"""The member `model` of a JSON object: read without decoding the rest, and put right in its place."""

import asyncio
import json
import re
from collections.abc import Iterator

import msgspec

from shim.call.splice import Splice
from shim.errors import InvalidRequest, ModelRequired

_UTF8_BOM = b"\xef\xbb\xbf"
_MEMBER = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*')
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{[ \t\r\n]*(\})?")
# Other objects inside the body may have a `model` too (a tool's parameters, say), of the same value at that.
_MAX_PLACES = 10_000


class _Named(msgspec.Struct):
    # The decoder skips every other member without making objects of it, and leaves this one as it stands.
    model: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Named)
_name_decoder = msgspec.json.Decoder(str | None)


class JsonModel:
    """The `model` that a JSON object names; `name` is None where it names none.

    Raises InvalidRequest, or ModelRequired where there can be none.
    """

    def __init__(self, content: bytearray) -> None:
        self._content = content
        self._text = _model_text(content)
        try:
            self.name = _name_decoder.decode(self._text) if self._text else None
        except msgspec.ValidationError:
            raise ModelRequired("`model` must be a string.") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidRequest("`model` is not JSON in UTF-8.") from None

    async def splice(self, name: str) -> Splice:
        """What makes the object name `name` and changes no other byte.

        Raises InvalidRequest where `model` is not to be found.
        """
        value = json.dumps(name).encode("ascii")
        if self._text:
            start = await self._place()
            return Splice(start, start + len(self._text), value)
        beginning = _BEGINNING.match(self._content)
        assert beginning is not None, "an object was decoded, and so begins with a brace"
        at = beginning.start(1) if beginning[1] else beginning.end()
        return Splice(at, at, b'"model":' + value + (b"" if beginning[1] else b","))

    async def _place(self) -> int:
        """Where the value stands that the decoder took.

        The one decoder says which it is: of all places that look like it, half are altered for a moment, and if what
        is decoded alters too, it was among them; and so on with that half. No second reader of JSON that could differ.
        """
        await asyncio.sleep(0)  # each of these steps may take milliseconds
        if self._content.count(b'"model"') > _MAX_PLACES:
            raise InvalidRequest(f"The body has `model` in more than {_MAX_PLACES} places.")
        await asyncio.sleep(0)
        places = list(self._places())
        while places:
            half = places[len(places) // 2 :]
            await asyncio.sleep(0)
            if not self._is_among(half):
                places = places[: len(places) // 2]
            elif len(half) == 1:
                return half[0]
            else:
                places = half
        raise InvalidRequest('Write the name of the member "model" plainly, without escapes.')

    def _places(self) -> Iterator[int]:
        """Every place where a member `model` with this value could stand."""
        position = -1
        while (position := self._content.find(b'"model"', position + 1)) >= 0:
            member = _MEMBER.match(self._content, position)
            if member and self._content.startswith(self._text, member.end()):
                yield member.end()

    def _is_among(self, places: list[int]) -> bool:
        content, length = self._content, len(self._text)
        for place in places:
            content[place : place + length] = b"1" * length  # a number: JSON all the same
        try:
            return _model_text(content) != self._text
        finally:
            for place in places:
                content[place : place + length] = self._text


def _model_text(content: bytearray) -> bytes:
    view = memoryview(content)
    try:
        return bytes(_decoder.decode(view[len(_UTF8_BOM) :] if content.startswith(_UTF8_BOM) else view).model)
    except msgspec.ValidationError:
        raise ModelRequired("The body must be a JSON object that names a `model`.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(
            "The body is not JSON in UTF-8, so that no `model` can be read from it."
        ) from None
