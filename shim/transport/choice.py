"""Which transport carries the calls: our own, or httpx's if the operator says so or a proxy must be passed."""

import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from shim.settings import Settings
from shim.transport.direct import ShimTransport
from shim.transport.pool import KEEPALIVE_SECONDS
from shim.transport.wire import Transport


class Choice(NamedTuple):
    """A transport's name, and the reason why it is not the shim's own if it is not. `proxy` may hold a password."""

    name: str
    reason: str = ""
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"Choice({self.name!r}, {self.reason!r})"


def choose_transport(settings: Settings, environ: Mapping[str, str]) -> Choice:
    """`environ` holds HTTPS_PROXY (or ALL_PROXY) and NO_PROXY, which count as curl reads them."""
    for url in dict.fromkeys([settings.apim_base_url, settings.apim_v1_base_url]):
        if proxy := proxy_for(url, environ):
            reason = f"a proxy stands between the shim and {urlsplit(url).hostname} (HTTPS_PROXY)"
            return Choice("httpx", reason, proxy)
    if settings.upstream_transport == "httpx":
        return Choice("httpx", "UPSTREAM_TRANSPORT says so")
    return Choice("shim")


def open_transport(choice: Choice, *, verify: ssl.SSLContext | None = None) -> Transport:
    """Opens no connection yet."""
    if choice.name == "shim":
        return ShimTransport(verify=verify)
    # Nobody else needs httpx, whose import is a tenth of what the app takes to start (bench/NOTES.md).
    from shim.transport.through_httpx import open_httpx

    return open_httpx(choice.proxy, verify, KEEPALIVE_SECONDS)


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy between here and the origin of a URL, as curl reads the environment; None for none."""
    parts = urlsplit(url)
    # HTTP_PROXY in capitals could be a caller's header in a CGI; plain HTTP is for localhost alone here.
    names = (
        ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        if parts.scheme == "https"
        else ("http_proxy",)
    )
    proxy = next((environ[name] for name in names if environ.get(name)), None)
    if proxy is None or not parts.hostname:
        return None
    from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks it; few need it
        proxy_bypass_environment,
    )

    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return None if proxy_bypass_environment(parts.netloc, {"no": excepted}) else proxy
