"""The call as it goes upstream: whose key, whose headers, which length. No server runs here."""

import pytest

from shim.auth import Principal
from shim.call.body import open_body
from shim.call.caller import Caller
from shim.call.parse import parse
from shim.call.rewrite import UpstreamRequest, rewrite
from shim.call.routes import Route
from shim.call.spool import SpoolSpace
from shim.headers import Headers
from shim.keys.subscription import Subscription
from shim.settings import Settings
from tests.test_body import Sender

KEY = "key-of-the-apim-api"
CONTENT = b'{"model": "gpt-4o", "n": 1}'
JSON: Headers = [(b"content-type", b"application/json")]
LENGTH = (b"content-length", b"27")


async def rewritten(
    headers: Headers,
    *,
    new_model: str | None = None,
    authorization: bytes | None = None,
    **settings: str,
) -> tuple[UpstreamRequest, bytes]:
    shim = Settings.from_environment(
        {"APIM_BASE_URL": "https://a.example/openai", "KEY_VAULT_URL": "https://v.example", **settings}
    )
    route = Route("https://a.example", "/openai/v1/responses", "gpt-4o", new_model, new_model)
    body = await open_body(
        headers, Caller(Sender([CONTENT])), model="optional", max_bytes=1000, space=SpoolSpace(1000)
    )
    body.replace_model(new_model)
    subscription = Subscription(digest="0" * 64, key=KEY, label="team-a")
    principal = Principal(subscription, "bearer", authorization)
    call = parse("POST", b"/v1/responses", b"", [])
    request = rewrite(call, route, headers, principal, body, b"id-1", shim)
    return request, b"".join([piece async for piece in body])


async def test_the_key_and_the_request_id_are_added_and_the_rest_stays_in_its_order() -> None:
    received = [*JSON, (b"x-a", b"1"), (b"authorization", b"Bearer k"), (b"x-a", b"2")]
    request, _ = await rewritten([*received, LENGTH])
    assert (request.method, request.origin, request.target) == (
        "POST", "https://a.example", "/openai/v1/responses",
    )  # fmt: skip
    assert request.headers == [
        *JSON,
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        LENGTH,
        (b"api-key", KEY.encode()),
        (b"x-request-id", b"id-1"),
    ]
    assert KEY not in repr(request)


async def test_a_users_token_becomes_authorization() -> None:
    request, _ = await rewritten([*JSON, LENGTH], authorization=b"Bearer of-the-user")
    assert request.headers[-1] == (b"authorization", b"Bearer of-the-user")


async def test_the_names_of_both_headers_are_settings() -> None:
    received = [(b"apim-key", b"stolen"), (b"x-token", b"of-the-user")]
    request, _ = await rewritten(
        [*JSON, LENGTH, *received], APIM_KEY_HEADER="Apim-Key", USER_TOKEN_HEADER="X-Token"
    )
    assert request.headers == [*JSON, LENGTH, (b"apim-key", KEY.encode()), (b"x-request-id", b"id-1")]


@pytest.mark.parametrize("new_model", [None, "gpt-4o", "a", "the-deployment-of-another-name"])
async def test_the_length_is_that_of_the_body_with_its_new_model(new_model: str | None) -> None:
    request, content = await rewritten([*JSON, LENGTH, (b"x-a", b"27")], new_model=new_model)
    assert content == CONTENT.replace(b"gpt-4o", (new_model or "gpt-4o").encode())
    assert dict(request.headers)[b"content-length"] == b"%d" % len(content)
    assert dict(request.headers)[b"x-a"] == b"27"


async def test_a_chunked_body_gets_no_length() -> None:
    chunked = (b"transfer-encoding", b"chunked")
    request, content = await rewritten([*JSON, chunked], new_model="another-name")
    assert content == CONTENT.replace(b"gpt-4o", b"another-name")
    assert b"content-length" not in dict(request.headers)
