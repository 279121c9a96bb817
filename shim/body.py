"""A request's body, read only as far as its route depends on it, and sent on byte for byte."""

import io
from collections.abc import AsyncGenerator, AsyncIterator
from tempfile import SpooledTemporaryFile
from typing import IO

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from shim.caller import Caller
from shim.errors import BodyTooLarge, Headers, InvalidRequest, ModelRequired
from shim.headers import announces_body, named

_CHUNK = 64 * 1024
# What has been read of a multipart body before its `model` turned up is kept in memory up to this, on disk beyond.
_SPOOL_BYTES = 1024 * 1024
_MAX_MODEL_BYTES = 1024
_UTF8_BOM = b"\xef\xbb\xbf"


class Body:
    """What was read of a body already, then the rest as it arrives."""

    def __init__(
        self, rest: AsyncGenerator[bytes], read: IO[bytes] | None = None, model: str | None = None
    ) -> None:
        self.model = model
        self._rest = rest
        self._read = read

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._read is not None:
            self._read.seek(0)
            while chunk := self._read.read(_CHUNK):
                yield chunk
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        if self._read is not None:
            self._read.close()


class _Named(msgspec.Struct):
    # The decoder skips every other field without making objects of it.
    model: str | None = None


_decoder = msgspec.json.Decoder(_Named)


async def open_body(headers: Headers, caller: Caller, *, needs_model: bool, max_bytes: int) -> Body | None:
    """The request's body, None if it has none; unread unless the route needs the model that it names.

    Raises ModelRequired, BodyTooLarge, InvalidRequest, or CallerGone.
    """
    if not announces_body(headers):
        if needs_model:
            raise _model_required()
        caller.watch()
        return None
    return await _read_model(headers, caller.body(), max_bytes) if needs_model else Body(caller.body())


async def _read_model(headers: Headers, chunks: AsyncGenerator[bytes], max_bytes: int) -> Body:
    if named(headers, b"content-encoding"):
        raise InvalidRequest("Send the body without Content-Encoding: the shim reads `model` from it.")
    if any(int(length) > max_bytes for length in named(headers, b"content-length")):
        raise _too_large(max_bytes)
    content_types = named(headers, b"content-type")
    kind, options = parse_options_header(content_types[0].decode("latin-1") if content_types else "")
    if kind == "multipart/form-data":
        return await _read_multipart(options.get("boundary", ""), chunks, max_bytes)
    return await _read_json(chunks, max_bytes)


async def _read_json(chunks: AsyncGenerator[bytes], max_bytes: int) -> Body:
    content = bytearray()
    async for chunk in chunks:
        if len(content) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        content += chunk
    try:
        model = _decoder.decode(content.removeprefix(_UTF8_BOM)).model
    except msgspec.ValidationError:
        raise ModelRequired("The body must be a JSON object, and `model` in it a string.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(
            "The body is not JSON in UTF-8, so that no `model` can be read from it."
        ) from None
    return Body(chunks, io.BytesIO(content), _required(model))


async def _read_multipart(boundary: str, chunks: AsyncGenerator[bytes], max_bytes: int) -> Body:
    read = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - it is the body's, which closes it
    try:
        finder = _ModelPart(boundary, max_bytes)
        async for chunk in chunks:
            if read.tell() + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            read.write(chunk)
            if finder.feed(chunk):
                break
        return Body(chunks, read, _required(finder.model))
    except MultipartError:
        read.close()
        raise InvalidRequest("The body is not the multipart/form-data that its Content-Type says.") from None
    except BaseException:
        read.close()
        raise


class _ModelPart:
    """Finds the part `model`, wherever it stands among the others."""

    def __init__(self, boundary: str, max_bytes: int) -> None:
        self.model: str | None = None
        self._parser = PushMultipartParser(boundary, max_segment_size=max_bytes)
        self._value: bytearray | None = None

    def feed(self, chunk: bytes) -> bool:
        """Whether `model` is known now. Raises MultipartError, InvalidRequest."""
        for event in self._parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                self._value = bytearray() if event.name == "model" and event.filename is None else None
            elif event is None and self._value is not None:
                self.model = self._value.decode("utf-8", "replace")
                return True
            elif event and self._value is not None:
                self._value += event
                if len(self._value) > _MAX_MODEL_BYTES:
                    raise InvalidRequest("The part `model` is too long to be a model's name.")
        return False


def _required(model: str | None) -> str:
    if not model:
        raise _model_required()
    return model


def _model_required() -> ModelRequired:
    return ModelRequired("Name a `model` in the body: the APIM API has one path for each deployment.")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than the {max_bytes} bytes that may be read to find `model`."
        " Send less, or ask the operator to raise MAX_BODY_BYTES."
    )
