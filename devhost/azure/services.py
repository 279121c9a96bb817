"""Stand-ins for what lies between the shim and its keys in Azure: the identity endpoint, and APIM's management API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from azure.core.credentials import AccessTokenInfo, TokenRequestOptions

from devhost.azure.faults import CLIENT, PRINCIPAL
from devhost.azure.tls import client_tls, server_tls, write_authority
from devhost.azure.vault import Clock, Credential, VaultDouble, running_vault
from shim.keys.azure.api_management import Apim
from shim.keys.azure.transport import SdkTransport
from shim.keys.azure.writing import WritableSecrets
from shim.settings import Settings

IDENTITY_HEADER = "Zq4Rw8Xn2Vt6Yk0Pm5Hd3Js7Lf"
SUBSCRIPTION = "11111111-2222-4333-8444-555555555555"
SERVICE = "contoso-apim"
GATEWAY_URL = f"https://{SERVICE}.azure-api.net"
RESOURCE_ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.ApiManagement/service/{SERVICE}"
)


@dataclass(slots=True)
class Subscribed:
    """A subscription of the service."""

    sid: str
    primary: str
    secondary: str
    label: str = ""
    owner: str = "ada"
    scope: str = "/products/openai"
    state: str = "active"

    def contract(self) -> dict[str, Any]:
        return {
            "id": f"{RESOURCE_ID}/subscriptions/{self.sid}",
            "type": "Microsoft.ApiManagement/service/subscriptions",
            "name": self.sid,
            "properties": {
                "ownerId": f"{RESOURCE_ID}/users/{self.owner}",
                "scope": f"{RESOURCE_ID}{self.scope}",
                "displayName": self.label or None,
                "state": self.state,
                "createdDate": "2026-01-01T00:00:00Z",
            },
        }


class ApimDouble:
    """Azure Resource Manager, as far as one APIM service goes. `calls` counts; `status`, while set, is the answer."""

    def __init__(self, token: str) -> None:
        self.calls: Counter[str] = Counter()
        self.subscribed: dict[str, Subscribed] = {}
        self.products_of: dict[str, list[str]] = {}
        # Properties of an API, by its id, and of the service.
        self.apis: dict[str, dict[str, Any]] = {}
        self.service = {"gatewayUrl": GATEWAY_URL, "virtualNetworkType": "None"}
        self.page_size = 2
        self.status: int | None = None
        # After so many calls, every one is refused.
        self.fails_after: int | None = None
        self.url = ""
        self._token = token

    def subscribe(self, *subscriptions: Subscribed) -> None:
        self.subscribed |= {subscription.sid: subscription for subscription in subscriptions}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(RESOURCE_ID, self._service)
        app.router.add_get(f"{RESOURCE_ID}/apis/{{api}}", self._api)
        app.router.add_get(f"{RESOURCE_ID}/subscriptions", self._list)
        app.router.add_post(f"{RESOURCE_ID}/subscriptions/{{sid}}/listSecrets", self._secrets)
        app.router.add_get(f"{RESOURCE_ID}/apis/{{api}}/products", self._products)
        return app

    async def _service(self, request: web.Request) -> web.Response:
        return self._answer(request, "service", {"name": SERVICE, "properties": self.service})

    async def _api(self, request: web.Request) -> web.Response:
        api = request.match_info["api"]
        if api not in self.apis:
            return web.json_response({"error": {"code": "ResourceNotFound"}}, status=404)
        return self._answer(request, "api", {"name": api, "properties": self.apis[api]})

    async def _list(self, request: web.Request) -> web.Response:
        items = [subscription.contract() for subscription in self.subscribed.values()]
        begin = int(request.query.get("$skip", "0"))
        end = begin + self.page_size
        following = f"{self.url}{request.path}?api-version={request.query['api-version']}&$skip={end}"
        content: dict[str, Any] = {"value": items[begin:end], "count": len(items)}
        if end < len(items):
            content["nextLink"] = following
        return self._answer(request, "list", content)

    async def _secrets(self, request: web.Request) -> web.Response:
        found = self.subscribed[request.match_info["sid"]]
        keys = {"primaryKey": found.primary, "secondaryKey": found.secondary}
        return self._answer(request, "secrets", keys)

    async def _products(self, request: web.Request) -> web.Response:
        products = self.products_of.get(request.match_info["api"], [])
        return self._answer(request, "products", {"value": [{"name": product} for product in products]})

    def _answer(self, request: web.Request, kind: str, content: dict[str, Any]) -> web.Response:
        self.calls[kind] += 1
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.json_response({"error": {"code": "AuthenticationFailed"}}, status=401)
        if self.fails_after is not None and sum(self.calls.values()) > self.fails_after:
            return web.json_response({"error": {"code": "AuthorizationFailed"}}, status=403)
        if self.status is not None:
            message = f"The client '{PRINCIPAL}' with object id '{CLIENT}' may not do this at {request.path}"
            return web.json_response(
                {"error": {"code": "AuthorizationFailed", "message": message}}, status=self.status
            )
        return web.json_response(content)


@dataclass(slots=True)
class Azure:
    """A vault, an APIM service and an identity, with what a process needs to find them."""

    vault: VaultDouble
    apim: ApimDouble
    credential: Credential
    clock: Clock
    environ: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    # Of the identities that asked for a token, None for the system-assigned one, with what it is for.
    asked: list[tuple[str | None, str]] = field(default_factory=list)

    async def token(self, request: web.Request) -> web.Response:
        """As App Service's identity endpoint: https://learn.microsoft.com/azure/app-service/overview-managed-identity"""
        if request.headers.get("X-IDENTITY-HEADER") != IDENTITY_HEADER:
            return web.json_response({"statusCode": 401, "message": "no such header"}, status=401)
        self.tokens += 1
        self.asked.append((request.query.get("client_id"), request.query["resource"]))
        return web.json_response(
            {
                "access_token": self.credential.token,
                "expires_on": str(int(time.time()) + 86400),
                "resource": request.query["resource"],
                "token_type": "Bearer",
                "client_id": CLIENT,
            }
        )

    def open_secrets(self, settings: Settings) -> WritableSecrets:
        return WritableSecrets(
            self.vault.url, credential=self.credential, transport=self.vault.transport(), budget=5.0
        )

    def open_apim(self, settings: Settings) -> Apim | None:
        if settings.apim_resource_id is None:
            return None
        return Apim(
            settings.apim_resource_id,
            resource_manager_url=self.apim.url,
            credential=ManagementCredential(self.credential),
            transport=SdkTransport(client_tls()),
        )


class ManagementCredential:
    """The same identity, asked for another audience."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        assert scopes[0].endswith("/.default")
        assert "vault" not in scopes[0]
        return await self._credential.get_token_info("https://vault.azure.net/.default")

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@asynccontextmanager
async def running_azure(folder: Path) -> AsyncIterator[Azure]:
    clock, credential = Clock(), Credential()
    async with running_vault(credential, clock) as vault:
        apim = ApimDouble(credential.token)
        azure = Azure(vault, apim, credential, clock)
        identity = web.Application()
        identity.router.add_get("/msi/token", azure.token)
        async with _serving(identity) as identity_port, _serving(apim.app(), tls=True) as arm_port:
            apim.url = f"https://127.0.0.1:{arm_port}"
            authority = folder / "authority.pem"
            write_authority(authority)
            azure.environ = {
                "KEY_VAULT_URL": vault.local_url,
                "AZURE_RESOURCE_MANAGER_URL": apim.url,
                "IDENTITY_ENDPOINT": f"http://127.0.0.1:{identity_port}/msi/token",
                "IDENTITY_HEADER": IDENTITY_HEADER,
                "SSL_CERT_FILE": str(authority),
                "LOCAL_SUBSCRIPTION_KEYS": "",
            }
            yield azure


@asynccontextmanager
async def _serving(app: web.Application, *, tls: bool = False) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls() if tls else None).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
