"""For any call: what upstream receives is what a plain statement of the rules says, and nothing breaks the shim.

Tables hold the calls that somebody thought of; here are those that nobody did.
"""

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from devhost.host import Host
from devhost.routing import decode_path, encode_path
from devhost.standin import Standin
from shim.answer import apim_errors
from shim.answer.apim_errors import FailedCall
from shim.call import routes
from shim.call.parse import parse
from shim.errors import InvalidRequest, NotFound, RealtimeNotSupported
from shim.headers import Headers
from shim.settings import Settings
from tests.conftest import KEY, StartHost
from tests.test_body import FORM, JSON, opened, sent
from tests.test_operations import DOCUMENTED, IDS, Documented

BASE = "https://contoso.azure-api.net/my-api/openai"
DEPLOYMENTS = {"gpt-4o": "prod å", "vendor/m": "plain"}
APIS = {"gpt-5": "v1", "plain": "v1", "old": "legacy"}
ENVIRONMENT = {
    "APIM_BASE_URL": BASE,
    "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}",
    "MODEL_DEPLOYMENTS": ",".join("=".join(pair) for pair in DEPLOYMENTS.items()),
    "MODEL_APIS": ",".join("=".join(pair) for pair in APIS.items()),
}
SETTINGS = {api: Settings.from_environment({**ENVIRONMENT, "APIM_API": api}) for api in ("legacy", "v1")}

quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
many = settings(quick, max_examples=300)

models = st.sampled_from(["gpt-4o", "gpt-5", "vendor/m", "plain", "old", "other", "a b", "å?#&%"]) | st.text(
    st.characters(min_codepoint=33, exclude_categories=["Cc", "Cs"], exclude_characters="\\/.;%"), min_size=1,
    max_size=20,
)  # fmt: skip
words = st.text("abcXYZ019-_~", min_size=1, max_size=8)
segments = st.lists(
    words | st.sampled_from(["%20", "%C3%A5", "%3F", "%2F", "a;b=1", "a:b@c"]), min_size=1
).map("".join)
parameters = st.tuples(st.sampled_from(["a", "limit", "api-version", "API-version", "code", "subscription-key"]),
    st.sampled_from(["1", "", "2024-06-01", "2025-03-01-preview", "preview", "a%20b", "%C3%A5", "+"]))  # fmt: skip
queries = st.lists(parameters.map("=".join) | st.just(""), max_size=5).map("&".join)
paths = (
    st.sampled_from([(operation.method, operation.path.format_map(IDS)) for operation in DOCUMENTED])
    | st.tuples(st.sampled_from(["GET", "POST", "DELETE", "PATCH"]), st.lists(segments, max_size=4).map(
        lambda parts: "".join(f"/{part}" for part in parts)))
).filter(lambda call: not call[1].startswith("/%2F"))  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A call as a client makes it. `path` is the v1 API's, with ids; `deployment` is what an AzureOpenAI client has in
    the path before it, as written, and "" if there is none; `model` is the body's, None if there is no body.
    """

    client: Literal["OpenAI", "AzureOpenAI"]
    method: str
    path: str
    query: str
    deployment: str
    model: str | None

    @property
    def operation(self) -> Documented | None:
        return documented(self.method, self.path)

    @property
    def is_for(self) -> str:
        return self.operation.is_for if self.operation else "resource"

    @property
    def parameters(self) -> list[str]:
        """Those of the query that are not keys."""
        pairs = [pair for pair in self.query.split("&") if pair]
        return [pair for pair in pairs if pair.split("=")[0] not in ("code", "subscription-key")]


@dataclass(frozen=True)
class Expected:
    """What upstream receives: the target below APIM_BASE_URL, and the model that the body names."""

    target: str
    model: str | None


def documented(method: str, path: str) -> Documented | None:
    known = path.rstrip("/")
    return next(
        (
            operation
            for operation in DOCUMENTED
            if operation.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation.path), known)
        ),
        None,
    )


def the_rules_say(made: Made, apim_api: str) -> Expected:
    """The rules of the shim, once more and plainly."""
    deployment = deployment_meant_by(made)
    api = api_for(made, deployment) or apim_api
    if api == "v1":
        # The deployment is in the body, and the path is as it was sent, or as an OpenAI client would send it.
        path = made.path if made.client == "OpenAI" else made.path.rstrip("/")
        return Expected(f"/v1{path}{query_for_v1(made)}", deployment or made.model)
    if made.client == "AzureOpenAI":
        # Its calls are the legacy API's already.
        before = f"/deployments/{made.deployment}" if made.deployment else ""
        return Expected(f"{before}{made.path}{query_for_legacy(made)}", made.model)
    if made.is_for == "deployment":
        before = f"/deployments/{quote(deployment or '', safe='')}"
        return Expected(f"{before}{made.path.rstrip('/')}{query_for_legacy(made)}", made.model)
    return Expected(f"{made.path.rstrip('/')}{query_for_legacy(made)}", deployment or made.model)


def deployment_meant_by(made: Made) -> str | None:
    """OpenAI clients name models, for which MODEL_DEPLOYMENTS has the deployments; AzureOpenAI clients deployments."""
    if made.is_for == "resource":
        return None
    if made.client == "OpenAI":
        return DEPLOYMENTS.get(made.model or "", made.model)
    return unquote(made.deployment) if made.deployment else made.model


def api_for(made: Made, deployment: str | None) -> str | None:
    """The API that MODEL_APIS has for the model, or else for the deployment; None if it has none."""
    if made.is_for == "resource":
        return None
    by_model = None if made.deployment else APIS.get(made.model or "")
    return by_model or APIS.get(deployment or "")


def query_for_v1(made: Made) -> str:
    """AzureOpenAI's api-version means nothing to a v1 API."""
    is_azure = made.client == "AzureOpenAI"
    return joined([pair for pair in made.parameters if not (is_azure and is_version(pair))])


def query_for_legacy(made: Made) -> str:
    """One api-version: the first of the caller's that a legacy API can use, in its place, or else the shim's."""
    usable = [pair for pair in made.parameters if is_version(pair) and is_usable(pair, made.client)]
    if not usable:
        return joined([*(pair for pair in made.parameters if not is_version(pair)), "api-version=2024-10-21"])
    place = made.parameters.index(usable[0])
    return joined(
        [pair for index, pair in enumerate(made.parameters) if not is_version(pair) or index == place]
    )


def is_version(pair: str) -> bool:
    return pair.split("=")[0].lower() == "api-version"


def is_usable(version: str, client: str) -> bool:
    value = version.split("=")[1]
    return bool(value) if client == "AzureOpenAI" else re.match(r"\d{4}-\d\d-\d\d", value) is not None


def joined(pairs: list[str]) -> str:
    return f"?{'&'.join(pairs)}" if pairs else ""


PASSED = [
    "accept",
    "x-stainless-lang",
    "openai-beta",
    "aoai-evals",
    "x-ms-oai-image-generation-deployment",
    "x-mine",
]
DROPPED = ["cookie", "origin", "x-functions-key", "x-ms-client-principal-id", "x-arr-ssl", "x-forwarded-for",
    "ocp-apim-subscription-key", "x-original-url", "client-ip", "keep-alive", "te", "proxy-authorization"]  # fmt: skip
caller_headers = st.dictionaries(
    st.sampled_from(PASSED + DROPPED), st.text("abcXYZ 019;,=/", max_size=12).map(str.strip), max_size=6
)


@pytest.fixture(scope="session")
async def hosts(start_host: StartHost) -> dict[str, Host]:
    own = {name: value for name, value in ENVIRONMENT.items() if name.startswith("MODEL_")}
    return {api: await start_host(**own, APIM_API=api) for api in ("legacy", "v1")}


@many
@given(
    call=paths,
    query=queries,
    model=models,
    deployment=models,
    own=caller_headers,
    client=st.sampled_from(["OpenAI", "AzureOpenAI"]),
    default=st.sampled_from(["legacy", "v1"]),
    slash=st.booleans(),
    filler=st.text(max_size=20),
)
async def test_upstream_receives_what_the_rules_say(
    hosts: dict[str, Host],
    standin: Standin,
    http: aiohttp.ClientSession,
    call: tuple[str, str],
    query: str,
    model: str,
    deployment: str,
    own: Mapping[str, str],
    client: Literal["OpenAI", "AzureOpenAI"],
    default: str,
    slash: bool,
    filler: str,
) -> None:
    method, path = call
    path = _as_host_sends(path) + ("/" if slash and path else "")
    operation = documented(method, path)
    in_path = ""
    if client == "AzureOpenAI" and operation is not None and operation.is_for == "deployment":
        in_path = _as_host_sends("/" + quote(deployment, safe="!$&'()*+,;=:@-._~"))[1:]
    document = {"first": {"model": model}, "model": model, "filler": filler}
    body = json.dumps(document).encode() if method in ("POST", "PATCH") else b""
    root = "/openai/v1" if client == "OpenAI" else "/openai" + (f"/deployments/{in_path}" if in_path else "")
    request_id = str(uuid.uuid4())
    key = ("api-key", KEY) if client == "AzureOpenAI" else ("authorization", f"Bearer {KEY}")
    async with http.request(
        method,
        URL(f"{hosts[default].url}{root}{path}" + (f"?{query}" if query else ""), encoded=True),
        data=body or None,
        headers={**own, "x-standin": '{"reflect": true}', "x-request-id": request_id, key[0]: key[1]},
    ) as response:
        assert response.status == 200, (response.status, await response.text())
    received = standin.received[request_id]

    expected = the_rules_say(
        Made(client, method, path, query, in_path, model if body else None), apim_api=default
    )
    assert (received.method, received.target) == (method, "/openai" + expected.target)
    if body and expected.model == model:
        assert received.body == body
    elif body:
        assert received.body == body.replace(
            b'}, "model": ' + json.dumps(model).encode(),
            b'}, "model": ' + json.dumps(expected.model).encode(),
        )
    # The host adds a traceparent where the caller has none.
    framing = ("host", "content-length", "content-type", "transfer-encoding", "traceparent")
    got = {name: value for name, value in received.headers if name not in framing}
    assert got == {
        **{name: value for name, value in own.items() if name in PASSED},
        "x-standin": '{"reflect": true}',
        "x-request-id": request_id,
        "api-key": KEY,
    }


def _as_host_sends(path: str) -> str:
    """The path as it reaches the app: decoded and encoded anew, but for slashes."""
    return encode_path(decode_path(path or "/")).replace("%252F", "%2F") if path else ""


hostile = st.binary(max_size=40) | st.lists(
    st.sampled_from([b"/", b"..", b"%2e", b"%2F", b"%252e", b"%5c", b"\\", b";", b"v1", b"openai", b"chat/completions",
        b"deployments", b"%00", b"%ff", b"%20", b"%3f", b"%23", b"%253f", b"%3b", b"\xc3\xa5", b"?", b"#", b"@", b"a",
        b"//", b"%25", b":", b"responses"]),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(quick, max_examples=1500)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
    root=st.sampled_from([b"/openai/v1", b"/v1", b"/openai", b""]),
    raw_path=hostile,
    raw_query=hostile,
    model=st.none()
    | st.text(max_size=300)
    | st.sampled_from(["..", "a/../..", "%2e%2e/", "a\\..\\b", "\ud800"]),
    default=st.sampled_from(["legacy", "v1"]),
)
@example("POST", b"/v1", b"/embeddings", b"", "..", "legacy")
@example("POST", b"/openai", b"/deployments/..%2f../embeddings", b"", None, "legacy")
@example("GET", b"/openai/v1", b"/..%3f/x", b"", None, "v1")
@example("GET", b"/openai/v1", b"/..%20", b"", None, "v1")
@example("GET", b"/v1", b"//evil.example/x", b"", None, "v1")
@example("GET", b"/v1", b"/%2Fevil.example/x", b"", None, "v1")
@example("GET", b"/v1", b"/files", b"subscription%252Dkey=1", None, "v1")
def test_no_path_and_no_model_leaves_the_base(
    method: str, root: bytes, raw_path: bytes, raw_query: bytes, model: str | None, default: str
) -> None:
    shim = SETTINGS[default]
    try:
        call = parse(method, root + raw_path, raw_query, [])
        if model is None and routes.model_use(call, shim) == "required":
            return
        route = routes.find_route(call, model, shim)
    except (InvalidRequest, NotFound, RealtimeNotSupported):
        return
    path, _, query = route.target.partition("?")
    base = "/my-api/openai"
    assert route.origin == "https://contoso.azure-api.net"
    assert path == base or path.startswith(f"{base}/")
    for _ in range(5):
        below = path.removeprefix(base)
        steps = [re.split("[;?#]", step)[0].strip() for step in re.split(r"[/\\]", below)]
        assert ".." not in steps
        assert not below.startswith("//")
        path = unquote(path)
    names = [unquote(pair.split("=")[0]).lower() for pair in query.split("&")]
    often_decoded = [unquote(unquote(unquote(name))).strip() for name in names]
    assert not {"code", "subscription-key", "clientid"} & {*names, *often_decoded}
    assert names.count("api-version") <= 1 or call.dialect == "v1"


@quick
@given(
    path=hostile.map(lambda raw: re.sub(r"[\x00-\x20\x7f-\xff#?]", "", raw.decode("latin-1"))),
    query=st.text("abc=&%+/?;:[]{}'\"<>\\^`|", max_size=20),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    body=st.binary(max_size=60) | st.just(b'{"model": "gpt-4o"}'),
    content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "multipart/form-data", "x", "",
        'multipart/form-data; boundary="', "application/json; charset=utf-7", "multipart/form-data; boundary=a b"]),
    own=caller_headers,
    default=st.sampled_from(["legacy", "v1"]),
    root=st.sampled_from(["openai", "openai/v1", "v1"]),
)  # fmt: skip
async def test_no_input_yields_a_500(
    hosts: dict[str, Host],
    http: aiohttp.ClientSession,
    standin: Standin,
    path: str,
    query: str,
    method: str,
    body: bytes,
    content_type: str,
    own: Mapping[str, str],
    default: str,
    root: str,
) -> None:
    request_id = str(uuid.uuid4())
    headers = {
        **own,
        "authorization": f"Bearer {KEY}",
        "x-request-id": request_id,
        "content-type": content_type,
    }
    url = f"{hosts[default].url}/{root}/{path}?{query}"
    async with http.request(method, URL(url, encoded=True), data=body, headers=headers) as response:
        content = await response.read()
        assert response.status < 500 or response.status == 501, content
    if received := standin.received.get(request_id):
        assert received.target.startswith("/openai")


contents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["a", '"model":"a"', "model"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "a", "b"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@quick
@given(
    before=st.dictionaries(st.text(max_size=4), contents, max_size=3),
    after=st.dictionaries(st.text(max_size=4), contents, max_size=3),
    old=st.sampled_from(["a", "gpt-4o"]) | st.text(min_size=1, max_size=8),
    new=st.text(min_size=1, max_size=8),
    indent=st.sampled_from([None, 1]),
    plain=st.booleans(),
    size=st.integers(1, 50),
)
async def test_only_the_value_of_model_changes_in_json(
    before: dict[str, object],
    after: dict[str, object],
    old: str,
    new: str,
    indent: int | None,
    plain: bool,
    size: int,
) -> None:
    before.pop("model", None)
    after.pop("model", None)
    mark = "\u2603 a mark that stands for the model"
    document = {
        **before,
        "model": mark,
        **{name: value for name, value in after.items() if name not in before},
    }
    text = json.dumps(document, indent=indent, ensure_ascii=plain)
    old_text = json.dumps(old, ensure_ascii=plain)
    pattern = json.dumps(mark, ensure_ascii=plain)
    try:
        content = text.replace(pattern, old_text).encode()
    except UnicodeEncodeError:
        return
    body = await opened([content[at : at + size] for at in range(0, len(content), size)], JSON, "optional")
    assert body.model == old
    body.replace_model(new)
    assert await sent(body) == text.replace(pattern, json.dumps(new)).encode()


@quick
@given(
    parts=st.lists(st.tuples(st.sampled_from(["file", "n", "x"]), st.binary(max_size=30)), max_size=4),
    place=st.integers(0, 4),
    size=st.integers(1, 200),
)
async def test_a_form_goes_on_byte_for_byte_with_its_model_replaced(
    parts: list[tuple[str, bytes]], place: int, size: int
) -> None:
    def build(model: bytes) -> bytes:
        head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        all_parts = [
            head % (name.encode(), value) for name, value in parts if b"\r\n--b" not in b"\r\n" + value
        ]
        all_parts.insert(place, head % (b"model", model))
        return b"".join(all_parts) + b"--b--\r\n"

    content = build(b"whisper")
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    body = await opened(chunks, FORM)
    assert body.model == "whisper"
    assert await sent(body) == content
    body = await opened(chunks, FORM)
    body.replace_model("another")
    assert await sent(body) == build(b"another")


@settings(quick, max_examples=400)
@given(
    content=st.binary(max_size=100)
    | st.sampled_from([b"--b\r\n", b"--b--", b'{"model":"a"}', b'{"model":'])
    | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b'Content-Disposition: form-data; name="model"', b"a", b":"]))
    .map(b"".join),
    content_type=st.binary(max_size=30) | st.sampled_from([b"multipart/form-data; boundary=b", b"multipart/form-data"]),
    use=st.sampled_from(["optional", "required"]),
    size=st.integers(1, 20),
)  # fmt: skip
async def test_any_body_is_read_or_refused(content: bytes, content_type: bytes, use: str, size: int) -> None:
    headers: Headers = [(b"content-type", content_type), (b"transfer-encoding", b"chunked")]
    try:
        chunks = [content[at : at + size] for at in range(0, len(content), size)]
        body = await opened(chunks, headers, use, 90)
        with closing(body):
            body.replace_model("b")
            assert len(await sent(body)) == len(content) + body.growth
    except InvalidRequest:
        """A 400 or a 413."""


@settings(quick, max_examples=400)
@given(
    status=st.integers(400, 599),
    content=st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["error", "statusCode", "message", "code"]), contents | st.just({"code": "DeploymentNotFound"})
    ).map(lambda document: json.dumps(document).encode()),
    deployment=st.none() | st.text(max_size=5),
)  # fmt: skip
def test_any_error_is_reshaped_or_passes(status: int, content: bytes, deployment: str | None) -> None:
    asked = FailedCall("POST", "/chat/completions", deployment, deployment)
    reshaped = apim_errors.reshape(status, [(b"content-length", b"1")], content, asked)
    if reshaped is None:
        return
    headers, body = reshaped
    assert dict(headers)[b"content-length"] == b"%d" % len(body)
    error = json.loads(body)["error"]
    assert isinstance(error["message"], str)
    assert error["code"] == "DeploymentNotFound" or error["code"].startswith("apim_")
