"""A request's body, read only as far as its route depends on it, and sent on byte for byte."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO

from multipart import MultipartError, parse_options_header

from shim.call.caller import Caller
from shim.call.model_in_form import FormModel
from shim.call.model_in_json import JsonModel
from shim.call.routes import ModelUse
from shim.call.splice import Splice
from shim.errors import BodyTooLarge, InvalidRequest, ModelRequired
from shim.headers import Headers, announces_body, named

_CHUNK = 64 * 1024
# What has been read of a multipart body before its `model` turned up is kept in memory up to this, on disk beyond.
_SPOOL_BYTES = 1024 * 1024


class Body:
    """What has been read of a body, then the rest as it arrives. Once iterated over, it is forgotten.

    `model` is what the body names, None if it names none or was not read; `growth` is how many bytes longer
    `replace_model` has made it.
    """

    def __init__(
        self,
        caller: Caller,
        rest: AsyncGenerator[bytes],
        read: IO[bytes] | bytearray | None = None,
        found: JsonModel | FormModel | None = None,
    ) -> None:
        self.model = found.name if found else None
        self._caller = caller
        self._rest = rest
        self._read = bytearray() if read is None else read
        self._found = found
        self._splice: Splice | None = None

    @property
    def growth(self) -> int:
        return self._splice.growth if self._splice else 0

    @property
    def content(self) -> bytes | None:
        """The whole of a short body that has already arrived, as most have; None for others, which are streamed."""
        read, splice = self._read, self._splice
        if not isinstance(read, bytearray) or len(read) > _CHUNK or not self._caller.sent_all:
            return None
        return bytes(
            read if splice is None else read[: splice.start] + splice.replacement + read[splice.end :]
        )

    async def replace_model(self, name: str | None) -> None:
        """Makes the body name `name`, all else as it came; None leaves it.

        Raises InvalidRequest if that cannot be done.
        """
        if name is None:
            return
        match self._found:
            case JsonModel():
                self._splice = await self._found.splice(name)
            case FormModel():
                self._splice = self._found.splice(name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._splice is None:
            for chunk in _chunks(self._read, 0):
                yield chunk
        else:
            for chunk in _chunks(self._read, 0, self._splice.start):
                yield chunk
            yield self._splice.replacement
            for chunk in _chunks(self._read, self._splice.end):
                yield chunk
        self.close()  # what was read is not kept in memory as long as the response streams
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        if not isinstance(self._read, bytearray):
            self._read.close()
        self._read, self._found = bytearray(), None


async def open_body(headers: Headers, caller: Caller, *, model: ModelUse, max_bytes: int) -> Body:
    """The request's body, read only if the route needs its `model`; empty if the call has none.

    Raises ModelRequired, BodyTooLarge, InvalidRequest, or CallerGone.
    """
    if not announces_body(headers):
        if model == "required":
            raise _model_required()
        caller.sent_nothing()
        return Body(caller, caller.body())
    if model == "unread":
        chunks = caller.body()
        return Body(caller, chunks, bytearray(await anext(chunks, b"")))
    body = await _read_model(headers, caller, max_bytes)
    if model == "required" and not body.model:
        body.close()
        raise _model_required()
    return body


async def _read_model(headers: Headers, caller: Caller, max_bytes: int) -> Body:
    if named(headers, b"content-encoding"):
        raise InvalidRequest("Send the body without Content-Encoding: the shim reads `model` from it.")
    if any(int(length) > max_bytes for length in named(headers, b"content-length")):
        raise _too_large(max_bytes)
    content_type = next(iter(named(headers, b"content-type")), b"").decode("latin-1")
    if content_type.lower().startswith("multipart/form-data"):
        return await _read_form(parse_options_header(content_type)[1].get("boundary", ""), caller, max_bytes)
    return await _read_json(caller, max_bytes)


async def _read_json(caller: Caller, max_bytes: int) -> Body:
    chunks = caller.body()
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
    content = bytearray().join(parts)
    parts.clear()
    if size > _CHUNK:
        await asyncio.sleep(0)  # joining megabytes takes milliseconds, decoding them as many
    return Body(caller, chunks, content, JsonModel(content))


async def _read_form(boundary: str, caller: Caller, max_bytes: int) -> Body:
    chunks = caller.body()
    read = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - it is the body's, which closes it
    try:
        form = FormModel(boundary, max_bytes)
        async for chunk in chunks:
            if read.tell() + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            read.write(chunk)
            if form.feed(chunk):
                break
        return Body(caller, chunks, read, form)
    except MultipartError:
        read.close()
        raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.") from None
    except BaseException:
        read.close()
        raise


def _chunks(read: IO[bytes] | bytearray, start: int, end: int | None = None) -> Iterator[bytes]:
    if isinstance(read, bytearray):
        for at in range(start, len(read) if end is None else end, _CHUNK):
            yield bytes(read[at : at + _CHUNK if end is None else min(at + _CHUNK, end)])
        return
    read.seek(start)
    while chunk := read.read(_CHUNK if end is None else min(_CHUNK, end - read.tell())):
        yield chunk


def _model_required() -> ModelRequired:
    return ModelRequired("Name a `model` in the body: the APIM API has one path for each deployment.")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than the {max_bytes} bytes that may be read to find `model`."
        " Send less, or ask the operator to raise MAX_BODY_BYTES."
    )
