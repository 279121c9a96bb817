"""The environment, read once into one frozen `Settings`; every problem is reported at once."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

from shim.origins import OriginPattern

MIB = 1024 * 1024

type Api = Literal["legacy", "v1"]

# Latest GA dated version of the data plane's inference API:
# https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
LATEST_GA_API_VERSION = "2024-10-21"

_APIS: dict[str, Api] = {"legacy": "legacy", "v1": "v1"}

AZURE_RESOURCE_MANAGER_URL = "https://management.azure.com"
APIM_RESOURCE_ID_FORM = (
    "/subscriptions/<id>/resourceGroups/<group>/providers/Microsoft.ApiManagement/service/<name>"
)

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#objects-identifiers-and-versioning
# A secret's name has at most 127 characters, of which a digest takes 64.
_SECRET_PREFIX = re.compile(r"[0-9A-Za-z-]{0,63}")

# https://learn.microsoft.com/azure/azure-resource-manager/management/overview: a service of API Management.
_APIM_RESOURCE_ID = re.compile(
    r"/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.ApiManagement/service/[^/\s]+",
    re.IGNORECASE,
)
# https://learn.microsoft.com/azure/azure-functions/functions-bindings-timer#ncrontab-expressions, with seconds.
_SCHEDULE = re.compile(r"[0-9*/,\-]+( +[0-9A-Za-z*/,\-]+){5}")

# Dedicated and Premium plans set the first, Consumption and Flex Consumption the others.
_SET_ONLY_IN_AZURE = ("WEBSITE_INSTANCE_ID", "WEBSITE_POD_NAME", "WEBSITE_SITE_NAME")


# The site's CORS settings, as the Functions host writes them into the environment on Flex and Linux Consumption
# (azure-functions-host: HostAssignmentContext.ApplyAppSettings, EnvironmentSettingNames).
_PLATFORM_ORIGINS = "CORS_ALLOWED_ORIGINS"
_PLATFORM_CREDENTIALS = "CORS_SUPPORT_CREDENTIALS"
_CORS_LISTS_DIFFER = (
    f"CORS_ORIGINS differs from the platform's own list ({_PLATFORM_ORIGINS}), from which the Functions host answers"
    " preflights on Flex Consumption: make the portal's CORS page and CORS_ORIGINS say the same, or remove CORS_ORIGINS"
)


class SettingsError(Exception):
    """The environment does not describe a shim that could run. `problems` names every fault, no secret.

    The CORS settings are what could be read of them: pages are to see the refusal, not a CORS error in its place.
    """

    def __init__(
        self,
        problems: list[str],
        cors_origins: tuple[OriginPattern, ...] = (),
        cors_credentials: bool = False,
    ) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.cors_origins = cors_origins
        self.cors_credentials = cors_credentials


@dataclass(frozen=True, slots=True)
class Settings:
    """What the shim was told; names and meanings are those of the README's table. Times are in seconds.

    `warnings` are for operators: the shim works, though hardly as they meant it.
    """

    apim_base_url: str
    apim_api: Api
    apim_v1_base_url: str
    apim_api_version: str
    apim_key_header: str
    model_apis: Mapping[str, Api]
    model_deployments: Mapping[str, str]
    models: tuple[str, ...]
    key_vault_url: str | None
    key_lookup: Literal["digest", "scan"]
    key_secret_prefix: str
    key_cache_ttl: float
    key_cache_stale: float
    key_rotation_grace: float
    local_subscription_keys: tuple[tuple[str, str], ...] = field(repr=False)
    cors_origins: tuple[OriginPattern, ...]
    cors_credentials: bool
    cors_max_age: int
    user_token_header: str
    upstream_connect_timeout: float
    upstream_first_byte_timeout: float
    sse_heartbeat: float
    max_body_bytes: int
    azure_client_id: str | None
    readyz_details: bool
    azure_resource_manager_url: str
    apim_resource_id: str | None
    apim_import_schedule: str
    apim_import_products: tuple[str, ...]
    apim_import_apis: tuple[str, ...]
    apim_import_prune: bool
    in_azure: bool
    warnings: tuple[str, ...]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Reads every setting.

        Raises SettingsError with all problems together, since a deployment is a slow way to find them singly.
        """
        read = _Reader(environ)
        in_azure = any(name in environ for name in _SET_ONLY_IN_AZURE)
        base_url = read.url("APIM_BASE_URL", required=True)
        cors = read.cors()
        settings = cls(
            apim_base_url=base_url,
            apim_api=_APIS.get(read.choice("APIM_API", tuple(_APIS), "legacy"), "legacy"),
            apim_v1_base_url=read.url("APIM_V1_BASE_URL") or (base_url and f"{base_url}/v1"),
            apim_api_version=read.matching(
                "APIM_API_VERSION", r"[0-9A-Za-z.-]+", LATEST_GA_API_VERSION, "like 2024-10-21"
            ),
            apim_key_header=read.header_name("APIM_KEY_HEADER", "api-key"),
            model_apis=read.apis("MODEL_APIS"),
            model_deployments=dict(read.pairs("MODEL_DEPLOYMENTS", "model=deployment")),
            models=read.names("MODELS"),
            key_vault_url=read.url("KEY_VAULT_URL", https_only=True) or None,
            key_lookup="scan"
            if read.choice("KEY_LOOKUP", ("digest", "scan"), "digest") == "scan"
            else "digest",
            key_secret_prefix=read.matching(
                "KEY_SECRET_PREFIX",
                _SECRET_PREFIX.pattern,
                "apim-sub-",
                "letters, digits and dashes, at most 63",
            ),
            key_cache_ttl=read.number("KEY_CACHE_TTL", 300, least=1),
            key_cache_stale=read.number("KEY_CACHE_STALE", 3600, least=0),
            key_rotation_grace=read.number("KEY_ROTATION_GRACE", 86400, least=0),
            local_subscription_keys=tuple(read.pairs("LOCAL_SUBSCRIPTION_KEYS", "label=key")),
            cors_origins=cors.origins,
            cors_credentials=cors.credentials,
            cors_max_age=int(read.number("CORS_MAX_AGE", 600, least=0)),
            user_token_header=read.header_name("USER_TOKEN_HEADER", "x-user-authorization"),
            upstream_connect_timeout=read.number("UPSTREAM_CONNECT_TIMEOUT", 5, least=0.1),
            upstream_first_byte_timeout=read.number("UPSTREAM_FIRST_BYTE_TIMEOUT", 220, least=0.1),
            sse_heartbeat=read.number("SSE_HEARTBEAT", 15, least=0),
            max_body_bytes=int(read.number("MAX_BODY_BYTES", 100 * MIB, least=1)),
            azure_client_id=read.text("AZURE_CLIENT_ID") or None,
            readyz_details=read.flag("READYZ_DETAILS"),
            azure_resource_manager_url=read.url("AZURE_RESOURCE_MANAGER_URL", https_only=True)
            or AZURE_RESOURCE_MANAGER_URL,
            apim_resource_id=read.matching(
                "APIM_RESOURCE_ID", _APIM_RESOURCE_ID.pattern + "|", "", f"like {APIM_RESOURCE_ID_FORM}"
            )
            or None,
            apim_import_schedule=read.matching(
                "APIM_IMPORT_SCHEDULE", _SCHEDULE.pattern, "0 */5 * * * *", "six fields like 0 */5 * * * *"
            ),
            apim_import_products=read.names("APIM_IMPORT_PRODUCTS"),
            apim_import_apis=read.names("APIM_IMPORT_APIS"),
            apim_import_prune=read.flag("APIM_IMPORT_PRUNE"),
            in_azure=in_azure,
            warnings=tuple(read.warnings),
        )
        read.problems += settings._contradictions(in_azure)
        if read.problems:
            raise SettingsError(read.problems, settings.cors_origins, settings.cors_credentials)
        return settings

    def _contradictions(self, in_azure: bool) -> list[str]:
        problems = []
        if in_azure and self.local_subscription_keys:
            problems.append(
                "LOCAL_SUBSCRIPTION_KEYS is for running locally and refused in Azure, where app settings are"
                " readable by many: put the keys into Key Vault and set KEY_VAULT_URL"
            )
        if not self.key_vault_url and not self.local_subscription_keys:
            local = "" if in_azure else ", or LOCAL_SUBSCRIPTION_KEYS for running locally"
            problems.append(f"KEY_VAULT_URL is missing: set it to https://<vault>.vault.azure.net{local}")
        if self.key_vault_url and self.local_subscription_keys:
            problems.append("KEY_VAULT_URL and LOCAL_SUBSCRIPTION_KEYS are both set: keep one")
        if self.apim_resource_id and not self.key_vault_url:
            problems.append("APIM_RESOURCE_ID needs KEY_VAULT_URL, where the imported keys are put")
        if self.user_token_header == self.apim_key_header:
            problems.append("USER_TOKEN_HEADER and APIM_KEY_HEADER must differ")
        if self.cors_credentials and any(origin.is_any for origin in self.cors_origins):
            problems.append(
                "CORS_CREDENTIALS=true cannot go with CORS_ORIGINS=*, which browsers refuse: name the origins"
            )
        return problems


@dataclass(frozen=True, slots=True)
class _CorsSettings:
    origins: tuple[OriginPattern, ...]
    credentials: bool


@dataclass(slots=True)
class _Reader:
    """Reads typed values and collects what is wrong with them, in words that never quote a value."""

    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

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

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        fault = f"must be one of {', '.join(choices)}"
        return self._checked(
            name, self.text(name, default).lower(), lambda value: None if value in choices else fault
        )

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
        return self.choice(name, ("true", "false"), "false") == "true"

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
        if any(api.lower() not in _APIS for _, api in pairs):
            self.problems.append(f"{name} must give each model one of {', '.join(_APIS)}")
        return {model: _APIS.get(api.lower(), "legacy") for model, api in pairs}

    def names(self, name: str) -> tuple[str, ...]:
        """`a,b,c`, each once."""
        return tuple(dict.fromkeys(filter(None, (part.strip() for part in self.text(name).split(",")))))

    def cors(self) -> _CorsSettings:
        """Ours where CORS_ORIGINS is set, else what the platform's CORS page says."""
        own = self._origins("CORS_ORIGINS", self.names("CORS_ORIGINS"), self.problems)
        credentials = self.flag("CORS_CREDENTIALS")
        listed = self._platform_list()
        if listed is None:
            return _CorsSettings(own, credentials)
        if own:
            if {origin.text for origin in own} != {text.lower() for text in listed}:
                self.warnings.append(_CORS_LISTS_DIFFER)
            return _CorsSettings(own, credentials)
        # Anything can be written on the CORS page, and the host takes it: what is no origin covers none here.
        platform = self._origins(_PLATFORM_ORIGINS, listed, self.warnings)
        supported = self.text(_PLATFORM_CREDENTIALS).lower() == "true"
        return _CorsSettings(
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
