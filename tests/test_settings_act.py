"""Every setting, at an odd value, is seen to act: one that is read and then goes astray shows nowhere else.

Those of keys are held by test_keys_settings.py in the same way. The last test here lists every setting that there is,
so that a new one cannot come without a test that sees it act.
"""

import asyncio
import json
import re
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from devhost.host import Host
from devhost.platform import CORE_TOOLS
from devhost.standin import Received, Standin
from tests.conftest import KEY, ROOT, StartHost
from tests.support.wire import Answer, exchange, request

ORIGIN = "https://odd.example.com"
REFLECT = 'x-standin: {"reflect": true}'
LIMIT = 1234


@pytest.fixture(scope="module")
async def odd(start_host: StartHost, standin: Standin) -> Host:
    """The app with every setting at a value that is neither its default nor another's."""
    return await start_host(
        platform=CORE_TOOLS,  # where preflights reach the app
        APIM_V1_BASE_URL=f"{standin.base_url}/odd-v1",
        APIM_API_VERSION="2031-01-02",
        MODEL_APIS="odd-v1-model=v1",
        MODEL_DEPLOYMENTS="odd-model=odd-deployment",
        MODELS="odd-listed",
        CORS_ORIGINS=ORIGIN,
        CORS_CREDENTIALS="true",
        CORS_MAX_AGE="77",
        USER_TOKEN_HEADER="x-odd-token",
        MAX_BODY_BYTES=str(LIMIT),
        UPSTREAM_IDLE_TIMEOUT="0.4",
    )


async def sent_on(
    host: Host, method: str, path: str, *headers: str, body: bytes = b""
) -> tuple[str, dict[str, str]]:
    """The target and the headers that upstream received."""
    answer = await exchange(host.url, request(method, path, REFLECT, *headers, body=body, key=KEY))
    assert answer.status == 200, answer.body
    received = json.loads(answer.body)
    return received["target"], {name.lower(): value for name, value in received["headers"]}


async def chat_target(host: Host, model: str) -> str:
    body = json.dumps({"model": model, "messages": []}).encode()
    target, _ = await sent_on(host, "POST", "/v1/chat/completions", body=body)
    return target


async def test_model_deployments_and_the_api_version_are_in_the_target(odd: Host) -> None:
    target = await chat_target(odd, "odd-model")
    assert target.endswith("/openai/deployments/odd-deployment/chat/completions?api-version=2031-01-02")


async def test_model_apis_and_the_v1_base_are_where_a_model_goes(odd: Host) -> None:
    assert (await chat_target(odd, "odd-v1-model")).endswith("/openai/odd-v1/chat/completions")


async def test_apim_api_is_where_a_model_goes_that_is_not_named(start_host: StartHost) -> None:
    host = await start_host(APIM_API="v1")
    assert (await chat_target(host, "any")).endswith("/openai/v1/chat/completions")


async def test_models_are_listed_where_upstream_cannot(odd: Host) -> None:
    call = request("GET", "/v1/models", 'x-standin: {"status": 404}', key=KEY)
    listed = json.loads((await exchange(odd.url, call)).body)
    assert [model["id"] for model in listed["data"]] == ["odd-listed", "odd-model"]


async def test_the_users_token_is_taken_from_its_header_alone(odd: Host) -> None:
    given = ("x-odd-token: Bearer of-the-user", "x-user-authorization: Bearer of-another")
    _, headers = await sent_on(odd, "GET", "/v1/files", *given)
    assert headers["authorization"] == "Bearer of-the-user"
    assert "x-odd-token" not in headers


async def preflight(host: Host, origin: str) -> Answer:
    asked = (f"origin: {origin}", "access-control-request-method: POST")
    return await exchange(host.url, request("OPTIONS", "/v1/chat/completions", *asked))


async def test_origins_credentials_and_max_age_are_in_a_preflights_answer(odd: Host) -> None:
    answer = await preflight(odd, ORIGIN)
    assert answer.named("access-control-allow-origin") == [ORIGIN]
    assert answer.named("access-control-allow-credentials") == ["true"]
    assert answer.named("access-control-max-age") == ["77"]
    assert (await preflight(odd, "https://app.example.com")).named("access-control-allow-origin") == []


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
async def test_max_body_bytes_is_the_largest_body_that_is_read(odd: Host, size: int, status: int) -> None:
    body = b'{"messages": [], "model": "odd-model"}'.ljust(size)
    call = request("POST", "/v1/chat/completions", REFLECT, body=body, key=KEY)
    assert (await exchange(odd.url, call)).status == status


async def test_the_idle_timeout_cuts_a_response_that_falls_silent(odd: Host, standin: Standin) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(upstream)
        await response.write(b"first")
        await asyncio.Event().wait()
        return response

    request_id = str(uuid.uuid4())
    standin.answers[request_id] = answer
    async with asyncio.timeout(5):
        answered = await exchange(
            odd.url, request("GET", "/v1/files", f"x-request-id: {request_id}", key=KEY)
        )
    assert (answered.body, answered.whole) == (b"first", False)
    assert (await standin.ended(request_id)).ended == "caller gone"


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """The URL of a server to which nobody can connect, without being refused: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/openai"
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("connect", "first_byte", "code"),
    [("0.2", "60", "upstream_unreachable"), ("60", "0.2", "upstream_timeout")],
)
async def test_the_times_for_connecting_and_for_the_first_byte_are_told_apart(
    start_host: StartHost, connect: str, first_byte: str, code: str
) -> None:
    async with deaf() as url:
        host = await start_host(
            APIM_BASE_URL=url, UPSTREAM_CONNECT_TIMEOUT=connect, UPSTREAM_FIRST_BYTE_TIMEOUT=first_byte
        )
        async with asyncio.timeout(4):  # less than the defaults
            answer = await exchange(host.url, request("GET", "/v1/files", key=KEY))
    assert json.loads(answer.body)["error"]["code"] == code


@pytest.mark.parametrize(("transport", "told"), [("shim", False), ("httpx", True)])
async def test_the_transport_is_the_one_that_is_asked_for(
    start_host: StartHost, transport: str, told: bool
) -> None:
    host = await start_host(UPSTREAM_TRANSPORT=transport)
    assert (await sent_on(host, "GET", "/v1/files"))[0].startswith("/openai/files")
    records = [record.message for record in host.logs.records]
    assert any("UPSTREAM_TRANSPORT says so" in message for message in records) is told


async def test_calls_leave_by_the_proxy_that_the_environment_names(
    start_host: StartHost, standin: Standin
) -> None:
    nowhere = {"APIM_BASE_URL": "http://localhost:1/openai"}
    host = await start_host(**nowhere, http_proxy=standin.base_url.removesuffix("/openai"))
    assert (await sent_on(host, "GET", "/v1/files"))[0].startswith("http://localhost:1/openai/files")
    await host.logs.first(lambda record: "a proxy stands between the shim and localhost" in record.message)


async def test_no_heartbeat_is_sent_where_its_interval_is_0(start_host: StartHost, standin: Standin) -> None:
    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(upstream)
        await asyncio.sleep(1.3)  # the first would come after one second
        await response.write(b"data: 1\n\n")
        return response

    host = await start_host(SSE_HEARTBEAT="0")
    request_id = str(uuid.uuid4())
    standin.answers[request_id] = answer
    answered = await exchange(host.url, request("GET", "/v1/files", f"x-request-id: {request_id}", key=KEY))
    assert answered.body == b"data: 1\n\n"


# Settings that another file sees act, by that file.
ELSEWHERE = {
    "APIM_BASE_URL": "conftest.py",  # every test's
    "APIM_KEY_HEADER": "test_auth.py",
    "LOCAL_SUBSCRIPTION_KEYS": "conftest.py",
    "READYZ_DETAILS": "test_health.py",
    "KEY_VAULT_URL": "test_keys_settings.py",
    "KEY_LOOKUP": "test_keys_settings.py",
    "KEY_SECRET_PREFIX": "test_keys_settings.py",
    "KEY_CACHE_TTL": "test_keys_settings.py",
    "KEY_CACHE_STALE": "test_keys_settings.py",
    "KEY_ROTATION_GRACE": "test_keys_settings.py",
    "AZURE_CLIENT_ID": "test_keys_settings.py",
    "AZURE_RESOURCE_MANAGER_URL": "../devhost/azure/services.py",  # whose service the import's tests read
    "APIM_RESOURCE_ID": "test_keys_settings.py",
    "APIM_IMPORT_SCHEDULE": "test_production.py",
    "APIM_IMPORT_PRODUCTS": "test_keys_import.py",
    "APIM_IMPORT_APIS": "test_keys_import.py",
    "APIM_IMPORT_PRUNE": "test_keys_import.py",
    "LOG_CALLS": "test_call_log.py",
    "SHIM_DEPRECATED": "test_retirement.py",
    "SHIM_SUNSET": "test_retirement.py",
    "SHIM_SUNSET_LINK": "test_retirement.py",
    "SHIM_AFTER_SUNSET": "test_retirement.py",
    "SHIM_BROWNOUT": "test_retirement.py",
}
PLATFORMS = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsDisableHomepage"}


def test_every_setting_is_seen_to_act_somewhere() -> None:
    known = set(json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]) - PLATFORMS
    here = set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", (ROOT / "tests" / "test_settings_act.py").read_text()))
    assert known - set(ELSEWHERE) <= here
    for name, file in ELSEWHERE.items():
        assert name in known
        assert name in (ROOT / "tests" / file).read_text(), f"{file} no longer has {name}"
