"""Where a response ends: said wrongly, one caller's bytes would begin the next caller's response.

test_transport.py sees the same over sockets; here stand the rules by themselves, at their brims.
"""

import pytest

from shim.headers import Headers
from shim.transport.framing import ends_with, fault_of, is_framed

CHUNKED: Headers = [(b"Transfer-Encoding", b" Chunked ")]
SIZED: Headers = [(b"Content-Length", b"5")]


@pytest.mark.parametrize(
    ("status", "passes"), [(100, False), (199, False), (200, True), (599, True), (600, False), (999, False)]
)
def test_a_final_status_is_between_200_and_599(status: int, passes: bool) -> None:
    assert fault_of(status, []) == (None if passes else f"its status is {status}")


@pytest.mark.parametrize(
    ("codings", "passes"),
    [
        ([], True),
        ([b"chunked"], True),
        ([b" Chunked "], True),
        ([b"gzip"], False),
        ([b"gzip, chunked"], False),
        ([b"gzip", b"chunked"], False),
        ([b"chunked", b"chunked"], False),
    ],
)
def test_chunked_by_itself_is_the_only_coding(codings: list[bytes], passes: bool) -> None:
    headers = [(b"Transfer-Encoding", coding) for coding in codings]
    fault = "its body has a transfer coding that was not asked for"
    assert fault_of(200, headers) == (None if passes else fault)


@pytest.mark.parametrize(
    ("headers", "framed"), [([], False), ([(b"x-length", b"5")], False), (CHUNKED, True), (SIZED, True)]
)
def test_a_length_or_chunks_say_where_a_body_ends(headers: Headers, framed: bool) -> None:
    assert is_framed(headers) is framed


ENDS = {
    "a sized body": (b"hello", b"hello", SIZED, True),
    "a sized body after its head": (b"\r\n\r\nhello", b"hello", SIZED, True),
    "a sized body and more": (b"hello!", b"hello", SIZED, False),
    "a head without a body": (b"HTTP/1.1 204 \r\n\r\n", b"", [], True),
    "a head and more": (b"HTTP/1.1 204 \r\n\r\nH", b"", [], False),
    "a head and an empty line": (b"HTTP/1.1 204 \r\n\r\n\r\n", b"", [], False),
    "the last chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", CHUNKED, True),
    "the last chunk and more": (b"5\r\nhello\r\n0\r\n\r\nH", b"hello", CHUNKED, False),
    "the last chunk and an empty line": (b"0\r\n\r\n\r\n", b"", CHUNKED, False),
    "the last CRLF by itself": (b"\r\n", b"", CHUNKED, True),
    "the last byte by itself": (b"\n", b"", CHUNKED, True),
    "another byte by itself": (b"H", b"", CHUNKED, False),
    "trailers": (b"0\r\nx-sum: 1\r\n\r\n", b"", CHUNKED, True),
}


@pytest.mark.parametrize(("data", "piece", "headers", "ends"), ENDS.values(), ids=ENDS)
def test_a_response_ends_where_nothing_follows(
    data: bytes, piece: bytes, headers: Headers, ends: bool
) -> None:
    assert ends_with(data, piece, headers) is ends
