"""The environment becomes settings, or a list of all that is wrong with it."""

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
    assert (least.sse_heartbeat, least.max_body_bytes) == (15, 104_857_600)
    assert least.cors_allowed_origins == ()


def test_an_empty_setting_is_one_that_is_not_set() -> None:
    assert settings(APIM_API="", KEY_CACHE_TTL=" ", AZURE_CLIENT_ID="") == settings()


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
            "CORS_ALLOWED_ORIGINS": "https://a.example/path",
            "CORS_ALLOW_CREDENTIALS": "perhaps",
        }
    )
    named = {re.split("[ :]", problem)[0] for problem in found}
    assert named == {
        "APIM_BASE_URL", "APIM_API", "APIM_KEY_HEADER", "MODEL_DEPLOYMENTS", "KEY_CACHE_TTL",
        "CORS_ALLOWED_ORIGINS", "CORS_ALLOW_CREDENTIALS", "KEY_VAULT_URL",
    }  # fmt: skip


FAULTS = {
    "a base over plain HTTP": ({"APIM_BASE_URL": "http://contoso.azure-api.net/openai"}, "https://"),
    "a base without a scheme": ({"APIM_BASE_URL": "contoso.azure-api.net/openai"}, "must be a URL"),
    "a base with a query": ({"APIM_BASE_URL": "https://a.example/openai?x=1"}, "query"),
    "a base that climbs": ({"APIM_BASE_URL": "https://a.example/openai/../admin"}, "'..'"),
    "a base with a password": ({"APIM_BASE_URL": "https://user:hunter2@a.example/openai"}, "password"),
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
        {"CORS_ALLOWED_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"},
        "name the origins",
    ),
    "one header for key and token": ({"USER_TOKEN_HEADER": "API-Key"}, "must differ"),
    "an APIM service by its name": ({"APIM_RESOURCE_ID": "contoso-apim"}, "/subscriptions/<id>"),
    "a schedule of five fields": ({"APIM_IMPORT_SCHEDULE": "*/5 * * * *"}, "six fields"),
    "a resource manager over plain HTTP": ({"AZURE_RESOURCE_MANAGER_URL": "http://localhost"}, "https://"),
    "two key stores": ({"LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}, "keep one"),
}


@pytest.mark.parametrize(("faulty", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_explained(faulty: dict[str, str], words: str) -> None:
    found = problems({**LEAST, **faulty})
    assert len(found) == 1
    assert words in found[0]
    assert "hunter2" not in found[0]


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


def test_the_sample_settings_are_valid_and_complete() -> None:
    values = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    Settings.from_environment(values)
    source = (ROOT / "shim" / "settings.py").read_text()
    read = set(re.findall(r'read\.\w+\(\s*"([A-Z0-9_]+)"', source))
    assert read == set(values) - {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsDisableHomepage"}
