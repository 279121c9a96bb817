"""Errors of API Management and Azure OpenAI, reshaped: which, into what, and in which words. No server runs here."""

import gzip
import json
import zlib
from typing import Any

import pytest

from shim.answer import models
from shim.answer.apim_errors import FailedCall, reshape
from shim.answer.upstream_errors import clarify_error
from shim.call.body import Body
from shim.call.caller import Caller
from shim.call.parse import parse
from shim.call.routes import Route
from shim.headers import Headers
from shim.settings import Settings
from shim.transport.direct import ShimTransport
from shim.upstream import Upstream, UpstreamResponse
from tests.support.outlets import relayed
from tests.support.transports import MadeUp, pieces

JSON = (b"content-type", b"application/json")
ASKED = FailedCall("POST", "/files", None, None)
KIB = 1024


def apim(status: int, message: str) -> bytes:
    return json.dumps({"statusCode": status, "message": message}).encode()


def error_of(status: int, content: bytes, failed: FailedCall = ASKED) -> dict[str, Any]:
    reshaped = reshape(status, [], content, failed)
    assert reshaped is not None
    error: dict[str, Any] = json.loads(reshaped[1])["error"]
    return error


# Kinds as in https://platform.openai.com/docs/guides/error-codes.
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (501, "api_error"),
        (503, "api_error"),
    ],
)
def test_the_kind_of_an_error_follows_its_status(status: int, kind: str) -> None:
    assert error_of(status, apim(status, "No.")) == {
        "message": "No.", "type": kind, "param": None, "code": "apim_error",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, apim(200, "No.")),
        (399, apim(399, "No.")),
        (400, b""),
        (400, b"no JSON"),
        (400, b"[" * 100_000),
        (400, b"[]"),
        (400, b'{"statusCode": 400}'),
        (400, b'{"message": "No."}'),
        (400, b'{"statusCode": "400", "message": "No."}'),
        (400, b'{"statusCode": 400, "message": 1}'),
        (400, b'{"statusCode": 400, "message": "No.", "error": {}}'),
        (400, b'{"error": "DeploymentNotFound"}'),
        (404, b'{"error": {"code": "DeploymentNotFound"}}'),  # the shim knows of no deployment
    ],
)
def test_what_is_no_error_of_apims_passes_unchanged(status: int, content: bytes) -> None:
    assert reshape(status, [], content, ASKED) is None


def test_only_the_headers_of_the_body_are_replaced() -> None:
    received: Headers = [
        (b"content-length", b"1"), (b"x-a", b"1"), (b"content-encoding", b"gzip"), (b"x-a", b"2"), JSON,
    ]  # fmt: skip
    reshaped = reshape(429, received, apim(429, "Try again in 7 seconds."), ASKED)
    assert reshaped is not None
    headers, content = reshaped
    assert headers == [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x-shim-error-source", b"apim"),
        (b"retry-after", b"7"),
        JSON,
        (b"content-length", b"%d" % len(content)),
    ]


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Quota will be replenished in 2.03:04:05.", 2 * 86400 + 3 * 3600 + 4 * 60 + 5),
        ("Quota will be replenished in 03:04:05.", 3 * 3600 + 4 * 60 + 5),
        ("try again in 1 second", 1),
        ("Try again in 999999999 seconds.", 999_999_999),
    ],
)
def test_the_wait_that_apim_states_in_words_becomes_a_header(words: str, seconds: int) -> None:
    reshaped = reshape(403, [], apim(403, words), ASKED)
    assert reshaped is not None
    assert dict(reshaped[0])[b"retry-after"] == b"%d" % seconds


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        ("/files", "add the operation to that API in Azure API Management."),
        ("/models", "or name the models in the shim's setting MODELS."),
        ("/models/gpt-4o", "or name the models in the shim's setting MODELS."),
    ],
)
def test_a_missing_operation_says_how_its_operator_can_add_it(path: str, ends: str) -> None:
    error = error_of(404, apim(404, "Resource not found"), FailedCall("GET", path, None, None))
    assert error["code"] == "apim_operation_missing"
    assert error["message"].startswith(
        f"Resource not found: the APIM API behind this shim has no operation GET {path}. "
    )
    assert error["message"].endswith(ends)


NOT_FOUND = b'{"error": {"code": "DeploymentNotFound", "message": "No such deployment."}, "more": 1}'


@pytest.mark.parametrize(
    ("model", "deployment", "words"),
    [
        (None, "d", '"d", which the call itself names.'),
        (
            "m",
            "m",
            '"m", which is the model that the call names: the setting MODEL_DEPLOYMENTS of the shim has no other'
            " deployment for it.",
        ),
        ("m", "d", '"d", to which the setting MODEL_DEPLOYMENTS of the shim maps the model "m".'),
    ],
)
def test_a_missing_deployment_is_named_with_what_led_to_it(
    model: str | None, deployment: str, words: str
) -> None:
    reshaped = reshape(404, [(b"x-a", b"1")], NOT_FOUND, FailedCall("POST", "/x", model, deployment))
    assert reshaped is not None
    headers, content = reshaped
    document = json.loads(content)
    assert document["error"]["message"] == f"No such deployment. The deployment asked for was {words}"
    assert (document["error"]["code"], document["more"]) == ("DeploymentNotFound", 1)
    # It is not API Management that refuses.
    assert headers == [(b"x-a", b"1"), JSON, (b"content-length", b"%d" % len(content))]


def test_a_missing_deployment_is_named_where_upstream_has_no_words_for_it() -> None:
    silent = b'{"error": {"code": "DeploymentNotFound"}}'
    error = error_of(404, silent, FailedCall("POST", "/x", None, "d"))
    assert error["message"].strip() == 'The deployment asked for was "d", which the call itself names.'


def test_what_a_message_repeats_of_the_caller_has_256_characters_at_most() -> None:
    long = "x" * 257
    missing = error_of(404, apim(404, "Resource not found"), FailedCall("GET", long, None, None))
    assert f" GET {'x' * 256}. " in missing["message"]
    mapped = error_of(404, NOT_FOUND, FailedCall("POST", "/x", "m" * 257, "d" * 257))
    assert f'"{"d" * 256}"' in mapped["message"]
    assert f'"{"m" * 256}"' in mapped["message"]


# Reading the error, from a response of upstream's.
SETTINGS = {"APIM_BASE_URL": "https://contoso.azure-api.net/openai", "KEY_VAULT_URL": "https://v.example"}


async def clarified(
    status: int,
    headers: Headers,
    content: bytes,
    call: str = "POST /v1/files",
    route: Route | None = None,
    **settings: str,
) -> UpstreamResponse:
    """The response that the caller of `call` gets in place of upstream's."""

    async def receive() -> Any:
        raise AssertionError("the caller has sent all")

    caller = Caller(receive)
    response = UpstreamResponse(MadeUp(status, headers, pieces(content)), Body(caller, caller.body()))
    upstream = Upstream(ShimTransport(), connect_timeout=1, first_byte_timeout=5, idle_timeout=0)
    method, path = call.split(" ")
    await clarify_error(
        response,
        upstream,
        parse(method, path.encode(), b"", []),
        route or Route("https://contoso.azure-api.net", "/openai/files"),
        caller,
        Settings.from_environment({**SETTINGS, **settings}),
    )
    return response


async def content_of(response: UpstreamResponse) -> bytes:
    return b"".join(await relayed(response))


REFUSAL = apim(401, "Access denied due to missing subscription key.")


def deflate(content: bytes) -> bytes:
    return zlib.compress(content)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ([JSON], REFUSAL),
        ([], REFUSAL),
        ([(b"Content-Type", b"Application/JSON; charset=utf-8")], REFUSAL),
        ([(b"content-type", b"application/problem+json")], REFUSAL),
        ([JSON, (b"Content-Encoding", b"GZip")], gzip.compress(REFUSAL)),
        ([JSON, (b"content-encoding", b"deflate")], deflate(REFUSAL)),
    ],
    ids=["JSON", "no type", "JSON by another spelling", "problem JSON", "gzip", "deflate"],
)
async def test_an_error_that_may_be_json_is_reshaped(headers: Headers, content: bytes) -> None:
    response = await clarified(401, headers, content)
    assert response.status == 401
    assert json.loads(await content_of(response))["error"]["code"] == "apim_key_missing"


@pytest.mark.parametrize(
    ("status", "headers", "content", "call"),
    [
        (399, [JSON], REFUSAL, "POST /v1/files"),
        (401, [(b"content-type", b"text/plain")], REFUSAL, "POST /v1/files"),
        (401, [(b"content-type", b"text/plain"), JSON], REFUSAL, "POST /v1/files"),
        (401, [JSON, (b"content-encoding", b"br")], REFUSAL, "POST /v1/files"),
        (401, [JSON, (b"content-encoding", b"gzip")], REFUSAL, "POST /v1/files"),
        (401, [JSON, (b"content-encoding", b"gzip")], gzip.compress(REFUSAL)[:-1], "POST /v1/files"),
        (401, [JSON, (b"content-encoding", b"gzip")], gzip.compress(apim(401, "x" * 70_000), 0), "POST /v1/files"),
        (401, [JSON], b"", "POST /v1/files"),
        (401, [JSON], REFUSAL, "HEAD /v1/files"),
        (404, [JSON], b'{"error": {}}', "GET /v1/models"),
    ],
    ids=[
        "no error", "text", "text before JSON", "an unknown coding", "gzip that is none", "gzip cut short",
        "gzip of more than 64 KiB", "nothing", "HEAD", "no models to name",
    ],
)  # fmt: skip
async def test_all_else_passes_as_it_came(status: int, headers: Headers, content: bytes, call: str) -> None:
    response = await clarified(status, headers, content, call)
    assert (response.status, response.headers) == (status, headers)
    assert await content_of(response) == content


@pytest.mark.parametrize(("size", "is_reshaped"), [(64 * KIB, True), (64 * KIB + 1, False)])
@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_an_error_is_reshaped_up_to_64_kib_unpacked(coding: str, size: int, is_reshaped: bool) -> None:
    plain = apim(400, "x" * (size - len(apim(400, ""))))
    sent = gzip.compress(plain) if coding else plain
    response = await clarified(400, [JSON, *([(b"content-encoding", b"gzip")] if coding else [])], sent)
    content = await content_of(response)
    assert (content != sent) is is_reshaped
    assert len(plain) == size


@pytest.mark.parametrize(
    ("call", "model", "words"),
    [
        ("POST /v1/chat/completions", "gpt-4o", 'maps the model "gpt-4o"'),
        ("POST /openai/deployments/mine/chat/completions", "gpt-4o", "which the call itself names"),
    ],
)
async def test_a_model_counts_only_where_it_leads_to_the_deployment(
    call: str, model: str, words: str
) -> None:
    route = Route("https://contoso.azure-api.net", "/x", model=model, deployment="mine")
    response = await clarified(404, [JSON], NOT_FOUND, call, route)
    assert words in json.loads(await content_of(response))["error"]["message"]


@pytest.mark.parametrize(
    ("status", "call", "is_listed"),
    [
        (404, "GET /v1/models", True),
        (405, "GET /v1/models", True),
        (501, "GET /v1/models", True),
        (403, "GET /v1/models", False),
        (406, "GET /v1/models", False),
        (500, "GET /v1/models", False),
        (502, "GET /v1/models", False),
        (404, "DELETE /v1/models/gpt-4o", False),
        (404, "GET /v1/models/gpt-4o", True),
        (404, "GET /v1/models/other", False),
    ],
)
async def test_models_come_from_the_settings_where_the_api_has_no_such_operation(
    status: int, call: str, is_listed: bool
) -> None:
    response = await clarified(status, [JSON, (b"x-a", b"1")], b'{"error": {}}', call, MODELS="gpt-4o")
    content = await content_of(response)
    assert response.status == (200 if is_listed else status)
    assert (b"gpt-4o" in content) is is_listed
    if is_listed:
        assert response.headers == [JSON, (b"content-length", b"%d" % len(content))]


def listed(path: str, **settings: str) -> Any:
    content = models.from_settings(path, Settings.from_environment({**SETTINGS, **settings}))
    return None if content is None else json.loads(content)


def test_models_have_openais_shape() -> None:
    # https://platform.openai.com/docs/api-reference/models/object
    model = {"id": "gpt-4o", "object": "model", "created": 0, "owned_by": "azure-openai"}
    assert listed("/models/gpt-4o", MODELS="gpt-4o") == model
    assert listed("/models", MODELS="gpt-4o") == {"object": "list", "data": [model]}


def test_models_are_those_of_both_settings_each_once() -> None:
    both = listed("/models", MODELS="a,b", MODEL_DEPLOYMENTS="b=x,c=y")
    assert [model["id"] for model in both["data"]] == ["a", "b", "c"]
    assert listed("/models/c", MODEL_DEPLOYMENTS="c=y")["id"] == "c"


@pytest.mark.parametrize("path", ["/models/other", "/models/", "/v9/models/a", "/modelsa", "/files"])
def test_what_no_setting_names_is_no_model(path: str) -> None:
    assert listed(path, MODELS="a") is None
    assert listed("/models") is None


def test_a_models_name_is_decoded() -> None:
    assert listed("/models/ft%3Agpt%2F4", MODELS="ft:gpt/4")["id"] == "ft:gpt/4"


# https://learn.microsoft.com/azure/api-management/api-management-error-handling-policies
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "Access denied due to missing subscription key. Make sure to include it.", "apim_key_missing"),
        (401, "Access denied due to invalid subscription key.", "apim_key_invalid"),
        (403, "Out of call volume quota. Quota will be replenished in 01:00:00.", "apim_quota_exceeded"),
        (404, "Resource not found", "apim_operation_missing"),
        (429, "Token limit is exceeded. Try again in 7 seconds.", "apim_token_limited"),
        (429, "Rate limit is exceeded. Try again in 7 seconds.", "apim_rate_limited"),
        (400, "Rate limit is exceeded.", "apim_error"),
        (403, "Resource not found", "apim_error"),
        (429, "Slow down.", "apim_error"),
    ],
)
def test_the_code_follows_status_and_words(status: int, message: str, code: str) -> None:
    for spelled in (message, message.upper(), message.lower()):
        assert error_of(status, apim(status, spelled))["code"] == code
