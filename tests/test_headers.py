"""Which headers travel on. One too many hands a credential or a lie to upstream; one too few breaks a client.

The names stand here once more, so that one that is dropped from the shim's lists is missed.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from devhost.standin import Standin
from shim.headers import Headers, announces_body, for_caller, for_upstream, valid_request_id
from tests.conftest import KEY, StartHost
from tests.support.wire import exchange, request

CREDENTIALS = """
    api-key authorization cookie ocp-apim-subscription-key proxy-authorization x-functions-clientid x-functions-key
"""
HOP_BY_HOP = """
    connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade
"""
# Of the platform, which speaks to the app; with the identity that App Service's authentication adds.
PLATFORM = """
    client-ip disguised-host fos-instance-id is-service-tunneled max-forwards was-default-hostname x-appservice-proto
    x-arr-log-id x-arr-ssl x-azure-fdid x-client-ip x-client-port x-fd-healthprobe x-ms-arm-request-tracking-id
    x-ms-client-authorization-source x-ms-client-principal x-ms-client-principal-id x-ms-client-principal-name
    x-ms-coldstart x-ms-invocation-id x-ms-platform-internal x-ms-site-restricted-token x-ms-site-token
    x-ms-token-aad-access-token x-ms-token-aad-id-token x-ms-via-extensions-route x-site-deployment-id
    x-waws-unencoded-url
"""
# With these a caller could tell upstream that it is somebody else, or asks for something else.
CLAIMS = """
    forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix x-forwarded-proto x-http-method
    x-http-method-override x-method-override x-original-host x-original-url x-original-uri x-real-ip x-rewrite-url
"""
CALLERS_OWN = "expect host origin x-request-id"
NOT_UPSTREAM = sorted({*f"{CREDENTIALS} {HOP_BY_HOP} {PLATFORM} {CLAIMS} {CALLERS_OWN}".split()})

# What clients of OpenAI send for upstream to see.
UPSTREAM = """
    accept accept-encoding accept-language aoai-evals baggage cache-control content-encoding content-length content-type
    idempotency-key if-none-match openai-beta openai-organization openai-project range traceparent tracestate user-agent
    x-correlation-id x-ms-client-request-id x-ms-oai-image-generation-deployment x-ms-useragent x-stainless-lang
    x-stainless-retry-count
"""
# What upstream sends for its callers to see.
TO_CALLERS = """
    age apim-request-id azureml-model-session cache-control content-disposition content-encoding content-length
    content-type date etag location openai-processing-ms operation-location retry-after retry-after-ms server set-cookie
    strict-transport-security vary www-authenticate x-content-type-options x-ms-client-request-id x-ms-region
    x-ms-rai-invoked x-ratelimit-limit-requests x-ratelimit-remaining-tokens x-should-retry
"""


@pytest.mark.parametrize("name", NOT_UPSTREAM)
def test_never_goes_upstream(name: str) -> None:
    received: Headers = [(b"a", b"1"), (name.encode(), b"x"), (b"b", b"2")]
    assert for_upstream(received, drop=(), add=[]) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("name", UPSTREAM.split())
def test_goes_upstream(name: str) -> None:
    received: Headers = [(name.encode(), b"x"), (name.encode(), b"y")]
    assert for_upstream(received, drop=(b"other",), add=[]) == received


@pytest.mark.parametrize("option", [b"x-foo", b"X-Foo", b"close, X-FOO", b"close,x-foo ,\tx-bar"])
def test_what_connection_lists_in_whatever_letters_stays_behind_on_both_ways(option: bytes) -> None:
    headers: Headers = [(b"connection", option), (b"x-foo", b"1"), (b"x-request-id", b"2")]
    assert for_upstream(headers, drop=(), add=[]) == []
    upstream = [(b"Connection", option), (b"X-Foo", b"1"), (b"X-Request-Id", b"2")]
    assert for_caller(upstream, status=200, request_id=b"3") == [(b"x-request-id", b"2")]


def test_each_connection_header_counts() -> None:
    """A list may come in several headers (RFC 9110, section 5.3)."""
    received: Headers = [(b"connection", b"close"), (b"connection", b"x-foo"), (b"x-foo", b"1")]
    assert for_upstream(received, drop=(), add=[]) == []
    assert for_caller(received, status=200, request_id=b"3") == [(b"x-request-id", b"3")]


def test_connection_cannot_take_away_what_the_shim_adds() -> None:
    received: Headers = [(b"connection", b"api-key")]
    assert for_upstream(received, drop=(b"api-key",), add=[(b"api-key", b"k")]) == [(b"api-key", b"k")]


@pytest.mark.parametrize("name", HOP_BY_HOP.split())
def test_never_comes_back(name: str) -> None:
    assert for_caller([(name.title().encode(), b"x")], status=200, request_id=b"1") == [
        (b"x-request-id", b"1")
    ]


@pytest.mark.parametrize("name", TO_CALLERS.split())
def test_comes_back(name: str) -> None:
    received = [(name.title().encode(), b"x"), (name.encode(), b"Y")]
    assert for_caller(received, status=200, request_id=b"1") == [
        (name.encode(), b"x"),
        (name.encode(), b"Y"),
        (b"x-request-id", b"1"),
    ]


@pytest.mark.parametrize(
    ("status", "comes_back"),
    [
        (200, True),
        (203, True),
        (204, False),
        (205, True),
        (206, True),
        (303, True),
        (304, False),
        (305, True),
    ],
)
def test_a_length_comes_back_where_a_body_can_have_it(status: int, comes_back: bool) -> None:
    headers = for_caller([(b"Content-Length", b"5")], status=status, request_id=b"1")
    assert ((b"content-length", b"5") in headers) is comes_back


@pytest.mark.parametrize(
    ("upstream", "request_ids"),
    [([], [b"own"]), ([b"upstream"], [b"upstream"]), ([b"one", b"two"], [b"one", b"two"])],
)
def test_the_request_id_is_upstreams_or_else_the_shims_own(
    upstream: list[bytes], request_ids: list[bytes]
) -> None:
    received = [(b"date", b"today"), *((b"X-Request-ID", value) for value in upstream)]
    headers = for_caller(received, status=200, request_id=b"own")
    assert headers == [(b"date", b"today"), *((b"x-request-id", value) for value in request_ids)]


@pytest.mark.parametrize(
    ("headers", "announced"),
    [
        ([], False),
        ([(b"accept", b"*/*"), (b"content-type", b"text/plain")], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"1")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_a_body_is_announced_by_its_length_or_a_transfer_coding(headers: Headers, announced: bool) -> None:
    assert announces_body(headers) is announced  # RFC 9112, section 6.3


async def test_a_304_with_a_length_ends_at_once(start_host: StartHost) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "1"\r\n\r\n')
        await reader.read()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        host = await start_host(APIM_BASE_URL=f"http://127.0.0.1:{port}/openai")
        answer = await exchange(host.url, request("GET", "/v1/files", key=KEY))
        assert (answer.status, answer.whole, answer.named("content-length")) == (304, True, [])
        assert answer.named("etag") == ['"1"']
        await host.stop()


@pytest.mark.parametrize("own", [[], ["x-team-key: stolen"], ["X-TEAM-KEY: stolen", "x-team-key: stolen"]])
async def test_the_key_goes_upstream_once_and_alone_under_its_configured_name(
    own: list[str], start_host: StartHost, team_standin: Standin
) -> None:
    host = await start_host(APIM_KEY_HEADER="X-Team-Key", APIM_BASE_URL=team_standin.base_url)
    call = request("GET", "/v1/files", 'x-standin: {"reflect": true}', f"api-key: {KEY}", *own)
    answer = await exchange(host.url, call)
    headers = json.loads(answer.body)["headers"]
    assert [value for name, value in headers if name == "x-team-key"] == [KEY]
    assert [value for name, value in headers if name == "api-key"] == []


@pytest.fixture(scope="module")
async def team_standin() -> AsyncIterator[Standin]:
    """An APIM API that has its keys in a header of another name."""
    standin = await Standin.start(keys=(KEY,), key_header="x-team-key")
    yield standin
    await standin.stop()


@pytest.mark.parametrize("given", [b"a", b"!~", b"0a1b-2c3d", b"x" * 128])
def test_a_callers_request_id_is_kept_where_it_is_fit_for_a_log_line(given: bytes) -> None:
    assert valid_request_id(given) == given


@pytest.mark.parametrize(
    "given",
    [None, b"", b"a b", b"a\tb", b"a\n", b"\xff", b"a\x00", b"x" * 129],
    ids=["none", "empty", "a space", "a tab", "a line break", "not ASCII", "NUL", "too long"],
)
def test_any_other_is_not(given: bytes | None) -> None:
    assert valid_request_id(given) is None
