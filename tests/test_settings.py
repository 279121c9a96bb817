"""The environment becomes settings, or a list of everything that is wrong with it.

A deployment is a slow way to find faults one at a time, and a fault that is not found starts a shim nobody meant.
"""

import json
import re
from collections.abc import Mapping

import pytest

from shim.settings import Settings, SettingsError
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


def test_an_empty_setting_is_one_that_is_not_set() -> None:
    assert settings(APIM_API="", KEY_CACHE_TTL=" ", AZURE_CLIENT_ID="") == settings()


def test_a_number_may_be_the_least_that_it_can_be() -> None:
    least = settings(SSE_HEARTBEAT="0", UPSTREAM_CONNECT_TIMEOUT="0.1", KEY_CACHE_TTL="1")
    assert (least.sse_heartbeat, least.upstream_connect_timeout, least.key_cache_ttl) == (0, 0.1, 1)


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


FAULTS = {
    "a base over plain HTTP": ({"APIM_BASE_URL": "http://contoso.azure-api.net/openai"}, "https://"),
    "a base without a scheme": ({"APIM_BASE_URL": "contoso.azure-api.net/openai"}, "must be a URL"),
    "a base of another scheme": ({"APIM_BASE_URL": "ftp://a.example/openai"}, "must be a URL"),
    "a base without a host": ({"APIM_BASE_URL": "https:///openai"}, "must be a URL"),
    "a base with a query": ({"APIM_BASE_URL": "https://a.example/openai?x=1"}, "query"),
    "a base that climbs": ({"APIM_BASE_URL": "https://a.example/openai/../admin"}, "'..'"),
    "a base with a password": ({"APIM_BASE_URL": "https://user:hunter2@a.example/openai"}, "password"),
    "a base with a user": ({"APIM_BASE_URL": "https://hunter2@a.example/openai"}, "password"),
    "a base with a port that is none": ({"APIM_BASE_URL": "https://a.example:port/openai"}, "not a URL"),
    "a vault over plain HTTP": ({"KEY_VAULT_URL": "http://localhost/"}, "https://"),
    "no time at all": ({"UPSTREAM_CONNECT_TIMEOUT": "0"}, "0.1 or more"),
    "an endless time": ({"UPSTREAM_FIRST_BYTE_TIMEOUT": "inf"}, "must be a number"),
    "a time that is no number": ({"SSE_HEARTBEAT": "nan"}, "must be a number"),
    "a model twice": ({"MODEL_DEPLOYMENTS": "a=b,a=c"}, "twice"),
    "a prefix that Key Vault has no names for": (
        {"KEY_SECRET_PREFIX": "apim_sub_"},
        "letters, digits and dashes",
    ),
    "credentials for everybody": (
        {"CORS_ORIGINS": "*", "CORS_CREDENTIALS": "true"},
        "name the origins",
    ),
    "one header for key and token": ({"USER_TOKEN_HEADER": "API-Key"}, "must differ"),
    "an APIM service by its name": ({"APIM_RESOURCE_ID": "contoso-apim"}, "/subscriptions/<id>"),
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
    assert KEY not in problem


def test_no_key_shows_in_a_repr() -> None:
    local = {"APIM_BASE_URL": LEAST["APIM_BASE_URL"], "LOCAL_SUBSCRIPTION_KEYS": f"team-a={KEY}"}
    assert KEY not in repr(Settings.from_environment(local))


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


def test_cors_origins_goes_before_the_platforms_page_and_a_difference_is_told() -> None:
    same = Settings.from_environment({**PLATFORM, "CORS_ORIGINS": "https://b.example,https://app.example"})
    assert same.warnings == ()
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
        ({"MAX_BODY_BYTES": "104857600"}, {}, True),
        ({}, {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000"}, True),
        ({"MAX_BODY_BYTES": "104857600"}, {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "131072000"}, False),
    ],
)
def test_a_body_limit_that_the_hosts_own_hides_is_a_warning(
    ours: dict[str, str], hosts: dict[str, str], warns: bool
) -> None:
    warnings = settings(**ours, **hosts).warnings
    assert [warning.split()[0] for warning in warnings] == ["MAX_BODY_BYTES"] * warns
