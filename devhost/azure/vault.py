"""A stand-in for Azure Key Vault: its secrets API over TLS, with faults that tests switch on."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from aiohappyeyeballs.types import AddrInfoType
from aiohttp import web
from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import ClientAuthenticationError

from devhost.azure.faults import CLIENT, PRINCIPAL, Fault, challenge, error
from devhost.azure.tls import client_tls, server_tls
from shim.keys.azure.transport import SdkTransport

START = datetime(2026, 1, 1, tzinfo=UTC)

# The SDK remembers challenges by host for the life of the process, so that every double has a host of its own.
_numbers = itertools.count(1)


class Clock:
    """Both clocks of a store, moved by hand: call it for seconds, ask `now` for the wall clock."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def now(self) -> datetime:
        return START + timedelta(seconds=self.at - 1000.0)

    def advance(self, seconds: float) -> None:
        self.at += seconds


class Credential:
    """Gives tokens of one principal, and counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.refuses = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False
        claims = json.dumps({"oid": PRINCIPAL, "appid": CLIENT}).encode()
        self.token = f"eyJhbGciOiJub25lIn0.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2lnbmVk"

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        self.asked += 1
        assert scopes == ("https://vault.azure.net/.default",)
        await self.gate.wait()
        if self.refuses:
            raise ClientAuthenticationError("ManagedIdentityCredential authentication unavailable")
        return AccessTokenInfo(self.token, int(time.time()) + 3600)

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(slots=True)
class Version:
    value: str
    created: datetime
    updated: datetime
    enabled: bool = True
    not_before: datetime | None = None
    expires: datetime | None = None
    tags: dict[str, str] = field(default_factory=dict)
    # Whether it is the private key of a certificate.
    managed: bool = False
    name: str = ""

    def attributes(self) -> dict[str, Any]:
        times = {
            "created": self.created,
            "updated": self.updated,
            "nbf": self.not_before,
            "exp": self.expires,
        }
        return {
            "enabled": self.enabled,
            **{name: int(at.timestamp()) for name, at in times.items() if at is not None},
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": 90,
        }


class VaultDouble:
    """The vault. `calls` counts authorised calls by kind; `fault`, while set, answers in its place."""

    def __init__(self, credential: Credential, clock: Clock) -> None:
        self.host = f"shim-test-{next(_numbers)}.vault.azure.net"
        self.url = f"https://{self.host}"
        self.calls: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.read: list[str] = []
        self.fault: Fault | None = None
        self.page_size = 25
        # Seconds until each response.
        self.latency = 0.0
        self.waiting = asyncio.Event()
        self.credential = credential
        self._clock = clock
        self._secrets: dict[str, list[Version]] = {}
        self._names: list[str] = []
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._version_numbers = itertools.count(1)

    @property
    def local_url(self) -> str:
        """For processes, which find the double by its address."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def secrets(self) -> dict[str, list[Version]]:
        """Versions by secret, the latest last."""
        return self._secrets

    def put(self, secret: str, value: str, **attributes: Any) -> Version:
        """Adds a secret, or a version to it."""
        now = self._clock.now()
        version = Version(value, created=now, updated=now, **attributes)
        version.name = f"{next(self._version_numbers):032x}"
        self._secrets.setdefault(secret, []).append(version)
        return version

    def change(self, secret: str, version: Version | None = None, **attributes: Any) -> None:
        """Changes attributes of a version, of the latest one by default."""
        changed = version or self._secrets[secret][-1]
        for name, value in attributes.items():
            setattr(changed, name, value)
        changed.updated = self._clock.now()

    def delete(self, secret: str) -> None:
        del self._secrets[secret]
        self._names = []

    def transport(self) -> SdkTransport:
        """What the SDK's client is to send through: it trusts the double's certificate, and finds it."""
        return SdkTransport(client_tls(), resolve=self._resolve)

    async def _resolve(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """Leads every name to the double, so that clients use a vault's real URL and check its certificate."""
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", self._port))]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self._port, ssl_context=server_tls(), reuse_address=True
        )
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port: connections are refused from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def answer(self, request: web.Request) -> web.Response:
        """The response to one request; faults that fail some of them only let others through with it."""
        self.hosts.add(request.host)
        if request.headers.get("Authorization") != f"Bearer {self.credential.token}":
            self.calls["challenge"] += 1
            return challenge(self._resource(request))
        parts = request.path.strip("/").split("/")
        kind = "list" if len(parts) == 1 else "versions" if parts[-1] == "versions" else "get"
        kind = {"PUT": "put", "PATCH": "change"}.get(request.method, kind)
        self.calls[kind] += 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.fault is not None:
            return await self.fault(request)
        if kind == "list":
            return self._page(request, self._sorted_names(), lambda name: (name, self._secrets[name][-1]))
        if kind == "versions":
            # In the order of the versions' names, which is no order in time.
            versions = sorted(self._secrets.get(parts[1], []), key=lambda version: version.name, reverse=True)
            return self._page(request, versions, lambda version: (f"{parts[1]}/{version.name}", version))
        if kind in ("put", "change"):
            return self._write(kind, parts[1], await request.json())
        return self._secret(parts[1], parts[2] if len(parts) > 2 else None)

    def _write(self, kind: str, name: str, content: dict[str, Any]) -> web.Response:
        if kind == "change" and name not in self._secrets:
            return error(404, "SecretNotFound", f"A secret with (name/id) {name} was not found.")
        attributes = content.get("attributes") or {}
        changes: dict[str, Any] = {
            field: datetime.fromtimestamp(attributes[key], UTC)
            for field, key in (("not_before", "nbf"), ("expires", "exp"))
            if attributes.get(key) is not None
        }
        changes |= {"enabled": attributes["enabled"]} if "enabled" in attributes else {}
        changes |= {"tags": content["tags"]} if content.get("tags") is not None else {}
        if kind == "put":
            self.put(name, content["value"], **changes)
        else:
            self.change(name, **changes)
        version = self._secrets[name][-1]
        value = {"value": version.value} if kind == "put" else {}
        return web.json_response({**value, **self._item(f"{name}/{version.name}", version)})

    def _resource(self, request: web.Request) -> str:
        # Clients insist that the vault's host be below that which its challenge names, as text: 127.0.0.1 is
        # below 0.0.1.
        return "https://vault.azure.net" if request.host == self.host else f"https://0.0.1:{self._port}"

    def _secret(self, name: str, version_name: str | None) -> web.Response:
        self.read.append(name)
        versions = [v for v in self._secrets.get(name, []) if version_name in (None, v.name)]
        if not versions:
            return error(
                404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault."
            )
        latest = versions[-1]
        if not latest.enabled:
            return error(
                403, "Forbidden", "Operation get is not allowed on a disabled secret.", inner="SecretDisabled"
            )
        return web.json_response({"value": latest.value, **self._item(f"{name}/{latest.name}", latest)})

    def _item(self, path: str, version: Version) -> dict[str, Any]:
        managed = {"managed": True} if version.managed else {}
        return {
            "id": f"{self.url}/secrets/{path}",
            "attributes": version.attributes(),
            "tags": version.tags,
            **managed,
        }

    def _page[Item](
        self, request: web.Request, items: Sequence[Item], describe: Callable[[Item], tuple[str, Version]]
    ) -> web.Response:
        size = min(self.page_size, int(request.query.get("maxresults", self.page_size)))
        begin = int(request.query.get("$skiptoken", "0"))
        end = begin + size
        # The real one names the port, which clients do not.
        host = f"{self.host}:443" if request.host == self.host else request.host
        following = f"https://{host}{request.path}?api-version=7.6&$skiptoken={end}&maxresults={size}"
        more = end < len(items)
        page = [self._item(*describe(item)) for item in items[begin:end]]
        return web.json_response({"value": page, "nextLink": following if more else None})

    def _sorted_names(self) -> list[str]:
        """Sorted again only after a change: benchmarks have 100,000."""
        if len(self._names) != len(self._secrets):
            self._names = sorted(self._secrets)
        return self._names

    # Faults.

    def slow(self) -> Fault:
        """Answers never; `waiting` is set once somebody waits."""

        async def fault(_: web.Request) -> web.Response:
            self.waiting.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        return fault


@asynccontextmanager
async def running_vault(credential: Credential, clock: Clock) -> AsyncIterator[VaultDouble]:
    vault = VaultDouble(credential, clock)
    await vault.start()
    try:
        yield vault
    finally:
        await vault.stop()
