"""Every operation, from either kind of client, on either kind of API: what upstream is asked for, to the letter.

The shim's promise is that a client need not know which API stands behind it; these tables are that promise.
"""

import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
import pytest
from yarl import URL

from devhost.host import Host
from devhost.standin import Standin
from shim.call.operations import OPERATIONS
from tests.conftest import KEY, StartHost

# From Microsoft's reference, not from the shim's own table: method and path in the v1 API, what the operation is for,
# and what its body is. An operation is for a `deployment`, whose name the legacy API has in its path; for a `model`,
# whose deployment both APIs have in the body; or for the `resource`, which is to say for all of them.
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
    POST   /responses                                              model      json
    POST   /responses/compact                                      model      json
    POST   /responses/input_tokens                                 model      json
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
    POST   /assistants                                             model      json
    GET    /assistants                                             resource   -
    GET    /assistants/{id}                                        resource   -
    POST   /assistants/{id}                                        model      json
    DELETE /assistants/{id}                                        resource   -
    POST   /threads                                                resource   json
    POST   /threads/runs                                           model      json
    GET    /threads/{id}                                           resource   -
    POST   /threads/{id}                                           resource   json
    DELETE /threads/{id}                                           resource   -
    POST   /threads/{id}/messages                                  resource   json
    GET    /threads/{id}/messages                                  resource   -
    GET    /threads/{id}/messages/{message}                        resource   -
    POST   /threads/{id}/messages/{message}                        resource   json
    DELETE /threads/{id}/messages/{message}                        resource   -
    POST   /threads/{id}/runs                                      model      json
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
    POST   /conversations                                          resource   json
    GET    /conversations/{id}                                     resource   -
    POST   /conversations/{id}                                     resource   json
    DELETE /conversations/{id}                                     resource   -
    POST   /conversations/{id}/items                               resource   json
    GET    /conversations/{id}/items                               resource   -
    GET    /conversations/{id}/items/{item}                        resource   -
    DELETE /conversations/{id}/items/{item}                        resource   -
    POST   /containers                                             resource   json
    GET    /containers                                             resource   -
    GET    /containers/{id}                                        resource   -
    DELETE /containers/{id}                                        resource   -
    POST   /containers/{id}/files                                  resource   form
    GET    /containers/{id}/files/{file}/content                   resource   -
    POST   /videos                                                 model      form
    GET    /videos                                                 resource   -
    GET    /videos/{id}                                            resource   -
    DELETE /videos/{id}                                            resource   -
    GET    /videos/{id}/content                                    resource   -
    POST   /videos/{id}/remix                                      resource   json
    POST   /realtime/client_secrets                                resource   json
    POST   /realtime/sessions                                      model      json
    POST   /realtime/calls/{id}/accept                             model      json
"""


class Documented(NamedTuple):
    method: str
    path: str
    is_for: str
    body: str


DOCUMENTED = [Documented(*line.split()) for line in TABLE.strip().splitlines()]
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
    query_on_legacy: str
    query_on_v1: str


def as_openai(operation: Documented) -> Sent:
    return Sent(
        path=f"/openai/v1{operation.path.format_map(IDS)}",
        query="limit=2&a=1&a=2",
        key=("authorization", f"Bearer {KEY}"),
        query_on_legacy="limit=2&a=1&a=2&api-version=2024-10-21",
        query_on_v1="limit=2&a=1&a=2",
    )


def as_azure_openai(operation: Documented) -> Sent:
    deployment = f"/deployments/{MODEL}" if operation.is_for == "deployment" else ""
    return Sent(
        path=f"/openai{deployment}{operation.path.format_map(IDS)}",
        query="limit=2&api-version=2024-06-01",
        key=("api-key", KEY),
        query_on_legacy="limit=2&api-version=2024-06-01",
        query_on_v1="limit=2",
    )


CLIENTS = {"OpenAI": as_openai, "AzureOpenAI": as_azure_openai}


@pytest.fixture(scope="session", params=["legacy", "v1"])
async def upstream(request: pytest.FixtureRequest, host: Host, start_host: StartHost) -> tuple[str, Host]:
    return request.param, host if request.param == "legacy" else await start_host(APIM_API="v1")


def test_the_shims_table_has_just_the_operations_that_are_for_a_deployment() -> None:
    documented = {(each.method, re.sub(r"\{\w+\}", "{}", each.path)): each.is_for for each in DOCUMENTED}
    place_of = {"path": "deployment", "body": "model"}
    table = {("POST", re.sub(r"\{\w+\}", "{}", path)): place_of[place] for path, place in OPERATIONS.items()}
    assert table == {operation: is_for for operation, is_for in documented.items() if is_for != "resource"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "operation", DOCUMENTED, ids=lambda operation: f"{operation.method} {operation.path}"
)
async def test_upstream_receives_exactly(
    operation: Documented,
    client: str,
    upstream: tuple[str, Host],
    standin: Standin,
    http: aiohttp.ClientSession,
) -> None:
    api, host = upstream
    sent = CLIENTS[client](operation)
    body, content_type = BODIES[operation.body]
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
        operation.method,
        URL(f"{host.url}{sent.path}?{sent.query}", encoded=True),
        headers={**own, **script, "x-request-id": request_id, sent.key[0]: sent.key[1]},
        data=body or None,
    ) as response:
        assert response.status == 200, await response.text()
    received = standin.received[request_id]

    path = operation.path.format_map(IDS)
    if api == "v1":
        target = f"/openai/v1{path}?{sent.query_on_v1}"
    elif operation.is_for == "deployment":
        target = f"/openai/deployments/{MODEL}{path}?{sent.query_on_legacy}"
    else:
        target = f"/openai{path}?{sent.query_on_legacy}"
    length = {"content-length": str(len(body))} if body or received.header("content-length") else {}
    expected = {
        **own, **script, **length, "api-key": KEY, "x-request-id": request_id, "host": received.header("host"),
    }  # fmt: skip
    assert (received.method, received.target) == (operation.method, target)
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


def among_others(model: str) -> bytes:
    other = b'{"model":"gpt-4o"}'
    text = json.dumps(other.decode()).encode()
    return b'{"a":%b,"b":[%b],"model":"%b","c":[%b]}' % (other, text, model.encode(), other)


FORM_TYPE = "multipart/form-data; boundary=b"
DATED = "api-version=2024-06-01"

# Settings of the shims that these cases go through; `{other}` is the v1 base of another APIM API.
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


@dataclass(frozen=True)
class Case:
    """A call as a client makes it, and what arrives of it: at which API, with which target below its base.

    The body arrives as it was sent, unless there is a `changed_body`.
    """

    shim: str
    call: str
    target: str
    api: str
    body: bytes = b""
    changed_body: bytes | None = None

    @property
    def is_form(self) -> bool:
        return self.body.startswith((b"--b", b"x\r\n--b"))


CASES = {
    # Addresses.
    "short root": Case(shim="legacy", call="POST /v1/chat/completions", body=chat("a"), api="legacy",
        target="/deployments/a/chat/completions?api-version=2024-10-21"),
    "root in capitals": Case(shim="legacy", call="GET /OpenAI/V1/files", api="legacy",
        target="/files?api-version=2024-10-21"),
    "trailing slash": Case(shim="legacy", call="POST /v1/chat/completions/", body=chat("a"), api="legacy",
        target="/deployments/a/chat/completions?api-version=2024-10-21"),
    "trailing slash, resource": Case(shim="legacy", call="GET /v1/files/", api="legacy",
        target="/files?api-version=2024-10-21"),
    "trailing slash, Azure": Case(shim="legacy", call=f"POST /openai/deployments/a/embeddings/?{DATED}", body=chat("b"),
        api="legacy", target=f"/deployments/a/embeddings/?{DATED}"),
    "trailing slash, v1": Case(shim="v1", call="GET /v1/files/", api="v1", target="/files/"),
    "trailing slash, Azure to v1": Case(shim="v1", call=f"GET /openai/files/?{DATED}", api="v1", target="/files"),
    "unknown operation": Case(shim="legacy", call="POST /v1/videos/1/remix/?x=1", body=b"{}", api="legacy",
        target="/videos/1/remix?x=1&api-version=2024-10-21"),
    "unknown operation, Azure": Case(shim="legacy", call=f"POST /openai/deployments/a/extensions/chat?{DATED}",
        body=b"{}", api="legacy", target=f"/deployments/a/extensions/chat?{DATED}"),
    "unknown method": Case(shim="legacy", call="PUT /v1/chat/completions", body=chat("a"), api="legacy",
        target="/chat/completions?api-version=2024-10-21"),
    "unknown operation, v1": Case(shim="v1", call="POST /v1/videos/1/remix?x=1", body=b"{}", api="v1",
        target="/videos/1/remix?x=1"),
    "unknown operation, Azure to v1": Case(shim="v1", call=f"POST /openai/deployments/a/extensions/chat?{DATED}",
        body=b"{}", api="legacy", target=f"/deployments/a/extensions/chat?{DATED}"),
    "conversation, Azure to v1": Case(shim="v1", call=f"GET /openai/conversations/conv_1?{DATED}", api="v1",
        target="/conversations/conv_1"),
    "deployment operation without one, Azure to v1": Case(shim="v1", call=f"POST /openai/images/generations?{DATED}",
        body=b'{"prompt":"x"}', api="v1", target="/images/generations"),
    "deployment operation without one, Azure": Case(shim="legacy", call=f"POST /openai/embeddings?{DATED}", body=b"{}",
        api="legacy", target=f"/embeddings?{DATED}"),
    "stored completions": Case(shim="legacy", call="GET /v1/chat/completions?model=a", api="legacy",
        target="/chat/completions?model=a&api-version=2024-10-21"),
    "stored completions to v1": Case(shim="v1", call=f"GET /openai/chat/completions?{DATED}", api="v1",
        target="/chat/completions"),
    # api-version.
    "dated version from a v1 client": Case(shim="legacy", call=f"GET /v1/files?{DATED}", api="legacy",
        target=f"/files?{DATED}"),
    "other version from a v1 client": Case(shim="legacy", call="GET /v1/files?api-version=preview&a=1", api="legacy",
        target="/files?a=1&api-version=2024-10-21"),
    "versions twice": Case(shim="legacy", call=f"GET /openai/files?{DATED}&a=1&api-version=2023-05-15", api="legacy",
        target=f"/files?{DATED}&a=1"),
    "versions twice, v1 client": Case(shim="legacy",
        call=f"GET /v1/files?api-version=preview&{DATED}&API-Version=2023-05-15", api="legacy",
        target=f"/files?{DATED}"),
    "version with an encoded name": Case(shim="legacy", call="GET /openai/files?api%2Dversion=2024-06-01", api="legacy",
        target="/files?api%2Dversion=2024-06-01"),
    "empty version": Case(shim="legacy", call="GET /openai/files?api-version=&a", api="legacy",
        target="/files?a&api-version=2024-10-21"),
    "no version": Case(shim="mapped", call="GET /openai/files", api="legacy", target="/files?api-version=2025-01-01"),
    "version to v1 from a v1 client": Case(shim="v1", call="GET /v1/files?api-version=preview", api="v1",
        target="/files?api-version=preview"),
    "versions to v1 from Azure": Case(shim="v1", call=f"GET /openai/files?{DATED}&a=1&{DATED}", api="v1",
        target="/files?a=1"),
    "keys in the query": Case(shim="legacy", call="GET /v1/files?code=1&Subscription-Key=2&clientid=3&a=%41",
        api="legacy", target="/files?a=%41&api-version=2024-10-21"),
    # Names.
    "slash in a model": Case(shim="legacy", call="POST /v1/embeddings", body=chat("vendor/m"), api="legacy",
        target="/deployments/vendor%2Fm/embeddings?api-version=2024-10-21"),
    "exotic model": Case(shim="legacy", call="POST /v1/embeddings", body=chat("a?b#c&d %e å"), api="legacy",
        target="/deployments/a%3Fb%23c%26d%20%25e%20%C3%A5/embeddings?api-version=2024-10-21"),
    "mapped model": Case(shim="mapped", call="POST /v1/embeddings", body=chat("gpt-4o"), api="legacy",
        target="/deployments/prod%20%C3%A5/embeddings?api-version=2025-01-01"),
    "mapped model with a slash": Case(shim="mapped", call="POST /v1/embeddings", body=chat("vendor/model"),
        api="legacy", target="/deployments/plain/embeddings?api-version=2025-01-01"),
    "mapped model in a response": Case(shim="mapped", call="POST /v1/responses", body=chat("gpt-5", then=', "n":1'),
        api="legacy", target="/responses?api-version=2025-01-01", changed_body=chat("five", then=', "n":1')),
    "response without a model": Case(shim="mapped", call="POST /v1/responses", body=b'{"prompt":{"id":"x"}}',
        api="legacy", target="/responses?api-version=2025-01-01"),
    "deployment named by Azure's client": Case(shim="mapped",
        call=f"POST /openai/deployments/gpt-4o/embeddings?{DATED}", body=chat("gpt-4o"), api="legacy",
        target=f"/deployments/gpt-4o/embeddings?{DATED}"),
    "response of Azure's client": Case(shim="mapped", call=f"POST /openai/responses?{DATED}", body=chat("gpt-5"),
        api="legacy", target=f"/responses?{DATED}"),
    "encoded deployment": Case(shim="legacy", call=f"POST /openai/deployments/vendor%2Fm/embeddings?{DATED}",
        body=chat("x"), api="legacy", target=f"/deployments/vendor%2Fm/embeddings?{DATED}"),
    "mapped model to be compacted": Case(shim="mapped", call="POST /v1/responses/compact", body=chat("gpt-5"),
        api="legacy", target="/responses/compact?api-version=2025-01-01", changed_body=chat("five")),
    "mapped model whose tokens are counted": Case(shim="v1 mapped", call="POST /v1/responses/input_tokens",
        body=chat("gpt-4o"), api="v1", target="/responses/input_tokens", changed_body=chat("prod \\u00e5")),
    "mapped model of a video": Case(shim="v1 mapped", call="POST /v1/videos", body=form("gpt-4o"), api="v1",
        target="/videos", changed_body=form("prod å")),
    "unknown operation keeps its model": Case(shim="mapped", call="POST /v1/inventions", body=chat("gpt-5"),
        api="legacy", target="/inventions?api-version=2025-01-01"),
    # A model is only missed where a path needs it.
    "image without a model": Case(shim="v1 mapped", call="POST /v1/images/generations", body=b'{"prompt":"x"}',
        api="v1", target="/images/generations"),
    "form without a model, v1": Case(shim="v1 mapped", call="POST /v1/images/edits", body=form(None), api="v1",
        target="/images/edits"),
    "nothing at all, v1": Case(shim="v1 mapped", call="POST /v1/embeddings", api="v1", target="/embeddings"),
    "image without a model where one is on legacy": Case(shim="v1 but one", call="POST /v1/images/generations",
        body=b'{"prompt":"x"}', api="v1", target="/images/generations"),
    # The model replaced in the body.
    "Azure's client to v1": Case(shim="v1", call=f"POST /openai/deployments/a/chat/completions?{DATED}&x=1",
        body=chat("b", then=', "z": "b"'), api="v1", target="/chat/completions?x=1",
        changed_body=chat("a", then=', "z": "b"')),
    "the same model already": Case(shim="v1", call=f"POST /openai/deployments/a/chat/completions?{DATED}",
        body=chat("a"), api="v1", target="/chat/completions"),
    "no model in the body": Case(shim="v1", call=f"POST /openai/deployments/a/chat/completions?{DATED}",
        body=b' { "n" : 1}', api="v1", target="/chat/completions", changed_body=b' { "model":"a","n" : 1}'),
    "an empty object": Case(shim="v1", call=f"POST /openai/deployments/a/chat/completions?{DATED}", body=b"{ }",
        api="v1", target="/chat/completions", changed_body=b'{ "model":"a"}'),
    "model is null": Case(shim="v1", call=f"POST /openai/deployments/a/chat/completions?{DATED}",
        body=b'{"model": null}', api="v1", target="/chat/completions", changed_body=b'{"model": "a"}'),
    "encoded deployment to v1": Case(shim="v1", call=f"POST /openai/deployments/vendor%2F%C3%A5/embeddings?{DATED}",
        body=chat("b"), api="v1", target="/embeddings", changed_body=chat("vendor/\\u00e5")),
    "mapped model to v1": Case(shim="v1 mapped", call="POST /v1/chat/completions", body=chat("gpt-4o"), api="v1",
        target="/chat/completions", changed_body=chat("prod \\u00e5")),
    "other members called model": Case(shim="v1 mapped", call="POST /v1/chat/completions",
        body=among_others("gpt-4o"), api="v1", target="/chat/completions", changed_body=among_others("prod \\u00e5")),
    "unmapped model to v1": Case(shim="v1 mapped", call="POST /v1/chat/completions", body=chat("other"), api="v1",
        target="/chat/completions"),
    "form with another model": Case(shim="v1", call=f"POST /openai/deployments/a/audio/transcriptions?{DATED}",
        body=form("gpt-4o"), api="v1", target="/audio/transcriptions", changed_body=form("a")),
    "form with the same model": Case(shim="v1", call=f"POST /openai/deployments/a/audio/transcriptions?{DATED}",
        body=form("a"), api="v1", target="/audio/transcriptions"),
    "form without a model": Case(shim="v1", call=f"POST /openai/deployments/a/audio/transcriptions?{DATED}",
        body=form(None, preamble=b"x\r\n"), api="v1", target="/audio/transcriptions",
        changed_body=b'x\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n' + form(None)),
    "mapped form": Case(shim="v1 mapped", call="POST /v1/audio/transcriptions", body=form("gpt-4o"), api="v1",
        target="/audio/transcriptions", changed_body=form("prod å")),
    # An API for each model.
    "model on v1": Case(shim="mixed", call="POST /v1/chat/completions", body=chat("gpt-5"), api="v1",
        target="/chat/completions", changed_body=chat("five")),
    "model by its deployment on v1": Case(shim="mixed", call="POST /v1/embeddings", body=chat("gpt-5-mini"), api="v1",
        target="/embeddings", changed_body=chat("five-mini")),
    "model not on v1": Case(shim="mixed", call="POST /v1/chat/completions", body=chat("gpt-4o"), api="legacy",
        target="/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
    "Azure's client, model on v1": Case(shim="mixed", call=f"POST /openai/deployments/gpt-5/chat/completions?{DATED}",
        body=chat("x"), api="v1", target="/chat/completions", changed_body=chat("gpt-5")),
    "Azure's client, model not on v1": Case(shim="mixed",
        call=f"POST /openai/deployments/gpt-4o/chat/completions?{DATED}", body=chat("x"), api="legacy",
        target=f"/deployments/gpt-4o/chat/completions?{DATED}"),
    "response on v1": Case(shim="mixed", call="POST /v1/responses", body=chat("gpt-5"), api="v1", target="/responses",
        changed_body=chat("five")),
    "response on v1, Azure's client": Case(shim="mixed", call=f"POST /openai/responses?{DATED}", body=chat("gpt-5"),
        api="v1", target="/responses"),
    "response not on v1": Case(shim="mixed", call="POST /v1/responses", body=chat("gpt-4o"), api="legacy",
        target="/responses?api-version=2024-10-21"),
    "assistant on v1": Case(shim="mixed", call="POST /v1/assistants", body=chat("gpt-5"), api="v1",
        target="/assistants", changed_body=chat("five")),
    "form on v1": Case(shim="mixed", call="POST /v1/audio/transcriptions", body=form("whisper"), api="v1",
        target="/audio/transcriptions"),
    "no model in the call": Case(shim="mixed", call="GET /v1/responses/resp_1", api="legacy",
        target="/responses/resp_1?api-version=2024-10-21"),
    "base model of a job": Case(shim="mixed", call="POST /v1/fine_tuning/jobs", body=chat("gpt-5"), api="legacy",
        target="/fine_tuning/jobs?api-version=2024-10-21"),
    "model on legacy": Case(shim="v1 but one", call="POST /v1/chat/completions", body=chat("gpt-3.5"), api="legacy",
        target="/deployments/gpt-3.5/chat/completions?api-version=2024-10-21"),
    "model not on legacy": Case(shim="v1 but one", call="POST /v1/chat/completions", body=chat("gpt-4o"), api="v1",
        target="/chat/completions"),
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_call_arrives_as(
    case: Case, shims: dict[str, Host], standin: Standin, other: Standin, http: aiohttp.ClientSession
) -> None:
    method, path = case.call.split(" ", 1)
    request_id = str(uuid.uuid4())
    content_type = FORM_TYPE if case.is_form else "application/json"
    async with http.request(
        method,
        URL(shims[case.shim].url + path, encoded=True),
        data=case.body or None,
        headers={
            "api-key": KEY,
            "content-type": content_type,
            "x-standin": '{"reflect": true}',
            "x-request-id": request_id,
        },
    ) as response:
        assert response.status == 200, await response.text()
    upstream = other if case.shim == "mixed" and case.api == "v1" else standin
    received = upstream.received[request_id]
    base = "/openai/v1" if case.api == "v1" else "/openai"
    assert (received.method, received.target) == (method, base + case.target)
    assert received.body == (case.body if case.changed_body is None else case.changed_body)
    assert received.header("content-length") in (None, str(len(received.body)))
    assert received.header("content-type") == content_type
