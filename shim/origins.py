"""Which web origins a configured pattern covers."""

import re
from dataclasses import dataclass
from typing import Self

import idna

# An origin as browsers serialise it (RFC 6454, section 6.2): scheme and host in lower case, no path.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(?P<port>[0-9]{1,5}))?"
)
_PATTERN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<wildcard>\*{1,2}\.)?(?P<host>\[[0-9a-f:.]+\]|[^\s/:?#@*\[\]\\]+)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_FORMS = (
    "https://app.example.com, https://*.example.com, https://**.example.com, http://localhost:*, null or *"
)


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """One entry of CORS_ALLOWED_ORIGINS.

    `*.` stands for exactly one label, as in certificates (RFC 6125, section 6.4.3); `**.` for one or more;
    the port `*` for any port or none. `*` alone is every origin but `null`, which must be named.
    """

    text: str
    scheme: str = ""
    host: str = ""
    port: str | None = None
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
        scheme, wildcard, host, port = match.group("scheme", "wildcard", "host", "port")
        host = _ascii_host(host)
        if wildcard and "." not in host and host != "localhost":
            raise ValueError(
                f"{text!r} would cover a whole top-level domain: name at least two labels after the star"
            )
        if port == _DEFAULT_PORTS.get(scheme):
            port = None  # browsers leave it out
        return cls(text, scheme, host, port, (wildcard or "").rstrip("."))

    def covers(self, origin: str) -> bool:
        """Whether this pattern covers an Origin header, which is compared as it came: browsers send lower case."""
        if self.is_any:
            return origin != "null"
        if self.text == "null":
            return origin == "null"
        match = _ORIGIN.fullmatch(origin)
        return (
            match is not None
            and match["scheme"] == self.scheme
            and (self.port == "*" or match["port"] == self.port)
            and self._covers_host(match["host"])
        )

    def _covers_host(self, host: str) -> bool:
        if not self.wildcard:
            return host == self.host
        # The dot belongs to the comparison: evilcontoso.dev is no subdomain of contoso.dev.
        label = host.removesuffix(f".{self.host}")
        return label != host and (self.wildcard == "**" or "." not in label)


def _ascii_host(host: str) -> str:
    """The host as browsers send it: international names in punycode."""
    if host.startswith("[") or host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f"{host!r} is not a host name") from None
