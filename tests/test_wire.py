"""What a transport is asked: whom a request goes to, and what is shown of it.

Of a Host header that is wrong APIM makes a 404; a key in a `repr` ends up in a log, with whatever has gone wrong.
"""

import pytest

from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    Origin,
    ReadTimeout,
    RemoteProtocolError,
    TransportError,
    WireRequest,
    WriteError,
    origin_of,
)
from tests.conftest import KEY
from tests.support.transports import pieces


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example/openai", Origin("https", "a.example", 443, b"a.example")),
        ("http://localhost/openai", Origin("http", "localhost", 80, b"localhost")),
        ("https://a.example:443", Origin("https", "a.example", 443, b"a.example")),
        ("http://localhost:80", Origin("http", "localhost", 80, b"localhost")),
        ("https://a.example:80", Origin("https", "a.example", 80, b"a.example:80")),
        ("http://localhost:443", Origin("http", "localhost", 443, b"localhost:443")),
        ("https://a.example:8443/openai", Origin("https", "a.example", 8443, b"a.example:8443")),
        ("HTTPS://A.Example:8443/OpenAI", Origin("https", "a.example", 8443, b"a.example:8443")),
        ("https://A.Example", Origin("https", "a.example", 443, b"a.example")),
        ("http://127.0.0.1:7071", Origin("http", "127.0.0.1", 7071, b"127.0.0.1:7071")),
        ("http://[::1]:7071/openai", Origin("http", "::1", 7071, b"[::1]:7071")),
        ("https://[2001:DB8::1]/openai", Origin("https", "2001:db8::1", 443, b"[2001:db8::1]")),
    ],
)
def test_an_origin_has_its_schemes_port_if_no_other_and_small_letters(url: str, origin: Origin) -> None:
    """RFC 9110, section 7.2: Host names no port that is the scheme's own, and an IPv6 address in brackets."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("body", [b"a prompt", None], ids=["at hand", "still to arrive"])
def test_a_requests_repr_shows_neither_its_key_nor_its_body(body: bytes | None) -> None:
    headers = [(b"host", b"a.example"), (b"api-key", KEY.encode())]
    request = WireRequest(
        "POST", origin_of("https://a.example"), b"/x?y", headers, body or pieces(b"a prompt")
    )
    assert repr(request) == f"WireRequest('POST', {request.origin!r}, b'/x?y')"


def test_a_request_has_no_body_and_all_the_time_unless_it_says_otherwise() -> None:
    request = WireRequest("GET", origin_of("https://a.example"), b"/", [])
    assert request.body == b""
    assert (request.connect_timeout, request.read_timeout, request.head_timeout) == (None, None, None)


def test_every_error_is_a_transports_and_a_late_connection_is_none() -> None:
    """Nothing was sent in either case: the client tries once more."""
    kinds = [ConnectError, LocalProtocolError, ReadTimeout, RemoteProtocolError, WriteError]
    assert {kind.__base__ for kind in kinds} == {TransportError}
    assert ConnectTimeout.__base__ is ConnectError
