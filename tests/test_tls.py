"""Certificates are checked by what runs in production, where nobody hands a client a TLS context.

Keys travel to API Management, Key Vault and Azure Resource Manager. A client that skipped verification would work in
every other test, and hand those keys to anybody on the way. So each client is opened here as the app opens it, in a
process that trusts one authority by SSL_CERT_FILE, and meets a good server and three that must be refused.
"""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.conftest import ROOT

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

# Prints, by client and server, whether a response came or what the client raised instead.
CALLERS = """
import asyncio, json, sys
import httpx
from azure.core.credentials import AccessTokenInfo
from shim.keys.azure.api_management import Apim
from shim.keys.azure.key_vault import VaultSecrets
from shim.upstream.choice import Choice, open_transport

class Credential:
    async def get_token_info(self, *scopes, options=None):
        return AccessTokenInfo("token", 4102444800)

    async def close(self):
        pass

async def upstream(name, url):
    transport = open_transport(Choice(name))
    try:
        request = httpx.Request("GET", url, headers=[(b"host", b"any")])
        response = await transport.handle_async_request(request)
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
async def serving(authority: trustme.CA, name: str, **certificate: Any) -> AsyncIterator[str]:
    """A server with that certificate that finds nothing; its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(NOT_FOUND)
        writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **certificate).configure_cert(tls)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@pytest.fixture(scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each client made of each server."""
    trusted, stranger = trustme.CA(), trustme.CA()
    trusts = tmp_path_factory.mktemp("tls") / "authority.pem"
    trusted.cert_pem.write_to_path(str(trusts))
    now = datetime.now(UTC)
    past = {"not_before": now - timedelta(days=2), "not_after": now - timedelta(days=1)}
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
