"""Which transport carries the calls, and what is read of a proxy's variables.

A proxy that is overlooked means no call leaves the network, or every call leaves it by a way nobody allowed.
"""

import ssl

import httpx
import pytest
import trustme

from shim.settings import Settings
from shim.upstream.choice import Choice, choose_transport, open_transport
from shim.upstream.transport import ShimTransport
from tests.test_transport import GOOD, answering, get, peer, server_side

PROXY = "http://user:hunter2@proxy.example:3128"
OTHER_PROXY = "http://other.example:3128"


def choose(environ: dict[str, str], **settings: str) -> Choice:
    least = {"APIM_BASE_URL": "https://contoso.azure-api.net/openai", "KEY_VAULT_URL": "https://v.example"}
    return choose_transport(Settings.from_environment({**least, **settings}), environ)


def test_without_a_proxy_the_operator_chooses_and_the_default_is_our_own() -> None:
    assert choose({}) == Choice("shim")
    assert choose({}, UPSTREAM_TRANSPORT="shim") == Choice("shim")
    assert choose({}, UPSTREAM_TRANSPORT="httpx") == Choice("httpx", "UPSTREAM_TRANSPORT says so")


# As curl reads them: https://curl.se/docs/manpage.html#ENVIRONMENT. Small letters go before capitals.
@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": OTHER_PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "all_proxy": OTHER_PROXY}, PROXY),
        ({"all_proxy": PROXY, "ALL_PROXY": OTHER_PROXY}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTPS_PROXY": "", "ALL_PROXY": PROXY}, PROXY),
        ({"http_proxy": PROXY, "HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "contoso.azure-api.net"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": ".azure-api.net"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "fabrikam.example"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "fabrikam.example", "NO_PROXY": "*"}, PROXY),
    ],
)
def test_a_proxy_is_read_as_curl_reads_it(environ: dict[str, str], proxy: str | None) -> None:
    assert choose(environ).proxy == proxy
    assert choose(environ).name == ("httpx" if proxy else "shim")


def test_plain_http_has_a_proxy_in_small_letters_only_for_a_caller_could_send_the_other() -> None:
    local = {"APIM_BASE_URL": "http://localhost:8080/openai"}
    assert choose({"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}, **local) == Choice("shim")
    assert choose({"http_proxy": PROXY}, **local).proxy == PROXY


def test_a_proxy_before_either_of_the_two_apis_counts_for_both_and_the_reason_names_the_host() -> None:
    two = {"APIM_V1_BASE_URL": "https://v1.example/openai"}
    choice = choose({"HTTPS_PROXY": PROXY, "NO_PROXY": "contoso.azure-api.net"}, **two)
    assert (choice.name, choice.proxy) == ("httpx", PROXY)
    assert choice.reason == "a proxy stands between the shim and v1.example (HTTPS_PROXY)"


def test_a_proxys_password_shows_in_no_repr() -> None:
    assert "hunter2" not in repr(choose({"HTTPS_PROXY": PROXY}))


@pytest.mark.parametrize(("name", "kind"), [("shim", ShimTransport), ("httpx", httpx.AsyncHTTPTransport)])
async def test_the_transport_of_that_name_is_opened_with_the_trust_that_is_given(
    name: str, kind: type[httpx.AsyncBaseTransport]
) -> None:
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    async with peer(answering(GOOD, GOOD), server_side(authority, "127.0.0.1")) as upstream:
        trusting, doubting = open_transport(Choice(name), verify=trust), open_transport(Choice(name))
        assert isinstance(trusting, kind)
        assert await get(trusting, upstream.origin) == (200, b"ok")
        with pytest.raises(httpx.ConnectError):
            await get(doubting, upstream.origin)
        await trusting.aclose()
        await doubting.aclose()
