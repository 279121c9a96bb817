"""Which headers travel on, in either direction. Pure."""

import re
from collections.abc import Iterable, Iterator

type Headers = list[tuple[bytes, bytes]]

# Connections have these, not messages (RFC 9110, section 7.6.1; the first two are older custom).
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
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-tlsversion",
        b"x-ms-arm-request-tracking-id",
        b"x-ms-client-authorization-source",
        b"x-ms-coldstart",
        b"x-ms-invocation-id",
        b"x-ms-platform-internal",
        b"x-ms-site-restricted-token",
        b"x-ms-site-token",
        b"x-ms-via-extensions-route",
        b"x-original-url",
        b"x-site-deployment-id",
        b"x-waws-unencoded-url",
    ]
)
PLATFORM_PREFIXES = (b"x-ms-client-principal", b"x-ms-token-aad-")

# Nothing that the caller sends reaches upstream as a credential, but what the shim itself puts there.
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

# Between the caller and the shim alone: the client library writes its own Host, the shim is asked for `100 Continue`,
# and an `Origin` upstream would wake APIM's own cors policy.
_CALLERS_OWN = frozenset([b"host", b"expect", b"origin", b"x-request-id"])

_NEVER_UPSTREAM = HOP_BY_HOP | PLATFORM | CREDENTIALS | _CALLERS_OWN

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def for_upstream(received: Headers, *, drop: Iterable[bytes], add: Headers) -> Headers:
    """The caller's headers less all that is not upstream's business, in their order and as often as they came."""
    dropped = {*drop, *_named_by_connection(received)}
    kept = [
        header
        for header in received
        if header[0] not in _NEVER_UPSTREAM
        and header[0] not in dropped
        and not header[0].startswith(PLATFORM_PREFIXES)
    ]
    return kept + add


def for_caller(received: Iterable[tuple[bytes, bytes]], *, status: int, request_id: bytes) -> Headers:
    """Upstream's headers less those of its connection; with a request id if it gave none."""
    headers = [(name.lower(), value) for name, value in received]
    dropped = HOP_BY_HOP.union(_named_by_connection(headers))
    if status in (204, 304):
        # A 304 may tell the length that a 200 would have had (RFC 9110, section 8.6); uvicorn would wait for as much.
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


def named(headers: Headers, name: bytes) -> list[bytes]:
    """The values of every header of that (lower-case) name."""
    return [value for other, value in headers if other == name]


def _named_by_connection(headers: Headers) -> Iterator[bytes]:
    for value in named(headers, b"connection"):
        for option in value.split(b","):
            yield option.strip().lower()
