"""A response for the Azure SDK, read whole: of requests in azure-core's newer form and in its older one alike."""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import AsyncIterator, MutableMapping
from email.message import Message
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError
from azure.core.rest import AsyncHttpResponse
from azure.core.utils import case_insensitive_dict

from shim.headers import Headers
from shim.transport.wire import RemoteProtocolError

if TYPE_CHECKING:
    from azure.core.pipeline.transport import HttpRequest as LegacyRequest
    from azure.core.rest import HttpRequest


class SdkResponse(AsyncHttpResponse):
    """What azure.core.rest asks of a response; and `body`, which azure.core.pipeline.transport asks besides."""

    def __init__(
        self, request: HttpRequest | LegacyRequest, status: int, headers: Headers, body: bytes
    ) -> None:
        self._request = request
        self._status = status
        self._headers: MutableMapping[str, str] = case_insensitive_dict()
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            self._headers[name] = f"{self._headers[name]}, {value}" if name in self._headers else value
        self._body = body
        self._encoding: str | None = None

    @property
    def request(self) -> HttpRequest:
        return self._request  # type: ignore[return-value]  # the one that was sent, of either kind

    @property
    def status_code(self) -> int:
        return self._status

    @property
    def headers(self) -> MutableMapping[str, str]:
        return self._headers

    @property
    def reason(self) -> str:
        """The standard's words for the status: those on the wire mean nothing (RFC 9112, section 4)."""
        try:
            return HTTPStatus(self._status).phrase
        except ValueError:
            return ""

    @property
    def content_type(self) -> str | None:
        return self._headers.get("content-type")

    @property
    def is_closed(self) -> bool:
        return True

    @property
    def is_stream_consumed(self) -> bool:
        return True

    @property
    def encoding(self) -> str | None:
        """As set, or as the content type names it; None where nobody knows one of that name."""
        if self._encoding is None and self.content_type:
            message = Message()
            message["content-type"] = self.content_type
            return _known(message.get_content_charset())
        return self._encoding

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self._encoding = value

    @property
    def url(self) -> str:
        return self._request.url

    @property
    def content(self) -> bytes:
        return self._body

    def body(self) -> bytes:
        return self._body

    def text(self, encoding: str | None = None) -> str:
        return self._body.decode(encoding or self.encoding or "utf-8-sig")

    def json(self) -> Any:
        return json.loads(self.text())

    def raise_for_status(self) -> None:
        if self._status >= 400:
            raise HttpResponseError(response=self)

    async def read(self) -> bytes:
        return self._body

    async def iter_raw(self, **_: Any) -> AsyncIterator[bytes]:
        yield self._body

    async def iter_bytes(self, **_: Any) -> AsyncIterator[bytes]:
        yield self._body

    async def close(self) -> None:
        """Nothing is left open."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Nothing is left open."""


def decoded(body: bytes, headers: Headers, most: int) -> bytes:
    """The body without its content coding, `most` bytes of it. Raises RemoteProtocolError."""
    codings = [value.strip().lower() for name, value in headers if name.lower() == b"content-encoding"]
    if not body or codings in ([], [b"identity"]):
        return body
    if codings not in ([b"gzip"], [b"deflate"]):
        raise RemoteProtocolError("the response has a content coding that was not asked for")
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip's frame, or zlib's, which is "deflate"
    try:
        plain = inflating.decompress(body, most + 1)
    except zlib.error:
        raise RemoteProtocolError("the response is not coded as it says") from None
    if len(plain) > most:
        raise RemoteProtocolError(f"the response has more than {most} bytes")
    if not inflating.eof:
        raise RemoteProtocolError("the response breaks off within its content coding")
    return plain


def _known(charset: str | None) -> str | None:
    try:
        return charset and codecs.lookup(charset).name
    except LookupError:
        return None
