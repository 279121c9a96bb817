"""The call as the APIM API wants it. Pure."""

from typing import NamedTuple

from shim.auth import Principal
from shim.call.body import Body
from shim.call.parse import Call
from shim.call.routes import Route
from shim.headers import Headers, for_upstream
from shim.monitoring.tracing import TRACEPARENT, Span
from shim.settings import Settings


class UpstreamRequest(NamedTuple):
    """What goes upstream. `headers` hold the subscription key, so they stay out of `repr`."""

    method: str
    origin: str
    target: str
    headers: Headers
    body: Body

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.method!r}, {self.origin!r}, {self.target!r})"


def rewrite(
    call: Call,
    route: Route,
    headers: Headers,
    principal: Principal,
    body: Body,
    request_id: bytes,
    settings: Settings,
    span: Span | None = None,
) -> UpstreamRequest:
    """Puts the key where APIM looks for it and the path where the API has it.

    A `span` is named to upstream as the one that it is called from.
    """
    key_header = settings.apim_key_header.encode()
    added = [(key_header, principal.subscription.key.encode()), (b"x-request-id", request_id)]
    if principal.authorization is not None:
        added.append((b"authorization", principal.authorization))
    drop = [key_header, settings.user_token_header.encode()]
    if span is not None:
        drop += span.replaced
        added.append((TRACEPARENT, span.traceparent))
    kept = for_upstream(headers, drop=drop, add=added)
    if body.growth:
        kept = [_lengthened(header, body.growth) for header in kept]
    return UpstreamRequest(call.method, route.origin, route.target, kept, body)


def _lengthened(header: tuple[bytes, bytes], growth: int) -> tuple[bytes, bytes]:
    name, value = header
    return (name, b"%d" % (int(value) + growth)) if name == b"content-length" else header
