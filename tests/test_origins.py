"""Which origins a configured pattern covers, and that no trick gets past it.

A pattern that covers one origin too many lets that page call with its visitors' credentials.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from shim.answer.cors import Cors
from shim.settings.origins import OriginPattern

EXACT = "https://app.contoso.dev"
ONE_LABEL = "https://*.contoso.dev"
DEEP = "https://**.contoso.dev"
LOCAL = "http://localhost:*"
PORT = "https://contoso.dev:8443"
IDN = "https://münchen.example"
IPV6 = "http://[0:0:0:0:0:0:0:1]:*"
EXTENSION = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"

YES, NO = True, False

# name, pattern, Origin header, whether it is covered
CASES = [
    ("an exact origin", EXACT, "https://app.contoso.dev", YES),
    ("an exact origin's other scheme", EXACT, "http://app.contoso.dev", NO),
    ("an exact origin's parent", EXACT, "https://contoso.dev", NO),
    ("an exact origin's sibling", EXACT, "https://api.contoso.dev", NO),
    ("an exact origin's subdomain", EXACT, "https://x.app.contoso.dev", NO),
    ("an exact origin with a port", EXACT, "https://app.contoso.dev:8443", NO),
    ("an exact origin with its default port, which browsers leave out", EXACT, "https://app.contoso.dev:443", NO),
    ("an exact origin with an empty port", EXACT, "https://app.contoso.dev:", NO),
    ("an exact origin with a trailing slash", EXACT, "https://app.contoso.dev/", NO),
    ("an exact origin with a path", EXACT, "https://app.contoso.dev/login", NO),
    ("an exact origin with a query", EXACT, "https://app.contoso.dev?x", NO),
    ("an exact origin with a fragment", EXACT, "https://app.contoso.dev#x", NO),
    ("an exact origin with a trailing dot", EXACT, "https://app.contoso.dev.", NO),
    ("a host in upper case", EXACT, "https://APP.contoso.dev", NO),
    ("a scheme in upper case", EXACT, "HTTPS://app.contoso.dev", NO),
    ("the longer domain that begins with it", EXACT, "https://app.contoso.dev.evil.example", NO),
    ("the longer label that ends with it", EXACT, "https://evilapp.contoso.dev", NO),
    ("a hyphen in the place of its dot", EXACT, "https://app-contoso.dev", NO),
    ("any letter in the place of its dot", EXACT, "https://appxcontoso.dev", NO),
    ("it as a user name", EXACT, "https://app.contoso.dev@evil.example", NO),
    ("it behind a user name", EXACT, "https://evil@app.contoso.dev", NO),
    ("it with a newline after", EXACT, "https://app.contoso.dev\n", NO),
    ("it with a space before", EXACT, " https://app.contoso.dev", NO),
    ("it with a NUL after", EXACT, "https://app.contoso.dev\0", NO),
    ("it in a list", EXACT, "https://app.contoso.dev https://evil.example", NO),
    ("it in a list with commas", EXACT, "https://evil.example, https://app.contoso.dev", NO),
    ("it behind a backslash", EXACT, "https://evil.example\\.app.contoso.dev", NO),
    ("it without a scheme", EXACT, "app.contoso.dev", NO),
    ("it relative to a scheme", EXACT, "//app.contoso.dev", NO),
    ("a percent-encoded dot", EXACT, "https://app%2Econtoso.dev", NO),
    ("a full-width dot", EXACT, "https://app\uff0econtoso.dev", NO),
    ("nothing", EXACT, "", NO),
    ("null for an exact origin", EXACT, "null", NO),
    ("a subdomain", ONE_LABEL, "https://team.contoso.dev", YES),
    ("a subdomain with digits and hyphens", ONE_LABEL, "https://pr-42.contoso.dev", YES),
    ("a subdomain in punycode", ONE_LABEL, "https://xn--mnchen-3ya.contoso.dev", YES),
    ("a subdomain with an underscore", ONE_LABEL, "https://a_b.contoso.dev", YES),
    ("the domain itself, with one label", ONE_LABEL, "https://contoso.dev", NO),
    ("two labels under one label", ONE_LABEL, "https://a.b.contoso.dev", NO),
    ("a subdomain's other scheme", ONE_LABEL, "http://team.contoso.dev", NO),
    ("a subdomain with a port", ONE_LABEL, "https://team.contoso.dev:8443", NO),
    ("no dot before the domain", ONE_LABEL, "https://evilcontoso.dev", NO),
    ("a dot and no dot before the domain", ONE_LABEL, "https://a.evilcontoso.dev", NO),
    ("the domain before another", ONE_LABEL, "https://contoso.dev.evil.example", NO),
    ("a subdomain before another domain", ONE_LABEL, "https://team.contoso.dev.evil.example", NO),
    ("a domain named like the pattern's start", ONE_LABEL, "https://evil.example.contoso.dev", NO),
    ("an empty label", ONE_LABEL, "https://.contoso.dev", NO),
    ("the star itself", ONE_LABEL, "https://*.contoso.dev", NO),
    ("a path that ends with the domain", ONE_LABEL, "https://evil.example/.contoso.dev", NO),
    ("a fragment that ends with the domain", ONE_LABEL, "https://evil.example#.contoso.dev", NO),
    ("a port that ends with the domain", ONE_LABEL, "https://evil.example:443.contoso.dev", NO),
    ("a subdomain in upper case", ONE_LABEL, "https://Team.contoso.dev", NO),
    ("one label under deep", DEEP, "https://team.contoso.dev", YES),
    ("two labels under deep", DEEP, "https://a.b.contoso.dev", YES),
    ("five labels under deep", DEEP, "https://a.b.c.d.e.contoso.dev", YES),
    ("the domain itself, under deep", DEEP, "https://contoso.dev", NO),
    ("no dot before the domain, under deep", DEEP, "https://a.evilcontoso.dev", NO),
    ("the domain before another, under deep", DEEP, "https://a.contoso.dev.evil.example", NO),
    ("empty labels under deep", DEEP, "https://a..contoso.dev", NO),
    ("a leading dot under deep", DEEP, "https://.a.contoso.dev", NO),
    ("localhost at a port", LOCAL, "http://localhost:5173", YES),
    ("localhost without a port", LOCAL, "http://localhost", YES),
    ("localhost at the highest port", LOCAL, "http://localhost:65535", YES),
    ("localhost at port 0", LOCAL, "http://localhost:0", YES),
    ("localhost over the highest port", LOCAL, "http://localhost:65536", NO),
    ("localhost at a port with a leading zero", LOCAL, "http://localhost:05173", NO),
    ("localhost at its default port written out", LOCAL, "http://localhost:80", NO),
    ("localhost at the other scheme's default port", LOCAL, "http://localhost:443", YES),
    ("localhost over https", LOCAL, "https://localhost:5173", NO),
    ("localhost by number", LOCAL, "http://127.0.0.1:5173", NO),
    ("localhost as a subdomain", LOCAL, "http://localhost.evil.example:5173", NO),
    ("a word for a port", LOCAL, "http://localhost:evil", NO),
    ("a user name that looks like a port", LOCAL, "http://localhost:80@evil.example", NO),
    ("digits of another script", LOCAL, "http://localhost:٥١٧٣", NO),
    ("a star for a port", LOCAL, "http://localhost:*", NO),
    ("a named port", PORT, "https://contoso.dev:8443", YES),
    ("another port", PORT, "https://contoso.dev:8444", NO),
    ("a longer port", PORT, "https://contoso.dev:84430", NO),
    ("no port", PORT, "https://contoso.dev", NO),
    ("a default port in the pattern", "https://contoso.dev:443", "https://contoso.dev", YES),
    ("a default port in the pattern, another in the header", "http://contoso.dev:80", "http://contoso.dev:8080", NO),
    ("https at http's default port", "https://contoso.dev:80", "https://contoso.dev:80", YES),
    ("leading zeros in the pattern's port", "http://contoso.dev:08080", "http://contoso.dev:8080", YES),
    ("an underscore in the pattern", "https://a_b.contoso.dev", "https://a_b.contoso.dev", YES),
    ("a star for label and port", "http://*.contoso.test:*", "http://a.contoso.test:3000", YES),
    ("a star for label and port, with no label", "http://*.contoso.test:*", "http://contoso.test:3000", NO),
    ("a subdomain of localhost", "http://*.localhost:*", "http://app.localhost:3000", YES),
    ("an upper-case pattern", "HTTPS://App.Contoso.DEV", "https://app.contoso.dev", YES),
    ("an international name, in punycode as sent", IDN, "https://xn--mnchen-3ya.example", YES),
    ("an international name, never as itself", IDN, "https://münchen.example", NO),
    ("an international name in upper case", "https://MÜNCHEN.example", "https://xn--mnchen-3ya.example", YES),
    ("a sharp s, which is no ss", "https://faß.example", "https://xn--fa-hia.example", YES),
    ("a sharp s is not its old mapping", "https://faß.example", "https://fass.example", NO),
    ("a look-alike of an international name", IDN, "https://xn--mnchn-kva.example", NO),
    ("punycode in the pattern", "https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example", YES),
    ("an ideographic full stop in the pattern", "https://例え。example", "https://xn--r8jz45g.example", YES),
    ("a star before an international name", "https://*.münchen.example", "https://a.xn--mnchen-3ya.example", YES),
    ("a Cyrillic look-alike", "https://contoso.dev", "https://xn--contso-qze.dev", NO),
    ("IPv4", "http://127.0.0.1:8080", "http://127.0.0.1:8080", YES),
    ("IPv4 by another spelling", "http://127.0.0.1", "http://127.1", NO),
    ("IPv4 as a decimal number", "http://127.0.0.1", "http://2130706433", NO),
    ("IPv6, shortened as browsers do", IPV6, "http://[::1]:3000", YES),
    ("IPv6, not shortened", IPV6, "http://[0:0:0:0:0:0:0:1]:3000", NO),
    ("IPv4 in IPv6", "http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]", YES),
    ("IPv4 with odd halves in IPv6", "http://[::ffff:1.1.2.3]", "http://[::ffff:101:203]", YES),
    ("full-width letters, which browsers narrow", "https://ｃｏｎｔｏｓｏ.dev", "https://contoso.dev", YES),  # noqa: RUF001
    ("FTP on its own port", "ftp://contoso.dev:21", "ftp://contoso.dev", YES),
    ("a web socket on its own port", "ws://contoso.dev:80", "ws://contoso.dev", YES),
    ("a secure web socket on its own port", "wss://contoso.dev:443", "wss://contoso.dev", YES),
    ("an extension", EXTENSION, EXTENSION, YES),
    ("another extension", EXTENSION, "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba", NO),
    ("an app's web view", "capacitor://localhost", "capacitor://localhost", YES),
    ("null where it is named", "null", "null", YES),
    ("null in upper case, which none sends", "null", "NULL", NO),
    ("an origin where only null is named", "null", "https://app.contoso.dev", NO),
    ("any origin for the star", "*", "https://anything.example:1234", YES),
    ("an extension for the star", "*", EXTENSION, YES),
    ("null for the star, as it must be named", "*", "null", NO),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "header", "covered"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_an_origin_is_covered_or_not(pattern: str, header: str, covered: bool) -> None:
    assert OriginPattern.parse(pattern).covers(header) is covered


def test_the_table_has_its_sixty_cases_each_with_a_name_of_its_own() -> None:
    assert len({name for name, *_ in CASES}) == len(CASES) >= 60


UNUSABLE = {
    "a path": "https://contoso.dev/app",
    "a trailing slash": "https://contoso.dev/",
    "a query": "https://contoso.dev?x",
    "a user name": "https://me@contoso.dev",
    "no scheme": "contoso.dev",
    "no host": "https://",
    "a scheme's star": "*://contoso.dev",
    "a star alone for the host": "https://*",
    "a star within a label": "https://a*.contoso.dev",
    "a star without its dot": "https://*contoso.dev",
    "a star in the middle": "https://a.*.contoso.dev",
    "two stars apart": "https://*.*.contoso.dev",
    "three stars": "https://***.contoso.dev",
    "a top-level domain's subdomains": "https://*.dev",
    "all of a top-level domain": "https://**.dev",
    "an empty label": "https://a..contoso.dev",
    "a leading dot": "https://.contoso.dev",
    "a trailing dot": "https://contoso.dev.",
    "a port over the highest": "https://contoso.dev:65536",
    "a port of many digits": "https://contoso.dev:99999999999999999999",
    "a port of more digits than Python reads": "https://contoso.dev:" + "9" * 5000,
    "a word for a port": "https://contoso.dev:https",
    "an empty port": "https://contoso.dev:",
    "a star before an IPv4 address": "http://*.127.0.0.1",
    "a star before an IPv6 address": "http://*.[::1]",
    "a short IPv4 address": "http://127.1",
    "a hexadecimal IPv4 address": "http://0x7f000001",
    "a high IPv4 address": "http://256.0.0.1",
    "no IPv6 address": "http://[::g]",
    "a broken IPv6 address": "http://[1::2::3]",
    "white space": "https://contoso .dev",
    "a name that cannot be encoded": "https://💩.example",
    "a full-width slash": "https://contoso.dev\uff0fevil",
    "a comma's other half": "https://contoso.dev;https://a.example",
}


@pytest.mark.parametrize("pattern", UNUSABLE.values(), ids=UNUSABLE)
def test_a_pattern_that_could_never_mean_what_it_says_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is not|would cover|puts a star"):
        OriginPattern.parse(pattern)


NEXT_STEPS = {
    "https://contoso.dev/app": (
        "write it like https://app.example.com, https://*.example.com, https://**.example.com,"
        " http://localhost:*, null or *, without a path or a trailing slash"
    ),
    "http://*.127.0.0.1": "which has no subdomains: remove it",
    "https://*.dev": "name at least two labels after the star",
    "https://contoso.dev.": "no empty label, and no dot at its end",
    "http://127.1": "four decimal numbers",
    "https://💩.example": "write it as xn--…",
    "https://contoso.dev:65536": "the highest is 65535",
}


@pytest.mark.parametrize(("pattern", "next_step"), NEXT_STEPS.items())
def test_the_reason_says_how_to_write_it(pattern: str, next_step: str) -> None:
    with pytest.raises(ValueError, match=re.escape(next_step)):
        OriginPattern.parse(pattern)


# The oracle shares nothing with the shim: the standard library takes the URL apart, and lists of labels are compared.
LABELS = ("a", "b", "contoso", "evilcontoso", "dev", "evil", "example", "xn--mnchen-3ya", "localhost")
PORTS = ("", ":0", ":1", ":80", ":443", ":8443", ":65535", ":65536", ":080")
LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
LABELS_BEFORE = {"": range(1), "*.": range(1, 2), "**.": range(1, 1000)}
OWN_PORT = {"http": 80, "https": 443}


class Configured(NamedTuple):
    scheme: str
    wildcard: str
    domain: str
    port: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.wildcard}{self.domain}{self.port}"

    def means(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        labels, domain = (parts.hostname or "").split("."), self.domain.split(".")
        serialised = f"{parts.scheme}://{parts.hostname}" + ("" if port is None else f":{port}")
        configured = None if self.port in ("", f":{OWN_PORT[self.scheme]}") else self.port[1:]
        return (
            serialised == origin
            and parts.scheme == self.scheme
            and port != OWN_PORT[self.scheme]
            and (self.port == ":*" or (None if port is None else str(port)) == configured)
            and labels[-len(domain) :] == domain
            and len(labels) - len(domain) in LABELS_BEFORE[self.wildcard]
            and all(label and LABEL_CHARACTERS.issuperset(label) for label in labels)
        )


def _domains(*lengths: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(LABELS), min_size=min(lengths), max_size=max(lengths)).map(".".join)


def _mangled(origin: str) -> st.SearchStrategy[str]:
    """An origin with a trick put somewhere into it, or in the place of any part of it."""
    at = st.integers(0, len(origin))
    return st.builds(
        lambda trick, start, end: origin[: min(start, end)] + trick + origin[end:],
        st.sampled_from(TRICKS),
        at,
        at,
    )


def _origins_near(configured: Configured) -> st.SearchStrategy[str]:
    """What the pattern means, or the same with one thing changed: or hardly one drawn would be in the set."""
    own_before = {"": "", "*.": "a.", "**.": "a.b."}[configured.wildcard]
    own_port = ":1" if configured.port == ":*" else configured.port

    def origins(*, before: str = own_before, after: str = "", port: str = own_port) -> str:
        return f"{configured.scheme}://{before}{configured.domain}{after}{port}"

    return st.one_of(
        st.just(origins()),
        st.sampled_from(["", "a.", "a.b.", "evil", "a.evil", ".", "a..", "A.", "*."]).map(
            lambda before: origins(before=before)
        ),
        st.sampled_from([".", ".evil.example", "/", "@evil.example", "\\", "\n"]).map(
            lambda after: origins(after=after)
        ),
        st.sampled_from(PORTS).map(lambda port: origins(port=port)),
        _mangled(origins()),
    )


TRICKS = (
    *(
        "",
        " ",
        "\n",
        "\t",
        "\0",
        ".",
        "/",
        "@",
        "#",
        "?",
        ":",
        "\\",
        "*",
        "-",
        "_",
        "A",
        "1",
        "::",
        ":1",
        "%2e",
    ),
    *("evil", ".evil.example", "https://", "\u017f", "\u212a", "\u3002"),
)
schemes = st.sampled_from(["http", "https"])
patterns = st.builds(
    Configured,
    scheme=schemes,
    wildcard=st.sampled_from(["", "*.", "**."]),
    domain=_domains(2, 3),
    port=st.sampled_from(["", ":*", ":1", ":80", ":443", ":8443", ":65535"]),
)
anywhere = st.builds("{}://{}{}".format, schemes, _domains(1, 4), st.sampled_from(PORTS))


@settings(max_examples=500, deadline=None)
@given(configured=st.lists(patterns, min_size=1, max_size=4), data=st.data())
def test_no_origin_outside_the_configured_set_is_allowed(
    configured: list[Configured], data: st.DataObject
) -> None:
    origin = data.draw(_origins_near(configured[0]) | anywhere | anywhere.flatmap(_mangled))
    meant = any(pattern.means(origin) for pattern in configured)
    event("within the configured set" if meant else "outside of it")
    cors = Cors([OriginPattern.parse(str(pattern)) for pattern in configured], credentials=True, max_age=0)
    assert cors.allows(origin) == meant


@given(text=st.text() | st.from_regex(r"https?://[a-z.*:/@\\-]{0,30}", fullmatch=True))
def test_any_text_at_all_is_either_a_pattern_or_refused_with_a_value_error(text: str) -> None:
    try:
        pattern = OriginPattern.parse(text)
    except ValueError:
        return
    # What was taken is what it says: it covers itself where it has no star, and in canonical form.
    if pattern.text not in ("*", "null") and not pattern.wildcard and not pattern.any_port:
        port = "" if pattern.port is None else f":{pattern.port}"
        assert pattern.covers(f"{pattern.scheme}://{pattern.host}{port}")


@given(header=st.text())
def test_no_text_makes_a_pattern_fail(header: str) -> None:
    for pattern in (EXACT, ONE_LABEL, DEEP, LOCAL, IDN, IPV6, "null"):
        OriginPattern.parse(pattern).covers(header)
