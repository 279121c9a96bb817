"""Which paths are refused because some reader of them, after some decodings, would see them leave the API."""

import pytest

from shim.call.paths import refuse_escapes
from shim.errors import InvalidPath

# RFC 3986, section 3.3, and what its readers make of it.
SAFE = [
    "/",
    "/files",
    "/files/",
    "/files//content",
    "/a/b.c/d..e/...",
    "/a~b_c-d/9",
    "/.well-known",
    "/..a",
    "/a..",
    "/a%20b",
    "/a%2Fb",
    "/100%25",
    "/%C3%A4",
    "/a;b=c",
    "/a:b@c,d",
    "/a!",
    "/a%7E",
]


@pytest.mark.parametrize("path", SAFE)
def test_a_path_that_nobody_sees_climb_passes(path: str) -> None:
    refuse_escapes(path)


CLIMBING = [
    "",
    "files",
    "//evil.example",
    "/%2Fevil.example",
    "/.",
    "/..",
    "/./a",
    "/a/../b",
    "/a/..",
    "/a/. /b",
    "/a/..;x=1/b",
    "/a/..?b",
    "/a/..#b",
    "/a/%2e%2E/b",
    "/a/.%2e/b",
    "/a/..%2fb",
    "/a/%252e%252e/b",
]


@pytest.mark.parametrize("path", CLIMBING)
def test_a_path_that_some_reader_sees_climb_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath, match="one slash"):
        refuse_escapes(path)


@pytest.mark.parametrize(
    ("character", "is_refused"),
    [
        ("\\", True),
        ("\0", True),
        ("\n", True),
        ("\x1f", True),
        (" ", False),
        ("~", False),
        ("\x7f", True),
        ("\x80", False),
    ],
)
@pytest.mark.parametrize("is_encoded", [False, True], ids=["plain", "encoded"])
def test_a_path_has_no_backslash_and_no_control_character(
    character: str, is_refused: bool, is_encoded: bool
) -> None:
    path = f"/a/b{f'%{ord(character):02x}' if is_encoded else character}c"
    if is_refused:
        with pytest.raises(InvalidPath, match="backslashes"):
            refuse_escapes(path)
    else:
        refuse_escapes(path)


@pytest.mark.parametrize(("times", "is_refused"), [(1, False), (2, False), (3, False), (4, True), (9, True)])
def test_a_path_is_encoded_three_times_at_most(times: int, is_refused: bool) -> None:
    path = "/a%" + "25" * (times - 1) + "41"
    if is_refused:
        with pytest.raises(InvalidPath, match="too many times"):
            refuse_escapes(path)
    else:
        refuse_escapes(path)
