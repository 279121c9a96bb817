"""devhost does with a request what the Functions host does.

Everything else here is tested through devhost: where it is kinder than Azure, the other tests prove nothing.
"""

import json

import pytest

from devhost.host import Host
from devhost.process import Function
from devhost.routing import BadTarget, Route, choose, decode_path, encode_path
from tests.conftest import KEY, StartHost
from tests.support.wire import exchange, request

FUNCTION = Function("f", "1", "request", "httpTrigger", "openai/{*path}", ("GET", "POST"))
CATCH_ALL = Route(FUNCTION, ("openai", "{*path}"))

MATCHES = {
    "a path": ("/openai/v1/models", {"path": "v1/models"}),
    "another case": ("/OpenAI/v1/Models", {"path": "v1/Models"}),
    "the root": ("/openai", {}),
    "the root with a slash": ("/openai/", {}),
    "inner slashes": ("/openai/v1//models/", {"path": "v1//models/"}),
    "a leading double slash": ("//openai/v1", None),
    "another name": ("/openaix/v1", None),
}


@pytest.mark.parametrize(("path", "params"), MATCHES.values(), ids=MATCHES.keys())
def test_a_catch_all_matches(path: str, params: dict[str, str] | None) -> None:
    assert CATCH_ALL.match(path) == params


@pytest.mark.parametrize("path", ["/healthz", "/HealthZ", "/healthz/"])
def test_literals_ignore_case_and_a_trailing_slash(path: str) -> None:
    assert Route(FUNCTION, ("healthz",)).match(path) == {}
    assert Route(FUNCTION, ("healthz",)).match(f"{path}/more") is None


def test_a_method_that_no_function_lists_finds_none() -> None:
    assert choose([CATCH_ALL], "DELETE", "/openai/x") is None


PATHS = {
    "plain": ("/a/b", "/a/b", "/a/b"),
    "a space": ("/a%20b", "/a b", "/a%20b"),
    "needless encoding": ("/%61", "/a", "/a"),
    "an encoded slash": ("/a%2Fb", "/a%2Fb", "/a%252Fb"),
    "a percent sign": ("/a%25b", "/a%b", "/a%25b"),
    "UTF-8": ("/%C3%A4", "/\u00e4", "/%C3%A4"),
    "not UTF-8": ("/%FF", "/%FF", "/%25FF"),
    "dot segments": ("/a/../b/./c/..", "/b/", "/b/"),
    "encoded dot segments": ("/a/%2e%2e/b", "/b", "/b"),
    "a backslash": ("/a%5Cb", "/a\\b", "/a%5Cb"),
    "slashes": ("/a//b/", "/a//b/", "/a//b/"),
}


@pytest.mark.parametrize(("raw", "decoded", "encoded"), PATHS.values(), ids=PATHS.keys())
def test_paths_are_decoded_and_encoded_anew(raw: str, decoded: str, encoded: str) -> None:
    assert decode_path(raw) == decoded
    assert encode_path(decoded) == encoded


@pytest.mark.parametrize("raw", ["a", "", "*", "/\u00e4", "/%00"])
def test_targets_that_kestrel_refuses(raw: str) -> None:
    with pytest.raises(BadTarget):
        decode_path(raw)


async def test_what_no_route_takes_is_a_bare_404(host: Host) -> None:
    for target in ("//openai/v1/models", "//"):
        answer = await exchange(host.url, request("GET", target))
        assert (answer.status, answer.body) == (404, b"")


async def test_an_absolute_form_target_must_name_the_host(host: Host) -> None:
    own = b"GET http://shim.example.com/healthz HTTP/1.1\r\nhost: shim.example.com\r\n\r\n"
    assert (await exchange(host.url, own)).status == 200
    other = b"GET http://evil.example/healthz HTTP/1.1\r\nhost: shim.example.com\r\n\r\n"
    assert (await exchange(host.url, other)).status == 400


async def test_a_body_over_the_hosts_limit_is_an_empty_500(start_host: StartHost) -> None:
    host = await start_host(FUNCTIONS_REQUEST_BODY_SIZE_LIMIT="1000")
    answer = await exchange(host.url, request("POST", "/v1/files", key=KEY, body=bytes(1001)))
    assert (answer.status, answer.body) == (500, b"")


async def test_the_homepage_can_be_turned_off(host: Host, start_host: StartHost) -> None:
    assert (await exchange(host.url, request("GET", "/"))).status == 200
    without = await start_host(AzureWebJobsDisableHomepage="true")
    assert (await exchange(without.url, request("GET", "/"))).status == 204


async def test_with_faulty_settings_the_app_starts_and_says_what_is_wrong(start_host: StartHost) -> None:
    host = await start_host(APIM_API="v3", KEY_CACHE_TTL="soon")
    answer = await exchange(host.url, request("GET", "/v1/models", key=KEY))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "shim_misconfigured")
    ready = await exchange(host.url, request("GET", "/readyz"))
    [settings] = json.loads(ready.body)["checks"]
    assert (ready.status, settings["ok"]) == (503, False)
    assert "APIM_API" in settings["reason"]
    assert "KEY_CACHE_TTL" in settings["reason"]
    assert (await exchange(host.url, request("GET", "/healthz"))).status == 200
