"""CORS through the real worker: on every kind of response, with upstream's and the platform's own headers beside it.

An error without CORS headers reaches the page as "Failed to fetch", and two sets of them as a refusal.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
from aiohttp import web

from devhost.host import Host
from devhost.platform import CORE_TOOLS
from devhost.standin import Received, Standin
from tests.conftest import KEY, StartHost

APP = "https://app.example.com"
OTHER = "https://app.example.com.evil.example"
CHAT: dict[str, object] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
# What an SDK in a browser asks for before its first call.
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-runtime",
}


type Hosts = dict[str, Host]


@pytest.fixture(scope="module")
def host(core_tools: Host) -> Host:
    """One whose platform leaves CORS to the app, so that what is seen is the app's doing."""
    return core_tools


@pytest.fixture(scope="module")
async def hosts(host: Host, start_host: StartHost) -> Hosts:
    """The same app, with settings that bring about what it would not do otherwise."""
    listed = json.dumps([APP, "https://*.example.org"])
    impatient, misconfigured, on_flex = await asyncio.gather(
        start_host(
            platform=CORE_TOOLS,
            CORS_ORIGINS=APP,
            MAX_BODY_BYTES="1000",
            UPSTREAM_FIRST_BYTE_TIMEOUT="0.2",
        ),
        start_host(platform=CORE_TOOLS, CORS_ORIGINS=APP, CORS_CREDENTIALS="true", APIM_API="none such"),
        start_host(CORS_ALLOWED_ORIGINS=listed, CORS_SUPPORT_CREDENTIALS="True"),
    )
    return {"host": host, "impatient": impatient, "misconfigured": misconfigured, "on_flex": on_flex}


@dataclass(frozen=True)
class Kind:
    """A kind of answer: how it is brought about, and its status."""

    status: int
    host: str = "host"
    path: str = "/openai/v1/chat/completions"
    key: str | None = KEY
    body: Mapping[str, object] = field(default_factory=lambda: CHAT)
    script: dict[str, object] = field(default_factory=dict)


KINDS = {
    "200": Kind(200),
    "a stream": Kind(200, body=CHAT | {"stream": True}),
    "a stream on the legacy path": Kind(
        200,
        path="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        body=CHAT | {"stream": True},
    ),
    "400 for a body without a model": Kind(400, body={"messages": []}),
    "401 for no key": Kind(401, key=None),
    "401 for a wrong key": Kind(401, key="wrong"),
    "401 of upstream": Kind(401, script={"fault": "apim_key_invalid"}),
    "403 of upstream": Kind(403, script={"fault": "apim_quota"}),
    "404 of the shim": Kind(404, path="/openai/none/such"),
    "404 of upstream": Kind(404, script={"fault": "aoai_404_deployment"}),
    "413": Kind(413, host="impatient", body=CHAT | {"user": "x" * 2000}),
    "429 of APIM": Kind(429, script={"fault": "apim_rate_limit"}),
    "429 of Azure OpenAI": Kind(429, script={"fault": "aoai_429"}),
    "500 of upstream": Kind(500, script={"status": 500, "body": "broken"}),
    "502": Kind(502),
    "503 of the shim": Kind(503, host="misconfigured"),
    "503 of upstream": Kind(503, script={"status": 503, "body": {}, "headers": [["retry-after", "7"]]}),
    "504": Kind(504, host="impatient", script={"hang": True}),
}


async def _break_off(request: web.Request, received: Received) -> web.Response:
    """No answer at all: the shim's own 502."""
    assert request.transport
    request.transport.abort()
    return web.Response()


async def ask(
    kind: Kind,
    origin: str | None,
    hosts: Hosts,
    http: aiohttp.ClientSession,
    standin: Standin,
) -> tuple[aiohttp.ClientResponse, str]:
    """The answer, read to its end, and the request id by which the stand-in knows the call."""
    host = hosts[kind.host]
    request_id = str(uuid.uuid4())
    if kind.status == 502:
        standin.answers[request_id] = _break_off
    headers = {"content-type": "application/json", "x-request-id": request_id}
    headers |= {"authorization": f"Bearer {kind.key}"} if kind.key else {}
    headers |= {"origin": origin} if origin else {}
    headers["x-standin"] = json.dumps({"cors": True, **kind.script})
    async with http.post(host.url + kind.path, data=json.dumps(kind.body), headers=headers) as answer:
        await answer.read()
    assert answer.status == kind.status
    return answer, request_id


every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
async def test_every_answer_to_an_allowed_origin_carries_cors_headers(
    kind: Kind, hosts: Hosts, http: aiohttp.ClientSession, standin: Standin
) -> None:
    answer, _ = await ask(kind, APP, hosts, http, standin)
    assert answer.headers.getall("access-control-allow-origin") == [APP]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id"} <= set(exposed) <= {name.lower() for name in answer.headers}
    for name in ("apim-request-id", "retry-after", "x-ratelimit-remaining-tokens", "x-shim-error-source"):
        assert (name in exposed) == (name in answer.headers)
    assert "Origin" in answer.headers["vary"]


@every_kind
@pytest.mark.parametrize("origin", [OTHER, None], ids=["another", "no"])
async def test_no_answer_to_an_origin_not_allowed_carries_any(
    kind: Kind,
    origin: str | None,
    hosts: Hosts,
    http: aiohttp.ClientSession,
    standin: Standin,
) -> None:
    answer, _ = await ask(kind, origin, hosts, http, standin)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("origin", [APP, OTHER], ids=["allowed", "another"])
async def test_origin_never_reaches_upstream_and_its_cors_headers_never_arrive(
    origin: str, hosts: Hosts, http: aiohttp.ClientSession, standin: Standin
) -> None:
    answer, request_id = await ask(KINDS["a stream"], origin, hosts, http, standin)
    received = standin.received[request_id]
    assert received.headers_named("origin") == []
    assert not [name for name, _ in received.headers if name.startswith("access-control-")]
    # The stand-in was asked for them: `*`, credentials, and the one name that it exposes.
    assert "*" not in answer.headers.getall("access-control-allow-origin", [])
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers.get("access-control-expose-headers") != "x-ms-region"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(("origin", "allowed"), [(APP, [APP]), (OTHER, [])], ids=["allowed", "another"])
async def test_health_is_told_to_pages_too(
    path: str, origin: str, allowed: list[str], host: Host, http: aiohttp.ClientSession
) -> None:
    async with http.get(host.url + path, headers={"origin": origin}) as answer:
        assert answer.headers.getall("access-control-allow-origin", []) == allowed


@pytest.mark.parametrize("path", ["/openai/v1/chat/completions", "/v1/models", "/openai/none/such"])
@pytest.mark.parametrize("name", ["host", "misconfigured"])
async def test_a_preflight_is_answered_without_a_key_and_without_upstream(
    name: str, path: str, hosts: Hosts, http: aiohttp.ClientSession, standin: Standin
) -> None:
    host = hosts[name]
    before = standin.latest
    async with http.options(host.url + path, headers={"origin": APP, **PREFLIGHT}) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert (
        answer.headers["access-control-allow-headers"].replace(" ", "")
        == (PREFLIGHT["Access-Control-Request-Headers"])
    )
    assert standin.latest is before


async def test_a_preflight_of_another_origin_is_refused_and_told_which_setting_to_change(
    host: Host, http: aiohttp.ClientSession
) -> None:
    url = f"{host.url}/openai/v1/chat/completions"
    async with http.options(url, headers={"origin": OTHER, **PREFLIGHT}) as answer:
        error = (await answer.json())["error"]
    assert answer.status == 403
    assert error["code"] == "cors_origin_not_allowed"
    assert "CORS_ORIGINS" in error["message"]
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(("origin", "allowed"), [(APP, "true"), (OTHER, None)], ids=["allowed", "another"])
async def test_a_private_network_preflight_is_answered_for_an_allowed_origin_only(
    origin: str, allowed: str | None, host: Host, http: aiohttp.ClientSession
) -> None:
    asked = {"origin": origin, **PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    async with http.options(f"{host.url}/openai/v1/models", headers=asked) as answer:
        assert answer.headers.get("access-control-allow-private-network") == allowed


async def test_options_that_is_no_preflight_is_a_call_like_any_other(
    host: Host, http: aiohttp.ClientSession
) -> None:
    async with http.options(f"{host.url}/openai/v1/models", headers={"origin": APP}) as answer:
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == APP


async def test_the_methods_that_preflights_allow_are_those_of_the_apps_routes(
    host: Host, http: aiohttp.ClientSession
) -> None:
    url = f"{host.url}/openai/v1/models"
    async with http.options(url, headers={"origin": APP, **PREFLIGHT}) as answer:
        allowed = answer.headers["access-control-allow-methods"].split(", ")
    [proxy] = [function for function in host.worker.functions if function.name == "openai"]
    assert sorted(allowed) == sorted(proxy.methods)


async def test_where_the_platform_answers_preflights_it_does_for_every_origin(
    hosts: Hosts, http: aiohttp.ClientSession
) -> None:
    url = hosts["on_flex"].url + "/openai/v1/chat/completions"
    for origin, allowed in {
        APP: [APP],
        OTHER: [],
        "https://a.example.org": [],  # The platform knows no patterns.
    }.items():
        async with http.options(url, headers={"origin": origin, **PREFLIGHT}) as answer:
            assert answer.status == 204
        assert answer.headers.getall("access-control-allow-origin", []) == allowed
        # It says nothing of how long it may be remembered: this answer is the platform's.
        assert "access-control-max-age" not in answer.headers


@pytest.mark.parametrize("kind", ["200", "a stream", "401 for no key", "429 of APIM"])
async def test_the_platforms_cors_and_the_shims_make_one_set(
    kind: str, hosts: Hosts, http: aiohttp.ClientSession, standin: Standin
) -> None:
    answer, _ = await ask(replace(KINDS[kind], host="on_flex"), APP, hosts, http, standin)
    assert answer.headers.getall("access-control-allow-origin") == [APP]
    assert answer.headers.getall("access-control-allow-credentials") == ["true"]
    [exposed] = answer.headers.getall("access-control-expose-headers")
    assert "x-request-id" in exposed.split(", ")
    assert "Origin" in answer.headers["vary"]


async def test_the_platform_adds_nothing_for_another_origin(
    hosts: Hosts, http: aiohttp.ClientSession, standin: Standin
) -> None:
    answer, _ = await ask(replace(KINDS["200"], host="on_flex"), OTHER, hosts, http, standin)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_browsers_do_not_remember_what_faulty_settings_allow(
    hosts: Hosts, http: aiohttp.ClientSession
) -> None:
    """It would outlast the settings: a page would go on without a preflight, or with the refusal."""
    preflight = {**PREFLIGHT, "Origin": APP}
    for name, seconds in (("misconfigured", "0"), ("host", "600")):
        async with http.options(f"{hosts[name].url}/v1/chat/completions", headers=preflight) as answer:
            assert (answer.status, answer.headers["Access-Control-Max-Age"]) == (204, seconds)


async def test_a_page_with_credentials_sees_why_faulty_settings_refuse_it(
    hosts: Hosts, http: aiohttp.ClientSession
) -> None:
    """Without this header a browser shows such a page a CORS error, and none of the answer."""
    url = f"{hosts['misconfigured'].url}/v1/chat/completions"
    async with http.options(url, headers={**PREFLIGHT, "origin": APP}) as preflight:
        assert preflight.headers.getall("access-control-allow-credentials") == ["true"]
    async with http.post(url, headers={"origin": APP}) as answer:
        assert answer.headers.getall("access-control-allow-credentials") == ["true"]
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (503, "shim_misconfigured")
    assert "/readyz" in error["message"]
