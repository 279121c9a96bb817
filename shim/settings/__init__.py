"""The environment, read once into one frozen `Settings`; every problem is reported at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from shim.settings.origins import OriginPattern
from shim.settings.reader import APIS, Api, Reader

__all__ = ["Api", "Settings", "SettingsError"]

MIB = 1024 * 1024
# The host refuses a larger body itself, with an empty 500 (azure-functions-host, EnvironmentSettingNames). Ours is
# below its default, so that callers get a 413 that says why.
_HOSTS_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"
_MAX_BODY_BYTES = 96 * MIB

# Latest GA dated version of the data plane's inference API:
# https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
LATEST_GA_API_VERSION = "2024-10-21"

AZURE_RESOURCE_MANAGER_URL = "https://management.azure.com"
APIM_RESOURCE_ID_FORM = (
    "/subscriptions/<id>/resourceGroups/<group>/providers/Microsoft.ApiManagement/service/<name>"
)

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
    """What the shim was told; names and meanings are those of docs/settings.md. Times are in seconds.

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
    upstream_idle_timeout: float
    upstream_transport: Literal["shim", "httpx"]
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
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Reads every setting.

        Raises SettingsError with all problems together, since a deployment is a slow way to find them singly.
        """
        read = Reader(environ)
        in_azure = any(name in environ for name in _SET_ONLY_IN_AZURE)
        base_url = read.url("APIM_BASE_URL", required=True)
        cors = read.cors()
        settings = cls(
            apim_base_url=base_url,
            apim_api=APIS.get(read.choice("APIM_API", tuple(APIS), "legacy"), "legacy"),
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
            upstream_idle_timeout=read.number("UPSTREAM_IDLE_TIMEOUT", 300, least=0),
            upstream_transport="httpx"
            if read.choice("UPSTREAM_TRANSPORT", ("shim", "httpx"), "shim") == "httpx"
            else "shim",
            sse_heartbeat=read.number("SSE_HEARTBEAT", 15, least=0),
            max_body_bytes=int(read.number("MAX_BODY_BYTES", _MAX_BODY_BYTES, least=1)),
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
        )
        read.problems += settings._contradictions(in_azure)
        if settings.max_body_bytes >= read.number(_HOSTS_BODY_LIMIT, 100 * MIB, least=0):
            read.warnings.append(
                f"MAX_BODY_BYTES is not below the Functions host's own limit ({_HOSTS_BODY_LIMIT}, 104857600 bytes by"
                " default): between the two, callers get the host's empty 500 in place of a 413"
            )
        if read.problems:
            raise SettingsError(read.problems, settings.cors_origins, settings.cors_credentials)
        return replace(settings, warnings=tuple(read.warnings))

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
