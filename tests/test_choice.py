"""Which transport carries the calls, and what is read of a proxy's variables.

A proxy that is overlooked means no call leaves the network, or every call leaves it by a way nobody allowed.
"""

import asyncio
import ssl
import time

import pytest
import trustme

from shim.settings import Settings
from shim.transport.choice import Choice, choose_transport, open_transport
from shim.transport.direct import ShimTransport
from shim.transport.through_httpx import HttpxTransport
from shim.transport.wire import ConnectError, Transport, origin_of
from shim.upstream import Upstream
from tests.test_transport import GOOD, answering, get, peer, send, server_side, whole

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


def test_a_proxy_is_passed_whichever_transport_the_operator_names() -> None:
    for transport in ("shim", "httpx"):
        choice = choose({"HTTPS_PROXY": PROXY}, UPSTREAM_TRANSPORT=transport)
        assert (choice.name, choice.proxy) == ("httpx", PROXY)
        assert choice.reason == "a proxy stands between the shim and contoso.azure-api.net (HTTPS_PROXY)"


@pytest.mark.parametrize(
    ("excepted", "proxy"), [("localhost:8080", None), ("localhost", None), ("localhost:8081", PROXY)]
)
def test_what_needs_no_proxy_may_be_named_with_its_port(excepted: str, proxy: str | None) -> None:
    local = {"APIM_BASE_URL": "http://localhost:8080/openai"}
    assert choose({"http_proxy": PROXY, "no_proxy": excepted}, **local).proxy == proxy


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


@pytest.mark.parametrize(("name", "kind"), [("shim", ShimTransport), ("httpx", HttpxTransport)])
async def test_the_transport_of_that_name_is_opened_with_the_trust_that_is_given(
    name: str, kind: type[Transport]
) -> None:
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    async with peer(answering(GOOD, GOOD), server_side(authority, "127.0.0.1")) as upstream:
        trusting, doubting = open_transport(Choice(name), verify=trust), open_transport(Choice(name))
        assert isinstance(trusting, kind)
        assert await get(trusting, upstream.origin) == (200, b"ok")
        with pytest.raises(ConnectError):
            await get(doubting, upstream.origin)
        await trusting.aclose()
        await doubting.aclose()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(65536):
        writer.write(content)
    writer.close()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_through_a_proxy_a_call_arrives_as_it_is_and_the_proxy_learns_no_more_than_it_must(
    secure: bool,
) -> None:
    """A proxy is asked for a tunnel to a host, not to the call's path, and the API never sees its password."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        their_reader, their_writer = await asyncio.open_connection(*host.decode().split(":"))
        if secure:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            their_writer.write(asked[-1])
        await asyncio.gather(copy(reader, their_writer), copy(their_reader, writer))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")

    asked: list[bytes] = []
    arrived: list[bytes] = []
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    target = "/openai/a%2Fb//c?d=%20e"
    async with peer(serve, server_side(authority, "127.0.0.1") if secure else None) as api, peer(proxy) as it:
        host = origin_of(api.origin).authority
        choice = Choice("httpx", "a proxy", it.origin.replace("http://", "http://user:hunter2@"))
        transport = open_transport(choice, verify=trust)
        async with asyncio.timeout(5):
            sent = await send(transport, "GET", api.origin, target, [(b"x-a", b"1")], b"")
            assert await whole(sent) == b"ok"
            upstream = Upstream(transport, connect_timeout=5, first_byte_timeout=5, idle_timeout=0)
            await upstream.check(f"{api.origin}/openai")
        await transport.aclose()
    assert all(b"Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in head for head in asked)
    lines = [head.partition(b"\r\n")[0] for head in asked]
    if secure:
        assert lines == [b"CONNECT %b HTTP/1.1" % host] * 2
        assert arrived == [
            b"GET %b HTTP/1.1\r\nhost: %b\r\nx-a: 1\r\n\r\n" % (target.encode(), host),
            b"GET /openai HTTP/1.1\r\nhost: %b\r\n\r\n" % host,
        ]
    else:
        assert lines == [
            b"GET http://%b%b HTTP/1.1" % (host, target.encode()),
            b"GET http://%b/openai HTTP/1.1" % host,
        ]


async def test_a_proxy_that_opens_no_tunnel_has_been_sent_nothing_and_its_reason_is_said() -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with peer(answering(refusal)) as proxy, asyncio.timeout(5):
        transport = open_transport(Choice("httpx", "a proxy", proxy.origin))
        with pytest.raises(ConnectError, match="407 Proxy Authentication Required"):
            await get(transport, "https://a.example")
        await transport.aclose()


@pytest.mark.parametrize(("idle", "connections"), [(89, 1), (91, 2)])
async def test_httpx_keeps_idle_connections_as_long_as_our_own_transport(
    monkeypatch: pytest.MonkeyPatch, idle: float, connections: int
) -> None:
    """For 90 s: API Management's load balancer forgets them after four minutes, without a word."""
    transport, now = open_transport(Choice("httpx")), time.monotonic
    async with peer(answering(GOOD, GOOD, hang=True)) as upstream:
        await get(transport, upstream.origin)
        with monkeypatch.context() as later:
            later.setattr(time, "monotonic", lambda: now() + idle)
            await get(transport, upstream.origin)
        assert upstream.connections == connections
        await transport.aclose()
