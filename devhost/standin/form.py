"""Multipart bodies, read as a stream: parts in any order, files of any size."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multipart import MultipartError, PushMultipartParser, parse_options_header

from devhost.standin import azure_openai
from devhost.standin.call import Call
from devhost.standin.stores import FILE_BYTES_KEPT

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(slots=True)
class Part:
    """One part of a form; of a large one only the beginning is kept."""

    name: str
    filename: str | None
    size: int = 0
    _kept: bytearray = field(default_factory=bytearray, repr=False)
    _digest: "_Hash" = field(default_factory=hashlib.sha256, repr=False)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes of the part."""
        self.size += len(chunk)
        self._digest.update(chunk)
        if (room := FILE_BYTES_KEPT - len(self._kept)) > 0:
            self._kept += chunk[:room]

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole part, in hex."""
        return self._digest.hexdigest()

    @property
    def content(self) -> bytes | None:
        """The part's bytes, or None where there were too many to keep."""
        return bytes(self._kept) if self.size <= FILE_BYTES_KEPT else None

    @property
    def text(self) -> str:
        """The part as the text of a form field."""
        return self._kept.decode("utf-8", "replace")


@dataclass(slots=True)
class Form:
    """A parsed form: the fields by name, and the files in the order they came."""

    fields: dict[str, str]
    files: list[Part]

    def file(self) -> Part:
        """The first file; a form without one is a 400."""
        if not self.files:
            raise azure_openai.bad_request("'file' is a required property", "file")
        return self.files[0]


async def read_form(call: Call) -> Form:
    """Read a multipart body to its end. Raises a 400 where it is none or breaks off."""
    try:
        parts = await _read_parts(call)
    except MultipartError as error:
        raise azure_openai.bad_request(f"Could not parse multipart form: {error}") from None
    fields = {part.name: part.text for part in parts if part.filename is None}
    return Form(fields, [part for part in parts if part.filename is not None])


async def _read_parts(call: Call) -> list[Part]:
    _, options = parse_options_header(call.request.headers.get("Content-Type", ""))
    parts: list[Part] = []
    with PushMultipartParser(options.get("boundary", "")) as parser:
        async for chunk in call.received.body_chunks(call.request):
            # What follows the closing boundary is read, and means nothing (RFC 2046, section 5.1.1).
            if parser.closed:
                continue
            # The parser hands out a segment (a part begins), bytes (more of it), or None (it is complete).
            for event in parser.parse(chunk):
                if isinstance(event, (bytes, bytearray)):
                    parts[-1].add(bytes(event))
                elif event is not None:
                    parts.append(Part(event.name or "", event.filename))
    return parts
