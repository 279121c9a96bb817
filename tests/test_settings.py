"""The environment becomes settings, or a list of everything that is wrong with it.

A deployment is a slow way to find faults one at a time, and a fault that is not found starts a shim nobody meant.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields

import pytest

from shim.settings import Settings, SettingsError, names_in
from shim.settings.retirement import Retirement
from tests.conftest import KEY, ROOT

LEAST = {
    "APIM_BASE_URL": "https://contoso.azure-api.net/ai/openai/",
    "KEY_VAULT_URL": "https://v.vault.azure.net",
}


def settings(**more: str) -> Settings:
    return Settings.from_environment({**LEAST, **more})


def problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(environ)
    return raised.value.problems


def test_two_settings_are_enough() -> None:
    least = settings()
    assert least.apim_base_url == "https://contoso.azure-api.net/ai/openai"
    assert least.apim_v1_base_url == "https://contoso.azure-api.net/ai/openai/v1"
    assert (least.apim_api, least.apim_key_header, least.key_secret_prefix) == (
        "legacy",
        "api-key",
        "apim-sub-",
    )
    assert (least.key_cache_ttl, least.key_cache_stale) == (300, 3600)
    assert (least.upstream_connect_timeout, least.upstream_first_byte_timeout) == (5, 220)
    assert (least.sse_heartbeat, least.max_body_bytes) == (15, 100_663_296)
    assert least.cors_origins == ()


DEFAULTS: dict[str, object] = {
    "apim_base_url": "https://contoso.azure-api.net/ai/openai",
    "apim_api": "legacy",
    "apim_v1_base_url": "https://contoso.azure-api.net/ai/openai/v1",
    "apim_api_version": "2024-10-21",
    "apim_key_header": "api-key",
    "model_apis": {},
    "model_deployments": {},
    "models": (),
    "key_vault_url": "https://v.vault.azure.net",
    "key_lookup": "digest",
    "key_secret_prefix": "apim-sub-",
    "key_cache_ttl": 300,
    "key_cache_stale": 3600,
    "key_rotation_grace": 86400,
    "local_subscription_keys": (),
    "cors_origins": (),
    "cors_credentials": False,
    "cors_max_age": 600,
    "user_token_header": "x-user-authorization",
    "upstream_connect_timeout": 5,
    "upstream_first_byte_timeout": 220,
    "upstream_idle_timeout": 300,
    "upstream_transport": "shim",
    "sse_heartbeat": 15,
    "max_body_bytes": 100_663_296,
    "azure_client_id": None,
    "readyz_details": False,
    "log_calls": "errors",
    "applicationinsights_connection_string": None,
    "otel_exporter_otlp_endpoint": None,
    "otel_metrics_temporality": "cumulative",
    "otel_metric_export_interval": 60,
    "otel_traces_exporters": (),
    "otel_exporter_otlp_traces_endpoint": None,
    "otel_traces_sampler": "parentbased_always_on",
    "otel_bsp_schedule_delay": 5,
    "otel_sdk_disabled": False,
    "azure_resource_manager_url": "https://management.azure.com",
    "apim_resource_id": None,
    "apim_import_schedule": "0 */5 * * * *",
    "apim_import_products": (),
    "apim_import_apis": (),
    "apim_import_prune": False,
    "retirement": Retirement(None, None, "", False, None),
    "in_azure": False,
    "warnings": (),
}


def test_each_setting_has_the_default_that_the_documents_promise() -> None:
    least = settings()
    assert {one.name: getattr(least, one.name) for one in fields(Settings)} == DEFAULTS


def test_an_empty_setting_is_one_that_is_not_set() -> None:
    assert settings(APIM_API="", KEY_CACHE_TTL=" ", AZURE_CLIENT_ID="") == settings()


# Name, default and least value, as docs/settings.md has them, and a value that is too small.
NUMBERS = [
    ("KEY_CACHE_TTL", 300, "1", "0.99"),
    ("KEY_CACHE_STALE", 3600, "0", "-0.01"),
    ("KEY_ROTATION_GRACE", 86400, "0", "-0.01"),
    ("CORS_MAX_AGE", 600, "0", "-1"),
    ("UPSTREAM_CONNECT_TIMEOUT", 5, "0.1", "0.09"),
    ("UPSTREAM_FIRST_BYTE_TIMEOUT", 220, "0.1", "0.09"),
    ("UPSTREAM_IDLE_TIMEOUT", 300, "0", "-0.01"),
    ("SSE_HEARTBEAT", 15, "0", "-0.01"),
    ("MAX_BODY_BYTES", 96 * 1024 * 1024, "1", "0"),
]


@pytest.mark.parametrize(("name", "default", "least", "less"), NUMBERS, ids=[number[0] for number in NUMBERS])
def test_a_number_has_a_default_and_may_be_the_least_that_it_can_be(
    name: str, default: float, least: str, less: str
) -> None:
    assert getattr(settings(), name.lower()) == default
    assert getattr(settings(**{name: least}), name.lower()) == float(least)
    assert problems({**LEAST, name: less}) == [f"{name} must be a number, {least} or more"]


def test_the_export_interval_is_in_milliseconds_outside_and_in_seconds_inside() -> None:
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#periodic-exporting-metricreader
    assert settings().otel_metric_export_interval == 60
    assert settings(OTEL_METRIC_EXPORT_INTERVAL="10").otel_metric_export_interval == 0.01
    assert problems({**LEAST, "OTEL_METRIC_EXPORT_INTERVAL": "9"})


@pytest.mark.parametrize(
    ("name", "attribute", "value", "default"),
    [
        ("AZURE_CLIENT_ID", "azure_client_id", "00000000-0000-0000-0000-000000000000", None),
        (
            "APPLICATIONINSIGHTS_CONNECTION_STRING",
            "applicationinsights_connection_string",
            "InstrumentationKey=1",
            None,
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel_exporter_otlp_endpoint", "http://localhost:4318", None),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otel_exporter_otlp_endpoint", "http://localhost:9", None),
        (
            "AZURE_RESOURCE_MANAGER_URL",
            "azure_resource_manager_url",
            "https://management.chinacloudapi.cn",
            "https://management.azure.com",
        ),
        (
            "APIM_RESOURCE_ID",
            "apim_resource_id",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/contoso",
            None,
        ),
    ],
)
def test_a_text_is_kept_as_it_is_given(name: str, attribute: str, value: str, default: str | None) -> None:
    assert getattr(settings(**{name: value}), attribute) == value
    assert getattr(settings(), attribute) == default


def test_the_endpoint_for_metrics_goes_before_the_one_for_everything() -> None:
    both = settings(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:1",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://localhost:2",
    )
    assert both.otel_exporter_otlp_endpoint == "http://localhost:2"


def test_lists_are_read_with_spaces_and_padding() -> None:
    read = Settings.from_environment(
        {
            "APIM_BASE_URL": "https://a.example/openai",
            "MODEL_DEPLOYMENTS": " gpt-4o = my-gpt , o3=reasoner ",
            "LOCAL_SUBSCRIPTION_KEYS": "team-a=c2VjcmV0==,team-b=x",
        }
    )
    assert read.model_deployments == {"gpt-4o": "my-gpt", "o3": "reasoner"}
    assert read.local_subscription_keys == (("team-a", "c2VjcmV0=="), ("team-b", "x"))
    assert read.key_vault_url is None


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        {
            "APIM_API": "v2",
            "APIM_KEY_HEADER": "not a header",
            "MODEL_DEPLOYMENTS": "gpt-4o",
            "KEY_CACHE_TTL": "soon",
            "CORS_ORIGINS": "https://a.example/path",
            "CORS_CREDENTIALS": "perhaps",
        }
    )
    named = {re.split("[ :]", problem)[0] for problem in found}
    assert named == {
        "APIM_BASE_URL", "APIM_API", "APIM_KEY_HEADER", "MODEL_DEPLOYMENTS", "KEY_CACHE_TTL",
        "CORS_ORIGINS", "CORS_CREDENTIALS", "KEY_VAULT_URL",
    }  # fmt: skip


@pytest.mark.parametrize(("given", "seconds"), [(None, 5), ("10", 0.01), ("1234", 1.234)])
def test_spans_wait_milliseconds_as_opentelemetry_counts_them(given: str | None, seconds: float) -> None:
    shim = Settings.from_environment({**LEAST, **({"OTEL_BSP_SCHEDULE_DELAY": given} if given else {})})
    assert shim.otel_bsp_schedule_delay == seconds


def test_spans_may_go_to_every_receiver_and_wait_ten_milliseconds_at_least() -> None:
    both = {"OTEL_TRACES_EXPORTER": "otlp,azure_monitor_opentelemetry_exporter"}
    assert not [fault for fault in problems({**LEAST, **both}) if "OTEL_TRACES_EXPORTER must" in fault]
    (fault,) = problems({**LEAST, "OTEL_BSP_SCHEDULE_DELAY": "9"})
    assert "10 or more" in fault


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("APIM_API", "V1", "apim_api", "v1"),
        ("APIM_API_VERSION", "2025-04-01-preview", "apim_api_version", "2025-04-01-preview"),
        ("APIM_KEY_HEADER", "Ocp-Apim-Subscription-Key", "apim_key_header", "ocp-apim-subscription-key"),
        ("USER_TOKEN_HEADER", "X-User-Token", "user_token_header", "x-user-token"),
        ("APIM_V1_BASE_URL", "https://v1.example/ai/", "apim_v1_base_url", "https://v1.example/ai"),
        ("KEY_VAULT_URL", " https://v.example/ ", "key_vault_url", "https://v.example"),
        ("KEY_LOOKUP", "Scan", "key_lookup", "scan"),
        ("KEY_SECRET_PREFIX", "Team-A-0-", "key_secret_prefix", "Team-A-0-"),
        ("KEY_SECRET_PREFIX", "p" * 63, "key_secret_prefix", "p" * 63),
        ("CORS_MAX_AGE", "77.9", "cors_max_age", 77),
        ("KEY_CACHE_TTL", " 1e3 ", "key_cache_ttl", 1000),
        ("UPSTREAM_TRANSPORT", "HTTPX", "upstream_transport", "httpx"),
        ("AZURE_CLIENT_ID", " 0f-1e ", "azure_client_id", "0f-1e"),
        ("LOG_CALLS", "ALL", "log_calls", "all"),
        ("LOG_CALLS", "none", "log_calls", "none"),
        ("MODELS", " a , b,a,, ", "models", ("a", "b")),
        ("APIM_IMPORT_PRODUCTS", "gold, silver,gold", "apim_import_products", ("gold", "silver")),
        ("APIM_IMPORT_APIS", "openai,,search", "apim_import_apis", ("openai", "search")),
        ("APIM_IMPORT_PRUNE", "True", "apim_import_prune", True),
        ("APIM_IMPORT_SCHEDULE", "0 30  9 * Jan-Jun Mon-Fri", "apim_import_schedule", "0 30  9 * Jan-Jun Mon-Fri"),
        ("APIM_IMPORT_SCHEDULE", "*/30 0,15 9-17 1 * *", "apim_import_schedule", "*/30 0,15 9-17 1 * *"),
        (
            "APIM_RESOURCE_ID",
            "/SUBSCRIPTIONS/s/resourcegroups/g/providers/microsoft.apimanagement/Service/contoso",
            "apim_resource_id",
            "/SUBSCRIPTIONS/s/resourcegroups/g/providers/microsoft.apimanagement/Service/contoso",
        ),
        ("OTEL_SDK_DISABLED", "True", "otel_sdk_disabled", True),
        ("OTEL_TRACES_SAMPLER", "Always_On", "otel_traces_sampler", "always_on"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318", "otel_exporter_otlp_traces_endpoint", "http://all:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x/t", "otel_exporter_otlp_traces_endpoint", "http://x/t"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x/t", "otel_exporter_otlp_endpoint", None),
        # OpenTelemetry's own three, in any letters: the last is delta for what the shim counts.
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA", "otel_metrics_temporality", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory", "otel_metrics_temporality", "delta"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "Cumulative",
            "otel_metrics_temporality",
            "cumulative",
        ),
    ],
)  # fmt: skip
def test_a_value_is_understood_as_people_write_it(
    name: str, text: str, attribute: str, value: object
) -> None:
    assert getattr(settings(**{name: text}), attribute) == value


def test_the_endpoint_for_spans_goes_before_the_one_for_everything() -> None:
    both = settings(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:1",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://localhost:2/v1/traces",
    )
    assert both.otel_exporter_otlp_traces_endpoint == "http://localhost:2/v1/traces"
    assert both.otel_exporter_otlp_endpoint == "http://localhost:1"


@pytest.mark.parametrize(
    "base",
    [
        "http://localhost:7071/openai",
        "http://127.0.0.1/openai",
        "http://[::1]:9/openai",
        "HTTPS://contoso.azure-api.net/a.b/..c/d..",
    ],
)
def test_a_base_url_may_be_local_and_may_have_dots_that_do_not_climb(base: str) -> None:
    assert settings(APIM_BASE_URL=f"{base}//").apim_base_url == base


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_flags_and_choices_are_read_in_any_letters(text: str) -> None:
    """Bicep's string() writes True."""
    shim = Settings.from_environment({**LEAST, "READYZ_DETAILS": text, "APIM_API": "Legacy"})
    assert (shim.readyz_details, shim.apim_api) == (True, "legacy")


FAULTS = {
    "a base over plain HTTP": ({"APIM_BASE_URL": "http://contoso.azure-api.net/openai"}, "https://"),
    "a base without a scheme": ({"APIM_BASE_URL": "contoso.azure-api.net/openai"}, "must be a URL"),
    "a base of another scheme": ({"APIM_BASE_URL": "ftp://a.example/openai"}, "must be a URL"),
    "a base without a host": ({"APIM_BASE_URL": "https:///openai"}, "must be a URL"),
    "a base with a query": ({"APIM_BASE_URL": "https://a.example/openai?x=1"}, "query"),
    "a base that climbs": ({"APIM_BASE_URL": "https://a.example/openai/../admin"}, "'..'"),
    "a base with a password": ({"APIM_BASE_URL": "https://user:hunter2@a.example/openai"}, "password"),
    "a base with a user": ({"APIM_BASE_URL": "https://hunter2@a.example/openai"}, "password"),
    "a base with a nameless user": ({"APIM_BASE_URL": "https://@a.example/openai"}, "password"),
    "a base with a fragment": ({"APIM_BASE_URL": "https://a.example/openai#x"}, "fragment"),
    "a base that ends by climbing": ({"APIM_BASE_URL": "https://a.example/openai/.."}, "'..'"),
    "a base with a step on the spot": ({"APIM_BASE_URL": "https://a.example/./openai"}, "'..'"),
    "a base with two slashes": ({"APIM_BASE_URL": "https://a.example//openai"}, "'//'"),
    "a base with a backslash": ({"APIM_BASE_URL": "https://a.example/a\\b"}, "plain ASCII path"),
    "a base with a space": ({"APIM_BASE_URL": "https://a.example/a b"}, "plain ASCII path"),
    "a base that is not ASCII": ({"APIM_BASE_URL": "https://a.example/\xe4"}, "plain ASCII path"),
    "a v1 base over plain HTTP": ({"APIM_V1_BASE_URL": "http://a.example/v1"}, "APIM_V1_BASE_URL must begin"),
    "a base with a port that is none": ({"APIM_BASE_URL": "https://a.example:port/openai"}, "not a URL"),
    "a vault over plain HTTP": ({"KEY_VAULT_URL": "http://localhost/"}, "https://"),
    "no time at all": ({"UPSTREAM_CONNECT_TIMEOUT": "0"}, "0.1 or more"),
    "an endless time": ({"UPSTREAM_FIRST_BYTE_TIMEOUT": "inf"}, "must be a number"),
    "a time that is no number": ({"SSE_HEARTBEAT": "nan"}, "must be a number"),
    "a pair without a name": ({"MODEL_DEPLOYMENTS": "=b"}, "a list like model=deployment"),
    "a pair without a value": ({"MODEL_DEPLOYMENTS": "a="}, "a list like model=deployment"),
    "several pairs without a value": (
        {"MODEL_DEPLOYMENTS": "a=,b=,=c"},
        "MODEL_DEPLOYMENTS must be a list",
    ),
    "a model's API without a divider": ({"MODEL_APIS": "gpt-5"}, "MODEL_APIS must be a list like model=v1,…"),
    "a model's API of another kind": (
        {"MODEL_APIS": "gpt-5=v2"},
        "MODEL_APIS must give each model one of legacy, v1",
    ),
    "a pair without a divider": ({"MODEL_DEPLOYMENTS": "a=b,c"}, "MODEL_DEPLOYMENTS must be a list"),
    "a version with a parameter behind it": (
        {"APIM_API_VERSION": "2024-10-21&x=1"},
        "APIM_API_VERSION must be like 2024-10-21",
    ),
    "a header's name with a colon": (
        {"APIM_KEY_HEADER": "api-key:"},
        "APIM_KEY_HEADER must be the name of a",
    ),
    "a token's header with a line break": (
        {"USER_TOKEN_HEADER": "x-user\nx-other"},
        "USER_TOKEN_HEADER must be the name of a header",
    ),
    "a lookup of another kind": ({"KEY_LOOKUP": "hash"}, "KEY_LOOKUP must be one of digest, scan"),
    "a transport of another kind": (
        {"UPSTREAM_TRANSPORT": "curl"},
        "UPSTREAM_TRANSPORT must be one of shim, httpx",
    ),
    "calls logged in another way": ({"LOG_CALLS": "some"}, "LOG_CALLS must be one of all, errors, none"),
    "a flag that is a number": ({"READYZ_DETAILS": "1"}, "READYZ_DETAILS must be one of true, false"),
    "another temporality": (
        {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "both"},
        "must be one of cumulative, delta, lowmemory",
    ),
    "a host's limit below nothing": ({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "-1"}, "0 or more"),
    "a model twice": ({"MODEL_DEPLOYMENTS": "a=b,a=c"}, "twice"),
    "a prefix that Key Vault has no names for": (
        {"KEY_SECRET_PREFIX": "apim_sub_"},
        "letters, digits and dashes",
    ),
    "a prefix that leaves no room for the digest": ({"KEY_SECRET_PREFIX": "p" * 64}, "at most 63"),
    "credentials for everybody": (
        {"CORS_ORIGINS": "*", "CORS_CREDENTIALS": "true"},
        "name the origins",
    ),
    "one header for key and token": ({"USER_TOKEN_HEADER": "API-Key"}, "must differ"),
    "an APIM service by its name": ({"APIM_RESOURCE_ID": "contoso-apim"}, "/subscriptions/<id>"),
    "an APIM service with something behind it": (
        {
            "APIM_RESOURCE_ID": "/subscriptions/s/resourceGroups/g/providers"
            "/Microsoft.ApiManagement/service/contoso/apis/openai"
        },
        "APIM_RESOURCE_ID must be like",
    ),
    "a schedule of seven fields": ({"APIM_IMPORT_SCHEDULE": "0 */5 * * * * *"}, "six fields"),
    "a schedule of five fields": ({"APIM_IMPORT_SCHEDULE": "*/5 * * * *"}, "six fields"),
    "a resource manager over plain HTTP": ({"AZURE_RESOURCE_MANAGER_URL": "http://localhost"}, "https://"),
    "spans for an exporter that is not there": (
        {"OTEL_TRACES_EXPORTER": "otlp,zipkin"},
        "OTEL_TRACES_EXPORTER must be none, or a list of otlp",
    ),
    "spans for nobody and somebody": ({"OTEL_TRACES_EXPORTER": "none,otlp"}, "must be none, or a list"),
    "spans for no receiver": ({"OTEL_TRACES_EXPORTER": "otlp"}, "set OTEL_EXPORTER_OTLP_ENDPOINT"),
    "spans for the receiver of metrics": (
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:4318"},
        "set OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "spans for no Application Insights": (
        {"OTEL_TRACES_EXPORTER": "azure_monitor_opentelemetry_exporter"},
        "set APPLICATIONINSIGHTS_CONNECTION_STRING",
    ),
    "a sampler that needs an argument": (
        {"OTEL_TRACES_SAMPLER": "traceidratio"},
        "must be one of parentbased_always_on",
    ),
    "two key stores": ({"LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}, "keep one"),
}


@pytest.mark.parametrize(("faulty", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_explained(faulty: dict[str, str], words: str) -> None:
    found = problems({**LEAST, **faulty})
    assert len(found) == 1
    assert words in found[0]
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    ("environ", "next_step"),
    [
        ({"KEY_VAULT_URL": LEAST["KEY_VAULT_URL"]}, "set it to the base URL of the APIM API, like https://"),
        ({"APIM_BASE_URL": LEAST["APIM_BASE_URL"]}, "set it to https://<vault>.vault.azure.net"),
        (
            {**LEAST, "CORS_ALLOWED_ORIGINS": "https://app.example"},
            "CORS_ALLOWED_ORIGINS is the platform's own variable and must be a JSON array: remove it",
        ),
    ],
    ids=["no base", "no vault", "the platform's list as people write one"],
)
def test_a_fault_says_what_to_do_next(environ: dict[str, str], next_step: str) -> None:
    (problem,) = problems(environ)
    assert next_step in problem


@pytest.mark.parametrize(
    ("odd", "next_step"),
    [
        ({"MAX_BODY_BYTES": "104857600"}, "(FUNCTIONS_REQUEST_BODY_SIZE_LIMIT, 104857600 bytes by default)"),
        (
            {"CORS_ORIGINS": "https://a.example", "CORS_ALLOWED_ORIGINS": "[]"},
            "make the portal's CORS page and CORS_ORIGINS say the same, or remove CORS_ORIGINS",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
            "Set always_on to trace every call, or parentbased_always_on to keep it so",
        ),
    ],
    ids=["a body limit that is hidden", "two lists of origins", "spans that the host decides on"],
)
def test_a_warning_says_what_to_do_next(odd: dict[str, str], next_step: str) -> None:
    (warning,) = settings(**odd).warnings
    assert next_step in warning


@pytest.mark.parametrize(
    ("asked", "exporters"),
    [("", ()), ("none", ()), ("OTLP", ("otlp",)), (" otlp , none ", None), ("otlp,otlp", ("otlp",))],
)
def test_spans_are_off_unless_an_exporter_is_named(asked: str, exporters: tuple[str, ...] | None) -> None:
    environ = {**LEAST, "OTEL_TRACES_EXPORTER": asked, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    if exporters is None:
        assert len(problems(environ)) == 1
    else:
        assert Settings.from_environment(environ).otel_traces_exporters == exporters


def test_who_asks_for_spans_and_not_for_a_sampler_is_told_what_the_host_decides() -> None:
    spans = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    [warning] = settings(**spans).warnings
    assert warning.startswith("OTEL_TRACES_SAMPLER is not set")
    assert settings(**spans, OTEL_TRACES_SAMPLER="parentbased_always_on").warnings == ()


@pytest.mark.parametrize("sign", ["WEBSITE_INSTANCE_ID", "WEBSITE_POD_NAME", "WEBSITE_SITE_NAME"])
def test_local_keys_are_refused_in_azure(sign: str) -> None:
    local = {"APIM_BASE_URL": LEAST["APIM_BASE_URL"], "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}"}
    assert Settings.from_environment(local).local_subscription_keys
    [problem] = [problem for problem in problems({**local, sign: "1"}) if "LOCAL" in problem]
    assert "refused in Azure" in problem
    assert "put the keys into Key Vault and set KEY_VAULT_URL" in problem
    assert KEY not in problem


def test_running_locally_is_offered_where_no_key_store_is_named_but_not_in_azure() -> None:
    without = {"APIM_BASE_URL": LEAST["APIM_BASE_URL"]}
    [here], [in_azure] = problems(without), problems({**without, "WEBSITE_SITE_NAME": "shim"})
    assert here.startswith("KEY_VAULT_URL is missing")
    assert in_azure.startswith("KEY_VAULT_URL is missing")
    assert "or LOCAL_SUBSCRIPTION_KEYS for running locally" in here
    assert "LOCAL_SUBSCRIPTION_KEYS" not in in_azure


def test_no_secret_shows_in_a_repr() -> None:
    """An OTLP endpoint may hold a token, and a connection string holds the instrumentation key."""
    local = {
        "APIM_BASE_URL": LEAST["APIM_BASE_URL"],
        "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={KEY}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://otlp.example/{KEY}",
    }
    shown = repr(Settings.from_environment(local))
    assert KEY not in shown
    assert "apim_base_url='https://contoso.azure-api.net/ai/openai'" in shown


def test_settings_that_could_not_be_read_allow_no_credentials() -> None:
    assert SettingsError(["no settings at all"]).cors_credentials is False


def test_faulty_settings_keep_what_could_be_read_of_pages_and_of_the_end() -> None:
    """A page is to see why its call is refused, and every caller when the shim goes away."""
    with pytest.raises(SettingsError) as raised:
        settings(
            KEY_CACHE_TTL="soon",
            CORS_ORIGINS="https://a.example/path,https://b.example",
            CORS_CREDENTIALS="true",
            SHIM_SUNSET="1970-01-02",
        )
    error = raised.value
    assert [origin.text for origin in error.cors_origins] == ["https://b.example"]
    assert error.cors_credentials
    assert error.retirement.sunset == 24 * 3600
    assert str(error) == "; ".join(error.problems)
    assert [problem.split()[0] for problem in error.problems] == ["KEY_CACHE_TTL", "CORS_ORIGINS:"]


def test_the_settings_that_texts_are_about_are_named_once_each_and_without_their_values() -> None:
    texts = [
        "SHIM_AFTER_SUNSET=refuse needs SHIM_SUNSET",
        "KEY_CACHE_TTL must be a number, at least 1",
        "CORS_ORIGINS: 'https://a.example/path' is not an origin",
        "CORS_ORIGINS: 'https:///' is not an origin",
    ]
    assert names_in(texts) == ["CORS_ORIGINS", "KEY_CACHE_TTL", "SHIM_AFTER_SUNSET"]


def test_local_keys_and_a_vault_are_both_refused_in_azure_with_each_reason() -> None:
    found = problems({**LEAST, "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}", "WEBSITE_SITE_NAME": "shim"})
    assert [problem.split()[0] for problem in found] == ["LOCAL_SUBSCRIPTION_KEYS", "KEY_VAULT_URL"]


def test_an_import_needs_the_vault_into_which_it_puts_the_keys() -> None:
    service = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/contoso"
    local = {"APIM_BASE_URL": LEAST["APIM_BASE_URL"], "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}
    (problem,) = problems({**local, "APIM_RESOURCE_ID": service})
    assert problem.startswith("APIM_RESOURCE_ID needs KEY_VAULT_URL")


class Asked(dict[str, str]):
    """An environment that remembers which names it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


def test_the_sample_settings_are_valid_and_complete() -> None:
    values = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    asked = Asked(values)
    Settings.from_environment(asked)
    platforms = {"CORS_ALLOWED_ORIGINS", "CORS_SUPPORT_CREDENTIALS", "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"}
    elsewhere = ("WEBSITE_", "OTEL_", "APPLICATIONINSIGHTS_")
    read = {name for name in asked.names if not name.startswith(elsewhere)} - platforms
    assert read == set(values) - {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsDisableHomepage"}


PLATFORM = {**LEAST, "CORS_ALLOWED_ORIGINS": '["https://app.example", "https://b.example"]'}


def origins(settings: Settings) -> list[str]:
    return [origin.text for origin in settings.cors_origins]


def test_the_platforms_cors_page_counts_where_cors_origins_is_not_set() -> None:
    settings = Settings.from_environment({**PLATFORM, "CORS_SUPPORT_CREDENTIALS": "True"})
    assert origins(settings) == ["https://app.example", "https://b.example"]
    assert settings.cors_credentials
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("listed", "supported", "credentials"),
    [
        ('["https://app.example"]', {}, False),
        ('["https://app.example"]', {"CORS_SUPPORT_CREDENTIALS": "False"}, False),
        ('["https://app.example"]', {"CORS_SUPPORT_CREDENTIALS": "True"}, True),
        ('["https://app.example"]', {"CORS_SUPPORT_CREDENTIALS": "true"}, True),
        ('["https://app.example"]', {"CORS_CREDENTIALS": "true"}, True),
        ('["https://app.example", "*"]', {"CORS_SUPPORT_CREDENTIALS": "True"}, False),
        ('["*"]', {"CORS_SUPPORT_CREDENTIALS": "True"}, False),
        ('["*"]', {}, False),
    ],
)
def test_the_platforms_credentials_count_for_named_origins(
    listed: str, supported: dict[str, str], credentials: bool
) -> None:
    assert settings(CORS_ALLOWED_ORIGINS=listed, **supported).cors_credentials is credentials


def test_cors_origins_goes_before_the_platforms_page_and_a_difference_is_told() -> None:
    same = Settings.from_environment({**PLATFORM, "CORS_ORIGINS": "https://b.example,https://app.example"})
    assert same.warnings == ()
    in_other_letters = settings(
        CORS_ORIGINS="https://App.example", CORS_ALLOWED_ORIGINS='["https://aPP.example"]'
    )
    assert in_other_letters.warnings == ()
    other = Settings.from_environment(
        {**PLATFORM, "CORS_ORIGINS": "https://c.example", "CORS_SUPPORT_CREDENTIALS": "True"}
    )
    assert origins(other) == ["https://c.example"]
    assert not other.cors_credentials
    assert other.warnings[0].startswith("CORS_ORIGINS differs from the platform's own list")


def test_an_empty_platform_list_is_a_list_too() -> None:
    """The host writes `[]` where the site has none, and then refuses every preflight itself."""
    none = Settings.from_environment({**LEAST, "CORS_ALLOWED_ORIGINS": "[]"})
    assert (origins(none), none.warnings) == ([], ())
    own = Settings.from_environment(
        {**LEAST, "CORS_ALLOWED_ORIGINS": "[]", "CORS_ORIGINS": "https://a.example"}
    )
    assert origins(own) == ["https://a.example"]
    assert own.warnings


def test_what_is_no_origin_on_the_platforms_page_is_a_warning_and_covers_none() -> None:
    settings = Settings.from_environment(
        {**LEAST, "CORS_ALLOWED_ORIGINS": '["https://a.example/", "https://b.example"]'}
    )
    assert origins(settings) == ["https://b.example"]
    assert settings.warnings[0].startswith("CORS_ALLOWED_ORIGINS: 'https://a.example/' is not an origin")


@pytest.mark.parametrize("text", ["https://app.example", '{"a": 1}', "[1]"])
def test_a_platform_list_that_is_no_json_array_is_a_fault_since_the_host_fails_on_it(text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({**LEAST, "CORS_ALLOWED_ORIGINS": text})
    assert "name the origins in CORS_ORIGINS" in raised.value.problems[0]


@pytest.mark.parametrize(
    ("ours", "hosts", "warns"),
    [
        ({}, {}, False),
        ({"MAX_BODY_BYTES": "104857599"}, {}, False),
        ({"MAX_BODY_BYTES": "104857600"}, {}, True),
        ({}, {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "0"}, True),
        ({}, {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000"}, True),
        ({"MAX_BODY_BYTES": "104857600"}, {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "131072000"}, False),
    ],
)
def test_a_body_limit_that_the_hosts_own_hides_is_a_warning(
    ours: dict[str, str], hosts: dict[str, str], warns: bool
) -> None:
    warnings = settings(**ours, **hosts).warnings
    assert [warning.split()[0] for warning in warnings] == ["MAX_BODY_BYTES"] * warns
