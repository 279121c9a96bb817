"""Which header holds the subscription key, and what becomes of the others.

A mistake here lets a stranger in, or hands one caller's credentials to the API behind the shim.
"""

import json
import re

import pytest

from devhost.host import Host
from shim.auth import authenticate
from shim.errors import InvalidRequest, KeyStoreUnavailable, MalformedKey, MissingKey, ShimError, UnknownKey
from shim.headers import Headers
from shim.keys.local import LocalKeyStore
from shim.keys.subscription import Subscription, digest_of
from tests.conftest import KEY, OTHER_KEY, StartHost
from tests.support.wire import exchange, request

TEAM_A = Subscription(digest=digest_of(KEY), key=f"upstream-{KEY}", label="team-a")
KEYS = LocalKeyStore([TEAM_A])
TOKEN = "eyJhbGciOiJSUzI1NiJ9." + "x" * 1500


def headers(*pairs: tuple[str, str]) -> Headers:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


ACCEPTED = {
    "Bearer": ([("authorization", f"Bearer {KEY}")], "bearer", None),
    "bearer in lower case": ([("authorization", f"bearer {KEY}")], "bearer", None),
    "BEARER in upper case": ([("authorization", f"BEARER {KEY}")], "bearer", None),
    "several spaces after the scheme": ([("authorization", f"Bearer   {KEY}")], "bearer", None),
    "api-key": ([("api-key", KEY)], "api-key", None),
    "the same key twice": ([("api-key", KEY), ("authorization", f"Bearer {KEY}")], "api-key", None),
    "the same key twice, in lower case": (
        [("api-key", KEY), ("authorization", f"bearer  {KEY}")],
        "api-key",
        None,
    ),
    "a key and Authorization without a scheme": ([("api-key", KEY), ("authorization", KEY)], "api-key", KEY),
    "a key and a user's token": (
        [("api-key", KEY), ("authorization", f"Bearer {TOKEN}")],
        "api-key",
        f"Bearer {TOKEN}",
    ),
    "a key and another scheme": (
        [("api-key", KEY), ("authorization", "Basic dTpw")],
        "api-key",
        "Basic dTpw",
    ),
    "Bearer and a user's token in its header": (
        [("authorization", f"Bearer {KEY}"), ("x-user-authorization", f"Bearer {TOKEN}")],
        "bearer",
        f"Bearer {TOKEN}",
    ),
    "a token in its header before one in Authorization": (
        [("api-key", KEY), ("authorization", "Bearer other"), ("x-user-authorization", "Bearer token")],
        "api-key",
        "Bearer token",
    ),
}


@pytest.mark.parametrize(("sent", "scheme", "authorization"), ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_a_good_key_is_accepted(
    sent: list[tuple[str, str]], scheme: str, authorization: str | None
) -> None:
    principal = await authenticate(headers(*sent), KEYS, "x-user-authorization")
    assert principal.subscription is TEAM_A
    assert principal.scheme == scheme
    assert principal.authorization == (authorization.encode() if authorization else None)


REFUSED: dict[str, tuple[list[tuple[str, str]], type[ShimError]]] = {
    "no key": ([], MissingKey),
    "only a user's token": ([("x-user-authorization", f"Bearer {TOKEN}")], MissingKey),
    "a key under APIM's name": ([("ocp-apim-subscription-key", KEY)], MissingKey),
    "no scheme": ([("authorization", KEY)], MalformedKey),
    "another scheme": ([("authorization", f"Basic {KEY}")], MalformedKey),
    "a scheme alone": ([("authorization", "Bearer")], MalformedKey),
    "a scheme and a space": ([("authorization", "Bearer ")], MalformedKey),
    "a tab after the scheme": ([("authorization", f"Bearer\t{KEY}")], MalformedKey),
    "two words": ([("authorization", f"Bearer {KEY} {KEY}")], MalformedKey),
    "a character that is not ASCII": ([("authorization", f"Bearer {KEY}\u00e9")], MalformedKey),
    "a control character": ([("authorization", f"Bearer {KEY}\x7f")], MalformedKey),
    "a token as key": ([("authorization", f"Bearer {TOKEN}")], MalformedKey),
    "a key that is too long": ([("api-key", "k" * 257)], MalformedKey),
    "an empty api-key": ([("api-key", "")], MalformedKey),
    "an api-key of two words": ([("api-key", f"{KEY} {KEY}")], MalformedKey),
    "an api-key that is not ASCII": ([("api-key", f"{KEY}\u00e9")], MalformedKey),
    "two Authorizations": ([("authorization", f"Bearer {KEY}")] * 2, MalformedKey),
    "two api-keys": ([("api-key", KEY)] * 2, MalformedKey),
    "an unknown key": ([("authorization", f"Bearer {OTHER_KEY}")], UnknownKey),
    "the longest unknown key": ([("authorization", "Bearer " + "k" * 256)], UnknownKey),
    "an unknown api-key beside a good Bearer": (
        [("api-key", OTHER_KEY), ("authorization", f"Bearer {KEY}")],
        UnknownKey,
    ),
    "a good key in the wrong case": ([("authorization", f"Bearer {KEY.upper()}")], UnknownKey),
    "two users' tokens": (
        [("api-key", KEY), ("x-user-authorization", "a"), ("x-user-authorization", "b")],
        InvalidRequest,
    ),
}


@pytest.mark.parametrize(("sent", "refusal"), REFUSED.values(), ids=REFUSED.keys())
async def test_any_other_is_refused_without_repeating_it(
    sent: list[tuple[str, str]], refusal: type[ShimError]
) -> None:
    with pytest.raises(refusal) as raised:
        await authenticate(headers(*sent), KEYS, "x-user-authorization")
    assert raised.type is refusal
    for secret in (KEY, OTHER_KEY, TOKEN):
        assert secret not in str(raised.value)
        assert secret not in repr(raised.value)


WHAT_TO_DO = {
    "no key": 'has no subscription key. Send it as "Authorization: Bearer <key>", which is what OpenAI clients do',
    "no scheme": 'must come as "Authorization: Bearer <key>", in visible ASCII characters',
    "an api-key that is not ASCII": 'must come as "Authorization: Bearer <key>", in visible ASCII characters',
    "a token as key": "(256 characters). If it is a user's token, send the subscription key as `api-key` beside it",
    "a key that is too long": "longer than a subscription key can be (256 characters)",
    "two Authorizations": "Send one Authorization header or one api-key header, not several.",
    "two api-keys": "Send one Authorization header or one api-key header, not several.",
    "an unknown key": "Check it for missing characters, or ask the operator of this API for a new one.",
    "two users' tokens": "Send only one x-user-authorization header.",
}


@pytest.mark.parametrize("case", WHAT_TO_DO)
async def test_a_refusal_says_what_to_send(case: str) -> None:
    with pytest.raises(ShimError, match=re.escape(WHAT_TO_DO[case])):
        await authenticate(headers(*REFUSED[case][0]), KEYS, "x-user-authorization")


async def test_a_key_store_that_cannot_tell_is_no_401() -> None:
    class Unreachable(LocalKeyStore):
        async def find(self, digest: str) -> Subscription | None:
            raise KeyStoreUnavailable("later", retry_after=3)

    with pytest.raises(KeyStoreUnavailable) as raised:
        await authenticate(headers(("api-key", KEY)), Unreachable([]), "x-user-authorization")
    assert raised.value.status == 503
    assert raised.value.headers == ((b"retry-after", b"3"),)


async def test_neither_key_nor_token_shows_in_a_repr() -> None:
    sent = headers(("api-key", KEY), ("authorization", "Bearer token"))
    shown = repr(await authenticate(sent, KEYS, "x-user-authorization"))
    assert KEY not in shown
    assert TEAM_A.digest not in shown
    assert "token" not in shown


async def credentials_upstream(host: Host, *sent: str) -> dict[str, str]:
    answer = await exchange(host.url, request("GET", "/v1/files", 'x-standin: {"reflect": true}', *sent))
    names = ("api-key", "authorization", "x-user-authorization", "ocp-apim-subscription-key", "apim-key")
    return {name: value for name, value in json.loads(answer.body)["headers"] if name in names}


async def test_upstream_gets_the_key_as_api_key_and_nothing_else(host: Host) -> None:
    stolen = ("ocp-apim-subscription-key: stolen", "x-functions-key: stolen")
    assert await credentials_upstream(host, f"authorization: Bearer {KEY}", *stolen) == {"api-key": KEY}


async def test_a_users_token_travels_beside_the_key(host: Host) -> None:
    sent = (f"authorization: Bearer {KEY}", "x-user-authorization: Bearer of-the-user")
    assert await credentials_upstream(host, *sent) == {"api-key": KEY, "authorization": "Bearer of-the-user"}
    sent = (f"api-key: {KEY}", "authorization: Bearer of-the-user")
    assert await credentials_upstream(host, *sent) == {"api-key": KEY, "authorization": "Bearer of-the-user"}


async def test_the_header_names_are_settings(start_host: StartHost) -> None:
    host = await start_host(APIM_KEY_HEADER="Apim-Key", USER_TOKEN_HEADER="X-Token")
    sent = (f"authorization: Bearer {KEY}", "apim-key: stolen", "x-token: Bearer of-the-user")
    answer = await exchange(host.url, request("GET", "/v1/files", *sent))
    # The stand-in looks for `api-key`, and says so in APIM's words.
    assert answer.status == 401
    assert b"missing subscription key" in answer.body
