"""Which web origins a configured pattern covers. Pure."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Self

_HOST = r"\[[0-9a-f:]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
# https://html.spec.whatwg.org/multipage/browsers.html#ascii-serialisation-of-an-origin
_ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>{_HOST})(?::(?P<port>0|[1-9][0-9]{{0,4}}))?")
# A host here is what a person writes: international, or an address in any of its forms.
_PATTERN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<wildcard>\*{1,2}\.)?(?P<host>\[[0-9a-f:.]+\]|[^\s/:?#@*\[\]\\]+)"
    r"(?::(?P<port>[0-9]+|\*))?"
)
_CANONICAL_HOST = re.compile(_HOST)
# Browsers take a host for an IPv4 address if this is its last label (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"ftp": 21, "http": 80, "https": 443, "ws": 80, "wss": 443}
_HIGHEST_PORT = 65535
_FORMS = (
    "https://app.example.com, https://*.example.com, https://**.example.com, http://localhost:*, null or *"
)


class Origin(NamedTuple):
    """An `Origin` header's scheme, host and port; without a port where it is the scheme's own."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what no browser sends: upper case, a path, a default port, a trailing dot, `null`."""
        match = _ORIGIN.fullmatch(text)
        if match is None:
            return None
        port = None if match["port"] is None else int(match["port"])
        if port is not None and (port > _HIGHEST_PORT or port == _DEFAULT_PORTS.get(match["scheme"])):
            return None
        return cls(match["scheme"], match["host"], port)


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """One entry of CORS_ORIGINS.

    `*.` stands for exactly one label, as in certificates (RFC 6125, section 6.4.3); `**.` for one or more;
    the port `*` for any port or none. `*` alone is every origin but `null`, which must be named.
    """

    text: str
    scheme: str = ""
    host: str = ""
    port: int | None = None
    any_port: bool = False
    wildcard: str = ""

    @property
    def is_any(self) -> bool:
        return self.text == "*"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, in words for the person who wrote the setting."""
        text = text.lower()
        if text in ("*", "null"):
            return cls(text)
        match = _PATTERN.fullmatch(text)
        if not match:
            raise ValueError(
                f"{text!r} is not an origin: write it like {_FORMS}, without a path or a trailing slash"
            )
        scheme, wildcard, port = match["scheme"], (match["wildcard"] or "").rstrip("."), match["port"]
        host = _canonical_host(match["host"])
        if wildcard and _is_address(host):
            raise ValueError(f"{text!r} puts a star before an IP address, which has no subdomains: remove it")
        if wildcard and "." not in host and host != "localhost":
            raise ValueError(
                f"{text!r} would cover a whole top-level domain: name at least two labels after the star"
            )
        if port in (None, "*"):
            return cls(text, scheme, host, None, port == "*", wildcard)
        return cls(text, scheme, host, _canonical_port(scheme, port), False, wildcard)

    def covers(self, header: str) -> bool:
        """Whether this pattern covers an `Origin` header, which is compared as it came: browsers send lower case."""
        if self.is_any:
            return header != "null"
        if self.text == "null":
            return header == "null"
        origin = Origin.parse(header)
        return (
            origin is not None
            and origin.scheme == self.scheme
            and (self.any_port or origin.port == self.port)
            and self._covers_host(origin.host)
        )

    def _covers_host(self, host: str) -> bool:
        if not self.wildcard:
            return host == self.host
        # The dot belongs to the comparison: evilcontoso.dev is no subdomain of contoso.dev.
        labels = host.removesuffix(f".{self.host}")
        return labels != host and (self.wildcard == "**" or "." not in labels)


def _canonical_host(host: str) -> str:
    """The host as browsers send it: international names in punycode, IPv6 addresses at their shortest."""
    if host.startswith("["):
        return _canonical_ipv6(host)
    if not host.isascii():
        host = _punycode(host)
    if not _CANONICAL_HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name: no empty label, and no dot at its end")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        _require_ipv4(host)
    return host


def _canonical_ipv6(host: str) -> str:
    try:
        address = IPv6Address(host[1:-1])
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None
    if address.ipv4_mapped:
        # Python writes these with dots, browsers do not.
        return f"[::ffff:{int(address) >> 16 & 0xFFFF:x}:{int(address) & 0xFFFF:x}]"
    return f"[{address}]"


def _require_ipv4(host: str) -> None:
    try:
        IPv4Address(host)
    except ValueError:
        raise ValueError(
            f"{host!r} is not an IPv4 address as browsers write it: four decimal numbers"
        ) from None


def _punycode(host: str) -> str:
    import idna  # few have such names, and a start without it is shorter

    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f"{host!r} is not a host name that could be encoded: write it as xn--…") from None


def _canonical_port(scheme: str, text: str) -> int | None:
    port = int(text[:10])
    if port > _HIGHEST_PORT:
        raise ValueError(f"{text!r} is not a port: the highest is {_HIGHEST_PORT}")
    return None if port == _DEFAULT_PORTS.get(scheme) else port  # browsers leave it out


def _is_address(host: str) -> bool:
    return host.startswith("[") or bool(_NUMBER.fullmatch(host.rpartition(".")[2]))
