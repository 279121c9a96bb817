"""Certificates are checked by what runs in production, where nobody hands a client a TLS context.

Keys travel to API Management, Key Vault and Azure Resource Manager. A client that skipped verification would work in
every other test, and hand those keys to anybody on the way. So each client is opened here as the app opens it, in a
process that trusts one authority by SSL_CERT_FILE, and meets a good server and three that must be refused.

A resumed session spares a connection the certificates: what is resumed must be with the same host, and with nobody who
took its place.
"""

import asyncio
import contextlib
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from shim.transport.direct import ShimTransport
from shim.transport.tls import Sessions, default_trust
from shim.transport.wire import ConnectError, WireRequest, origin_of
from tests.conftest import ROOT

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

# Prints, by client and server, whether a response came or what the client raised instead.
CALLERS = """
import asyncio, json, sys
from azure.core.credentials import AccessTokenInfo
from shim.keys.azure.api_management import Apim
from shim.keys.azure.key_vault import VaultSecrets
from shim.transport.choice import Choice, open_transport
from shim.transport.wire import WireRequest, origin_of

class Credential:
    async def get_token_info(self, *scopes, options=None):
        return AccessTokenInfo("token", 4102444800)

    async def close(self):
        pass

async def upstream(name, url):
    transport = open_transport(Choice(name))
    try:
        request = WireRequest("GET", origin_of(url), b"/", [(b"host", b"any")])
        response = await transport.send(request)
        await response.aclose()
    finally:
        await transport.aclose()

async def vault(url):
    secrets = VaultSecrets(url, credential=Credential())
    try:
        await secrets.get("name")
    finally:
        await secrets.close()

async def apim(url):
    service = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/n"
    async with Apim(service, resource_manager_url=url, credential=Credential()) as opened:
        await opened.keys("sid")

CALLS = {
    "shim": lambda url: upstream("shim", url), "httpx": lambda url: upstream("httpx", url),
    "vault": vault, "apim": apim,
}

async def outcome(call, url):
    try:
        await call(url)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "answered"

async def main():
    servers = json.loads(sys.argv[1])
    print(json.dumps({
        client: {server: await outcome(call, url) for server, url in servers.items()}
        for client, call in CALLS.items()
    }))

asyncio.run(main())
"""


@asynccontextmanager
async def serving(
    authority: trustme.CA, *names: str, port: int = 0, resumed: list[bool] | None = None, **certificate: Any
) -> AsyncIterator[str]:
    """A server with that certificate that finds nothing; its URL. `resumed` gets whether a request's session was."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if resumed is not None:
            resumed.append(writer.get_extra_info("ssl_object").session_reused)
        writer.write(NOT_FOUND)
        writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **certificate).configure_cert(tls)
    server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=tls)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each client made of each server."""
    trusted, stranger = trustme.CA(), trustme.CA()
    trusts = tmp_path_factory.mktemp("tls") / "authority.pem"
    trusted.cert_pem.write_to_path(str(trusts))
    now = datetime.now(UTC)
    past: dict[str, Any] = {"not_before": now - timedelta(days=2), "not_after": now - timedelta(days=1)}
    async with AsyncExitStack() as stack:
        servers = {
            "good": await stack.enter_async_context(serving(trusted, "127.0.0.1")),
            "untrusted": await stack.enter_async_context(serving(stranger, "127.0.0.1")),
            "expired": await stack.enter_async_context(serving(trusted, "127.0.0.1", **past)),
            "wrongly named": await stack.enter_async_context(serving(trusted, "other.example")),
        }
        return await ask(servers, trusts)


async def ask(servers: dict[str, str], trusts: Path) -> dict[str, dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLERS, json.dumps(servers), cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(trusts)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, dict[str, str]] = json.loads(output)
    return found


@pytest.mark.parametrize(
    ("client", "outcome"),
    [
        ("shim", "answered"),
        ("httpx", "answered"),
        ("vault", "answered 404"),
        ("apim", "API Management n was not found"),
    ],
)
async def test_a_server_with_a_good_certificate_is_talked_to(
    outcomes: dict[str, dict[str, str]], client: str, outcome: str
) -> None:
    assert outcome in outcomes[client]["good"]


@pytest.mark.parametrize("server", ["untrusted", "expired", "wrongly named"])
@pytest.mark.parametrize(
    ("client", "outcome"),
    [
        ("shim", "ConnectError: "),
        ("httpx", "ConnectError: "),
        ("vault", "VaultError: no connection to Key Vault"),
        ("apim", "ApimError: no connection to https://"),
    ],
)
async def test_by_default_a_server_with_a_bad_certificate_is_not_talked_to(
    outcomes: dict[str, dict[str, str]], client: str, outcome: str, server: str
) -> None:
    assert outcomes[client][server].startswith(outcome)


@pytest.fixture
async def transport(authority: trustme.CA) -> AsyncIterator[ShimTransport]:
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    transport = ShimTransport(verify=trusts)
    yield transport
    await transport.aclose()


async def call(transport: ShimTransport, url: str) -> None:
    origin = origin_of(url)
    response = await transport.send(WireRequest("GET", origin, b"/", [(b"host", origin.authority)]))
    assert response.status == 404
    await response.aclose()


async def test_new_connections_resume_the_session_that_a_check_of_the_certificates_began(
    authority: trustme.CA, transport: ShimTransport
) -> None:
    resumed: list[bool] = []
    async with serving(authority, "127.0.0.1", resumed=resumed) as url:
        for _ in range(4):
            await call(transport, url)
    assert resumed == [False, True, True, True]


async def test_a_session_is_resumed_with_its_own_host_alone(
    authority: trustme.CA, transport: ShimTransport
) -> None:
    resumed: list[bool] = []
    async with serving(authority, "127.0.0.1", "localhost", resumed=resumed) as url:
        await call(transport, url)
        await call(transport, url.replace("127.0.0.1", "localhost"))
        await call(transport, url)
    assert resumed == [False, False, True]


async def test_a_server_that_does_not_know_the_session_has_its_certificate_checked(
    authority: trustme.CA, transport: ShimTransport
) -> None:
    async with serving(authority, "127.0.0.1") as url:
        await call(transport, url)
    port = int(url.rpartition(":")[2])
    async with serving(trustme.CA(), "127.0.0.1", port=port):
        with pytest.raises(ConnectError, match="SSLCertVerificationError"):
            await call(transport, url)
    async with serving(authority, "127.0.0.1", port=port):
        await call(transport, url)


async def test_the_systems_certificates_are_read_once_for_all_who_name_none() -> None:
    """20 ms, on the loop: the vault's client has them read in a thread, and upstream's first call finds them there."""
    assert default_trust() is default_trust()
    assert ShimTransport()._trusted() is ShimTransport()._trusted()
    context = ssl.create_default_context()
    named = ShimTransport(verify=context)._trusted()
    assert named.context is context
    assert named is not default_trust()


def test_no_session_lives_on_in_those_that_resume_it(authority: trustme.CA) -> None:
    # Each resumption brings tickets of its own. Were they kept, a certificate would never be checked again.
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.issue_cert("api.example").configure_cert(server)
    sessions = Sessions()
    sessions.resumed_by(client)
    checked = connect(client, server)
    sessions.keep(checked)
    resuming = connect(client, server)
    sessions.keep(resuming)
    offered = client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="api.example")
    with pytest.raises(ssl.SSLWantReadError):
        offered.do_handshake()
    assert resuming.session_reused
    assert offered.session == checked.session != resuming.session


class Counted:
    """An end of a connection that counts how often its session is read."""

    server_hostname = "api.example"

    def __init__(self, session: ssl.SSLSession | None, *, reused: bool) -> None:
        self.session_reused = reused
        self.reads = 0
        self._session = session

    @property
    def session(self) -> ssl.SSLSession | None:
        self.reads += 1
        return self._session


def test_no_session_is_read_but_to_be_kept_and_that_once(authority: trustme.CA) -> None:
    # 6 KB each, which Python before 3.13.1 never frees (https://github.com/python/cpython/issues/116810).
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.issue_cert("api.example").configure_cert(server)
    session = connect(client, server).session
    for end, reads in (
        (Counted(session, reused=True), 0),
        (Counted(session, reused=False), 1),
        (Counted(None, reused=False), 1),
    ):
        Sessions().keep(cast("ssl.SSLObject", end))
        assert end.reads == reads


def connect(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a connection that has read something."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname="api.example")
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for step in (near.do_handshake, far.do_handshake, near.do_handshake, far.do_handshake):
        with contextlib.suppress(ssl.SSLWantReadError):
            step()
    far.write(b"x")
    assert near.read(1) == b"x"
    return near
