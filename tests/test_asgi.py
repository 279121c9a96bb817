"""What an HTTP function is given and returns: headers by their names, a request, and a response as it is sent."""

import pytest

from shim.asgi import HeaderMap, Message, Request, Response
from shim.headers import Headers
from tests.support.outlets import Recorded

RAW: Headers = [(b"host", b"a.example"), (b"x-tag", b"first"), (b"x-tag", b"second"), (b"x-name", b"caf\xe9")]


async def never() -> Message:
    raise AssertionError("nobody asked for the body")


@pytest.mark.parametrize("name", ["host", "Host", "HOST"])
def test_a_header_is_found_whatever_the_case_of_its_name(name: str) -> None:
    assert HeaderMap(RAW)[name] == "a.example"
    assert name in HeaderMap(RAW)


def test_of_a_header_that_came_several_times_the_first_counts_and_raw_has_all() -> None:
    headers = HeaderMap(RAW)
    assert headers.get("x-tag") == "first"
    assert headers.raw is RAW


def test_a_header_that_did_not_come_is_missing_as_from_any_mapping() -> None:
    headers = HeaderMap(RAW)
    assert (headers.get("cookie"), headers.get("cookie", "none"), "cookie" in headers) == (
        None,
        "none",
        False,
    )
    with pytest.raises(KeyError, match="cookie"):
        headers["cookie"]


def test_each_name_counts_once_and_in_the_order_of_arrival() -> None:
    headers = HeaderMap(RAW)
    assert list(headers) == ["host", "x-tag", "x-name"]
    assert len(headers) == 3
    assert dict(headers) == {"host": "a.example", "x-tag": "first", "x-name": "café"}
    assert (list(HeaderMap([])), len(HeaderMap([]))) == ([], 0)


def test_a_request_has_its_scopes_method_and_headers() -> None:
    scope = {"type": "http", "method": "PATCH", "headers": RAW}
    request = Request(scope, never)
    assert (request.method, request.headers["x-tag"], request.scope) == ("PATCH", "first", scope)
    assert request.receive is never


@pytest.mark.parametrize("body", [b"", b"content"])
async def test_a_response_is_sent_with_its_headers_as_they_are(body: bytes) -> None:
    response, outlet = Response(418, RAW, body), Recorded()
    await response.send(outlet)
    assert (outlet.status, outlet.headers, b"".join(outlet.pieces), outlet.ended) == (418, RAW, body, True)
    assert (response.status_code, response.headers["x-tag"]) == (418, "first")


async def test_a_response_has_no_body_unless_it_is_given_one() -> None:
    await Response(204, []).send(outlet := Recorded())
    assert outlet.pieces == []


async def test_headers_that_are_added_later_are_sent_and_seen() -> None:
    response = Response(200, [])
    response.raw_headers = [*response.raw_headers, (b"x-late", b"yes")]
    assert response.headers["x-late"] == "yes"
    await response.send(outlet := Recorded())
    assert outlet.headers == [(b"x-late", b"yes")]
