"""The real parts, started once a session: the stand-in for the APIM API, and the app in the real worker."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from openai import AsyncAzureOpenAI, AsyncOpenAI

from devhost.azure.vault import Clock, Credential, VaultDouble, running_vault
from devhost.host import Host
from devhost.platform import CORE_TOOLS, FLEX, Platform
from devhost.spawning import Loop
from devhost.standin import Standin

ROOT = Path(__file__).parent.parent
API_VERSION = "2024-10-21"
# A subscription key as APIM makes them; the stand-in knows it as well.
KEY = "0123456789abcdef0123456789abcdef"

OTHER_KEY = "fedcba9876543210fedcba9876543210"
# The web page that may call.
APP_ORIGIN = "https://app.example.com"

type StartHost = Callable[..., Awaitable[Host]]
type NewLoop = Callable[[], asyncio.AbstractEventLoop]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=["uvloop", "asyncio"],
        default="uvloop",
        help="the event loop of the tests and of the worker processes; the platform's is uvloop, but on Windows",
    )


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, NewLoop]:
    """pytest-asyncio's hook: the loop that the tests themselves run in."""
    if config.getoption("loop") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop  # not to be had on Windows

    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def loop(pytestconfig: pytest.Config) -> Loop:
    """The event loop of the worker processes."""
    chosen: Loop = pytestconfig.getoption("loop")
    return chosen


def environment(standin: Standin, **settings: str) -> dict[str, str]:
    """What a worker process is started with: this one's own, less what could reach into the tests, and `settings`."""
    inherited = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")
    }
    return {
        **inherited,
        "APIM_BASE_URL": standin.base_url,
        "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY},team-b={OTHER_KEY}",
        **settings,
    }


@pytest.fixture(scope="session")
async def standin() -> AsyncIterator[Standin]:
    standin = await Standin.start(keys=(KEY, OTHER_KEY), chunk_delay=0)
    yield standin
    await standin.stop()


@pytest.fixture(scope="session")
async def start_host(standin: Standin, loop: Loop) -> AsyncIterator[StartHost]:
    """Starts the app with settings of a test's own, as Flex Consumption does unless a test says otherwise."""
    hosts: list[Host] = []

    async def start(
        folder: Path = ROOT,
        *,
        platform: Platform = FLEX,
        python: Path = Path(sys.executable),
        **settings: str,
    ) -> Host:
        host = await Host.start(
            folder, environment(standin, **settings), platform=platform, loop=loop, python=python
        )
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        await host.stop()


@pytest.fixture(scope="session")
async def host(start_host: StartHost) -> Host:
    return await start_host(CORS_ORIGINS=APP_ORIGIN)


@pytest.fixture(scope="session")
async def core_tools(start_host: StartHost) -> Host:
    """As `func start` runs the app: preflights reach it, which on Flex Consumption the platform answers itself."""
    return await start_host(platform=CORE_TOOLS, CORS_ORIGINS=APP_ORIGIN)


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that adds, follows, stores and decodes as little as it can."""
    session = aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
    )
    yield session
    await session.close()


@pytest.fixture(scope="session")
async def openai(host: Host) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
async def azure(host: Host) -> AsyncIterator[AsyncAzureOpenAI]:
    async with AsyncAzureOpenAI(
        azure_endpoint=host.url, api_key=KEY, api_version=API_VERSION, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Starts an API whose every answer is a test's own; gives its port."""
    runners = []

    async def start(answer: Callable[[web.Request], Any], tls: ssl.SSLContext | None = None) -> int:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Issues certificates. Nobody trusts them but the clients that a test tells to."""
    return trustme.CA()


@pytest.fixture
def clock() -> Clock:
    """Time that passes when a test says so."""
    return Clock()


@pytest.fixture
def credential() -> Credential:
    return Credential()


@pytest.fixture
async def vault(credential: Credential, clock: Clock) -> AsyncIterator[VaultDouble]:
    """Key Vault's protocol over TLS, with the faults that a test wants."""
    async with running_vault(credential, clock) as running:
        yield running
