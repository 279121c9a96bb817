"""What callers are told when APIM, Azure OpenAI or the shim refuses, or when nobody answers.

An SDK decides by status, headers and code whether to try again; a user reads the message and must know what to do.
"""

import asyncio
import gzip
import json
import uuid
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from openai import APIStatusError, AsyncOpenAI, InternalServerError, NotFoundError, OpenAI

from devhost.host import Host
from devhost.standin import Received, Standin
from shim.answer import apim_errors
from shim.answer.apim_errors import FailedCall
from shim.asgi import Message
from shim.call.body import open_body
from shim.call.caller import Caller
from shim.call.rewrite import UpstreamRequest
from shim.call.spool import SpoolSpace
from shim.errors import UpstreamBroken, UpstreamUnreachable
from shim.transport.direct import ShimTransport
from shim.transport.exchange import Exchange
from shim.transport.wire import (
    ConnectError,
    ConnectTimeout,
    RemoteProtocolError,
    WireRequest,
    WriteError,
    origin_of,
)
from shim.upstream import Upstream
from tests.conftest import KEY, StartHost
from tests.support.outlets import relayed
from tests.test_body import JSON, opened

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
ASKED = FailedCall("POST", "/files", None, None)


def apim(status: int, message: str) -> bytes:
    return json.dumps({"statusCode": status, "message": message}).encode()


class Ask:
    """Calls the shim with a script for the stand-in, and returns status, headers and body."""

    def __init__(self, host: Host, http: aiohttp.ClientSession) -> None:
        self.host = host
        self._http = http

    async def __call__(
        self, script: object = None, call: str = "POST /v1/chat/completions", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        method, path = call.split(" ")
        headers = {"authorization": f"Bearer {KEY}", "x-standin": json.dumps(script or {}), **headers}
        body = json.dumps(CHAT).encode() if method == "POST" else None
        async with self._http.request(method, self.host.url + path, data=body, headers=headers) as answer:
            fields = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, fields, await answer.read()

    async def answered(
        self,
        standin: Standin,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        **fields: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """A call that the stand-in answers with just this."""
        request_id = str(uuid.uuid4())

        async def answer(request: web.Request, received: Received) -> web.Response:
            await received.drain_body(request)
            return web.Response(status=status, body=body, headers={"content-type": content_type, **fields})

        standin.answers[request_id] = answer
        try:
            return await self(**{"x-request-id": request_id})
        finally:
            del standin.answers[request_id]


@pytest.fixture
def ask(host: Host, http: aiohttp.ClientSession) -> Ask:
    return Ask(host, http)


@pytest.mark.parametrize(
    ("fault", "status", "code", "kind", "retry_after"),
    [
        ("apim_key_missing", 401, "apim_key_missing", "authentication_error", None),
        ("apim_key_invalid", 401, "apim_key_invalid", "authentication_error", None),
        ("apim_quota", 403, "apim_quota_exceeded", "permission_error", "406"),
        ("apim_not_found", 404, "apim_operation_missing", "invalid_request_error", None),
        ("apim_rate_limit", 429, "apim_rate_limited", "rate_limit_error", "57"),
        ("apim_token_limit", 429, "apim_token_limited", "rate_limit_error", "57"),
    ],
)
async def test_apims_refusals_get_openais_shape(
    fault: str, status: int, code: str, kind: str, retry_after: str | None, ask: Ask, standin: Standin
) -> None:
    direct, original_headers, original = await _direct(standin, fault)
    got, headers, body = await ask({"fault": fault})
    error = json.loads(body)["error"]
    assert (direct, got) == (status, status)
    assert error["message"].startswith(json.loads(original)["message"].removesuffix("."))
    assert (error["type"], error["param"], error["code"]) == (kind, None, code)
    assert headers["x-shim-error-source"] == "apim"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert headers.get("retry-after") == retry_after
    assert headers.get("www-authenticate") == original_headers.get("WWW-Authenticate")
    assert headers["apim-request-id"]


async def _direct(standin: Standin, fault: str) -> tuple[int, dict[str, str], bytes]:
    script = {"api-key": KEY, "x-standin": json.dumps({"fault": fault})}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{standin.base_url}/files?api-version=1", headers=script) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


@pytest.mark.parametrize(
    ("status", "message", "code", "retry_after"),
    [
        (429, "Rate limit is exceeded. Try again in 1 second.", "apim_rate_limited", b"1"),
        (429, "Token limit is exceeded. Try again in 86400 seconds.", "apim_token_limited", b"86400"),
        (429, "Too many.", "apim_error", None),
        (403, "Token quota is exceeded. Try again in 60 seconds.", "apim_quota_exceeded", b"60"),
        (403, "Out of call volume quota. Quota will be replenished in 1.00:00:01.", "apim_quota_exceeded", b"86401"),
        (403, "Forbidden", "apim_error", None),
        (500, "Internal server error", "apim_error", None),
        (404, "Not found", "apim_error", None),
    ],
)  # fmt: skip
def test_the_code_follows_status_and_words(
    status: int, message: str, code: str, retry_after: bytes | None
) -> None:
    reshaped = apim_errors.reshape(status, [], apim(status, message), ASKED)
    assert reshaped
    headers, body = reshaped
    assert json.loads(body)["error"]["code"] == code
    assert dict(headers).get(b"retry-after") == retry_after


def test_a_retry_after_that_is_there_stays() -> None:
    content = apim(429, "Rate limit is exceeded. Try again in 57 seconds.")
    reshaped = apim_errors.reshape(429, [(b"retry-after", b"3")], content, ASKED)
    assert reshaped
    assert [value for name, value in reshaped[0] if name == b"retry-after"] == [b"3"]


@pytest.mark.parametrize("text", ["\\ud800", "Try again in 7 seconds. \\udc00"])
@pytest.mark.parametrize("status", [400, 429, 503])
async def test_a_lone_surrogate_in_an_error_of_apims_passes_with_status_and_retry_after(
    text: str, status: int, ask: Ask, standin: Standin
) -> None:
    body = b'{"statusCode":%d,"message":"Rate limit. %b"}' % (status, text.encode())
    got, headers, content = await ask.answered(standin, status, body, **{"retry-after": "7"})
    assert (got, headers["retry-after"], headers["x-shim-error-source"]) == (status, "7", "apim")
    assert json.loads(content)["error"]["message"].endswith("?")


async def test_a_lone_surrogate_beside_a_missing_deployment_passes(ask: Ask, standin: Standin) -> None:
    body = b'{"error":{"code":"DeploymentNotFound","message":"\\ud800","\\udfff":["\\ud800"]}}'
    got, _, content = await ask.answered(standin, 404, body)
    assert (got, json.loads(content)["error"]["?"]) == (404, ["?"])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_error_that_would_fill_the_memory_passes_as_it_is(
    coding: str, ask: Ask, standin: Standin
) -> None:
    # 60 KiB that unpack to 60 MiB of an error of APIM's, which would be reshaped if anybody unpacked it all.
    plain = b'{"statusCode":429,"message":"' + b"x" * (60 * 1024 * 1024) + b'"}'
    bomb = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    assert len(bomb) < 64 * 1024
    got, headers, content = await ask.answered(standin, 429, bomb, **{"content-encoding": coding})
    assert (got, headers["content-encoding"], content) == (429, coding, bomb)


@pytest.mark.parametrize(("size", "is_reshaped"), [(64 * 1024, True), (64 * 1024 + 1, False)])
@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_an_error_is_reshaped_up_to_64_kib_unpacked(
    size: int, is_reshaped: bool, coding: str, ask: Ask, standin: Standin
) -> None:
    frame = apim(429, "%s").decode()
    plain = (frame % ("x" * (size - len(frame) + 2))).encode()
    body = gzip.compress(plain) if coding else plain
    _, headers, _ = await ask.answered(standin, 429, body, **({"content-encoding": coding} if coding else {}))
    assert ("x-shim-error-source" in headers) is is_reshaped


@pytest.mark.parametrize(
    "body",
    [
        '{"error":{"code":"429","message":"Requests have exceeded"}}',
        '{"error":null,"statusCode":429,"message":"x"}',
        '{"message":"x"}',
        '{"statusCode":"429","message":"x"}',
        '{"statusCode":429}',
        "[1]",
        "no JSON",
        "",
        "[" * 100_000,
        '{"statusCode":429,"message":"%s"}' % ("x" * 70_000),
    ],
    ids=lambda body: body[:30] or "empty",
)
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_other_errors_pass_byte_for_byte(body: str, status: int, ask: Ask, standin: Standin) -> None:
    got, headers, content = await ask.answered(standin, status, body.encode())
    assert (got, content) == (status, body.encode())
    assert "x-shim-error-source" not in headers


async def test_what_is_no_error_passes_whatever_it_says(ask: Ask, standin: Standin) -> None:
    body = apim(404, "Resource not found")
    assert (await ask.answered(standin, 200, body))[2] == body


async def test_apims_words_in_another_content_type_pass(ask: Ask, standin: Standin) -> None:
    body = apim(404, "Resource not found")
    assert (await ask.answered(standin, 404, body, "text/html"))[2] == body


async def test_a_compressed_refusal_is_understood(ask: Ask, standin: Standin) -> None:
    body = gzip.compress(apim(429, "Rate limit is exceeded. Try again in 5 seconds."))
    _, headers, content = await ask.answered(standin, 429, body, **{"content-encoding": "gzip"})
    assert json.loads(content)["error"]["code"] == "apim_rate_limited"
    assert "content-encoding" not in headers
    assert headers["retry-after"] == "5"


async def test_a_compressed_refusal_that_was_cut_short_passes_as_it_is(ask: Ask, standin: Standin) -> None:
    """All its words are there, and nothing says that they are all."""
    body = gzip.compress(apim(429, "Rate limit is exceeded. Try again in 5 seconds."))[:-8]
    _, headers, content = await ask.answered(standin, 429, body, **{"content-encoding": "gzip"})
    assert (content, headers["content-encoding"]) == (body, "gzip")


async def test_a_compressed_error_of_azure_openai_passes_as_it_is(ask: Ask, standin: Standin) -> None:
    body = gzip.compress(b'{"error":{"code":"429"}}')
    _, headers, content = await ask.answered(standin, 429, body, **{"content-encoding": "gzip"})
    assert (content, headers["content-encoding"]) == (body, "gzip")


async def test_a_missing_operation_says_that_the_apim_api_lacks_it(openai: AsyncOpenAI) -> None:
    with pytest.raises(
        NotFoundError, match=r"the APIM API behind this shim has no operation POST /batches"
    ) as raised:
        await openai.batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id="x",
            extra_headers={"x-standin": '{"fault": "apim_not_found"}'},
        )  # fmt: skip
    assert raised.value.code == "apim_operation_missing"


@pytest.fixture(scope="session")
async def configured(start_host: StartHost, http: aiohttp.ClientSession) -> Ask:
    """Through a shim that knows models and maps one to a deployment that is not there."""
    return Ask(await start_host(MODEL_DEPLOYMENTS="gpt-4o=none-such", MODELS="listed, vendor/m,listed"), http)


async def test_a_missing_deployment_is_named_with_the_mapping_that_led_to_it(configured: Ask) -> None:
    status, headers, body = await configured()
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (404, "DeploymentNotFound")
    assert error["message"].startswith("The API deployment for this resource does not exist.")
    assert '"none-such", to which the setting MODEL_DEPLOYMENTS' in error["message"]
    assert '"gpt-4o"' in error["message"]
    assert headers["content-length"] == str(len(body))
    _, _, body = await configured(
        call="POST /openai/deployments/gone/chat/completions?api-version=2024-10-21"
    )
    assert '"gone", which the call itself names' in json.loads(body)["error"]["message"]


async def test_models_come_from_the_settings_where_the_apim_api_has_none(configured: Ask) -> None:
    for call in ("GET /v1/models", "GET /v1/models/", "GET /openai/models?api-version=2024-10-21"):
        status, _, body = await configured({"fault": "apim_not_found"}, call)
        listed = json.loads(body)
        assert (status, listed["object"]) == (200, "list")
        assert [model["id"] for model in listed["data"]] == ["listed", "vendor/m", "gpt-4o"]
    for call in ("GET /v1/models/vendor%2Fm", "GET /v1/models/vendor/m"):
        status, _, body = await configured(call=call)
        assert (status, json.loads(body)["object"], json.loads(body)["id"]) == (200, "model", "vendor/m")
    missing = {"x-standin": '{"fault": "apim_not_found"}'}
    async with AsyncOpenAI(base_url=f"{configured.host.url}/v1", api_key=KEY) as client:
        listed = [model.id async for model in client.models.list(extra_headers=missing)]
        assert listed == ["listed", "vendor/m", "gpt-4o"]
        assert (await client.models.retrieve("gpt-4o", extra_headers=missing)).id == "gpt-4o"


@pytest.mark.parametrize(
    ("script", "call", "status"),
    [
        (None, "GET /v1/models/unlisted", 404),
        ({"fault": "apim_key_invalid"}, "GET /v1/models", 401),
        ({"fault": "apim_rate_limit"}, "GET /v1/models", 429),
        ({"fault": "apim_not_found"}, "GET /v1/files/listed", 404),
        ({"fault": "apim_not_found"}, "DELETE /v1/models/listed", 404),
    ],
)
async def test_what_is_no_missing_list_of_models_stays_a_refusal(
    script: object, call: str, status: int, configured: Ask
) -> None:
    assert (await configured(script, call))[0] == status


async def test_a_missing_deployment_without_a_mapping_says_so(ask: Ask) -> None:
    _, _, body = await ask({"fault": "aoai_404_deployment"})
    assert (
        "MODEL_DEPLOYMENTS of the shim has no other deployment for it" in json.loads(body)["error"]["message"]
    )


async def test_models_come_from_upstream_where_it_answers(ask: Ask) -> None:
    _, _, body = await ask(call="GET /v1/models")
    assert json.loads(body)["data"][0]["owned_by"] == "standin"


async def test_models_that_nobody_knows_are_an_honest_error(ask: Ask) -> None:
    status, headers, body = await ask({"fault": "apim_not_found"}, "GET /v1/models")
    assert (status, headers["x-shim-error-source"]) == (404, "apim")
    assert "MODELS" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "call",
    [
        "GET /v1/realtime?model=gpt-4o-realtime",
        "GET /openai/realtime?api-version=1",
        "GET /openai/v1/realtime/",
    ],
)
async def test_realtime_is_not_supported_and_says_what_to_do(call: str, ask: Ask) -> None:
    status, headers, body = await ask(call=call)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (501, "realtime_not_supported")
    assert "stream" in error["message"]
    assert headers["x-shim-error-source"] == "shim"


async def test_any_websocket_is_refused_in_the_same_words(ask: Ask, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        await http.ws_connect(f"{ask.host.url}/openai/v1/responses", headers={"api-key": KEY})
    assert raised.value.status == 501


async def test_a_long_silence_is_a_504_that_names_the_ways_out_and_is_not_retried(
    start_host: StartHost, standin: Standin
) -> None:
    host = await start_host(UPSTREAM_FIRST_BYTE_TIMEOUT="0.3")
    request_id = str(uuid.uuid4())
    async with AsyncOpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=2) as client:
        with pytest.raises(InternalServerError, match='"background": true') as raised:
            await client.responses.create(
                model="gpt-4o",
                input="x",
                extra_headers={"x-standin": '{"hang": true}', "x-request-id": request_id},
            )
    error = raised.value
    assert (error.status_code, error.code) == (504, "upstream_timeout")
    assert "stream" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    assert (await standin.ended(request_id)).ended == "caller gone"


@pytest.mark.parametrize("route", ["legacy", "v1"])
async def test_a_refusal_that_stalls_is_a_504_too(
    route: str, start_host: StartHost, standin: Standin, http: aiohttp.ClientSession
) -> None:
    ask = Ask(await start_host(UPSTREAM_FIRST_BYTE_TIMEOUT="0.3", APIM_API=route), http)
    request_id = str(uuid.uuid4())
    released = asyncio.Event()

    async def stall(request: web.Request, received: Received) -> web.StreamResponse:
        await received.drain_body(request)
        response = web.StreamResponse(status=429, headers={"content-type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"statusCode":')
        await released.wait()
        return response

    standin.answers[request_id] = stall
    status, _, body = await ask(**{"x-request-id": request_id})
    released.set()
    assert (status, json.loads(body)["error"]["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{}", "application/json", 400, "model_required"),
        (b'{"model": ""}', "application/json", 400, "model_required"),
        (b'{"model": null}', "application/json", 400, "model_required"),
        (b'{"model": 7}', "application/json", 400, "model_required"),
        (b"[]", "application/json", 400, "model_required"),
        (b"", "application/json", 400, "model_required"),
        (b"{", "application/json", 400, "invalid_request"),
        (b'{"model": "gpt-4o"} x', "application/json", 400, "invalid_request"),
        (b'{"model": "\\ud800"}', "application/json", 400, "invalid_request"),
        (b'{"model": "\xff"}', "application/json", 400, "invalid_request"),
        ('{"model": "gpt-4o"}'.encode("utf-16"), "application/json; charset=utf-16", 400, "invalid_request"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json", 400, "model_required"),
        (b"model=gpt-4o", "application/x-www-form-urlencoded", 400, "invalid_request"),
        (b"nothing", "multipart/form-data", 400, "invalid_request"),
        (b"nothing", "multipart/form-data; boundary=b", 400, "model_required"),
        (b"--b\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b", 400, "invalid_request"),
        (b"--b--\r\n and then", "multipart/form-data; boundary=b", 400, "model_required"),
        (b'{"model": ".."}', "application/json", 400, "invalid_request"),
        (b'{"model": "a/../../b"}', "application/json", 400, "invalid_request"),
        (b'{"model": "%2e%2e/b"}', "application/json", 400, "invalid_request"),
        (b'{"model": "a\\u0000b"}', "application/json", 400, "invalid_request"),
        (b'{"model": "' + b"a" * 300 + b'"}', "application/json", 400, "invalid_request"),
        (b'{"model": "a", "model": "gpt-4o"}', "application/json", 200, None),
        (b'\xef\xbb\xbf{"model": "gpt-4o"}', "application/json", 200, None),
        (b'{"model": "gpt-4o"}', "", 200, None),
    ],
)
async def test_a_body_that_names_no_model_is_a_400_that_says_so(
    content: bytes, content_type: str, status: int, code: str | None, host: Host, http: aiohttp.ClientSession
) -> None:
    headers = {
        "authorization": f"Bearer {KEY}",
        "x-standin": '{"reflect": true}',
        "content-type": content_type,
    }
    async with http.post(f"{host.url}/v1/chat/completions", data=content, headers=headers) as answer:
        body = await answer.json(content_type=None)
        assert (answer.status, body.get("error", {}).get("code")) == (status, code)
        if code:
            assert answer.headers["x-shim-error-source"] == "shim"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_a_body_too_large_to_read_is_a_413_and_one_that_needs_no_reading_is_not(
    announced: bool, start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    host = await start_host(MAX_BODY_BYTES="1000")
    content = b'{"model": "gpt-4o", "x": "%s"}' % (b"x" * 1000)

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:600]
        yield content[600:]

    headers = {"authorization": f"Bearer {KEY}", "x-standin": '{"reflect": true}'}
    for path, status in (("chat/completions", 413), ("responses", 200)):
        data = content if announced else chunks()
        async with http.post(f"{host.url}/v1/{path}", data=data, headers=headers) as answer:
            assert answer.status == status
            if status == 413:
                assert "MAX_BODY_BYTES" in (await answer.json())["error"]["message"]
            else:
                assert (await answer.json())["body_length"] == len(content)


async def test_a_content_length_that_lies_hangs_nobody(host: Host) -> None:
    reader, writer = await asyncio.open_connection(*host.url.removeprefix("http://").split(":"))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\napi-key: {KEY}\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"model": "gpt-4o"}')
    writer.write_eof()
    assert not (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 5")
    writer.close()


class Flaky(ShimTransport):
    """Fails as told, then really sends."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.attempts = 0

    async def send(self, request: WireRequest) -> Exchange:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        return await super().send(request)


async def _send(transport: Flaky, standin: Standin) -> int:
    upstream = Upstream(transport, connect_timeout=5, first_byte_timeout=5, idle_timeout=0)
    caller = Caller(Patient())
    body = await open_body([], caller, model="unread", max_bytes=1, space=SpoolSpace(1))
    request = UpstreamRequest("GET", standin.base_url.removesuffix("/openai"), "/", [], body)
    answer = await upstream.send(request, caller)
    await answer.close()
    return answer.status


@pytest.mark.parametrize("failure", [ConnectError("no"), ConnectTimeout("no")])
async def test_a_connection_that_did_not_come_about_is_tried_once_more(
    standin: Standin, failure: Exception
) -> None:
    once = Flaky(failure)
    assert (await _send(once, standin), once.attempts) == (404, 2)
    twice = Flaky(failure, failure)
    with pytest.raises(UpstreamUnreachable):
        await _send(twice, standin)
    assert twice.attempts == 2


@pytest.mark.parametrize("failure", [WriteError("no"), RemoteProtocolError("no")])
async def test_a_connection_that_broke_after_something_was_sent_is_not_tried_again(
    standin: Standin, failure: Exception
) -> None:
    transport = Flaky(failure)
    with pytest.raises(UpstreamBroken, match="broke before it answered"):
        await _send(transport, standin)
    assert transport.attempts == 1


class FirstRefused(Flaky):
    """Its first connection goes where nobody listens."""

    async def send(self, request: WireRequest) -> Exchange:
        if not self.attempts:
            request = request._replace(origin=origin_of("http://127.0.0.1:1"))
        return await super().send(request)


async def test_the_second_connection_gets_the_whole_body(standin: Standin) -> None:
    body = await opened([b"a" * 70_000, b"b"], JSON, "unread")
    headers = [(b"api-key", KEY.encode()), (b"x-standin", b'{"reflect": true}')]
    request = UpstreamRequest("POST", standin.base_url.removesuffix("/openai"), "/openai/x", headers, body)
    transport = FirstRefused()
    answer = await Upstream(transport, connect_timeout=5, first_byte_timeout=5, idle_timeout=0).send(
        request, Caller(Patient())
    )
    content = b"".join(await relayed(answer))
    await answer.close()
    await transport.aclose()
    assert (json.loads(content)["body_length"], transport.attempts) == (70_001, 2)


class Patient:
    """A caller who sends nothing more, and stays."""

    async def __call__(self) -> Message:
        return await asyncio.Future[Message]()


async def test_an_upstream_that_is_not_there_is_a_502_that_may_be_retried(start_host: StartHost) -> None:
    host = await start_host(APIM_BASE_URL="http://127.0.0.1:1/openai")
    with OpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(APIStatusError) as raised:
            await asyncio.to_thread(client.models.list)
        assert (raised.value.status_code, raised.value.code) == (502, "upstream_unreachable")
        assert "x-should-retry" not in raised.value.response.headers
