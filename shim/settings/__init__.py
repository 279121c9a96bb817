"""The environment, read once into one frozen `Settings`; every problem is reported at once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from shim.settings.origins import OriginPattern
from shim.settings.reader import APIS, Api, Reader
from shim.settings.retirement import NOT_RETIRING, Retirement, read_retirement

__all__ = ["Api", "LogCalls", "Settings", "SettingsError", "names_in"]

MIB = 1024 * 1024
# The host refuses a larger body itself, with an empty 500 (azure-functions-host, EnvironmentSettingNames). Ours is
# below its default, so that callers get a 413 that says why.
_HOSTS_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"
_MAX_BODY_BYTES = 96 * MIB
_BODY_LIMIT_HIDDEN = (
    f"MAX_BODY_BYTES is not below the Functions host's own limit ({_HOSTS_BODY_LIMIT}, 104857600 bytes by default):"
    " between the two, callers get the host's empty 500 in place of a 413"
)

# Latest GA dated version of the data plane's inference API:
# https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
LATEST_GA_API_VERSION = "2024-10-21"

AZURE_RESOURCE_MANAGER_URL = "https://management.azure.com"
APIM_RESOURCE_ID_FORM = (
    "/subscriptions/<id>/resourceGroups/<group>/providers/Microsoft.ApiManagement/service/<name>"
)

# https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#objects-identifiers-and-versioning
# A secret's name has at most 127 characters, of which a digest takes 64.
_NAME_PREFIX = r"[0-9A-Za-z-]{0,63}"

# https://learn.microsoft.com/azure/azure-resource-manager/management/overview: a service of API Management.
_APIM_RESOURCE_ID = (
    r"(?i:/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.ApiManagement/service/[^/\s]+)|"
)
# https://learn.microsoft.com/azure/azure-functions/functions-bindings-timer#ncrontab-expressions, with seconds.
_SCHEDULE = r"[0-9*/,\-]+( +[0-9A-Za-z*/,\-]+){5}"

type LogCalls = Literal["all", "errors", "none"]

# Of OpenTelemetry's samplers those that need no argument and drop nothing on their own.
type Sampler = Literal["parentbased_always_on", "always_on"]

_SAMPLERS: dict[str, Sampler] = {"parentbased_always_on": "parentbased_always_on", "always_on": "always_on"}

# The name under which azure-monitor-opentelemetry-exporter registers itself (opentelemetry_traces_exporter).
AZURE_MONITOR_TRACES = "azure_monitor_opentelemetry_exporter"
_TRACES_EXPORTERS = ("otlp", AZURE_MONITOR_TRACES)
_HOST_SAMPLES_NOTHING = (
    "OTEL_TRACES_SAMPLER is not set, so that callers decide which calls are traced, and the Functions host decides for"
    " those that send no traceparent: not to. Set always_on to trace every call, or parentbased_always_on to keep it so"
)

_LOG_CALLS: dict[str, LogCalls] = {"all": "all", "errors": "errors", "none": "none"}

# Dedicated and Premium plans set the first, Consumption and Flex Consumption the others.
_SET_ONLY_IN_AZURE = ("WEBSITE_INSTANCE_ID", "WEBSITE_POD_NAME", "WEBSITE_SITE_NAME")


class SettingsError(Exception):
    """The environment does not describe a shim that could run. `problems` names every fault, no secret.

    The CORS settings are what could be read of them: pages are to see the refusal, not a CORS error in its place.
    So with what has been announced of the shim's end, which holds whether or not the shim works.
    """

    def __init__(
        self,
        problems: list[str],
        cors_origins: tuple[OriginPattern, ...] = (),
        cors_credentials: bool = False,
        retirement: Retirement = NOT_RETIRING,
    ) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.cors_origins = cors_origins
        self.cors_credentials = cors_credentials
        self.retirement = retirement


def names_in(texts: Iterable[str]) -> list[str]:
    """The settings that problems or warnings are about, sorted. Each text begins with a name, or with `NAME=value`.

    Anybody may see these: a name gives nothing away, unlike a value.
    """
    return sorted({text.split()[0].rstrip(":").partition("=")[0] for text in texts})


def _setting(read: Callable[[Reader], object], *, secret: bool = False) -> Any:
    """How a setting is read; one that is `secret` stays out of `repr`."""
    return field(metadata={"read": read}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the shim was told; docs/settings.md says what each means. Times are in seconds.

    `warnings` are for operators: the shim works, though hardly as they meant it.
    """

    apim_base_url: str = _setting(lambda read: read.url("APIM_BASE_URL", required=True))
    apim_api: Api = _setting(lambda read: read.choice("APIM_API", APIS, "legacy"))
    apim_v1_base_url: str = _setting(lambda read: read.url("APIM_V1_BASE_URL") or _v1_of(read))
    apim_api_version: str = _setting(
        lambda read: read.matching(
            "APIM_API_VERSION", r"[0-9A-Za-z.-]+", LATEST_GA_API_VERSION, "like 2024-10-21"
        )
    )
    apim_key_header: str = _setting(lambda read: read.header_name("APIM_KEY_HEADER", "api-key"))
    model_apis: Mapping[str, Api] = _setting(lambda read: read.apis("MODEL_APIS"))
    model_deployments: Mapping[str, str] = _setting(
        lambda read: dict(read.pairs("MODEL_DEPLOYMENTS", "model=deployment"))
    )
    models: tuple[str, ...] = _setting(lambda read: read.names("MODELS"))

    key_vault_url: str | None = _setting(lambda read: read.url("KEY_VAULT_URL", https_only=True) or None)
    key_lookup: Literal["digest", "scan"] = _setting(
        lambda read: read.choice("KEY_LOOKUP", {"digest": "digest", "scan": "scan"}, "digest")
    )
    key_secret_prefix: str = _setting(
        lambda read: read.matching(
            "KEY_SECRET_PREFIX", _NAME_PREFIX, "apim-sub-", "letters, digits and dashes, at most 63"
        )
    )
    key_cache_ttl: float = _setting(lambda read: read.number("KEY_CACHE_TTL", 300, least=1))
    key_cache_stale: float = _setting(lambda read: read.number("KEY_CACHE_STALE", 3600, least=0))
    key_rotation_grace: float = _setting(lambda read: read.number("KEY_ROTATION_GRACE", 86400, least=0))
    local_subscription_keys: tuple[tuple[str, str], ...] = _setting(
        lambda read: tuple(read.pairs("LOCAL_SUBSCRIPTION_KEYS", "label=key")), secret=True
    )

    cors_origins: tuple[OriginPattern, ...] = _setting(lambda read: read.cors.origins)
    cors_credentials: bool = _setting(lambda read: read.cors.credentials)
    cors_max_age: int = _setting(lambda read: int(read.number("CORS_MAX_AGE", 600, least=0)))
    user_token_header: str = _setting(
        lambda read: read.header_name("USER_TOKEN_HEADER", "x-user-authorization")
    )

    upstream_connect_timeout: float = _setting(
        lambda read: read.number("UPSTREAM_CONNECT_TIMEOUT", 5, least=0.1)
    )
    upstream_first_byte_timeout: float = _setting(
        lambda read: read.number("UPSTREAM_FIRST_BYTE_TIMEOUT", 220, least=0.1)
    )
    upstream_idle_timeout: float = _setting(lambda read: read.number("UPSTREAM_IDLE_TIMEOUT", 300, least=0))
    upstream_transport: Literal["shim", "httpx"] = _setting(
        lambda read: read.choice("UPSTREAM_TRANSPORT", {"shim": "shim", "httpx": "httpx"}, "shim")
    )
    sse_heartbeat: float = _setting(lambda read: read.number("SSE_HEARTBEAT", 15, least=0))
    max_body_bytes: int = _setting(lambda read: int(read.number("MAX_BODY_BYTES", _MAX_BODY_BYTES, least=1)))

    azure_client_id: str | None = _setting(lambda read: read.text("AZURE_CLIENT_ID") or None)
    readyz_details: bool = _setting(lambda read: read.flag("READYZ_DETAILS"))
    log_calls: LogCalls = _setting(lambda read: read.choice("LOG_CALLS", _LOG_CALLS, "errors"))
    # Names of OpenTelemetry's and of Azure Monitor's own, with their meanings:
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    applicationinsights_connection_string: str | None = _setting(
        lambda read: read.text("APPLICATIONINSIGHTS_CONNECTION_STRING") or None, secret=True
    )
    otel_exporter_otlp_endpoint: str | None = _setting(
        lambda read: (
            read.text("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
            or read.text("OTEL_EXPORTER_OTLP_ENDPOINT")
            or None
        ),
        secret=True,
    )
    otel_metrics_temporality: Literal["cumulative", "delta"] = _setting(
        lambda read: read.choice(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            {"cumulative": "cumulative", "delta": "delta", "lowmemory": "delta"},
            "cumulative",
        )
    )
    otel_metric_export_interval: float = _setting(
        lambda read: read.number("OTEL_METRIC_EXPORT_INTERVAL", 60_000, least=10) / 1000
    )
    otel_traces_exporters: tuple[str, ...] = _setting(lambda read: _traces_exporters(read))
    otel_exporter_otlp_traces_endpoint: str | None = _setting(
        lambda read: (
            read.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            or read.text("OTEL_EXPORTER_OTLP_ENDPOINT")
            or None
        ),
        secret=True,
    )
    otel_traces_sampler: Sampler = _setting(
        lambda read: read.choice("OTEL_TRACES_SAMPLER", _SAMPLERS, "parentbased_always_on")
    )
    otel_bsp_schedule_delay: float = _setting(
        lambda read: read.number("OTEL_BSP_SCHEDULE_DELAY", 5_000, least=10) / 1000
    )
    otel_sdk_disabled: bool = _setting(lambda read: read.flag("OTEL_SDK_DISABLED"))
    azure_resource_manager_url: str = _setting(
        lambda read: read.url("AZURE_RESOURCE_MANAGER_URL", https_only=True) or AZURE_RESOURCE_MANAGER_URL
    )
    apim_resource_id: str | None = _setting(
        lambda read: (
            read.matching("APIM_RESOURCE_ID", _APIM_RESOURCE_ID, "", f"like {APIM_RESOURCE_ID_FORM}") or None
        )
    )
    apim_import_schedule: str = _setting(
        lambda read: read.matching(
            "APIM_IMPORT_SCHEDULE", _SCHEDULE, "0 */5 * * * *", "six fields like 0 */5 * * * *"
        )
    )
    apim_import_products: tuple[str, ...] = _setting(lambda read: read.names("APIM_IMPORT_PRODUCTS"))
    apim_import_apis: tuple[str, ...] = _setting(lambda read: read.names("APIM_IMPORT_APIS"))
    apim_import_prune: bool = _setting(lambda read: read.flag("APIM_IMPORT_PRUNE"))

    retirement: Retirement = _setting(read_retirement)

    in_azure: bool = _setting(lambda read: any(name in read.environ for name in _SET_ONLY_IN_AZURE))
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Reads every setting.

        Raises SettingsError with all problems together, since a deployment is a slow way to find them singly.
        """
        read = Reader(environ)
        values = {one.name: one.metadata["read"](read) for one in fields(cls) if "read" in one.metadata}
        settings = cls(**values)
        read.problems += settings._contradictions()
        if settings.max_body_bytes >= read.number(_HOSTS_BODY_LIMIT, 100 * MIB, least=0):
            read.warnings.append(_BODY_LIMIT_HIDDEN)
        if settings.otel_traces_exporters and not read.text("OTEL_TRACES_SAMPLER"):
            read.warnings.append(_HOST_SAMPLES_NOTHING)
        if read.problems:
            raise SettingsError(
                read.problems, settings.cors_origins, settings.cors_credentials, settings.retirement
            )
        return replace(settings, warnings=tuple(read.warnings))

    def _contradictions(self) -> list[str]:
        problems, in_azure = [], self.in_azure
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
        if "otlp" in self.otel_traces_exporters and not self.otel_exporter_otlp_traces_endpoint:
            problems.append(
                "OTEL_TRACES_EXPORTER names otlp: set OTEL_EXPORTER_OTLP_ENDPOINT to its receiver"
            )
        connection = self.applicationinsights_connection_string
        if AZURE_MONITOR_TRACES in self.otel_traces_exporters and not connection:
            problems.append(
                "OTEL_TRACES_EXPORTER names Azure Monitor: set APPLICATIONINSIGHTS_CONNECTION_STRING"
            )
        if self.user_token_header == self.apim_key_header:
            problems.append("USER_TOKEN_HEADER and APIM_KEY_HEADER must differ")
        if self.cors_credentials and any(origin.is_any for origin in self.cors_origins):
            problems.append(
                "CORS_CREDENTIALS=true cannot go with CORS_ORIGINS=*, which browsers refuse: name the origins"
            )
        return problems


def _v1_of(read: Reader) -> str:
    """Where Azure OpenAI has its v1 API: below the base of the dated one."""
    base = read.text("APIM_BASE_URL").rstrip("/")
    return f"{base}/v1" if base else ""


def _traces_exporters(read: Reader) -> tuple[str, ...]:
    named = tuple(name.lower() for name in read.names("OTEL_TRACES_EXPORTER"))
    if named == ("none",):
        return ()
    if not set(named) <= set(_TRACES_EXPORTERS):
        read.problems.append(
            f"OTEL_TRACES_EXPORTER must be none, or a list of {' and '.join(_TRACES_EXPORTERS)}"
        )
        return ()
    return named
