"""The query as the APIM API gets it: no key, one api-version that the API can use, and all else as it came."""

import pytest

from shim.call.query import for_upstream
from shim.settings import Api

DEFAULT = "2024-10-21"
DATED, PREVIEW = "api-version=2023-05-15", "api-version=preview"

# query, who asks, what is asked, what goes upstream
VERSIONS: list[tuple[str, Api, Api, str]] = [
    ("", "v1", "legacy", f"api-version={DEFAULT}"),
    ("a=1&b=2", "v1", "legacy", f"a=1&b=2&api-version={DEFAULT}"),
    # A v1 caller's version counts where it is a date: `preview` means nothing to the dated API.
    (PREVIEW, "v1", "legacy", f"api-version={DEFAULT}"),
    (f"a=1&{PREVIEW}&b=2", "v1", "legacy", f"a=1&b=2&api-version={DEFAULT}"),
    ("api-version=", "v1", "legacy", f"api-version={DEFAULT}"),
    (f"{DATED}&a=1", "v1", "legacy", f"{DATED}&a=1"),
    (f"{PREVIEW}&a=1&{DATED}", "v1", "legacy", f"a=1&{DATED}"),
    (f"a=1&{DATED}-preview", "v1", "legacy", f"a=1&{DATED}-preview"),
    (f"a=1&api-version=v{DEFAULT}", "v1", "legacy", f"a=1&api-version={DEFAULT}"),
    # A legacy caller's counts whatever it is, but for nothing at all.
    (f"a=1&{PREVIEW}", "legacy", "legacy", f"a=1&{PREVIEW}"),
    ("a=1&api-version=", "legacy", "legacy", f"a=1&api-version={DEFAULT}"),
    ("a=1&api-version", "legacy", "legacy", f"a=1&api-version={DEFAULT}"),
    # There is one, the first that can be used, by whichever spelling of its name.
    (f"{DATED}&a=1&{DATED}", "legacy", "legacy", f"{DATED}&a=1"),
    (f"{DATED}&a=1&{PREVIEW}", "legacy", "legacy", f"{DATED}&a=1"),
    ("API-Version=x&a=1", "legacy", "legacy", "API-Version=x&a=1"),
    ("api%2Dversion=x&a=1&api-version=y", "legacy", "legacy", "api%2Dversion=x&a=1"),
    # A v1 API gets a v1 caller's own, and none of a legacy caller's, who always sends one.
    (f"a=1&{PREVIEW}", "v1", "v1", f"a=1&{PREVIEW}"),
    (f"{PREVIEW}&{DATED}", "v1", "v1", f"{PREVIEW}&{DATED}"),
    ("a=1", "v1", "v1", "a=1"),
    (f"a=1&{DATED}&b=2&API%2Dversion=x", "legacy", "v1", "a=1&b=2"),
]


@pytest.mark.parametrize(("query", "dialect", "api", "sent"), VERSIONS)
def test_the_version_is_one_that_the_api_can_use(query: str, dialect: Api, api: Api, sent: str) -> None:
    assert for_upstream(query, dialect=dialect, api=api, default_version=DEFAULT) == sent


@pytest.mark.parametrize(
    "parameter",
    [
        "a",
        "a=",
        "=a",
        "a=1=2",
        "a=%26",
        "a=+%20",
        "a[]=1",
        "%61=1",
        "codes=1",
        "a=code",
        "key=subscription-key",
    ],
)
def test_other_parameters_stay_as_they_came_in_their_order_and_as_often(parameter: str) -> None:
    query = f"{parameter}&z=1&{parameter}"
    assert for_upstream(query, dialect="v1", api="v1", default_version=DEFAULT) == query


@pytest.mark.parametrize("query", ["&", "a=1&&b=2", "&a=1&b=2&"])
def test_what_is_empty_between_two_ampersands_is_no_parameter(query: str) -> None:
    sent = for_upstream(query, dialect="v1", api="v1", default_version=DEFAULT)
    assert sent == "&".join(filter(None, query.split("&")))


def encoded(character: str, times: int) -> str:
    return "%" + "25" * (times - 1) + f"{ord(character):02X}"


@pytest.mark.parametrize(
    "name", ["subscription-key", "Subscription-Key", "code", "clientId", "+code+", "code%3D1"]
)
@pytest.mark.parametrize("value", ["", "=", "=secret"])
def test_no_key_goes_upstream(name: str, value: str) -> None:
    query = f"a=1&{name}{value}&b=2"
    assert for_upstream(query, dialect="v1", api="v1", default_version=DEFAULT) == "a=1&b=2"


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 9])
def test_no_key_goes_upstream_however_often_it_is_encoded(times: int) -> None:
    query = f"a=1&{encoded('c', times)}ode=secret"
    assert for_upstream(query, dialect="v1", api="v1", default_version=DEFAULT) == "a=1"


@pytest.mark.parametrize(("times", "goes"), [(1, True), (3, True), (4, False), (9, False)])
def test_a_name_that_no_client_encodes_so_often_counts_as_a_key(times: int, goes: bool) -> None:
    query = f"{encoded('x', times)}=1"
    assert for_upstream(query, dialect="v1", api="v1", default_version=DEFAULT) == (query if goes else "")


def test_the_default_version_is_encoded() -> None:
    sent = for_upstream("", dialect="v1", api="legacy", default_version="a b&c")
    assert sent == "api-version=a%20b%26c"
