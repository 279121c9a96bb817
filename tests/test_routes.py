"""What a path asks for, where it goes, and when a body is read at all.

A path that means one thing to the shim and another to what stands behind it would be a way around APIM's API; a wrong
base URL is the first thing that a new user gets wrong.
"""

import json
import re
import subprocess
import sys

import aiohttp
import pytest

from devhost.host import Host
from shim.call import operations, routes
from shim.call.parse import parse
from shim.errors import InvalidPath, InvalidRequest, NotFound, RealtimeNotSupported
from shim.settings import Settings, SettingsError
from tests.conftest import KEY, ROOT
from tests.support.wire import exchange, request

ENVIRONMENT = {"APIM_BASE_URL": "https://contoso.azure-api.net/openai", "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}
MAPPED = {"MODEL_DEPLOYMENTS": "gpt-4o=prod"}
MIXED = {"MODEL_APIS": "gpt-5=v1"}
ONE_LEGACY = {"MODEL_APIS": "gpt-3.5=legacy"}
V1 = {"APIM_API": "v1"}


def target(method: str, path: str, model: str | None = None, query: str = "", **settings: str) -> str:
    """What upstream is asked for."""
    shim = Settings.from_environment(ENVIRONMENT | settings)
    return routes.find_route(parse(method, path.encode(), query.encode(), []), model, shim).target


@pytest.mark.parametrize(
    ("method", "path", "place"),
    [
        ("POST", "/chat/completions", "path"),
        ("GET", "/chat/completions", None),
        ("POST", "/chat/completions/abc", None),
        ("POST", "/threads/runs", "body"),
        ("POST", "/threads/abc", None),
        ("POST", "/threads/abc/runs", "body"),
        ("POST", "/threads/abc/runs/def", None),
        ("POST", "/assistants/abc", "body"),
        ("POST", "/Responses", None),
        ("POST", "/responsesX", None),
        ("POST", "/", None),
        ("POST", "", None),
    ],
)
def test_an_operation_has_its_deployment_in_one_place(method: str, path: str, place: str | None) -> None:
    assert operations.deployment_place(method, path) == place


CHAT, RESPONSE, AZURE = "/v1/chat/completions", "/v1/responses", "/openai/deployments/gpt-4o/chat/completions"


@pytest.mark.parametrize(
    ("settings", "path", "use"),
    [
        ({}, CHAT, "required"),
        ({}, RESPONSE, "unread"),
        ({}, AZURE, "unread"),
        ({}, "/openai/responses", "unread"),
        ({}, "/v1/files", "unread"),
        ({}, "/v1/nobody/knows", "unread"),
        (V1, CHAT, "unread"),
        (V1, RESPONSE, "unread"),
        (V1, AZURE, "optional"),
        (V1, "/openai/responses", "unread"),
        (MAPPED, CHAT, "required"),
        (MAPPED, RESPONSE, "optional"),
        (MAPPED, "/v1/responses/compact", "optional"),
        (MAPPED, "/v1/videos", "optional"),
        (MAPPED, "/v1/nobody/knows", "unread"),
        (MAPPED, AZURE, "unread"),
        (MAPPED, "/openai/responses", "unread"),
        ({"MODEL_DEPLOYMENTS": "gpt-4o=gpt-4o"}, RESPONSE, "unread"),
        (V1 | MAPPED, CHAT, "optional"),
        (V1 | ONE_LEGACY, CHAT, "optional"),
        (V1 | ONE_LEGACY, RESPONSE, "optional"),
        (MIXED, CHAT, "required"),
        (MIXED, RESPONSE, "optional"),
        (MIXED, AZURE, "unread"),
        (MIXED, AZURE.replace("gpt-4o", "gpt-5"), "optional"),
        ({"MODEL_APIS": "vendor/m=v1"}, AZURE.replace("gpt-4o", "vendor%2Fm"), "optional"),
        (MIXED, "/openai/responses", "optional"),
        (MIXED, "/v1/fine_tuning/jobs", "unread"),
        (V1 | MIXED, CHAT, "unread"),
    ],
)
def test_a_body_is_read_only_where_its_model_matters(settings: dict[str, str], path: str, use: str) -> None:
    call = parse("POST", path.encode(), b"", [])
    assert routes.model_use(call, Settings.from_environment(ENVIRONMENT | settings)) == use


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/openai", "/openai/v1/"])
@pytest.mark.parametrize("api", ["legacy", "v1"])
def test_a_target_is_a_path_even_where_the_base_url_has_none(path: str, api: str) -> None:
    bases = {"APIM_BASE_URL": "https://contoso.azure-api.net", "APIM_V1_BASE_URL": "https://v1.azure-api.net"}
    assert target("GET", path, **bases, APIM_API=api).partition("?")[0] == "/"


ESCAPES = {
    "an authority": "//evil.com/x",
    "an encoded authority": "/%2Fevil.com/x",
    "an authority encoded twice": "/%252Fevil.com/x",
    "an authority encoded three times": "/%25252Fevil.com/x",
    "dots before an encoded question mark": "/..%3f/x",
    "dots before an encoded question mark, encoded again": "/..%253F/x",
    "dots before an encoded hash": "/..%23/x",
    "dots before an encoded space": "/..%20/x",
    "dots after an encoded space": "/%20../x",
    "dots before an encoded space at the end": "/x/..%20",
    "dots before an encoded parameter": "/..%3Ba=b/x",
    "a dot before an encoded space": "/.%20/x",
}


@pytest.mark.parametrize("below", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("root", ["/openai/v1", "/v1", "/openai"])
def test_a_path_that_some_reader_would_see_climb_is_refused(root: str, below: str) -> None:
    with pytest.raises(InvalidPath):
        parse("GET", f"{root}{below}".encode(), b"", [])


@pytest.mark.parametrize(("path", "query"), [(b"/v1/\xc3\xa4", b""), (b"/v1/files", b"a=\xff")])
def test_a_url_that_is_not_ascii_is_refused(path: bytes, query: bytes) -> None:
    with pytest.raises(InvalidPath, match="Percent-encode"):
        parse("GET", path, query, [])


@pytest.mark.parametrize(
    "path", ["/files/a%20b", "/files/a%3Fb", "/files/a..%20b", "/files/...", "/files/..a", "/a/%3F"]
)
def test_a_path_that_nobody_sees_climb_passes(path: str) -> None:
    assert target("GET", f"/v1{path}", **V1) == f"/openai/v1{path}"


@pytest.mark.parametrize(("length", "is_refused"), [(256, False), (257, True)])
def test_a_deployments_name_has_256_characters_at_most(length: int, is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(InvalidRequest, match="more than 256 characters"):
            target("POST", CHAT, "m" * length)
    else:
        assert f"/deployments/{'m' * length}/chat" in target("POST", CHAT, "m" * length)


KEYS = {
    "plain": "subscription-key=x",
    "in capitals": "Subscription-KEY=x",
    "encoded": "subscription%2Dkey=x",
    "encoded twice": "subscription%252Dkey=x",
    "encoded three times": "subscription%25252Dkey=x",
    "encoded more often than anybody decodes": f"subscription%{'25' * 9}2Dkey=x",
    "with an encoded equals sign": "subscription-key%3Dx",
    "with an encoded space": "code%20=x",
    "of Functions, encoded twice": "%2563ode=x",
    "of Functions, its id": "clientId=x",
}


@pytest.mark.parametrize("parameter", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("api", ["legacy", "v1"])
def test_no_key_goes_upstream_in_the_query(parameter: str, api: str) -> None:
    query = target("GET", "/v1/files", query=f"a=1&{parameter}&b=%2541", APIM_API=api).partition("?")[2]
    assert query.removesuffix("&api-version=2024-10-21") == "a=1&b=%2541"


@pytest.mark.parametrize("parameter", ["codes=x", "subscription=x", "a%2520b=1", "100%25=1", "a=code"])
def test_other_parameters_go_upstream_as_they_are(parameter: str) -> None:
    assert target("GET", "/v1/files", query=parameter, **V1) == f"/openai/v1/files?{parameter}"


# What a client calls whose base URL is wrong, and the words that name what to change.
WRONG_BASES = {
    "OpenAI at the host": ("POST", "/chat/completions", NotFound, "nothing at this path"),
    "OpenAI at /openai": ("POST", "/openai/chat/completions", NotFound, '"/openai/chat/completions"'),
    "OpenAI at /openai, in capitals": ("POST", "/OpenAI/embeddings", NotFound, '"/openai/embeddings"'),
    "OpenAI at /api/v1": ("GET", "/api/v1/models", NotFound, "nothing at this path"),
    "OpenAI at /v1/chat/completions": (
        "POST", "/v1/chat/completions/chat/completions", NotFound, 'ends with "/chat/completions"'),
    "OpenAI at /v1/responses": ("POST", "/v1/responses/responses", NotFound, 'ends with "/responses"'),
    "OpenAI at /v1/chat/completions for embeddings": (
        "POST", "/openai/v1/chat/completions/embeddings", NotFound, 'ends with "/chat/completions"'),
    "OpenAI at a deployment of v1": ("POST", "/v1/deployments/a/chat/completions", NotFound, 'after "/v1"'),
    "OpenAI at /v1/v1": ("POST", "/v1/v1/responses", NotFound, 'after "/v1"'),
    "OpenAI at /v1/v1, in capitals": ("POST", "/v1/V1/responses", NotFound, 'after "/v1"'),
    "OpenAI at /v1/v1, the root alone": ("GET", "/v1/v1/", NotFound, 'after "/v1"'),
    "AzureOpenAI at /openai": (
        "POST", "/openai/openai/deployments/a/embeddings", NotFound, 'after "/openai"'),
    "AzureOpenAI at /openai/v1": (
        "POST", "/openai/v1/openai/deployments/a/embeddings", NotFound, 'after "/openai/v1"'),
    "AzureOpenAI at a whole call": (
        "POST", "/openai/deployments/a/embeddings/openai/deployments/a/embeddings", NotFound, 'after "/openai"'),
    "two slashes": ("POST", "/openai/v1//chat/completions", InvalidPath,
        'two slashes after "/openai/v1": remove one.'),
    "two slashes, Azure": ("POST", "/openai//deployments/a/embeddings", InvalidPath, 'two slashes after "/openai"'),
    "two slashes between": ("POST", "/openai//v1/embeddings", InvalidPath, 'two slashes after "/openai"'),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "error", "words"), WRONG_BASES.values(), ids=WRONG_BASES)
def test_a_wrong_base_url_gets_a_message_that_names_the_right_one(
    method: str, path: str, error: type[NotFound | InvalidPath], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)) as raised:
        parse(method, path.encode(), b"", [])
    assert 'base_url is "https://<this host>/openai/v1"' in raised.value.message
    assert 'azure_endpoint is "https://<this host>"' in raised.value.message


@pytest.mark.parametrize(
    "call",
    [
        "GET /v1/chat/completions/chatcmpl-1",
        "POST /v1/chat/completions/chatcmpl-1",
        "GET /v1/chat/completions/chatcmpl-1/messages",
        "POST /v1/responses/compact",
        "POST /v1/assistants/asst_1",
        "GET /v1/models/openai/gpt-oss",
        "GET /v1/files//content",
        "GET /v1/v1beta/models",
        "GET /openai/openai-files",
        "GET /openai/deployments",
        "GET /openai/deployments/a",
        "POST /openai/deployments/a/extensions/chat/completions",
    ],
)
def test_a_right_base_url_gets_none(call: str) -> None:
    method, path = call.split()
    parse(method, path.encode(), b"", [])


OUTSIDE = [
    "/chat/completions",
    "/x",
    "/x/",
    "/api/v1/models",
    "/openaiX",
    "/openai.json",
    "/v1.0/models",
    "/healthz/x",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_path_outside_every_root_is_told_so_by_the_shim_with_cors_headers(
    method: str, path: str, host: Host, http: aiohttp.ClientSession
) -> None:
    origin = "https://app.example.com"
    async with http.request(method, host.url + path, headers={"origin": origin}) as response:
        error = json.loads(await response.read())["error"]
        assert (response.status, error["code"]) == (404, "not_found")
        assert "/openai/v1" in error["message"]
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["x-shim-error-source"] == "shim"


@pytest.mark.parametrize("path", OUTSIDE)
async def test_a_preflight_of_such_a_path_is_answered(
    path: str, host: Host, http: aiohttp.ClientSession
) -> None:
    headers = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    async with http.options(host.url + path, headers=headers) as response:
        assert response.status == 204


async def test_the_hosts_own_page_stays_its_own(host: Host) -> None:
    assert b"not_found" not in (await exchange(host.url, request("GET", "/"))).body


async def test_the_host_tries_the_route_for_wrong_paths_last(host: Host) -> None:
    # FunctionMetadataManager.cs sorts functions by name, without regard to case; WebJobsRouter.cs takes the first fit.
    names = sorted((function.name for function in host.worker.functions), key=str.lower)
    by_name = {function.name: function for function in host.worker.functions}
    assert names[-1] == "wrong_path"
    assert [name for name in names if str(by_name[name].route).startswith("{")] == ["wrong_path"]
    reserved = [
        function.route
        for function in by_name.values()
        if str(function.route).startswith(("admin", "runtime"))
    ]
    assert reserved == []


def test_the_platform_asks_for_no_key_of_its_own() -> None:
    # With another level the host would answer 401 to every subscription key, before the shim sees it.
    script = """
import os
os.environ.update(APIM_BASE_URL="https://a.example/openai", LOCAL_SUBSCRIPTION_KEYS="a=0123456789abcdef")
import function_app
for function in function_app.app.get_functions():
    print(function.get_function_name(), function.get_trigger().auth_level.name)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    levels = dict(line.split() for line in run.stdout.splitlines())
    assert levels.keys() >= {"openai", "v1", "healthz", "readyz", "wrong_path"}
    assert set(levels.values()) == {"ANONYMOUS"}


def test_a_websocket_is_known_by_the_header_that_the_host_leaves() -> None:
    with pytest.raises(RealtimeNotSupported, match="Connect the realtime client to the APIM API") as raised:
        parse("GET", b"/v1/anything", b"", [(b"sec-websocket-key", b"x")])
    assert '"stream": true' in raised.value.message
    # What prepares a session is plain HTTP.
    assert parse("POST", b"/v1/realtime/client_secrets", b"", []).path == "/realtime/client_secrets"
    assert parse("POST", b"/v1/realtime", b"", []).path == "/realtime"


def test_settings_of_models_are_read() -> None:
    settings = Settings.from_environment(
        ENVIRONMENT | {"MODEL_APIS": " gpt-5 = V1 , vendor/old=legacy", "MODELS": " a, b/c ,a,, "}
    )
    assert settings.model_apis == {"gpt-5": "v1", "vendor/old": "legacy"}
    assert settings.models == ("a", "b/c")


@pytest.mark.parametrize("value", ["gpt-5=v2", "gpt-5", "gpt-5=", "a=v1,a=legacy"])
def test_a_faulty_model_api_is_reported(value: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_APIS"):
        Settings.from_environment(ENVIRONMENT | {"MODEL_APIS": value})


@pytest.mark.parametrize(("model", "deployment"), [("v1", "legacy"), ("legacy", "v1")])
def test_the_model_that_is_named_chooses_the_api_before_its_deployment_does(
    model: str, deployment: str
) -> None:
    asked = target("POST", CHAT, "gpt-4o", **MAPPED, MODEL_APIS=f"gpt-4o={model},prod={deployment}")
    assert asked.startswith("/openai/v1/" if model == "v1" else "/openai/deployments/prod/")


@pytest.mark.parametrize("below", ["/responses", "/extensions/chat/completions", "/chat/completions/1"])
def test_what_only_the_legacy_api_has_below_a_deployment_goes_there(below: str) -> None:
    asked = target("POST", f"/openai/deployments/a{below}", query="api-version=1", **V1)
    assert asked == f"/openai/deployments/a{below}?api-version=1"


@pytest.mark.parametrize("name", ["api-version", "API-Version"])
def test_azures_client_may_leave_the_deployment_out(name: str) -> None:
    assert target("POST", "/openai/embeddings", query=f"{name}=1") == f"/openai/embeddings?{name}=1"


def test_the_deployment_in_the_path_chooses_the_api_and_not_the_model_beside_it() -> None:
    assert target("POST", AZURE, "gpt-3.5", **V1, **ONE_LEGACY) == "/openai/v1/chat/completions"
    assert target("POST", AZURE, "gpt-5", query="api-version=1", **MIXED) == f"{AZURE}?api-version=1"


@pytest.mark.parametrize(
    ("path", "model", "settings", "new"),
    [
        ("/v1/chat/completions", "gpt-4o", {}, None),  # named in the path
        ("/v1/chat/completions", "gpt-4o", {"APIM_API": "v1"}, "prod"),
        ("/v1/chat/completions", "prod", {"APIM_API": "v1"}, None),
        ("/v1/chat/completions", None, {"APIM_API": "v1"}, None),
        ("/v1/chat/completions", "unmapped", {"APIM_API": "v1"}, None),
        ("/v1/responses", "gpt-4o", {}, "prod"),
        ("/v1/responses", "prod", {}, None),
        ("/openai/responses", "gpt-4o", {}, None),  # whose `model` is a deployment already
        ("/v1/files", "gpt-4o", {}, None),
    ],
)
def test_a_body_names_another_model_where_that_is_what_upstream_reads(
    path: str, model: str | None, settings: dict[str, str], new: str | None
) -> None:
    shim = Settings.from_environment(ENVIRONMENT | {"MODEL_DEPLOYMENTS": "gpt-4o=prod"} | settings)
    assert routes.find_route(parse("POST", path.encode(), b"", []), model, shim).new_model == new


def test_a_model_that_cannot_be_written_into_a_path_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not the name of a deployment"):
        target("POST", CHAT, "\ud800")
    with pytest.raises(InvalidRequest, match="not the name of a deployment"):
        target("POST", CHAT, "..")


@pytest.mark.parametrize(
    ("model", "segment"),
    [("a/b", "a%2Fb"), ("a b", "a%20b"), ("a?b#c", "a%3Fb%23c"), ("é", "%C3%A9"), ("a~b", "a~b")],
)
def test_a_model_is_one_segment_of_the_path_whatever_it_holds(model: str, segment: str) -> None:
    asked = target("POST", CHAT, model)
    assert asked.startswith(f"/openai/deployments/{segment}/chat/completions?")


@pytest.mark.parametrize("slash", ["%2F", "%2f", "%252F", "%252f"])
def test_an_encoded_slash_stays_one_however_often_the_host_has_encoded_it(slash: str) -> None:
    asked = target("GET", f"/openai/files/a{slash}b", query="api-version=1")
    assert asked.casefold() == "/openai/files/a%2fb?api-version=1"
