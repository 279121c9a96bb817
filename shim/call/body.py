"""A request's body, read only as far as its route depends on it, and sent on byte for byte."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from multipart import MultipartError, parse_options_header

from shim.call.caller import Caller
from shim.call.model_in_form import FormModel
from shim.call.model_in_json import JsonModel
from shim.call.routes import ModelUse
from shim.call.splice import Splice
from shim.call.spool import PIECE_BYTES, Spool, SpoolSpace
from shim.errors import BodyTooLarge, InvalidRequest, ModelRequired
from shim.headers import Headers, announces_body, values_of


class Body:
    """What has been read of a body, then the rest as it arrives. Once iterated over, it is forgotten.

    `model` is what the body names, None if it names none or was not read; `growth` is how many bytes longer
    `replace_model` has made it.
    """

    def __init__(self, caller: Caller, rest: AsyncGenerator[bytes], first: bytes = b"") -> None:
        self.model: str | None = None
        self._caller = caller
        self._rest = rest
        self._first = first
        self._spool: Spool | None = None
        self._found: JsonModel | FormModel | None = None
        self._splice: Splice | None = None

    @classmethod
    def read(
        cls, caller: Caller, rest: AsyncGenerator[bytes], spool: Spool, found: JsonModel | FormModel
    ) -> "Body":
        """One of which `spool` holds the beginning, in which `model` was `found` or is not."""
        body = cls(caller, rest)
        body.model, body._spool, body._found = found.name, spool, found
        return body

    @property
    def growth(self) -> int:
        return self._splice.growth if self._splice else 0

    @property
    def content(self) -> bytes | None:
        """The whole of a short body that has already arrived, as most have; None for others, which are streamed."""
        size = len(self._first) if self._spool is None else self._spool.size
        if size > PIECE_BYTES or not self._caller.sent_all:
            return None
        return b"".join(self._pieces_read())

    def replace_model(self, name: str | None) -> None:
        """Makes the body name `name`, all else as it came; None leaves it.

        Raises InvalidRequest if that cannot be done.
        """
        if name is not None and self._found is not None:
            self._splice = self._found.splice(name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces_read():
            yield piece
            await asyncio.sleep(0)  # upstream may take it all at once, and other calls wait
        self.close()  # what was read is not kept as long as the response streams
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._first, self._spool, self._found = b"", None, None

    def _pieces_read(self) -> Iterator[bytes]:
        if self._spool is None:
            if self._first:
                yield self._first
        elif self._splice is None:
            yield from self._spool.pieces()
        else:
            yield from self._spool.pieces(0, self._splice.start)
            yield self._splice.replacement
            yield from self._spool.pieces(self._splice.end)


async def open_body(
    headers: Headers, caller: Caller, *, model: ModelUse, max_bytes: int, space: SpoolSpace
) -> Body:
    """The request's body, read only if the route needs its `model`; empty if the call has none.

    Raises ModelRequired, BodyTooLarge, InvalidRequest, TooBusy, or CallerGone.
    """
    if not announces_body(headers):
        if model == "required":
            raise _model_required()
        caller.sent_nothing()
        return Body(caller, caller.body())
    if model == "unread":
        chunks = caller.body()
        return Body(caller, chunks, await anext(chunks, b""))
    body = await _read_model(headers, caller, max_bytes, space)
    if model == "required" and not body.model:
        body.close()
        raise _model_required()
    return body


async def _read_model(headers: Headers, caller: Caller, max_bytes: int, space: SpoolSpace) -> Body:
    if values_of(headers, b"content-encoding"):
        raise InvalidRequest("Send the body without Content-Encoding: the shim reads `model` from it.")
    if any(int(length) > max_bytes for length in values_of(headers, b"content-length")):
        raise _too_large(max_bytes)
    chunks = caller.body()
    spool = Spool(space)
    try:
        found = _reader_for(headers, max_bytes)
        async for chunk in chunks:
            if spool.size + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            spool.write(chunk)
            if await _fed(found, chunk):
                break
        else:
            found.finish()
        return Body.read(caller, chunks, spool, found)
    except MultipartError:
        spool.close()
        raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.") from None
    except BaseException:
        spool.close()
        raise


def _reader_for(headers: Headers, max_bytes: int) -> JsonModel | FormModel:
    content_type = next(iter(values_of(headers, b"content-type")), b"").decode("latin-1")
    if content_type.lower().startswith("multipart/form-data"):
        return FormModel(parse_options_header(content_type)[1].get("boundary", ""), max_bytes)
    return JsonModel()


async def _fed(reader: JsonModel | FormModel, chunk: bytes) -> bool:
    """Whether `model` is known now. No turn of the event loop takes more than one piece."""
    for start in range(0, len(chunk), PIECE_BYTES):
        if start:
            await asyncio.sleep(0)
        if reader.feed(chunk[start : start + PIECE_BYTES]):
            return True
    return False


def _model_required() -> ModelRequired:
    return ModelRequired("Name a `model` in the body: the APIM API has one path for each deployment.")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than the {max_bytes} bytes that may be read to find `model`."
        " Send less, or ask the operator to raise MAX_BODY_BYTES."
    )
