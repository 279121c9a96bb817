"""What the shim answers to preflights, and what it adds to and removes from responses.

One header too few and every page fails with an error that says nothing; one too many and any page on the web may
call.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import errors
from shim.answer.cors import Cors
from shim.errors import OriginNotAllowed
from shim.headers import Headers
from shim.settings.origins import OriginPattern

APP = "https://app.contoso.dev"
EVIL = "https://evilcontoso.dev"
ASKED = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"


def cors(origins: str = APP, *, credentials: bool = False, max_age: int = 600) -> Cors:
    patterns = [OriginPattern.parse(text) for text in origins.split(",")] if origins else []
    return Cors(patterns, credentials=credentials, max_age=max_age)


def preflight(
    rules: Cors, origin: str = APP, method: str = "POST", **more: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the answer to a preflight."""
    headers = {"origin": origin, "access-control-request-method": method}
    headers |= {f"access-control-request-{name.replace('_', '-')}": value for name, value in more.items()}
    try:
        allowed = rules.preflight("OPTIONS", headers)
    except OriginNotAllowed as error:
        status, refused, body = errors.render(error)
        return status, _once_each(refused), body.decode()
    assert allowed
    return 204, _once_each(allowed), ""


def decorated(rules: Cors, origin: str | None = APP, *upstreams: tuple[str, str]) -> dict[str, str]:
    headers = [(name.encode(), value.encode()) for name, value in upstreams]
    return _once_each(rules.decorate(headers, origin))


def _once_each(headers: Headers) -> dict[str, str]:
    assert len(headers) == len(dict(headers)), f"a header came twice: {headers}"
    return {name.decode(): value.decode() for name, value in headers}


def test_a_preflight_of_an_allowed_origin_is_answered_in_full() -> None:
    status, headers, body = preflight(cors(), headers=ASKED)
    assert (status, body) == (204, "")
    assert headers == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
        "access-control-allow-headers": ASKED.replace(",", ", "),
        "access-control-max-age": "600",
        "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers,"
        " Access-Control-Request-Private-Network",
    }


NO_PREFLIGHTS = {
    "a POST": ("POST", {"origin": APP, "access-control-request-method": "POST"}),
    "no origin": ("OPTIONS", {"access-control-request-method": "POST"}),
    "no method asked for": ("OPTIONS", {"origin": APP}),
    "a method in lower case": ("options", {"origin": APP, "access-control-request-method": "POST"}),
}


@pytest.mark.parametrize(("method", "headers"), NO_PREFLIGHTS.values(), ids=NO_PREFLIGHTS)
def test_what_is_no_preflight_is_left_alone(method: str, headers: dict[str, str]) -> None:
    assert cors().preflight(method, headers) is None


REQUESTED = {
    "one": ("authorization", "authorization"),
    "many": ("a,b,c", "a, b, c"),
    "white space": (" a ,\tb", "a, b"),
    "none": ("", None),
    "only commas": (",,,", None),
    "every character of a token": ("!#$%&'*+-.^_`|~09azAZ", "!#$%&'*+-.^_`|~09azAZ"),
    "a space within": ("a b,c", "c"),
    "a line break": ("a\r\nset-cookie: x=1,c", "c"),
    "a colon": ("a:b,c", "c"),
    "a letter of no ASCII": ("\xe4,c", "c"),
    "a quoted string": ('"a",c', "c"),
    "nothing valid": ("a b,(c)", None),
}


@pytest.mark.parametrize(("asked", "echoed"), REQUESTED.values(), ids=REQUESTED)
def test_requested_headers_are_echoed_if_they_are_tokens(asked: str, echoed: str | None) -> None:
    status, headers, _ = preflight(cors(), headers=asked)
    assert status == 204
    assert headers.get("access-control-allow-headers") == echoed


@given(st.text(st.characters(codec="latin-1")))
def test_whatever_is_requested_the_answer_is_one_valid_header(asked: str) -> None:
    _, headers, _ = preflight(cors(), headers=asked)
    echoed = headers.get("access-control-allow-headers", "")
    assert echoed.isascii()
    assert not set(echoed) & set("\r\n\0\x7f")


@pytest.mark.parametrize("origins", ["", APP, "https://*.contoso.dev", "null"])
def test_a_preflight_of_another_origin_is_refused_and_told_which_setting_to_change(origins: str) -> None:
    status, headers, body = preflight(cors(origins), EVIL, headers=ASKED, private_network="true")
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control-")]
    assert headers["x-shim-error-source"] == "shim"
    assert headers["content-length"] == str(len(body.encode()))
    # Or a cache would give the refusal of one page to another.
    assert headers["vary"] == (
        "Origin, Access-Control-Request-Method, Access-Control-Request-Headers,"
        " Access-Control-Request-Private-Network"
    )
    error = json.loads(body)["error"]
    assert error["code"] == "cors_origin_not_allowed"
    assert "CORS_ORIGINS" in error["message"]
    assert EVIL in error["message"]


@pytest.mark.parametrize(
    ("origin", "repeated"),
    [
        ("https://" + "a" * 192, True),
        ("https://" + "a" * 193, False),
        ("https://" + "a" * 9000, False),
        ("https://a\x1b[31m", False),
    ],
    ids=["of 200 characters", "of 201 characters", "endless", "unprintable"],
)
def test_a_refusal_repeats_no_origin_that_is_endless_or_unprintable(origin: str, repeated: bool) -> None:
    _, _, body = preflight(cors(), origin)
    assert (origin in json.loads(body)["error"]["message"]) is repeated


def test_a_private_network_preflight_is_answered_for_an_allowed_origin() -> None:
    _, headers, _ = preflight(cors(), private_network="true")
    assert headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("asked", [{}, {"private_network": "false"}], ids=["not asked", "asked otherwise"])
def test_a_private_network_is_not_allowed_unasked(asked: dict[str, str]) -> None:
    _, headers, _ = preflight(cors(), **asked)
    assert "access-control-allow-private-network" not in headers


def test_max_age_is_what_the_settings_say() -> None:
    assert preflight(cors(max_age=7200))[1]["access-control-max-age"] == "7200"


def test_credentials_are_allowed_to_named_origins_only() -> None:
    named = cors(credentials=True)
    for headers in (preflight(named)[1], decorated(named)):
        assert headers["access-control-allow-credentials"] == "true"
        assert headers["access-control-allow-origin"] == APP
    for headers in (preflight(named, EVIL)[1], decorated(named, EVIL), decorated(named, None)):
        assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origins", ["*", f"*,{APP}", f"{APP},*"])
def test_credentials_never_go_with_the_star(origins: str) -> None:
    rules = cors(origins, credentials=True)
    for headers in (preflight(rules)[1], decorated(rules)):
        assert headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in headers


def test_null_is_allowed_only_where_it_is_named() -> None:
    assert "access-control-allow-origin" not in decorated(cors("*"), "null")
    assert decorated(cors("null"), "null")["access-control-allow-origin"] == "null"
    assert decorated(cors("*,null"), "null")["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", [APP, EVIL, None], ids=["allowed", "another", "none"])
@pytest.mark.parametrize("origins", ["", APP, "*"], ids=["no CORS", "one origin", "the star"])
def test_upstreams_cors_headers_never_stay(origins: str, origin: str | None) -> None:
    headers = decorated(
        cors(origins),
        origin,
        ("access-control-allow-origin", "https://upstreams.example"),
        ("access-control-allow-credentials", "upstream"),
        ("access-control-expose-headers", "upstream"),
        ("access-control-allow-private-network", "upstream"),
        ("access-control-of-the-future", "upstream"),
        ("content-type", "text/plain"),
    )
    assert not [value for value in headers.values() if "upstream" in value]
    assert headers["content-type"] == "text/plain"


def test_the_headers_that_browsers_hide_are_exposed_each_by_name_and_once() -> None:
    headers = decorated(
        cors(credentials=True),
        APP,
        ("cache-control", "no-store"),
        ("content-language", "en"),
        ("content-length", "2"),
        ("content-type", "application/json"),
        ("expires", "0"),
        ("last-modified", "now"),
        ("pragma", "no-cache"),
        ("set-cookie", "a=1"),
        ("set-cookie2", "a=1"),
        ("x-request-id", "1"),
        ("apim-request-id", "2"),
        ("retry-after", "57"),
        ("x-ratelimit-remaining-tokens", "3"),
    )
    assert headers["access-control-expose-headers"] == (
        "x-request-id, apim-request-id, retry-after, x-ratelimit-remaining-tokens, vary"
    )


def test_a_header_that_comes_twice_is_exposed_once_and_set_cookie_never() -> None:
    received = [(b"warning", b"1"), (b"warning", b"2"), (b"set-cookie", b"a=1")]
    exposed = dict(cors().decorate(received, APP))[b"access-control-expose-headers"]
    assert exposed == b"warning, vary"


VARY = {
    "none of upstream's": ([], "Origin"),
    "upstream's other": (["Accept-Encoding"], "Accept-Encoding, Origin"),
    "upstream's others, in two lines": (["TE", "Accept, Cookie"], "TE, Accept, Cookie, Origin"),
    "upstream's Origin": (["Accept, Origin"], "Accept, Origin"),
    "upstream's Origin, in lower case": (["origin"], "origin"),
    "upstream's star": (["*"], "*"),
    "an empty one": ([""], "Origin"),
    "a name that holds the word": (["X-Origin"], "X-Origin, Origin"),
}  # fmt: skip


@pytest.mark.parametrize("origin", [APP, EVIL, "null", None], ids=["allowed", "another", "null", "none"])
@pytest.mark.parametrize("origins", [APP, "https://*.contoso.dev", "*"])
@pytest.mark.parametrize(("upstreams", "merged"), VARY.values(), ids=VARY)
def test_every_answer_varies_by_origin(
    upstreams: list[str], merged: str, origins: str, origin: str | None
) -> None:
    headers = cors(origins).decorate([(b"vary", value.encode()) for value in upstreams], origin)
    assert [value.decode() for name, value in headers if name == b"vary"] == [merged]


def test_where_no_origin_is_allowed_nothing_varies_by_it() -> None:
    assert decorated(cors(""), APP, ("vary", "Accept")) == {"vary": "Accept"}


@pytest.mark.parametrize("origin", [EVIL, None], ids=["another", "none"])
def test_an_origin_that_is_not_allowed_gets_no_cors_headers(origin: str | None) -> None:
    assert decorated(cors(), origin, ("x-request-id", "1")) == {"x-request-id": "1", "vary": "Origin"}
