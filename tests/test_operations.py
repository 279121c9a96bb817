"""Every operation, from either kind of client, on either kind of API: what upstream is asked for, to the letter."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from yarl import URL

from devhost.host import Host
from devhost.standin import Standin
from shim.call.operations import OPERATIONS
from tests.conftest import KEY, StartHost

# Method, path in the v1 API, where the legacy API has it, and what it takes. From Microsoft's reference, not from the
# shim's own table.
TABLE = """
    POST   /chat/completions                                       deployment json
    POST   /completions                                            deployment json
    POST   /embeddings                                             deployment json
    POST   /audio/speech                                           deployment json
    POST   /audio/transcriptions                                   deployment form
    POST   /audio/translations                                     deployment form
    POST   /images/generations                                     deployment json
    POST   /images/edits                                           deployment form
    GET    /chat/completions                                       resource   -
    GET    /chat/completions/{id}                                  resource   -
    POST   /chat/completions/{id}                                  resource   json
    DELETE /chat/completions/{id}                                  resource   -
    GET    /chat/completions/{id}/messages                         resource   -
    POST   /responses                                              resource   json
    GET    /responses/{id}                                         resource   -
    DELETE /responses/{id}                                         resource   -
    GET    /responses/{id}/input_items                             resource   -
    POST   /responses/{id}/cancel                                  resource   -
    GET    /models                                                 resource   -
    GET    /models/{id}                                            resource   -
    POST   /files                                                  resource   form
    GET    /files                                                  resource   -
    POST   /files/import                                           resource   json
    GET    /files/{id}                                             resource   -
    DELETE /files/{id}                                             resource   -
    GET    /files/{id}/content                                     resource   -
    POST   /uploads                                                resource   json
    POST   /uploads/{id}/parts                                     resource   form
    POST   /uploads/{id}/complete                                  resource   json
    POST   /uploads/{id}/cancel                                    resource   -
    POST   /batches                                                resource   json
    GET    /batches                                                resource   -
    GET    /batches/{id}                                           resource   -
    POST   /batches/{id}/cancel                                    resource   -
    POST   /assistants                                             resource   json
    GET    /assistants                                             resource   -
    GET    /assistants/{id}                                        resource   -
    POST   /assistants/{id}                                        resource   json
    DELETE /assistants/{id}                                        resource   -
    POST   /threads                                                resource   json
    POST   /threads/runs                                           resource   json
    GET    /threads/{id}                                           resource   -
    POST   /threads/{id}                                           resource   json
    DELETE /threads/{id}                                           resource   -
    POST   /threads/{id}/messages                                  resource   json
    GET    /threads/{id}/messages                                  resource   -
    GET    /threads/{id}/messages/{message}                        resource   -
    POST   /threads/{id}/messages/{message}                        resource   json
    DELETE /threads/{id}/messages/{message}                        resource   -
    POST   /threads/{id}/runs                                      resource   json
    GET    /threads/{id}/runs                                      resource   -
    GET    /threads/{id}/runs/{run}                                resource   -
    POST   /threads/{id}/runs/{run}                                resource   json
    POST   /threads/{id}/runs/{run}/cancel                         resource   -
    POST   /threads/{id}/runs/{run}/submit_tool_outputs            resource   json
    GET    /threads/{id}/runs/{run}/steps                          resource   -
    GET    /threads/{id}/runs/{run}/steps/{step}                   resource   -
    POST   /vector_stores                                          resource   json
    GET    /vector_stores                                          resource   -
    GET    /vector_stores/{id}                                     resource   -
    POST   /vector_stores/{id}                                     resource   json
    DELETE /vector_stores/{id}                                     resource   -
    POST   /vector_stores/{id}/search                              resource   json
    POST   /vector_stores/{id}/files                               resource   json
    GET    /vector_stores/{id}/files                               resource   -
    GET    /vector_stores/{id}/files/{file}                        resource   -
    POST   /vector_stores/{id}/files/{file}                        resource   json
    DELETE /vector_stores/{id}/files/{file}                        resource   -
    GET    /vector_stores/{id}/files/{file}/content                resource   -
    POST   /vector_stores/{id}/file_batches                        resource   json
    GET    /vector_stores/{id}/file_batches/{batch}                resource   -
    POST   /vector_stores/{id}/file_batches/{batch}/cancel         resource   -
    GET    /vector_stores/{id}/file_batches/{batch}/files          resource   -
    POST   /fine_tuning/jobs                                       resource   json
    GET    /fine_tuning/jobs                                       resource   -
    GET    /fine_tuning/jobs/{id}                                  resource   -
    POST   /fine_tuning/jobs/{id}/cancel                           resource   -
    POST   /fine_tuning/jobs/{id}/pause                            resource   -
    POST   /fine_tuning/jobs/{id}/resume                           resource   -
    GET    /fine_tuning/jobs/{id}/events                           resource   -
    GET    /fine_tuning/jobs/{id}/checkpoints                      resource   -
    POST   /evals                                                  resource   json
    GET    /evals                                                  resource   -
    GET    /evals/{id}                                             resource   -
    POST   /evals/{id}                                             resource   json
    DELETE /evals/{id}                                             resource   -
    POST   /evals/{id}/runs                                        resource   json
    GET    /evals/{id}/runs                                        resource   -
    GET    /evals/{id}/runs/{run}                                  resource   -
    POST   /evals/{id}/runs/{run}                                  resource   json
    DELETE /evals/{id}/runs/{run}                                  resource   -
    GET    /evals/{id}/runs/{run}/output_items                     resource   -
    GET    /evals/{id}/runs/{run}/output_items/{item}              resource   -
"""
ROWS = [tuple(line.split()) for line in TABLE.strip().splitlines()]
IDS = {"id": "id_1%2Fa%20b", "message": "msg_1", "run": "run_1", "step": "step_1", "file": "file-1"}
IDS |= {"batch": "vsfb_1", "item": "item_1"}

MODEL = "gpt-4o"
JSON = b'{"messages": [{"role": "user", "content": "\xc3\xa5 \\u00e5"}],  "model": "gpt-4o", "n" : 1}'
FORM = (
    b"--of-the-caller\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\r\n--of-the-calle\r\n\x00\xff\r\n--of-the-caller\r\n"
    b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--of-the-caller--\r\n'
)
BODIES = {
    "-": (b"", None),
    "json": (JSON, "application/json"),
    "form": (FORM, "multipart/form-data; boundary=of-the-caller"),
}


@dataclass(frozen=True)
class Sent:
    """How a client writes a call, and the query that a legacy API and a v1 API should then see."""

    path: str
    query: str
    key: tuple[str, str]
    legacy_query: str
    v1_query: str


def as_openai(path: str, place: str) -> Sent:
    authorization = ("authorization", f"Bearer {KEY}")
    return Sent(
        f"/openai/v1{path}", "?limit=2&a=1&a=2", authorization, "limit=2&a=1&a=2&api-version=2024-10-21",
        "limit=2&a=1&a=2",
    )  # fmt: skip


def as_azure_openai(path: str, place: str) -> Sent:
    below = f"/deployments/{MODEL}{path}" if place == "deployment" else path
    query = "limit=2&api-version=2024-06-01"
    return Sent(f"/openai{below}", f"?{query}", ("api-key", KEY), query, "limit=2")


CLIENTS = {"OpenAI": as_openai, "AzureOpenAI": as_azure_openai}


@pytest.fixture(scope="session", params=["legacy", "v1"])
async def upstream(request: pytest.FixtureRequest, host: Host, start_host: StartHost) -> tuple[str, Host]:
    return request.param, host if request.param == "legacy" else await start_host(APIM_API="v1")


def test_the_shims_table_and_this_one_have_the_same_operations() -> None:
    assert {(operation.method, operation.path) for operation in OPERATIONS} == {row[:2] for row in ROWS}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ROWS, ids=" ".join)
async def test_upstream_receives_exactly(
    row: tuple[str, str, str, str],
    client: str,
    upstream: tuple[str, Host],
    standin: Standin,
    http: aiohttp.ClientSession,
) -> None:
    method, template, place, kind = row
    api, host = upstream
    path = template.format_map(IDS)
    sent = CLIENTS[client](path, place)
    body, content_type = BODIES[kind]
    own = {
        "accept": "application/json",
        "user-agent": "a/1",
        "x-stainless-lang": "python",
        "openai-beta": "x",
    }
    if content_type:
        own["content-type"] = content_type
    request_id = str(uuid.uuid4())
    script = {"x-standin": '{"reflect": true}'}
    async with http.request(
        method,
        URL(f"{host.url}{sent.path}{sent.query}", encoded=True),
        headers={**own, **script, "x-request-id": request_id, sent.key[0]: sent.key[1]},
        data=body or None,
    ) as response:
        assert response.status == 200, await response.text()
    received = standin.received[request_id]

    if api == "v1":
        target = f"/openai/v1{path}?{sent.v1_query}"
    elif place == "deployment":
        target = f"/openai/deployments/{MODEL}{path}?{sent.legacy_query}"
    else:
        target = f"/openai{path}?{sent.legacy_query}"
    length = {"content-length": str(len(body))} if body or received.header("content-length") else {}
    expected = {
        **own, **script, **length, "api-key": KEY, "x-request-id": request_id, "host": received.header("host"),
    }  # fmt: skip
    assert (received.method, received.target) == (method, target)
    # The host adds one where the caller has none.
    arrived = [(name, value) for name, value in received.headers if name != "traceparent"]
    assert sorted(arrived) == sorted(expected.items())
    assert received.body_sha256 == hashlib.sha256(body).hexdigest()
    assert standin.base_url.split("/")[2] == received.header("host")


def chat(model: object, *, then: str = "") -> bytes:
    return b'{"messages":[],"model" : "%s"%s}' % (str(model).encode(), then.encode())


def form(model: str | None, *, preamble: bytes = b"") -> bytes:
    part = (
        f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n' if model is not None else ""
    )
    file = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"\r\n-\r" * 9 + b"\r\n"
    )
    return (
        preamble
        + file
        + part.encode()
        + b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ngpt-4o\r\n--b--\r\n'
    )


FORM_TYPE = "multipart/form-data; boundary=b"
DATED = "api-version=2024-06-01"

# Settings of the shims that these cases go through; `{v1}` is the base of another APIM API.
SHIMS = {
    "legacy": {},
    "mapped": {
        "MODEL_DEPLOYMENTS": "gpt-4o=prod å,gpt-5=five,vendor/model=plain",
        "APIM_API_VERSION": "2025-01-01",
    },
    "v1": {"APIM_API": "v1"},
    "v1 mapped": {"APIM_API": "v1", "MODEL_DEPLOYMENTS": "gpt-4o=prod å"},
    "mixed": {
        "MODEL_APIS": "gpt-5=v1,five-mini=v1,whisper=v1",
        "MODEL_DEPLOYMENTS": "gpt-5=five,gpt-5-mini=five-mini",
        "APIM_V1_BASE_URL": "{other}",
    },
    "v1 but one": {"APIM_API": "v1", "MODEL_APIS": "gpt-3.5=legacy"},
}

# Shim; method, path and query as a client writes them, and the body; target and body as upstream gets them. `=` is the
# same body. `v1:` is the API of APIM_V1_BASE_URL.
CASES: dict[str, tuple[str, str, bytes, str, bytes | str]] = {
    # Addresses.
    "short root": ("legacy", "POST /v1/chat/completions", chat("a"),
        "/deployments/a/chat/completions?api-version=2024-10-21", "="),
    "root in capitals": ("legacy", "GET /OpenAI/V1/files", b"", "/files?api-version=2024-10-21", "="),
    "trailing slash": ("legacy", "POST /v1/chat/completions/", chat("a"),
        "/deployments/a/chat/completions?api-version=2024-10-21", "="),
    "trailing slash, resource": ("legacy", "GET /v1/files/", b"", "/files?api-version=2024-10-21", "="),
    "trailing slash, Azure": ("legacy", f"POST /openai/deployments/a/embeddings/?{DATED}", chat("b"),
        f"/deployments/a/embeddings/?{DATED}", "="),
    "trailing slash, v1": ("v1", "GET /v1/files/", b"", "v1:/files/", "="),
    "trailing slash, Azure to v1": ("v1", f"GET /openai/files/?{DATED}", b"", "v1:/files", "="),
    "unknown operation": ("legacy", "POST /v1/videos/1/remix/?x=1", b"{}",
        "/videos/1/remix/?x=1&api-version=2024-10-21", "="),
    "unknown operation, Azure": ("legacy", f"POST /openai/deployments/a/extensions/chat?{DATED}", b"{}",
        f"/deployments/a/extensions/chat?{DATED}", "="),
    "unknown method": ("legacy", "PUT /v1/chat/completions", chat("a"),
        "/chat/completions?api-version=2024-10-21", "="),
    "unknown operation, v1": ("v1", "POST /v1/videos/1/remix?x=1", b"{}", "v1:/videos/1/remix?x=1", "="),
    "unknown operation, Azure to v1": ("v1", f"POST /openai/deployments/a/extensions/chat?{DATED}", b"{}",
        f"/deployments/a/extensions/chat?{DATED}", "="),
    "deployment operation without one, Azure": ("legacy", f"POST /openai/embeddings?{DATED}", b"{}",
        f"/embeddings?{DATED}", "="),
    "stored completions": ("legacy", "GET /v1/chat/completions?model=a", b"",
        "/chat/completions?model=a&api-version=2024-10-21", "="),
    "stored completions to v1": ("v1", f"GET /openai/chat/completions?{DATED}", b"", "v1:/chat/completions", "="),
    # api-version.
    "dated version from a v1 client": ("legacy", f"GET /v1/files?{DATED}", b"", f"/files?{DATED}", "="),
    "other version from a v1 client": ("legacy", "GET /v1/files?api-version=preview&a=1", b"",
        "/files?a=1&api-version=2024-10-21", "="),
    "versions twice": ("legacy", f"GET /openai/files?{DATED}&a=1&api-version=2023-05-15", b"",
        f"/files?{DATED}&a=1", "="),
    "versions twice, v1 client": ("legacy", f"GET /v1/files?api-version=preview&{DATED}&API-Version=2023-05-15", b"",
        f"/files?{DATED}", "="),
    "version with an encoded name": ("legacy", "GET /openai/files?api%2Dversion=2024-06-01", b"",
        "/files?api%2Dversion=2024-06-01", "="),
    "empty version": ("legacy", "GET /openai/files?api-version=&a", b"", "/files?a&api-version=2024-10-21", "="),
    "no version": ("mapped", "GET /openai/files", b"", "/files?api-version=2025-01-01", "="),
    "version to v1 from a v1 client": ("v1", "GET /v1/files?api-version=preview", b"",
        "v1:/files?api-version=preview", "="),
    "versions to v1 from Azure": ("v1", f"GET /openai/files?{DATED}&a=1&{DATED}", b"", "v1:/files?a=1", "="),
    "keys in the query": ("legacy", "GET /v1/files?code=1&Subscription-Key=2&clientid=3&a=%41", b"",
        "/files?a=%41&api-version=2024-10-21", "="),
    # Names.
    "slash in a model": ("legacy", "POST /v1/embeddings", chat("vendor/m"),
        "/deployments/vendor%2Fm/embeddings?api-version=2024-10-21", "="),
    "exotic model": ("legacy", "POST /v1/embeddings", chat("a?b#c&d %e å"),
        "/deployments/a%3Fb%23c%26d%20%25e%20%C3%A5/embeddings?api-version=2024-10-21", "="),
    "mapped model": ("mapped", "POST /v1/embeddings", chat("gpt-4o"),
        "/deployments/prod%20%C3%A5/embeddings?api-version=2025-01-01", "="),
    "mapped model with a slash": ("mapped", "POST /v1/embeddings", chat("vendor/model"),
        "/deployments/plain/embeddings?api-version=2025-01-01", "="),
    "mapped model in a response": ("mapped", "POST /v1/responses", chat("gpt-5", then=', "n":1'),
        "/responses?api-version=2025-01-01", chat("five", then=', "n":1')),
    "response without a model": ("mapped", "POST /v1/responses", b'{"prompt":{"id":"x"}}',
        "/responses?api-version=2025-01-01", "="),
    "deployment named by Azure's client": ("mapped", f"POST /openai/deployments/gpt-4o/embeddings?{DATED}",
        chat("gpt-4o"),
        f"/deployments/gpt-4o/embeddings?{DATED}", "="),
    "response of Azure's client": ("mapped", f"POST /openai/responses?{DATED}", chat("gpt-5"),
        f"/responses?{DATED}", "="),
    "encoded deployment": ("legacy", f"POST /openai/deployments/vendor%2Fm/embeddings?{DATED}", chat("x"),
        f"/deployments/vendor%2Fm/embeddings?{DATED}", "="),
    # The model put right in the body.
    "Azure's client to v1": ("v1", f"POST /openai/deployments/a/chat/completions?{DATED}&x=1",
        chat("b", then=', "z": "b"'),
        "v1:/chat/completions?x=1", chat("a", then=', "z": "b"')),
    "the same model already": ("v1", f"POST /openai/deployments/a/chat/completions?{DATED}", chat("a"),
        "v1:/chat/completions", "="),
    "no model in the body": ("v1", f"POST /openai/deployments/a/chat/completions?{DATED}", b' { "n" : 1}',
        "v1:/chat/completions", b' { "model":"a","n" : 1}'),
    "an empty object": ("v1", f"POST /openai/deployments/a/chat/completions?{DATED}", b"{ }",
        "v1:/chat/completions", b'{ "model":"a"}'),
    "model is null": ("v1", f"POST /openai/deployments/a/chat/completions?{DATED}", b'{"model": null}',
        "v1:/chat/completions", b'{"model": "a"}'),
    "encoded deployment to v1": ("v1", f"POST /openai/deployments/vendor%2F%C3%A5/embeddings?{DATED}", chat("b"),
        "v1:/embeddings", chat("vendor/\\u00e5")),
    "mapped model to v1": ("v1 mapped", "POST /v1/chat/completions", chat("gpt-4o"),
        "v1:/chat/completions", chat("prod \\u00e5")),
    "other members called model": ("v1 mapped", "POST /v1/chat/completions",
        b'{"a":{"model":"gpt-4o"},"b":["{\\"model\\":\\"gpt-4o\\"}"],"model":"gpt-4o","c":[{"model":"gpt-4o"}]}',
        "v1:/chat/completions",
        b'{"a":{"model":"gpt-4o"},"b":["{\\"model\\":\\"gpt-4o\\"}"],"model":"prod \\u00e5","c":[{"model":"gpt-4o"}]}'),
    "unmapped model to v1": ("v1 mapped", "POST /v1/chat/completions", chat("other"), "v1:/chat/completions", "="),
    "form with another model": ("v1", f"POST /openai/deployments/a/audio/transcriptions?{DATED}", form("gpt-4o"),
        "v1:/audio/transcriptions", form("a")),
    "form with the same model": ("v1", f"POST /openai/deployments/a/audio/transcriptions?{DATED}", form("a"),
        "v1:/audio/transcriptions", "="),
    "form without a model": ("v1", f"POST /openai/deployments/a/audio/transcriptions?{DATED}",
        form(None, preamble=b"x\r\n"),
        "v1:/audio/transcriptions",
        b'x\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n' + form(None)),
    "mapped form": ("v1 mapped", "POST /v1/audio/transcriptions", form("gpt-4o"),
        "v1:/audio/transcriptions", form("prod å")),
    # An API for each model.
    "model on v1": ("mixed", "POST /v1/chat/completions", chat("gpt-5"), "v1:/chat/completions", chat("five")),
    "model by its deployment on v1": ("mixed", "POST /v1/embeddings",
        chat("gpt-5-mini"), "v1:/embeddings", chat("five-mini")),
    "model not on v1": ("mixed", "POST /v1/chat/completions", chat("gpt-4o"),
        "/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "="),
    "Azure's client, model on v1": ("mixed", f"POST /openai/deployments/gpt-5/chat/completions?{DATED}", chat("x"),
        "v1:/chat/completions", chat("gpt-5")),
    "Azure's client, model not on v1": ("mixed", f"POST /openai/deployments/gpt-4o/chat/completions?{DATED}", chat("x"),
        f"/deployments/gpt-4o/chat/completions?{DATED}", "="),
    "response on v1": ("mixed", "POST /v1/responses", chat("gpt-5"), "v1:/responses", chat("five")),
    "response on v1, Azure's client": ("mixed", f"POST /openai/responses?{DATED}", chat("gpt-5"), "v1:/responses", "="),
    "response not on v1": ("mixed", "POST /v1/responses", chat("gpt-4o"), "/responses?api-version=2024-10-21", "="),
    "assistant on v1": ("mixed", "POST /v1/assistants", chat("gpt-5"), "v1:/assistants", chat("five")),
    "form on v1": ("mixed", "POST /v1/audio/transcriptions", form("whisper"), "v1:/audio/transcriptions", "="),
    "no model in the call": ("mixed", "GET /v1/responses/resp_1", b"", "/responses/resp_1?api-version=2024-10-21", "="),
    "base model of a job": ("mixed", "POST /v1/fine_tuning/jobs", chat("gpt-5"),
        "/fine_tuning/jobs?api-version=2024-10-21", "="),
    "model on legacy": ("v1 but one", "POST /v1/chat/completions", chat("gpt-3.5"),
        "/deployments/gpt-3.5/chat/completions?api-version=2024-10-21", "="),
    "model not on legacy": ("v1 but one", "POST /v1/chat/completions", chat("gpt-4o"), "v1:/chat/completions", "="),
}  # fmt: skip


@pytest.fixture(scope="session")
async def other() -> AsyncIterator[Standin]:
    """Another APIM API, for v1."""
    standin = await Standin.start(keys=(KEY,), chunk_delay=0)
    yield standin
    await standin.stop()


@pytest.fixture(scope="session")
async def shims(host: Host, start_host: StartHost, other: Standin) -> dict[str, Host]:
    async def start(settings: dict[str, str]) -> Host:
        if not settings:
            return host
        return await start_host(
            **{name: value.format(other=other.v1_base_url) for name, value in settings.items()}
        )

    return {name: await start(settings) for name, settings in SHIMS.items()}


@pytest.mark.parametrize("case", CASES)
async def test_a_call_arrives_as(
    case: str, shims: dict[str, Host], standin: Standin, other: Standin, http: aiohttp.ClientSession
) -> None:
    shim, call, body, target, expected_body = CASES[case]
    method, path = call.split(" ", 1)
    request_id = str(uuid.uuid4())
    content_type = FORM_TYPE if body.startswith((b"--b", b"x\r\n--b")) else "application/json"
    async with http.request(
        method,
        URL(shims[shim].url + path, encoded=True),
        data=body or None,
        headers={
            "api-key": KEY,
            "content-type": content_type,
            "x-standin": '{"reflect": true}',
            "x-request-id": request_id,
        },
    ) as response:
        assert response.status == 200, await response.text()
    upstream = other if shim == "mixed" and target.startswith("v1:") else standin
    received = upstream.received[request_id]
    assert (received.method, received.target) == (method, "/openai" + target.replace("v1:", "/v1"))
    assert received.body == (body if expected_body == "=" else expected_body)
    assert received.header("content-length") in (None, str(len(received.body)))
    assert received.header("content-type") == content_type
