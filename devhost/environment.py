"""The environment of the app's process, as each platform writes it from the app's settings. Pure.

Names are those of azure-functions-host, src/WebJobs.Script/Environment/EnvironmentSettingNames.cs.

What tells an app that it is in Azure, and which site it is (WEBSITE_SITE_NAME, WEBSITE_INSTANCE_ID and
WEBSITE_POD_NAME), is left out: there the app refuses LOCAL_SUBSCRIPTION_KEYS, which developers and tests live on. Who
wants to see the app as it is there names a key vault and sets one of them as a setting.
"""

import json
from collections.abc import Mapping
from pathlib import Path

# What the operating system's side of a container brings, with or without an app.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ")
# IsLinuxConsumptionOnLegion of EnvironmentExtensions.cs, which is how the host knows Flex Consumption.
_LEGION = {"CONTAINER_NAME": "devhost", "LEGION_SERVICE_HOST": "localhost"}
_RUNTIME = {"FUNCTIONS_EXTENSION_VERSION": "~4", "FUNCTIONS_WORKER_RUNTIME": "python"}


def placeholder(settings: Mapping[str, str]) -> dict[str, str]:
    """Of a worker that waits for an app, on Flex Consumption: nothing of the app's."""
    inherited = {name: settings[name] for name in _INHERITED if name in settings}
    return {**inherited, **_LEGION, **_RUNTIME, "WEBSITE_PLACEHOLDER_MODE": "1"}


def flex(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """As HostAssignmentContext.ApplyAppSettings leaves it, and SendFunctionEnvironmentReloadRequest sends it on.

    Variables without a value are not sent (GetFunctionEnvironmentReloadRequest in GrpcWorkerChannel.cs).
    """
    environment = {
        **_LEGION,
        **_RUNTIME,
        "AzureWebJobsScriptRoot": str(folder),
        "INITIALIZED_FROM_PLACEHOLDER": "True",  # StandbyManager.InitializeAsync
        "WEBSITE_SKU": "FlexConsumption",
        "WEBSITE_AUTH_ENABLED": "False",
        **settings,
        **_cors(settings),
        # ScriptWebHostEnvironment.FlagAsSpecializedAndReady
        "WEBSITE_PLACEHOLDER_MODE": "0",
        "WEBSITE_CONTAINER_READY": "1",
    }
    return {name: value for name, value in environment.items() if value}


def core_tools(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """As `func start` leaves it (azure-functions-core-tools 4, StartHostAction.cs)."""
    return {
        "AzureWebJobsScriptRoot": str(folder),
        "FUNCTIONS_CORETOOLS_ENVIRONMENT": "true",  # Program.cs
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "PYTHON_ENABLE_DEBUG_LOGGING": "1",  # ConfigureHostLoggingForUserLogLevel
        "PYTHON_THREADPOOL_THREAD_COUNT": "1000",  # the host's DefaultWorkerProcessFactory.cs
        **settings,
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",  # GetConfigurationSettings
    }


def unchanged(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The settings and nothing else."""
    return dict(settings)


def _cors(settings: Mapping[str, str]) -> dict[str, str]:
    """The site's CORS settings, which win over app settings of the same names.

    A JSON array in CORS_ALLOWED_ORIGINS is taken for the site's list; otherwise the site has the app's own, as
    infra/ gives it.
    """
    listed = settings.get("CORS_ALLOWED_ORIGINS", "")
    if not listed.startswith("["):
        own = settings.get("CORS_ORIGINS", "").replace(" ", "").split(",")
        listed = json.dumps([origin for origin in own if origin], separators=(",", ":"))
    credentials = settings.get("CORS_SUPPORT_CREDENTIALS") or settings.get("CORS_CREDENTIALS", "")
    return {
        "CORS_ALLOWED_ORIGINS": listed,
        "CORS_SUPPORT_CREDENTIALS": str(credentials.strip().lower() == "true"),
    }
