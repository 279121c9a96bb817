"""No setting of the shim has the name of one of the platform's, which would overwrite it or read it as its own.

It has happened: every test passed, and in Azure no page could call.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from shim.settings import Settings, SettingsError
from tests.conftest import KEY, ROOT

PLATFORM = tomllib.loads((ROOT / "tests/data/platform-names.toml").read_text())

# What of the platform's the shim reads, and why.
READ_ON_PURPOSE = {
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "where the host sends its telemetry, and we our metrics",
    "AZURE_CLIENT_ID": "which managed identity to be, as azure-identity's own credentials read it",
    "CORS_ALLOWED_ORIGINS": "the site's own list of origins, where CORS_ORIGINS is not set",
    "CORS_SUPPORT_CREDENTIALS": "what goes with that list",
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "above it the host answers itself: MAX_BODY_BYTES has to be below",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where metrics go by OTLP; the host sends logs and spans there in its own OTel mode",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "the same, for metrics alone",
    "OTEL_BSP_SCHEDULE_DELAY": "how often spans are sent",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "where spans go by OTLP; the host's own OTel mode sends its spans there too",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "whether the receiver wants totals or what is new",
    "OTEL_METRIC_EXPORT_INTERVAL": "how often metrics are sent",
    "OTEL_SDK_DISABLED": "turns metrics and spans off",
    "OTEL_TRACES_EXPORTER": "whether there are spans, and where they go",
    "OTEL_TRACES_SAMPLER": "whether the caller decides which calls have spans",
    "WEBSITE_INSTANCE_ID": "tells that this is Azure",
    "WEBSITE_POD_NAME": "tells that this is Azure",
    "WEBSITE_SITE_NAME": "tells that this is Azure",
}

# Read by shim/transport/choice.py, as curl and httpx read them.
PROXIES = {"ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"}

# Set by shim/monitoring/exporters.py for Azure Monitor's exporter: it is to tell nobody about itself.
SET_FOR_LIBRARIES = {
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
}

# Read by commands of operators alone, who are told its value by azd.
READ_BY_COMMANDS = {"LOG_ANALYTICS_WORKSPACE_ID"}

# How names of environment variables are written here; a name in code that reads so is taken for one.
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|MODELS")
_SETTING_IN_BICEP = re.compile(
    r"^\s+'?([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+|MODELS|AzureWebJobs\w+)'?:", re.MULTILINE
)


class Recording(Mapping[str, str]):
    """An environment that knows which of its variables were looked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the environment is read by names that are known beforehand")

    def __len__(self) -> int:
        return len(self._values)


ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"APIM_BASE_URL": "https://apim.example/openai", "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"},
    {"CORS_ALLOWED_ORIGINS": '["https://app.example"]', "CORS_SUPPORT_CREDENTIALS": "True"},
]


def read_by_settings() -> set[str]:
    names: set[str] = set()
    for values in ENVIRONMENTS:
        environ = Recording(values)
        try:
            Settings.from_environment(environ)
        except SettingsError:
            """What it would have been has been read all the same."""
        names |= environ.read
    return names


def named_in_code() -> set[str]:
    """The strings in shim/ that are written like names of environment variables, and are no socket options."""
    return {
        node.value
        for file in [ROOT / "function_app.py", *(ROOT / "shim").rglob("*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value)
        if not node.value.startswith("TCP_")
    }


def in_sample() -> set[str]:
    values: dict[str, Any] = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    return set(values)


def in_infra() -> set[str]:
    return {
        name
        for file in (ROOT / "infra").rglob("*.bicep")
        for name in _SETTING_IN_BICEP.findall(file.read_text())
    }


def is_the_platforms(name: str) -> bool:
    folded = name.casefold()
    return any(folded.startswith(prefix.casefold()) for prefix in PLATFORM["prefixes"]) or any(
        folded == other.casefold() for source in PLATFORM["source"] for other in source["names"]
    )


OURS = sorted((read_by_settings() | named_in_code()) - READ_ON_PURPOSE.keys() - SET_FOR_LIBRARIES)


def test_every_setting_is_found() -> None:
    """The two ways of finding them agree: none is read under a name put together, none is named without being read."""
    assert read_by_settings() | PROXIES | SET_FOR_LIBRARIES | READ_BY_COMMANDS == named_in_code()
    assert {"APIM_BASE_URL", "MODELS", "CORS_ORIGINS", "CORS_CREDENTIALS", "KEY_VAULT_URL"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_setting_has_a_name_that_is_not_the_platforms(name: str) -> None:
    clashes = [source["name"] for source in PLATFORM["source"] if name in source["names"]]
    assert not is_the_platforms(name), f"{name} is the platform's ({clashes or 'by its prefix'}): rename it"


def test_what_is_read_on_purpose_is_the_platforms_and_is_read() -> None:
    assert [name for name in READ_ON_PURPOSE if not is_the_platforms(name)] == []
    assert READ_ON_PURPOSE.keys() <= read_by_settings()


@pytest.mark.parametrize("found", [in_sample, in_infra], ids=["local.settings.sample.json", "infra"])
def test_what_is_set_is_a_setting_of_the_shim_or_one_that_the_platform_leaves_to_apps(
    found: Callable[[], set[str]],
) -> None:
    names = found()
    assert {"KEY_VAULT_URL", "AzureWebJobsDisableHomepage"} <= names
    left_to_apps = {
        name for source in PLATFORM["source"] if source.get("for_apps_to_set") for name in source["names"]
    }
    assert names - set(OURS) - left_to_apps == set()


def test_core_tools_can_read_the_sample() -> None:
    sample = json.loads((ROOT / "local.settings.sample.json").read_text())
    assert set(sample) == {"IsEncrypted", "Values"}
    # Encrypted values would be decrypted, with a key that is on nobody's machine.
    assert sample["IsEncrypted"] is False
    assert sample["Values"]["FUNCTIONS_WORKER_RUNTIME"] == "python"
    assert sample["Values"]["AzureWebJobsDisableHomepage"] == "true"


@pytest.mark.parametrize(
    "name",
    ["CORS_ALLOWED_ORIGINS", "Cors_Allowed_Origins", "website_anything", "AzureWebJobsX", "PROJECT", "TZ"],
)
def test_the_platforms_names_are_known(name: str) -> None:
    assert is_the_platforms(name)
    assert not is_the_platforms(f"SHIM_{name}")


def test_every_list_says_where_it_is_from() -> None:
    for source in PLATFORM["source"]:
        assert source["names"] == sorted(set(source["names"]), key=lambda name: (name.upper(), name))
        assert all(where.startswith("https://") for where in source["where"])
