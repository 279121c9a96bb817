"""devhost's imitation of the CORS middleware that the Functions host has on Flex Consumption.

There the platform answers every preflight itself: tests without it would show a CORS that no caller gets.
"""

import json

import pytest
from multidict import CIMultiDict

from devhost.platform_cors import PlatformCors

APP = "https://app.contoso.dev"
ASKED = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a,b"}
ALLOWED = {"Access-Control-Allow-Headers": "a,b", "Access-Control-Allow-Methods": "POST"}

PREFLIGHTS = {
    "no origins: an empty policy": ([], {}),
    "one origin": ([APP], {"Access-Control-Allow-Origin": APP, **ALLOWED}),
    "two origins": (
        [APP, "https://other.example"],
        {"Access-Control-Allow-Origin": APP, "Vary": "Origin", **ALLOWED},
    ),
    "another origin": (["https://other.example"], {}),
    "the star": (["*"], {"Access-Control-Allow-Origin": "*", **ALLOWED}),
    "a star that is not alone is none": (["*", "https://other.example"], {}),
    "patterns are none": (["https://*.contoso.dev"], {}),
}


@pytest.mark.parametrize(("origins", "headers"), PREFLIGHTS.values(), ids=PREFLIGHTS)
def test_every_preflight_is_answered(origins: list[str], headers: dict[str, str]) -> None:
    answer = PlatformCors.of({"CORS_ALLOWED_ORIGINS": json.dumps(origins)}).preflight("OPTIONS", ASKED)
    assert answer == CIMultiDict(headers)


@pytest.mark.parametrize("missing", ["Origin", "Access-Control-Request-Method"])
def test_what_is_no_preflight_reaches_the_app(missing: str) -> None:
    rest = {name: value for name, value in ASKED.items() if name != missing}
    assert PlatformCors().preflight("OPTIONS", rest) is None
    assert PlatformCors().preflight("POST", ASKED) is None


def test_on_other_answers_headers_are_set_beside_the_apps() -> None:
    headers = CIMultiDict(
        {"access-control-allow-origin": "the app's", "access-control-expose-headers": "etag"}
    )
    PlatformCors((APP,), credentials=True).apply(APP, headers)
    assert {name.lower(): value for name, value in headers.items()} == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "etag",
    }
    assert len(headers) == 3


def test_the_platforms_vary_stands_beside_the_apps() -> None:
    headers = CIMultiDict({"vary": "Accept-Encoding"})
    PlatformCors((APP, "https://other.example")).apply(APP, headers)
    assert headers.getall("vary") == ["Accept-Encoding", "Origin"]


@pytest.mark.parametrize("origin", ["https://other.example", None])
def test_for_an_origin_not_listed_the_apps_headers_are_left_alone(origin: str | None) -> None:
    headers = CIMultiDict({"access-control-allow-origin": "the app's"})
    PlatformCors((APP,)).apply(origin, headers)
    assert headers == CIMultiDict({"access-control-allow-origin": "the app's"})


SETTINGS = {
    "nothing": ({}, PlatformCors()),
    "an empty list": ({"CORS_ALLOWED_ORIGINS": "[]"}, PlatformCors()),
    "null": ({"CORS_ALLOWED_ORIGINS": "null"}, PlatformCors()),
    "credentials as the platform writes them": ({"CORS_SUPPORT_CREDENTIALS": "False"}, PlatformCors()),
    "credentials": (
        {"CORS_ALLOWED_ORIGINS": '["https://App.Contoso.dev"]', "CORS_SUPPORT_CREDENTIALS": "True"},
        PlatformCors((APP,), credentials=True),
    ),
}


@pytest.mark.parametrize(("environ", "expected"), SETTINGS.values(), ids=SETTINGS.keys())
def test_it_is_set_by_the_hosts_two_variables(environ: dict[str, str], expected: PlatformCors) -> None:
    assert PlatformCors.of(environ) == expected


NO_START = {
    "a list as people write it": {"CORS_ALLOWED_ORIGINS": "https://app.contoso.dev,https://other.example"},
    "one string": {"CORS_ALLOWED_ORIGINS": '"https://app.contoso.dev"'},
    "an object": {"CORS_ALLOWED_ORIGINS": "{}"},
    "credentials that are no flag": {"CORS_SUPPORT_CREDENTIALS": "yes"},
    "credentials for every origin": {"CORS_ALLOWED_ORIGINS": '["*"]', "CORS_SUPPORT_CREDENTIALS": "true"},
}


@pytest.mark.parametrize("environ", NO_START.values(), ids=NO_START.keys())
def test_the_host_does_not_start_with_anything_else(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="CORS_"):
        PlatformCors.of(environ)
