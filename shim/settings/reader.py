"""Typed values out of the environment, and all that is wrong with them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from shim.settings.origins import OriginPattern

type Api = Literal["legacy", "v1"]

APIS: dict[str, Api] = {"legacy": "legacy", "v1": "v1"}

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The site's CORS settings, as the Functions host writes them into the environment on Flex and Linux Consumption
# (azure-functions-host: HostAssignmentContext.ApplyAppSettings, EnvironmentSettingNames).
_PLATFORM_ORIGINS = "CORS_ALLOWED_ORIGINS"
_PLATFORM_CREDENTIALS = "CORS_SUPPORT_CREDENTIALS"
_CORS_LISTS_DIFFER = (
    f"CORS_ORIGINS differs from the platform's own list ({_PLATFORM_ORIGINS}), from which the Functions host answers"
    " preflights on Flex Consumption: make the portal's CORS page and CORS_ORIGINS say the same, or remove CORS_ORIGINS"
)


class CorsSettings(NamedTuple):
    origins: tuple[OriginPattern, ...]
    credentials: bool


class Reader:
    """Reads typed values and collects what is wrong with them, in words that never quote a value."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self.environ.get(name, "").strip() or default

    def url(self, name: str, *, required: bool = False, https_only: bool = False) -> str:
        value = self.text(name)
        if not value:
            if required:
                self.problems.append(
                    f"{name} is missing: set it to the base URL of the APIM API,"
                    " like https://contoso.azure-api.net/my-openai-api/openai"
                )
            return value
        return self._checked(name, value.rstrip("/"), lambda url: _url_fault(url, https_only))

    def choice[Choice](self, name: str, choices: Mapping[str, Choice], default: str) -> Choice:
        value = self.text(name, default).lower()
        if value not in choices:
            self.problems.append(f"{name} must be one of {', '.join(choices)}")
            value = default
        return choices[value]

    def matching(self, name: str, pattern: str, default: str, meaning: str) -> str:
        return self._checked(
            name,
            self.text(name, default),
            lambda value: None if re.fullmatch(pattern, value) else f"must be {meaning}",
        )

    def header_name(self, name: str, default: str) -> str:
        return self.matching(name, _TOKEN.pattern, default, "the name of a header").lower()

    def number(self, name: str, default: float, *, least: float) -> float:
        try:
            value = float(self.text(name, str(default)))
        except ValueError:
            value = float("nan")
        if not least <= value < float("inf"):
            self.problems.append(f"{name} must be a number, {least:g} or more")
            return default
        return value

    def flag(self, name: str) -> bool:
        return self.choice(name, {"true": True, "false": False}, "false")

    def pairs(self, name: str, form: str) -> list[tuple[str, str]]:
        """`a=b,c=d`. The first `=` divides, so that keys in base64 keep their padding."""
        found = []
        for item in filter(None, (part.strip() for part in self.text(name).split(","))):
            left, divider, right = (part.strip() for part in item.partition("="))
            if not (left and divider and right):
                self.problems.append(f"{name} must be a list like {form},…")
                return []
            found.append((left, right))
        if len({left for left, _ in found}) < len(found):
            self.problems.append(f"{name} names something twice")
        return found

    def apis(self, name: str) -> dict[str, Api]:
        pairs = self.pairs(name, "model=v1")
        if any(api.lower() not in APIS for _, api in pairs):
            self.problems.append(f"{name} must give each model one of {', '.join(APIS)}")
        return {model: APIS.get(api.lower(), "legacy") for model, api in pairs}

    def names(self, name: str) -> tuple[str, ...]:
        """`a,b,c`, each once."""
        return tuple(dict.fromkeys(filter(None, (part.strip() for part in self.text(name).split(",")))))

    @cached_property
    def cors(self) -> CorsSettings:
        """Ours where CORS_ORIGINS is set, else what the platform's CORS page says."""
        own = self._origins("CORS_ORIGINS", self.names("CORS_ORIGINS"), self.problems)
        credentials = self.flag("CORS_CREDENTIALS")
        listed = self._platform_list()
        if listed is None:
            return CorsSettings(own, credentials)
        if own:
            if {origin.text for origin in own} != {text.lower() for text in listed}:
                self.warnings.append(_CORS_LISTS_DIFFER)
            return CorsSettings(own, credentials)
        # Anything can be written on the CORS page, and the host takes it: what is no origin covers none here.
        platform = self._origins(_PLATFORM_ORIGINS, listed, self.warnings)
        supported = self.text(_PLATFORM_CREDENTIALS).lower() == "true"
        return CorsSettings(
            platform, credentials or (supported and not any(origin.is_any for origin in platform))
        )

    def _platform_list(self) -> tuple[str, ...] | None:
        """The site's own list, None where the platform keeps none; read as HostCorsOptionsSetup reads it."""
        text = self.text(_PLATFORM_ORIGINS)
        if not text:
            return None
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(origin, str) for origin in listed):
            return tuple(listed)
        self.problems.append(
            f"{_PLATFORM_ORIGINS} is the platform's own variable and must be a JSON array:"
            " remove it, and name the origins in CORS_ORIGINS"
        )
        return None

    def _origins(self, name: str, texts: Iterable[str], faults: list[str]) -> tuple[OriginPattern, ...]:
        origins = []
        for text in texts:
            try:
                origins.append(OriginPattern.parse(text))
            except ValueError as error:
                faults.append(f"{name}: {error}")
        return tuple(origins)

    def _checked(self, name: str, value: str, fault_of: Callable[[str], str | None]) -> str:
        if fault := fault_of(value):
            self.problems.append(f"{name} {fault}")
        return value


def _url_fault(url: str, https_only: bool) -> str | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        return "is not a URL"
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.scheme not in ("https", "http"):
        return "must be a URL like https://host/path"
    if parts.scheme == "http" and (https_only or not local):
        return "must begin with https://, since keys travel to it"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or a password"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    if not url.isascii() or re.search(r"[\s\\]|/\.{1,2}(/|$)|//", parts.path):
        return "must have a plain ASCII path, without '..' or '//'"
    return None
