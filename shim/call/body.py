"""A request's body, read only as far as its route depends on it, and sent on byte for byte."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from multipart import MultipartError, parse_options_header

from shim.call.caller import Caller
from shim.call.model_in_form import FormModel
from shim.call.model_in_json import JsonModel
from shim.call.routes import ModelUse
from shim.call.splice import Splice
from shim.call.spool import PIECE_BYTES, Held, Spool, SpoolSpace
from shim.errors import BodyTooLarge, InvalidRequest, ModelRequired
from shim.headers import Headers, announces_body, values_of

_NOTHING = Held(b"")


class Body:
    """What has been read of a body, then the rest as it arrives. Once iterated over, it is forgotten.

    `model` is what the body names, None if it names none or was not read; `growth` is how many bytes longer
    `replace_model` has made it.
    """

    def __init__(
        self,
        caller: Caller,
        rest: AsyncGenerator[bytes],
        read: Held | Spool = _NOTHING,
        found: JsonModel | FormModel | None = None,
    ) -> None:
        """`read` holds the beginning, in which `model` was `found`; None if it was not looked for."""
        self.model = found.name if found else None
        self._caller = caller
        self._rest = rest
        self._read = read
        self._found = found
        self._splice: Splice | None = None

    @property
    def growth(self) -> int:
        return self._splice.growth if self._splice else 0

    @property
    def content(self) -> bytes | None:
        """The whole of a short body that has already arrived, as most have; None for others, which are streamed."""
        if self._read.size > PIECE_BYTES or not self._caller.sent_all:
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
        self._read.close()
        self._read, self._found = _NOTHING, None

    def _pieces_read(self) -> Iterator[bytes]:
        if self._splice is None:
            yield from self._read.pieces()
        else:
            yield from self._read.pieces(0, self._splice.start)
            yield self._splice.replacement
            yield from self._read.pieces(self._splice.end)


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
        return Body(caller, chunks, Held(await anext(chunks, b"")))
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
    first = await anext(chunks, b"")
    is_short = caller.sent_all and len(first) <= min(PIECE_BYTES, max_bytes)
    try:
        reader = _reader_for(headers, max_bytes)
        if is_short and isinstance(reader, JsonModel) and reader.read_whole(first):
            return Body(caller, chunks, Held(first), reader)
        return Body(caller, chunks, await _spooled(first, chunks, reader, Spool(space), max_bytes), reader)
    except MultipartError:
        raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.") from None


async def _spooled(
    first: bytes, rest: AsyncGenerator[bytes], reader: JsonModel | FormModel, spool: Spool, max_bytes: int
) -> Spool:
    """As much of the body as `reader` needs."""
    chunk = first
    try:
        while chunk:
            if spool.size + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            spool.write(chunk)
            if await _fed(reader, chunk):
                return spool
            chunk = await anext(rest, b"")
        reader.finish()
    except BaseException:
        spool.close()
        raise
    return spool


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
