"""The doctor without the shim: a caller's own call, in each set-up that may replace the shim.

Its verdict decides whether a caller is moved, so it must be right about what that caller would get.
"""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from devhost.standin import Standin
from shim.__main__ import app
from shim.cli.doctor.client import open_client
from shim.cli.doctor.finding import Finding
from shim.cli.doctor.native import NativeCaller, check
from tests.conftest import APP_ORIGIN, KEY, ROOT
from tests.support.naive_tier import naive_tier
from tests.test_doctor import found_by, local


async def doctor(url: str, *more: str, key: str = KEY) -> tuple[int, dict[str, Finding], str]:
    """The exit code, the findings by check, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shim", "doctor", "--native", url, "--model", "gpt-4o"),
        *("--key-stdin", "--json", *more),
        cwd=ROOT,
        # Without a single setting: the shim may be gone already.
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(f"{key}\n".encode())
    said = output.decode()
    assert not key or key not in said
    findings = [Finding(**finding) for finding in json.loads(said)["findings"]]
    return process.returncode or 0, {finding.check: finding for finding in findings}, said


@pytest.fixture(scope="session")
async def v1_api() -> AsyncIterator[Standin]:
    """An API whose key header is Authorization, and whose keys are `Bearer <key>`."""
    standin = await Standin.start(keys=(f"Bearer {KEY}",), key_header="authorization", chunk_delay=0)
    yield standin
    await standin.stop()


async def test_with_the_legacy_api_alone_the_shim_is_still_needed(standin: Standin) -> None:
    code, findings, _ = await doctor(standin.base_url)
    assert code == 1
    assert list(findings) == ["native key", "native paths", "native"]
    assert findings["native key"].message == "APIM reads the key from api-key, not from Authorization"
    assert findings["native"].message == "the shim is still needed for the key as Bearer and v1 paths"


async def test_with_keys_in_authorization_on_a_v1_api_the_shim_is_not_needed(v1_api: Standin) -> None:
    code, findings, _ = await doctor(v1_api.v1_base_url)
    assert code == 0
    assert list(findings) == ["native key", "native paths", "native streaming", "native"]
    assert {finding.outcome for finding in findings.values()} == {"ok"}
    assert findings["native"].message.startswith("the shim is not needed for this caller any more")


async def test_with_a_front_api_the_shim_is_needed_for_v1_paths_only(standin: Standin) -> None:
    async with naive_tier(standin.base_url.removesuffix("/openai")) as front:
        code, findings, _ = await doctor(f"{front}/openai", "--origin", APP_ORIGIN)
    assert code == 1
    assert {name: finding.outcome for name, finding in findings.items()} == {
        "native key": "ok",
        "native paths": "failed",
        "native streaming": "ok",
        "native browser": "ok",
        "native": "warning",
    }
    assert findings["native"].message == "the shim is needed for v1 paths only"
    assert "AzureOpenAI" in findings["native"].next_step


async def test_a_page_still_needs_the_shim_where_nothing_answers_its_preflight(v1_api: Standin) -> None:
    code, findings, _ = await doctor(v1_api.v1_base_url, "--origin", APP_ORIGIN)
    assert code == 1
    assert "its preflight is answered 401" in findings["native browser"].message
    assert findings["native"].message == "the shim is still needed for browsers (CORS)"


async def test_a_key_that_no_header_helps_is_no_reason_for_the_shim(standin: Standin) -> None:
    code, findings, _ = await doctor(standin.base_url, key="not-a-key-of-apim")
    assert (code, list(findings)) == (1, ["native key"])
    assert "this is no key of this API" in findings["native key"].message


async def test_a_model_that_only_the_shim_knows_is_named_as_such(v1_api: Standin) -> None:
    _, findings, _ = await doctor(v1_api.v1_base_url, "--model", "gpt-99")
    assert "there is no deployment gpt-99" in findings["native paths"].message


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/api", "elsewhere"])
async def test_nothing_is_concluded_from_a_url_that_is_no_api(standin: Standin, base: str) -> None:
    url = base if base.startswith("http") else f"{standin.base_url}/elsewhere"
    code, findings, said = await doctor(url)
    assert code == 1
    assert "still needed" not in said
    assert "not needed" not in said
    assert findings["native"].next_step


@pytest.mark.parametrize(
    ("given", "stdin"),
    [(("--key-stdin", "--model", "gpt-4o"), ""), (("--key-stdin",), KEY), (("--model", "gpt-4o"), KEY)],
    ids=["no key", "no model", "a key that is not to be read"],
)
def test_without_a_key_or_a_model_nothing_is_tried(given: tuple[str, ...], stdin: str) -> None:
    # Were it called, the message would be another.
    done = CliRunner().invoke(
        app, ["doctor", "--native", "https://127.0.0.1:9/v1", *given], input=f"{stdin}\n"
    )
    assert (done.exit_code, done.stdout.splitlines()) == (
        1,
        [
            "failed  native: not tried",
            "        → pass the caller's key (--key-stdin) and its model (--model gpt-4o)",
        ],
    )


def test_a_url_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(
        app, ["doctor", "--native", "", "--key-stdin", "--model", "gpt-4o"], input="a-key\n"
    )
    assert (done.exit_code, done.stdout) == (2, "")


# What an API says to a call, by its path and the way that the key is sent.
type Said = tuple[int, object]
SERVED: Said = (200, {})
NO_KEY: Said = (401, {"statusCode": 401, "message": "Access denied due to missing subscription key."})
NO_PATH: Said = (404, {"statusCode": 404, "message": "Resource not found"})
AZURES_NO_PATH: Said = (404, {"error": {"code": "404", "message": "Resource not found"}})
NO_DEPLOYMENT: Said = (404, {"error": {"code": "DeploymentNotFound", "message": "There is none."}})
BUSY: Said = (429, {"message": f"Rate limit of {KEY} exceeded"})
# Azure OpenAI's refusal of APIM, which is none of the caller's key.
AZURES_NO_KEY: Said = (401, {"error": {"code": "401", "message": "Access denied."}})
NO_METHOD: Said = (405, "<html>not allowed")
A_LIST: Said = (404, ["not found"])

KEY_IS_OK = "ok      native key: taken as Authorization: Bearer, as OpenAI SDKs send it"
KEY_IS_NOT = "failed  native key: APIM reads the key from x-key, not from Authorization"
V1_IS_OK = "ok      native paths: v1 paths are served"
DATED_ONLY = (
    "failed  native paths: only dated paths are served (/deployments/<deployment>/…?api-version=…),"
    " v1 paths are not"
)
NEITHER = "failed  native paths: neither v1 nor dated paths are served here"
OTHER_NAME = (
    "failed  native paths: there is no deployment gpt-4o: the shim maps this model to another name"
    " (MODEL_DEPLOYMENTS)"
)
STREAM_IS_OK = "ok      native streaming: 2 events, to the end"
NOT_JUDGED = "failed  native: whether this caller needs the shim could not be judged"
NEEDED_FOR = "failed  native: the shim is still needed for"
V1_ONLY = "warning native: the shim is needed for v1 paths only"


class Api:
    """An API of APIM's as a test wants it: v1 paths below /v1, its own key header x-key."""

    def __init__(self, v1: Said, dated: Said, *, by_header: tuple[Said, Said] | None = None) -> None:
        self.by_bearer = v1, dated
        self.by_header = by_header or (v1, dated)
        self.challenge = {
            "WWW-Authenticate": 'AzureApiManagementKey realm="https://x",name="x-key",type="header"'
        }
        self.stream: tuple[int, str] = 200, "data: {}\n\ndata: [DONE]\n\n"
        self.preflight: tuple[int, dict[str, str]] = 204, {}
        self.headers: dict[str, str] = {}
        self.asked: list[web.Request] = []
        self.bodies: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        if request.method == "OPTIONS":
            status, headers = self.preflight
            return web.Response(status=status, headers=headers)
        body = await request.json()
        self.bodies.append(body)
        said = self.by_bearer if "authorization" in request.headers else self.by_header
        status, content = said["/deployments/" in request.path]
        if body.get("stream"):
            status, text = self.stream
            return web.Response(status=status, text=text)
        if isinstance(content, str):
            return web.Response(text=content, status=status)
        challenge = self.challenge if status == 401 else {}
        # APIM's own errors have none of the headers that the API's policies set.
        headers = self.headers if status == 200 else challenge
        return web.json_response(content, status=status, headers=headers)

    async def lines(self, serve: Callable[..., Any], origin: str | None = None) -> list[Finding]:
        url = f"http://127.0.0.1:{await serve(self.answer)}/v1"
        caller = NativeCaller(url, "gpt-4o", KEY, origin)
        async with open_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
            found = [finding async for finding in check(caller, client)]
        assert KEY not in repr([*found, caller])
        # Whatever is wrong has a next step, and what is not has none.
        assert [bool(finding.next_step) for finding in found] == [
            finding.outcome != "ok" for finding in found
        ]
        return found


def told(findings: list[Finding]) -> list[str]:
    return [str(finding).splitlines()[0] for finding in findings]


@pytest.mark.parametrize(
    ("api", "lines"),
    [
        (Api(NO_PATH, SERVED), [KEY_IS_OK, DATED_ONLY, STREAM_IS_OK, V1_ONLY]),
        (Api(NO_METHOD, SERVED), [KEY_IS_OK, DATED_ONLY, STREAM_IS_OK, V1_ONLY]),
        (Api(A_LIST, SERVED), [KEY_IS_OK, DATED_ONLY, STREAM_IS_OK, V1_ONLY]),
        (Api(AZURES_NO_PATH, SERVED), [KEY_IS_OK, DATED_ONLY, STREAM_IS_OK, V1_ONLY]),
        (Api(NO_PATH, NO_DEPLOYMENT), [KEY_IS_OK, OTHER_NAME, f"{NEEDED_FOR} v1 paths"]),
        (Api(NO_DEPLOYMENT, NO_PATH), [KEY_IS_OK, OTHER_NAME, f"{NEEDED_FOR} v1 paths"]),
        (Api(NO_PATH, NO_PATH), [NEITHER, NOT_JUDGED]),
        (
            Api(BUSY, NO_PATH),
            ['failed  native paths: answered 429: {"message": "Rate limit of <key> exceeded"}', NOT_JUDGED],
        ),
        (
            Api(NO_PATH, BUSY),
            ['failed  native paths: answered 429: {"message": "Rate limit of <key> exceeded"}', NOT_JUDGED],
        ),
        (
            Api(AZURES_NO_KEY, NO_PATH),
            [
                'failed  native paths: answered 401: {"error": {"code": "401", "message": "Access denied."}}',
                NOT_JUDGED,
            ],
        ),
        (
            Api(NO_KEY, NO_PATH, by_header=(SERVED, NO_PATH)),
            [KEY_IS_NOT, V1_IS_OK, f"{NEEDED_FOR} the key as Bearer"],
        ),
        (
            Api(NO_PATH, NO_KEY, by_header=(NO_PATH, SERVED)),
            [KEY_IS_NOT, DATED_ONLY, f"{NEEDED_FOR} the key as Bearer and v1 paths"],
        ),
        (
            Api(NO_PATH, NO_KEY),
            ["failed  native key: refused as Bearer and in x-key alike (401): this is no key of this API"],
        ),
        (
            Api(NO_KEY, NO_PATH),
            ["failed  native key: refused as Bearer and in x-key alike (401): this is no key of this API"],
        ),
    ],
)
async def test_what_stands_in_the_way_of_a_call_is_told_apart(
    serve: Callable[..., Any], api: Api, lines: list[str]
) -> None:
    assert told(await api.lines(serve)) == lines


async def test_a_call_that_needs_no_shim_is_made_as_the_caller_would_make_it(
    serve: Callable[..., Any],
) -> None:
    api = Api(SERVED, NO_PATH)
    findings = await api.lines(serve)
    url = f"http://{api.asked[0].host}/v1"
    verdict = f"the shim is not needed for this caller any more (pages were not tried: --origin): {url}"
    assert told(findings) == [KEY_IS_OK, V1_IS_OK, STREAM_IS_OK, f"ok      native: {verdict}"]
    assert [request.path_qs for request in api.asked] == [
        "/v1/chat/completions",
        "/v1/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        "/v1/chat/completions",
    ]
    assert {request.headers["authorization"] for request in api.asked} == {f"Bearer {KEY}"}
    assert [(body["model"], body.get("stream")) for body in api.bodies] == [
        ("gpt-4o", None), ("gpt-4o", None), ("gpt-4o", True)
    ]  # fmt: skip
    assert all(body["messages"] for body in api.bodies)


async def test_a_key_is_tried_in_the_header_that_apim_names_or_else_in_the_usual_one(
    serve: Callable[..., Any],
) -> None:
    for challenge, header in (
        ('AzureApiManagementKey name="x-other",type="header"', "x-other"),
        ("", "api-key"),
    ):
        api = Api(NO_KEY, NO_KEY, by_header=(SERVED, SERVED))
        api.challenge = {"WWW-Authenticate": challenge}
        key = (await api.lines(serve))[0]
        assert key.message == f"APIM reads the key from {header}, not from Authorization"
        assert key.next_step.startswith(
            "send it in that header (default_headers), or deploy what `python -m shim ret"
        )
        assert [request.headers.get(header) for request in api.asked] == [None, None, KEY, KEY]
        assert "authorization" not in api.asked[-1].headers


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ((200, "data: {}\n\n"), "answered 200: data: {}"),
        ((500, "data: [DONE]\n\n"), "answered 500: data: [DONE]"),
        ((502, ""), "answered 502: nothing"),
        ((500, f"no {KEY}\n here"), "answered 500: no <key> here"),
    ],
)
async def test_a_stream_that_does_not_come_to_its_end_needs_the_shim(
    serve: Callable[..., Any], stream: tuple[int, str], words: str
) -> None:
    api = Api(SERVED, SERVED)
    api.stream = stream
    *_, streaming, verdict = await api.lines(serve)
    assert (streaming.outcome, streaming.message) == ("failed", words)
    assert verdict.message == "the shim is still needed for streams"


ALLOWED = {
    "Access-Control-Allow-Origin": APP_ORIGIN,
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}
ANY = {"Access-Control-Allow-Origin": "*"}


@pytest.mark.parametrize(
    ("preflight", "headers", "reason"),
    [
        ((204, ALLOWED), {"Access-Control-Allow-Origin": APP_ORIGIN}, None),
        ((200, {**ALLOWED, **ANY}), ANY, None),
        ((302, ALLOWED), ANY, "its preflight is answered 302"),
        ((204, {}), ANY, "its preflight is not allowed"),
        (
            (204, {**ALLOWED, "Access-Control-Allow-Origin": "https://other.example"}),
            ANY,
            "its preflight is not all",
        ),
        ((204, {**ALLOWED, "Access-Control-Allow-Headers": "*"}), ANY, "it may not send Authorization"),
        ((204, ANY), ANY, "it may not send Authorization"),
        ((204, ALLOWED), {}, "it may not read the response"),
        (
            (204, ALLOWED),
            {"Access-Control-Allow-Origin": "https://other.example"},
            "it may not read the response",
        ),
    ],
)
async def test_a_page_is_told_why_a_browser_would_stop_it(
    serve: Callable[..., Any],
    preflight: tuple[int, dict[str, str]],
    headers: dict[str, str],
    reason: str | None,
) -> None:
    api = Api(SERVED, NO_PATH)
    api.preflight, api.headers = preflight, headers
    *_, browser, verdict = await api.lines(serve, APP_ORIGIN)
    if reason is None:
        assert told([browser]) == [
            f"ok      native browser: a page at {APP_ORIGIN} may call, and read the response"
        ]
        assert (verdict.outcome, "--origin" in verdict.message) == ("ok", False)
    else:
        assert browser.message.startswith(f"a page at {APP_ORIGIN} is blocked: {reason}")
        assert browser.next_step.endswith("`python -m shim retire --origin` writes one")
        assert told([verdict]) == [f"{NEEDED_FOR} browsers (CORS)"]
    [asked] = [request for request in api.asked if request.method == "OPTIONS"]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["access-control-request-method"] == "POST"
    assert asked.headers["access-control-request-headers"] == "authorization,content-type"
    assert {request.headers["origin"] for request in api.asked} == {APP_ORIGIN}


async def test_a_page_is_tried_on_the_paths_that_are_served(serve: Callable[..., Any]) -> None:
    api = Api(NO_PATH, SERVED)
    verdict = (await api.lines(serve, APP_ORIGIN))[-1]
    assert [request.path for request in api.asked if request.method == "OPTIONS"] == [
        "/v1/deployments/gpt-4o/chat/completions"
    ]
    assert verdict.message == "the shim is still needed for v1 paths and browsers (CORS)"
    api = Api(NO_PATH, SERVED)
    api.preflight, api.headers = (204, ALLOWED), ANY
    assert told(await api.lines(serve, APP_ORIGIN))[-1] == V1_ONLY
    api = Api(NO_DEPLOYMENT, NO_PATH)
    await api.lines(serve, APP_ORIGIN)
    assert [request.path for request in api.asked if request.method == "OPTIONS"] == ["/v1/chat/completions"]


async def test_where_nobody_listens_nothing_is_concluded() -> None:
    async with open_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        [finding] = [
            finding async for finding in check(NativeCaller("http://127.0.0.1:9/v1", "gpt-4o", KEY), client)
        ]
    assert str(finding) == (
        "failed  native: no connection to 127.0.0.1:9\n"
        "        → is this the URL of an APIM API, and does this network reach it?"
    )


def test_a_key_is_sent_to_no_url_where_it_could_be_read() -> None:
    result = CliRunner().invoke(app, ["doctor", "--native", "http://apim.example/openai"])
    assert (result.exit_code, result.stderr) == (
        2,
        "--native must begin with https://, since keys travel to it\n",
    )


async def test_the_doctor_says_how_many_days_are_left(standin: Standin) -> None:
    way_on = "delete the shim when nobody calls it any more (docs/retire.md), or set a later date"
    for sunset, after, outcome, words, next_step in (
        ("2099-12-31", "serve", "ok", "days away; after it calls are still served", ""),
        ("2099-12-31", "refuse", "ok", "days away; after it calls are refused", ""),
        ("2026-01-31", "serve", "warning", "SHIM_SUNSET has passed, and calls are still served", way_on),
        ("2026-01-31", "refuse", "warning", "SHIM_SUNSET has passed, and calls are refused", way_on),
    ):
        settings = local(standin, SHIM_SUNSET=sunset, SHIM_AFTER_SUNSET=after)
        *_, retirement = await found_by("settings", settings)
        assert (retirement.check, retirement.outcome) == ("retirement", outcome)
        assert retirement.message.endswith(words)
        assert retirement.next_step == next_step
