"""What must be known of an APIM service and its legacy API to write their replacement; nothing of it is secret."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from shim.keys.azure.api_management import MASTER, Apim, ApimSubscription


@dataclass(frozen=True, slots=True)
class Twin:
    """A subscription that gets a twin; `scope` is the end of a resource id, as in ApimSubscription."""

    sid: str
    label: str
    scope: str


@dataclass(frozen=True, slots=True)
class Facts:
    """`path` is the legacy API's below `gateway`; `backend` is empty where policies choose it."""

    resource_id: str
    gateway: str
    path: str
    api: str
    key_header: str
    backend: str
    is_internal: bool
    twins: tuple[Twin, ...]
    origins: tuple[str, ...] = ()

    @property
    def service(self) -> str:
        return self.resource_id.strip("/").split("/")[7]

    @property
    def group(self) -> str:
        return self.resource_id.strip("/").split("/")[3]

    @property
    def host(self) -> str:
        return urlsplit(self.gateway).netloc

    @property
    def products(self) -> tuple[str, ...]:
        scopes = (twin.scope for twin in self.twins if twin.scope.startswith("products/"))
        return tuple(dict.fromkeys(scope.partition("/")[2] for scope in scopes))


async def read_facts(
    apim: Apim, resource_id: str, api: str, *, backend: str, origins: tuple[str, ...]
) -> Facts:
    """As the service has them. Raises ApimError."""
    service, legacy = await apim.service(), await apim.api(api)
    products = await apim.products_of(api)
    twins = [
        Twin(found.sid, found.label, found.scope)
        async for found in apim.subscriptions()
        if found.is_active and found.sid != MASTER and _gives_access(found, api, products)
    ]
    return Facts(
        resource_id=resource_id,
        gateway=service.gateway_url,
        api=api,
        path=legacy.path,
        key_header=legacy.key_header,
        backend=backend or legacy.backend_url,
        is_internal=service.is_internal,
        twins=tuple(sorted(twins, key=lambda twin: twin.sid)),
        origins=origins,
    )


def _gives_access(subscription: ApimSubscription, api: str, products: frozenset[str]) -> bool:
    kind, _, name = subscription.scope.partition("/")
    if kind == "products":
        return name in products
    return kind == "apis" and name in ("", api.casefold())
