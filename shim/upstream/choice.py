"""Which transport carries the calls: our own, or httpx's if the operator says so or a proxy must be passed."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

import httpx

from shim.settings import Settings
from shim.upstream.transport import ShimTransport


@dataclass(frozen=True, slots=True)
class Choice:
    """A transport's name, and the reason why it is not the shim's own if it is not. `proxy` may hold a password."""

    name: str
    reason: str = ""
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"Choice({self.name!r}, {self.reason!r})"


def choose_transport(settings: Settings, environ: Mapping[str, str]) -> Choice:
    """`environ` holds HTTPS_PROXY (or ALL_PROXY) and NO_PROXY, which count as curl reads them."""
    for url in dict.fromkeys([settings.apim_base_url, settings.apim_v1_base_url]):
        if proxy := _proxy_for(url, environ):
            reason = f"a proxy stands between the shim and {urlsplit(url).hostname} (HTTPS_PROXY)"
            return Choice("httpx", reason, proxy)
    if settings.upstream_transport == "httpx":
        return Choice("httpx", "UPSTREAM_TRANSPORT says so")
    return Choice("shim")


def open_transport(choice: Choice, *, verify: ssl.SSLContext | None = None) -> httpx.AsyncBaseTransport:
    """Opens no connection yet."""
    if choice.name == "shim":
        return ShimTransport(verify=verify)
    carry = _ThroughProxy if choice.proxy else httpx.AsyncHTTPTransport
    return carry(
        verify=verify or ssl.create_default_context(),
        proxy=httpx.Proxy(choice.proxy) if choice.proxy else None,
        # As many connections as calls in flight, as with our own.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=90),
    )


class _ThroughProxy(httpx.AsyncHTTPTransport):
    """Carries the target in the URL: given as an extension, it would be asked of the proxy itself, by CONNECT too."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = dict(request.extensions)
        if (target := extensions.pop("target", None)) is not None:
            request.url, request.extensions = _Url(request.url, target), extensions
        return await super().handle_async_request(request)


class _Url(httpx.URL):
    """A URL whose target goes on the wire as it is."""

    def __init__(self, origin: httpx.URL, target: bytes) -> None:
        super().__init__(origin)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


def _proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    parts = urlsplit(url)
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if not parts.hostname or proxy_bypass_environment(parts.netloc, {"no": excepted}):
        return None
    # HTTP_PROXY in capitals could be a caller's header in a CGI; plain HTTP is for localhost alone here.
    names = (
        ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        if parts.scheme == "https"
        else ("http_proxy",)
    )
    return next((environ[name] for name in names if environ.get(name)), None)
