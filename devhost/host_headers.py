"""The host's way with headers, on both ways. Pure.

YARP 2.0.1 of microsoft/reverse-proxy copies them (Forwarder/RequestUtilities.cs, HttpTransformer.cs, and its default
transforms), between Kestrel 8 and .NET 8's HttpClient, which have rules of their own.
"""

import secrets
from collections.abc import Iterable, Sequence

type Headers = list[tuple[str, str]]

# RequestUtilities.cs, _headersToExclude. Headers that `Connection` names, and `Trailer`, are not among them.
NOT_FORWARDED = frozenset(
    ["alpn", "alt-svc", "close", "connection", "http2-settings", "keep-alive", "proxy-authenticate",
     "proxy-authentication-info", "proxy-authorization", "proxy-connection", "proxy-features", "proxy-instruction",
     "security-scheme", "strict-transport-security", "te", "transfer-encoding", "upgrade", "upgrade-insecure-requests"]
)  # fmt: skip
# Those of an HttpContent, with which a request without a body gets an empty one (RequestUtilities.cs, AddHeader).
_OF_CONTENT = frozenset(
    ["allow", "content-disposition", "content-encoding", "content-language", "content-length", "content-location",
     "content-md5", "content-range", "content-type", "expires", "last-modified"]
)  # fmt: skip
# TransformBuilder.cs: X-Forwarded-* are set, Host is HttpClient's. The host sets the invocation's id
# (DefaultHttpProxyService.cs; 4.1037 let a caller's win).
_SET_BY_HOST = frozenset(
    [
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-ms-invocation-id",
    ]
)
# KnownHeaders.cs of dotnet/runtime: what HttpClient joins repeated values by, where it is not a comma.
_SEPARATORS = {"cookie": "; ", "user-agent": " ", "server": " "}
# HttpMethod.MustHaveRequestBody is false of these: the others are sent with `Content-Length: 0`.
_WITHOUT_BODY = frozenset(["GET", "HEAD", "OPTIONS", "DELETE", "CONNECT"])


class NotAscii(Exception):
    """A header has a value that .NET does not write."""


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """As Kestrel decodes a request's: UTF-8. Raises UnicodeDecodeError where Kestrel answers 400."""
    return [(name.decode("ascii").lower(), value.decode()) for name, value in headers]


def values(headers: Headers, name: str) -> list[str]:
    return [value for other, value in headers if other == name]


def asks_for_upgrade(headers: Headers) -> bool:
    """`Connection: Upgrade`, with which Kestrel lets a request have no body (Http1MessageBody.cs)."""
    tokens = ",".join(values(headers, "connection")).split(",")
    return any(token.strip().lower() == "upgrade" for token in tokens)


def for_worker(
    headers: Headers, *, method: str, length: int | None, invocation_id: str, caller: str
) -> Headers:
    """What the worker gets of a request's headers; repeated ones are joined, in the place of the first.

    `length` is the body's, None of a chunked one; `caller` is an address.
    """
    joined: dict[str, str] = {}
    for name, value in headers:
        if name in NOT_FORWARDED or name in _SET_BY_HOST:
            continue
        joined[name] = f"{joined[name]}{_SEPARATORS.get(name, ', ')}{value}" if name in joined else value
    if length is None:
        joined.pop("content-length", None)  # RFC 9112, section 6.3
        joined["transfer-encoding"] = "chunked"
    elif not length and (method not in _WITHOUT_BODY or joined.keys() & _OF_CONTENT):
        joined["content-length"] = "0"
    joined |= {
        "x-ms-invocation-id": invocation_id,
        "x-forwarded-for": caller,
        "x-forwarded-host": ", ".join(values(headers, "host")),
        "x-forwarded-proto": "http",
    }
    # DiagnosticsHandler.cs of dotnet/runtime leaves a caller's alone. ASP.NET Core's activity is not a sampled one.
    joined.setdefault("traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00")
    # HttpForwarder.cs, FixupUpgradeRequestHeaders: taken off above, and put back for WebSockets alone.
    upgrade = ", ".join(values(headers, "upgrade"))
    if asks_for_upgrade(headers) and upgrade.lower() == "websocket":
        joined |= {"connection": "Upgrade", "upgrade": upgrade}
    return list(joined.items())


def as_ascii(headers: Headers) -> list[tuple[bytes, bytes]]:
    """As HttpClient writes them. Raises NotAscii, as HttpConnection.cs (WriteString) throws."""
    try:
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
    except UnicodeEncodeError as error:
        raise NotAscii(error.object) from None


def for_caller(status: int, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """What the caller gets of a response's headers. Raises NotAscii.

    HttpClient reads values as Latin-1; Kestrel takes only what is ASCII and no control character
    (HttpHeaders.cs, ValidateHeaderValueCharacters).
    """
    kept: Headers = []
    for raw_name, raw_value in headers:
        name = raw_name.decode("ascii").lower()
        if name in NOT_FORWARDED or (name == "content-length" and raw_value == b"0" and status in (204, 205)):
            continue
        value = raw_value.decode("latin-1")
        if not all(" " <= character <= "~" or character == "\t" for character in value):
            raise NotAscii(name)
        kept.append((name, value))
    return kept
