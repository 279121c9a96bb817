"""Where a response ends, and whether its head can go on to a caller. Pure."""

from shim.headers import Headers

_HEAD_END = b"\r\n\r\n"


def fault_of(status: int, headers: Headers) -> str | None:
    """Why a response cannot go on to a caller."""
    if not 200 <= status < 600:
        return f"its status is {status:03}"
    codings = [value.strip().lower() for value in _named(headers, b"transfer-encoding")]
    if codings not in ([], [b"chunked"]):
        # This header stays between upstream and the shim, and with it would go the only word on how the body is coded.
        return "its body has a transfer coding that was not asked for"
    return None


def is_framed(headers: Headers) -> bool:
    """Whether the response says itself where it ends, rather than by the connection's end (RFC 9112, section 6.3)."""
    return bool(_named(headers, b"transfer-encoding") or _named(headers, b"content-length"))


def ends_with(data: bytes, last_piece: bytes, headers: Headers) -> bool:
    """Whether the response ends with the last of the bytes that were read last: what follows it is for nobody.

    `last_piece` is the last that the parser gave of its body.
    """
    if last_piece and not _named(headers, b"transfer-encoding"):
        return data.endswith(last_piece)
    tail = data[-6:]
    # The end of a head or of the trailers; the last CRLF of a chunked body may arrive by itself.
    return tail.endswith(_HEAD_END[-len(tail) :]) and tail != b"\r\n\r\n\r\n"


def _named(headers: Headers, name: bytes) -> list[bytes]:
    return [value for other, value in headers if other.lower() == name]
