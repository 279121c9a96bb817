"""Which headers travel on, in either direction. Pure."""

import re
from collections.abc import Iterable, Iterator

type Headers = list[tuple[bytes, bytes]]

# Of requests; those of the routes in function_app.py.
METHODS = b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"

# These belong to a connection, not to a message (RFC 9110, section 7.6.1; the first two are older custom).
HOP_BY_HOP = frozenset(
    [
        b"keep-alive",
        b"proxy-connection",
        b"connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)

# Put on by Azure's front end and by the Functions host, for the app and not for what stands behind it.
PLATFORM = frozenset(
    [
        b"client-ip",
        b"disguised-host",
        b"fos-instance-id",
        b"is-service-tunneled",
        b"max-forwards",
        b"was-default-hostname",
        b"x-appservice-proto",
        b"x-arr-log-id",
        b"x-arr-ssl",
        b"x-azure-fdid",
        b"x-client-ip",
        b"x-client-port",
        b"x-fd-healthprobe",
        b"x-ms-arm-request-tracking-id",
        b"x-ms-client-authorization-source",
        b"x-ms-coldstart",
        b"x-ms-invocation-id",
        b"x-ms-platform-internal",
        b"x-ms-site-restricted-token",
        b"x-ms-site-token",
        b"x-ms-via-extensions-route",
        b"x-site-deployment-id",
        b"x-waws-unencoded-url",
    ]
)
PLATFORM_PREFIXES = (b"x-ms-client-principal", b"x-ms-token-aad-")

# What servers believe of a proxy before them: who asked, and for what. A caller could claim anything.
PROXY_CLAIMS = frozenset(
    [
        b"forwarded",  # RFC 7239
        b"x-real-ip",  # nginx's: https://nginx.org/en/docs/http/ngx_http_realip_module.html
        b"x-rewrite-url",  # with x-original-url, IIS's, taken for the path by frameworks (CVE-2018-14773)
        # Another method than the one that was checked:
        # https://learn.microsoft.com/dotnet/api/microsoft.aspnetcore.builder.httpmethodoverrideextensions
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    ]
)
# -for, -host, -prefix, -proto (https://learn.microsoft.com/dotnet/api/microsoft.aspnetcore.httpoverrides.forwardedheadersdefaults),
# -port, -server and others; and IIS's x-original-url.
PROXY_CLAIM_PREFIXES = (b"x-forwarded-", b"x-original-")

# The only credentials upstream are those that the shim itself adds.
CREDENTIALS = frozenset(
    [
        b"api-key",
        b"authorization",
        b"cookie",
        b"ocp-apim-subscription-key",
        b"x-functions-clientid",
        b"x-functions-key",
    ]
)

# Between the caller and the shim alone: the transport writes its own Host, `100 Continue` is the worker's to send, and
# an `Origin` upstream would set off APIM's own cors policy.
_CALLERS_OWN = frozenset([b"host", b"expect", b"origin", b"x-request-id"])

_NEVER_UPSTREAM = HOP_BY_HOP | PLATFORM | PROXY_CLAIMS | CREDENTIALS | _CALLERS_OWN
_NEVER_UPSTREAM_PREFIXES = PLATFORM_PREFIXES + PROXY_CLAIM_PREFIXES

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def for_upstream(received: Headers, *, drop: Iterable[bytes], add: Headers) -> Headers:
    """The caller's headers less those that are not upstream's business, in the order and as often as they came."""
    dropped = {*drop, *_listed_in_connection(received)}
    kept = [
        header
        for header in received
        if header[0] not in _NEVER_UPSTREAM
        and header[0] not in dropped
        and not header[0].startswith(_NEVER_UPSTREAM_PREFIXES)
    ]
    return kept + add


def for_caller(received: Iterable[tuple[bytes, bytes]], *, status: int, request_id: bytes) -> Headers:
    """Upstream's headers less those of its connection; with a request id if it gave none."""
    headers = [(name.lower(), value) for name, value in received]
    dropped = HOP_BY_HOP.union(_listed_in_connection(headers))
    if status in (204, 304):
        # Neither has a body, though a 304 may state the length of the 200 that it stands for (RFC 9110, section 8.6).
        dropped |= {b"content-length"}
    kept = [header for header in headers if header[0] not in dropped]
    if not any(name == b"x-request-id" for name, _ in kept):
        kept.append((b"x-request-id", request_id))
    return kept


def valid_request_id(value: bytes | None) -> bytes | None:
    """The caller's own request id, if it may go into a log line."""
    return value if value and _REQUEST_ID.fullmatch(value) else None


def announces_body(headers: Headers) -> bool:
    """Whether a body follows the head (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """The values of every header of that (lower-case) name."""
    return [value for other, value in headers if other == name]


def joined(line: bytes, headers: Headers) -> bytes:
    """The head of a message, from its first line on. Raises ValueError where a part could pass for several.

    RFC 9112, section 11.1.
    """
    head = b"\r\n".join([line, *map(b": ".join, headers), b"\r\n"])
    breaks = len(headers) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise ValueError("a header or the first line holds a character that HTTP does not allow")
    return head


def _listed_in_connection(headers: Headers) -> Iterator[bytes]:
    for value in values_of(headers, b"connection"):
        for option in value.split(b","):
            yield option.strip().lower()
