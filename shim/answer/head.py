"""The head of a response as the Functions host takes it. Pure.

Kestrel refuses header values that are not ASCII, or hold control characters: the caller would get an empty 500
(HttpHeaders.ValidateHeaderValueCharacters). Of the worker, the host's client takes 64 KB of head
(SocketsHttpHandler.MaxResponseHeadersLength); above that it asks again and again, and the call fails or hangs.
"""

import re
from urllib.parse import quote

from shim.errors import UpstreamHeadTooLarge
from shim.headers import Headers

# The host's limit, less what is still to be added: CORS headers name each header once more, and the framing.
_MAX_BYTES = 60 * 1024
_SENDABLE = re.compile(rb"[\t\x20-\x7e]*")
# RFC 6266, section 4.1: a quoted string or a token.
_FILENAME = re.compile(r';\s*filename=("(?:[^"\\]|\\.)*"|[^;]*)', re.IGNORECASE)
_FILENAME_EXTENDED = re.compile(r";\s*filename\*=", re.IGNORECASE)


def fit_for_host(headers: Headers) -> tuple[Headers, list[bytes]]:
    """The headers that can be sent, and the names of those that cannot. Raises UpstreamHeadTooLarge.

    A file name that is not ASCII is percent-encoded (RFC 8187), as browsers understand it.
    """
    size = sum(2 * len(name) + len(value) + 6 for name, value in headers)
    if size > _MAX_BYTES:
        raise UpstreamHeadTooLarge(
            f"The APIM API's response has more headers than the Functions host takes (about {_MAX_BYTES // 1024} KB):"
            " remove some in a policy of the API."
        )
    if _SENDABLE.fullmatch(b"".join([value for _, value in headers])):
        return headers, []
    kept: Headers = []
    dropped: list[bytes] = []
    for name, value in headers:
        if name == b"content-disposition":
            value = _with_encoded_filename(value)
        if _SENDABLE.fullmatch(value):
            kept.append((name, value))
        else:
            dropped.append(name)
    return kept, dropped


def _with_encoded_filename(disposition: bytes) -> bytes:
    text = _decoded(disposition)

    def encode(match: re.Match[str]) -> str:
        if match[0].isascii() and match[0].isprintable():
            return match[0]
        if _FILENAME_EXTENDED.search(text):
            return ""
        given = re.sub(r"\\(.)", r"\1", match[1][1:-1]) if match[1].startswith('"') else match[1].strip()
        return f"; filename*=UTF-8''{quote(given, safe='')}"

    return _FILENAME.sub(encode, text).encode("utf-8", "surrogateescape")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")  # what HTTP once said they are (RFC 9110, section 5.5)
