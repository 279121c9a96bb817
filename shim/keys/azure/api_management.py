"""The subscriptions of an API Management service, and their keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from shim.errors import describe_defect
from shim.keys.azure.credential import SharedCredential, TokenTimeoutError, open_credential
from shim.keys.azure.sdk import silent_logger, suppress_span
from shim.keys.azure.vault_errors import Fault
from shim.keys.text import printable

if TYPE_CHECKING:
    from azure.core.async_paging import AsyncItemPaged
    from azure.core.credentials_async import AsyncSupportsTokenInfo
    from azure.core.pipeline.transport import AsyncHttpTransport
    from azure.mgmt.apimanagement.aio import ApiManagementClient
    from azure.mgmt.apimanagement.models import SubscriptionContract

# Seconds to connect, and to wait for a response; the SDK retries RETRIES times, as far apart as it is told.
CONNECT_TIMEOUT = 5
READ_TIMEOUT = 30
RETRIES = 3
# The built-in subscription to every API, whose key has administrative rights.
MASTER = "master"
# https://learn.microsoft.com/azure/api-management/api-management-subscriptions#use-a-subscription-key
DEFAULT_KEY_HEADER = "Ocp-Apim-Subscription-Key"
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/integration
ROLE = "API Management Service Contributor"
ACTIONS = (
    "Microsoft.ApiManagement/service/subscriptions/read",
    "Microsoft.ApiManagement/service/subscriptions/listSecrets/action",
    "Microsoft.ApiManagement/service/apis/products/read",
)


class ApimError(Exception):
    """The service could not be read. `reason` is for operators and holds no key or token."""

    def __init__(self, reason: str, fault: Fault) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class ApimSubscription:
    """`scope` is the end of its resource id: `products/<id>`, `apis/<id>`, or `apis` for all APIs."""

    sid: str
    label: str
    owner: str
    scope: str
    state: str

    @property
    def is_active(self) -> bool:
        return self.state == "active"


@dataclass(frozen=True, slots=True)
class ApimKeys:
    primary: str | None = field(repr=False)
    secondary: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApimService:
    """`is_internal`: in internal virtual network mode, in which the gateway cannot reach itself by its own name."""

    gateway_url: str
    is_internal: bool


@dataclass(frozen=True, slots=True)
class ApimApi:
    """`path` is below the gateway; `backend_url` is empty where policies choose the backend."""

    path: str
    backend_url: str
    key_header: str


class Apim:
    """Reads one service by its resource id; to be entered with `async with`.

    `credential` and `transport` are handed to the SDK, and closed together with this.
    """

    def __init__(
        self,
        resource_id: str,
        *,
        resource_manager_url: str,
        in_azure: bool = True,
        client_id: str | None = None,
        credential: AsyncSupportsTokenInfo | None = None,
        transport: AsyncHttpTransport[Any, Any] | None = None,
    ) -> None:
        parts = resource_id.strip("/").split("/")
        self._subscription_id, self._group, self.name = parts[1], parts[3], parts[7]
        self._url = resource_manager_url
        self._in_azure = in_azure
        self._client_id = client_id
        self._credential = credential
        self._transport = transport
        self._shared: SharedCredential | None = None
        self._client: ApiManagementClient | None = None

    async def __aenter__(self) -> Self:
        # In a thread: importing the SDK takes half a second, in which streams would stand still.
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()
        if self._shared is not None:
            await self._shared.close()

    async def service(self) -> ApimService:
        """Raises ApimError."""
        found = await self._read(self._opened.api_management_service.get(self._group, self.name, **_OPTIONS))
        internal = str(found.virtual_network_type or "").casefold() == "internal"
        return ApimService(str(found.gateway_url).rstrip("/"), internal)

    async def api(self, api: str) -> ApimApi:
        """Raises ApimError."""
        found = await self._read(self._opened.api.get(self._group, self.name, api, **_OPTIONS))
        names = found.subscription_key_parameter_names
        return ApimApi(
            path=(found.path or "").strip("/"),
            backend_url=(found.service_url or "").rstrip("/"),
            key_header=names.header if names is not None and names.header else DEFAULT_KEY_HEADER,
        )

    async def subscriptions(self) -> AsyncIterator[ApimSubscription]:
        """Every subscription of the service, page by page. Raises ApimError."""
        items = self._opened.subscription.list(self._group, self.name, **_OPTIONS)
        async for found in self._paged(items):
            yield _subscription_of(found)

    async def products_of(self, api: str) -> frozenset[str]:
        """The ids of the products that an API is part of. Raises ApimError."""
        items = self._opened.api_product.list_by_apis(self._group, self.name, api, **_OPTIONS)
        return frozenset([str(product.name).casefold() async for product in self._paged(items)])

    async def keys(self, sid: str) -> ApimKeys:
        """Both keys of a subscription. Raises ApimError."""
        keys = await self._read(
            self._opened.subscription.list_secrets(self._group, self.name, sid, **_OPTIONS)
        )
        return ApimKeys(keys.primary_key, keys.secondary_key)

    @property
    def _opened(self) -> ApiManagementClient:
        if self._client is None:
            raise RuntimeError("not entered")
        return self._client

    def _open(self) -> None:
        from azure.mgmt.apimanagement.aio import ApiManagementClient

        from shim.keys.azure.transport import SdkTransport

        self._shared = SharedCredential(
            self._credential or open_credential(in_azure=self._in_azure, client_id=self._client_id)
        )
        self._client = ApiManagementClient(
            # The SDK asks its credential for nothing but get_token_info, where it has that.
            self._shared,  # type: ignore[arg-type]
            self._subscription_id,
            base_url=self._url,
            credential_scopes=[f"{self._url}/.default"],
            retry_total=RETRIES,
            permit_redirects=False,
            logger=silent_logger(),
            logging_enable=False,
            raw_request_hook=suppress_span,
            transport=self._transport or SdkTransport(),
        )

    async def _read[Found](self, call: Awaitable[Found]) -> Found:
        try:
            return await call
        except Exception as error:
            failure = self._failure(error)
        # Outside the handler: what the SDK raises may hold the response, and with it the keys.
        raise failure

    async def _paged[Item](self, items: AsyncIterable[Item]) -> AsyncIterator[Item]:
        pages = cast("AsyncItemPaged[Item]", items).by_page()
        while True:
            try:
                page = await anext(pages, None)
                read = [] if page is None else [item async for item in page]
            except Exception as error:
                failure = self._failure(error)
                break
            if page is None:
                return
            for item in read:
                yield item
        raise failure

    def _failure(self, error: Exception) -> ApimError:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        status = error.status_code if isinstance(error, HttpResponseError) else None
        if isinstance(error, TokenTimeoutError) or (
            isinstance(error, ClientAuthenticationError) and status is None
        ):
            return ApimError(
                f"no token for {self._url} could be obtained ({type(error).__name__})", "identity"
            )
        if status == 401:
            return ApimError(f"{self._url} refused the token: is the service in another tenant?", "identity")
        if status == 403:
            return ApimError(
                f"API Management {self.name} answered 403: grant {self._who()} the role '{ROLE}' on it,"
                f" or one with the actions {', '.join(ACTIONS)}",
                "permission",
            )
        if status == 404:
            return ApimError(
                f"API Management {self.name} was not found, or part of it: check APIM_RESOURCE_ID, products and APIs",
                "unreachable",
            )
        if status:
            return ApimError(f"API Management {self.name} answered {status}; try again", "other")
        if isinstance(error, AzureError):
            return ApimError(f"no connection to {self._url} ({type(error).__name__})", "unreachable")
        return ApimError(f"reading API Management {self.name} failed: {describe_defect(error)}", "other")

    def _who(self) -> str:
        return (self._shared and self._shared.principal) or "the identity"


_OPTIONS: dict[str, Any] = {
    # Spans would carry the URL, which names who has subscribed.
    "tracing_options": {"enabled": False},
    # Of each call: a client's own are for a transport that it makes itself.
    "connection_timeout": CONNECT_TIMEOUT,
    "read_timeout": READ_TIMEOUT,
}


def _subscription_of(found: SubscriptionContract) -> ApimSubscription:
    sid = str(found.name)
    scope = (found.scope or "").partition("/service/")[2].partition("/")[2].strip("/")
    return ApimSubscription(
        sid=sid,
        label=printable(found.display_name or sid),
        owner=printable((found.owner_id or "").rpartition("/")[2]),
        scope=scope.casefold(),
        state=printable(str(found.state or "").casefold()),
    )
