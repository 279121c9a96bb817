"""What was sent arrives upstream, and what upstream responded comes back, but for what must differ.

The API behind the shim must not be able to tell a call through it from a call of its own.
"""

import gzip
import hashlib
import json
import re
import uuid
from typing import Any

import pytest
from aiohttp import web

from devhost.host import Host
from devhost.standin import Received, Standin
from tests.conftest import KEY, OTHER_KEY
from tests.support.wire import Answer, exchange, invoke, request
from tests.test_headers import NOT_UPSTREAM

REFLECT = 'x-standin: {"reflect": true}'


async def reflected(host: Host, method: str, target: str, *headers: str, body: bytes = b"") -> dict[str, Any]:
    """What upstream received of a call through the host."""
    answer = await exchange(host.url, request(method, target, REFLECT, *headers, body=body, key=KEY))
    assert answer.status == 200, answer
    received: dict[str, Any] = json.loads(answer.body)
    return received


def values(received: dict[str, Any], name: str) -> list[str]:
    return [value for other, value in received["headers"] if other == name]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_the_method_arrives(host: Host, method: str) -> None:
    assert (await reflected(host, method, "/openai/v1/files"))["method"] == method


PATHS = {
    "plain": ("/files/file-1", "/files/file-1"),
    "inner double slash": ("/files//content", "/files//content"),
    "trailing slash": ("/files/", "/files/"),
    "encoded space": ("/files/a%20b", "/files/a%20b"),
    "encoded slash": ("/files/a%2Fb", "/files/a%2Fb"),
    "UTF-8": ("/files/%C3%A4", "/files/%C3%A4"),
    "encoded percent sign": ("/files/100%25", "/files/100%25"),
    "reserved characters": ("/files/a:b@c,d;e=f+g$h!i'j(k)*l", "/files/a:b@c,d;e=f+g$h!i'j(k)*l"),
    "dots that are no segment": ("/files/a..b/...", "/files/a..b/..."),
}


@pytest.mark.parametrize(("sent", "arrives"), PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("through", ["the host", "the worker alone"])
async def test_the_path_arrives(host: Host, sent: str, arrives: str, through: str) -> None:
    call = request("GET", f"/openai{sent}?api-version=2024-10-21", REFLECT, key=KEY)
    answer = await exchange(host.url, call) if through == "the host" else (await invoke(host.worker, call))[0]
    assert json.loads(answer.body)["target"] == f"/openai{arrives}?api-version=2024-10-21"


QUERIES = {
    "plain": ("a=1&b=2", "a=1&b=2"),
    "repeated names": ("a=1&a=2", "a=1&a=2"),
    "encodings": ("a=%20+%2B&%C3%A4=1", "a=%20+%2B&%C3%A4=1"),
    "a name alone": ("after&limit=2", "after&limit=2"),
    "brackets": ("include[]=a&include[]=b", "include[]=a&include[]=b"),
    "a subscription key": ("a=1&subscription-key=stolen&b=2", "a=1&b=2"),
    "a subscription key in disguise": ("Subscription%2DKey=stolen&b=2", "b=2"),
    "function keys": ("code=stolen&clientId=stolen&b=2", "b=2"),
}


@pytest.mark.parametrize(("sent", "arrives"), QUERIES.values(), ids=QUERIES.keys())
async def test_the_query_arrives_but_for_keys(host: Host, sent: str, arrives: str) -> None:
    received = await reflected(host, "GET", f"/openai/files?{sent}&api-version=2024-10-21")
    assert received["target"] == f"/openai/files?{arrives}&api-version=2024-10-21"


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_the_body_arrives_byte_for_byte(host: Host, framing: str) -> None:
    body = bytes(range(256)) * 1000
    if framing == "chunked":
        raw = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
        head = request("POST", "/openai/files", REFLECT, "transfer-encoding: chunked", key=KEY)
        answer = await exchange(host.url, head + raw)
        received = json.loads(answer.body)
        assert values(received, "content-length") == []
    else:
        received = await reflected(host, "POST", "/openai/files", body=body)
        assert values(received, "content-length") == [str(len(body))]
    assert received["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_the_callers_headers_arrive_in_order_and_as_often_as_sent(host: Host) -> None:
    """As often as they reach the worker, that is: the host joins repeated ones (tests/test_devhost_host.py)."""
    call = request(
        "GET",
        "/openai/v1/files",
        REFLECT,
        "x-stainless-lang: python",
        "openai-beta: assistants=v2",
        "x-repeated: one",
        "aoai-evals: preview",
        "x-repeated: two",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-ms-oai-image-generation-deployment: dall-e-3",
        "user-agent: OpenAI/Python",
        key=KEY,
    )
    received = json.loads((await invoke(host.worker, call))[0].body)
    ours = {"host", "x-standin", "api-key", "x-request-id"}
    assert [tuple(header) for header in received["headers"] if header[0] not in ours] == [
        ("x-stainless-lang", "python"),
        ("openai-beta", "assistants=v2"),
        ("x-repeated", "one"),
        ("aoai-evals", "preview"),
        ("x-repeated", "two"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-ms-oai-image-generation-deployment", "dall-e-3"),
        ("user-agent", "OpenAI/Python"),
    ]


async def test_headers_in_utf_8_that_reach_the_worker_arrive(host: Host) -> None:
    call = request("GET", "/v1/files", REFLECT, "x-name: gr\u00c3\u00bc\u00c3\u009f", key=KEY)
    received = json.loads((await invoke(host.worker, call))[0].body)
    assert values(received, "x-name") == ["gr\u00fc\u00df"]


async def test_no_header_is_made_up(host: Host) -> None:
    received = await reflected(host, "GET", "/openai/v1/files")
    of_the_host = {"traceparent"}
    ours = {"host", "x-standin", "api-key", "x-request-id"}
    assert {name for name, _ in received["headers"]} == ours | of_the_host


# `api-key` and what frames the message are the test's own here.
STOLEN = sorted(
    {*NOT_UPSTREAM, "x-named-by-connection"}
    - {"api-key", "connection", "host", "transfer-encoding", "upgrade", "x-request-id"}
)


@pytest.mark.parametrize("through", ["the host", "the worker alone"])
async def test_headers_of_connection_platform_and_keys_stay_behind(host: Host, through: str) -> None:
    values_of = {"expect": "100-continue", "te": "trailers", "x-ms-invocation-id": "{id}"}
    headers = [f"{name}: {values_of.get(name, 'stolen')}" for name in STOLEN if name != "authorization"]
    call = request("GET", "/v1/files", REFLECT, "connection: x-named-by-connection", *headers, key=KEY)
    call = call.replace(b"x-ms-invocation-id: {id}\r\n", b"", 1)
    answer = await exchange(host.url, call) if through == "the host" else (await invoke(host.worker, call))[0]
    received = json.loads(answer.body)
    # The host drops `Connection` and passes on what it names, so that the worker cannot know.
    named = {"x-named-by-connection": "stolen"} if through == "the host" else {}
    arrived = {name: value for name, value in received["headers"] if name not in named}
    assert arrived.keys() & set(STOLEN) == set()
    assert "stolen" not in arrived.values()
    assert values(received, "api-key") == [KEY]
    assert values(received, "host") != ["shim.example.com"]


async def test_a_request_id_is_passed_or_made(host: Host) -> None:
    assert values(await reflected(host, "GET", "/v1/files", "x-request-id: mine"), "x-request-id") == ["mine"]
    [made] = values(await reflected(host, "GET", "/v1/files"), "x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)
    [instead] = values(
        await reflected(host, "GET", "/v1/files", f"x-request-id: {'x' * 129}"), "x-request-id"
    )
    assert re.fullmatch("[0-9a-f]{32}", instead)


STATUSES = [200, 201, 202, 206, 301, 307, 400, 404, 409, 418, 422, 429, 451, 500, 503, 529]


@pytest.mark.parametrize("status", STATUSES)
async def test_status_headers_and_body_come_back_untouched(host: Host, standin: Standin, status: int) -> None:
    body = gzip.compress(b'{"error": {"message": "m", "code": "c"}}')
    answer = await answered(
        host,
        standin,
        lambda: web.Response(
            status=status,
            body=body,
            headers=[
                ("Content-Type", "application/json; charset=utf-8"),
                ("Content-Encoding", "gzip"),
                ("Location", "https://elsewhere.example/openai/v1/files"),
                ("Retry-After", "7"),
                ("X-Request-Id", "of-azure"),
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
                ("ETag", '"1"'),
            ],
        ),
    )
    assert (answer.status, answer.body) == (status, body)
    assert answer.named("content-encoding") == ["gzip"]
    assert answer.named("content-length") == [str(len(body))]
    assert answer.named("location") == ["https://elsewhere.example/openai/v1/files"]
    assert answer.named("retry-after") == ["7"]
    assert answer.named("x-request-id") == ["of-azure"]
    assert answer.named("set-cookie") == ["a=1", "b=2"]
    assert answer.named("etag") == ['"1"']


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_with_its_head(host: Host, standin: Standin, status: int) -> None:
    answer = await answered(host, standin, lambda: web.Response(status=status, headers={"etag": '"1"'}))
    assert (answer.status, answer.body, answer.whole) == (status, b"", True)
    assert answer.named("etag") == ['"1"']


async def test_an_answer_to_head_keeps_its_length_and_has_no_body(host: Host, standin: Standin) -> None:
    answer = await answered(host, standin, lambda: web.Response(body=b"12345"), method="HEAD")
    assert (answer.status, answer.body, answer.whole) == (200, b"", True)
    assert answer.named("content-length") == ["5"]


async def test_headers_of_upstreams_connection_stay_behind(host: Host, standin: Standin) -> None:
    answer = await answered(
        host,
        standin,
        lambda: web.Response(
            headers={"Connection": "x-private", "X-Private": "1", "Proxy-Authenticate": "Basic"}
        ),
    )
    assert answer.status == 200
    assert not {"x-private", "proxy-authenticate"} & {name for name, _ in answer.headers}


async def test_cookies_do_not_cross_callers(host: Host, standin: Standin) -> None:
    await answered(host, standin, lambda: web.Response(headers={"Set-Cookie": "session=of-team-a; Path=/"}))
    received = await exchange(host.url, request("GET", "/v1/files", REFLECT, key=OTHER_KEY))
    assert b"of-team-a" not in received.body


async def test_redirects_are_not_followed(host: Host, standin: Standin) -> None:
    elsewhere = f"{standin.base_url}/files"
    answer = await answered(host, standin, lambda: web.Response(status=302, headers={"Location": elsewhere}))
    assert (answer.status, answer.named("location")) == (302, [elsewhere])


ESCAPES = {
    "dot segments": "/openai/v1/../../admin",
    "a dot segment": "/openai/v1/./files",
    "dot segments at the end": "/openai/v1/files/..",
    "encoded dots": "/openai/v1/%2e%2e/%2E%2E/admin",
    "half encoded dots": "/openai/v1/.%2e/admin",
    "encoded slashes": "/openai/v1/..%2F..%2Fadmin",
    "twice encoded dots": "/openai/v1/%252e%252e/admin",
    "dots with a parameter": "/openai/v1/..;a=b/admin",
    "a backslash": "/openai/v1/..\\..\\admin",
    "an encoded backslash": "/openai/v1/..%5C..%5Cadmin",
    "an authority": "//evil.example/openai/v1/files",
    "an encoded line break": "/openai/v1/files%0d%0ahost:%20evil.example",
    "an encoded NUL": "/openai/v1/files%00",
    "encodings without end": "/openai/v1/%" + "25" * 10 + "2e",
}


@pytest.mark.parametrize("target", ESCAPES.values(), ids=ESCAPES.keys())
async def test_a_path_never_leaves_the_base(host: Host, standin: Standin, target: str) -> None:
    latest = standin.latest
    answer, failure = await invoke(host.worker, request("GET", target, key=KEY))
    assert (answer.status, json.loads(answer.body)["error"]["code"], failure) == (400, "invalid_path", None)
    assert standin.latest is latest


@pytest.mark.parametrize("target", ESCAPES.values(), ids=ESCAPES.keys())
async def test_nor_does_one_that_the_host_has_changed(host: Host, standin: Standin, target: str) -> None:
    """Kestrel resolves dot segments itself, so that some of these are harmless by then, and are passed on."""
    latest = standin.latest
    answer = await exchange(host.url, request("GET", target, key=KEY))
    if standin.latest is latest:
        assert answer.status in (400, 404)
    else:
        assert standin.latest is not None
        path = standin.latest.target.partition("?")[0]
        assert f"{path}/".startswith("/openai/")
        assert ".." not in path


async def answered(host: Host, standin: Standin, make: Any, method: str = "GET") -> Answer:
    """The caller's view of an upstream answer."""

    async def answer(_: web.Request, __: Received) -> web.StreamResponse:
        response: web.StreamResponse = make()
        return response

    request_id = str(uuid.uuid4())
    standin.answers[request_id] = answer
    return await exchange(host.url, request(method, "/v1/files", f"x-request-id: {request_id}", key=KEY))
