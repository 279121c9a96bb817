"""What infra/ would make in Azure, as far as that can be told without Azure."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devhost.host import Host
from shim.settings import Settings, SettingsError
from tests.bicep import FILES, INFRA, File, Tree
from tests.conftest import StartHost

ROOT = Path(__file__).parent.parent
MAIN = File.named("main.bicep")
APP = File.named("modules/app.bicep")
ALL = [File(path) for path in FILES]
BASE_URL = "https://contoso.azure-api.net/my-openai-api/openai"

# What is asked of Azure, and what it has to be asked for.
SECURE_BY_TYPE: dict[str, dict[str, Any]] = {
    "Microsoft.Storage/storageAccounts": {
        "allowSharedKeyAccess": False,
        "allowBlobPublicAccess": False,
        "minimumTlsVersion": "TLS1_2",
        "supportsHttpsTrafficOnly": True,
    },
    "Microsoft.KeyVault/vaults": {
        "enableRbacAuthorization": True,
        "enablePurgeProtection": True,
        "enableSoftDelete": True,
    },
    "Microsoft.Insights/components": {"DisableLocalAuth": True},
    "Microsoft.OperationalInsights/workspaces": {"features.disableLocalAuth": True},
    "Microsoft.Web/sites": {
        "httpsOnly": True,
        "siteConfig.minTlsVersion": "1.2",
        "siteConfig.scmMinTlsVersion": "1.2",
    },
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": {"allow": False},
}
# ARM answers 51021 to these on Flex:
# https://learn.microsoft.com/azure/azure-functions/functions-app-settings#flex-consumption-plan-deprecations
REFUSED_BY_FLEX = {
    "alwaysOn",
    "ftpsState",
    "linuxFxVersion",
    "preWarmedInstanceCount",
    "use32BitWorkerProcess",
}
SET_BY_FLEX = {"FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_RUNTIME", "SCM_DO_BUILD_DURING_DEPLOYMENT"}


def each(files: list[File]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=[str(file.path.relative_to(INFRA)) for file in files])


def site(**given: Any) -> Tree:
    """The app's properties, where its parameters have the defaults of a deployment or what is given."""
    (resource,) = APP.of_type("Microsoft.Web/sites")
    properties: Tree = APP.value(resource["config"]["properties"], **{**handed_on(APP), **given})
    return properties


def handed_on(file: File) -> Tree:
    """What the main file's parameters are for a module that calls them the same."""
    return {name: MAIN.value(name) for name in file.parameters if name in MAIN.parameters}


def app_settings(plan: str) -> Tree:
    """Every app setting that the platform is given, with the values of a deployment."""
    shims = MAIN.value("shimSettings", apimBaseUrl=BASE_URL, corsAllowedOrigins="https://a.example.com")
    (resource,) = APP.of_type("Microsoft.Web/sites/config")
    settings: Tree = APP.value(resource["config"]["properties"], plan=plan, settings=shims)
    return {**settings, "KEY_VAULT_URL": "https://kv-x.vault.azure.net", "WEBSITE_SITE_NAME": "func-x"}


def dig(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree


# Every file


@each(ALL)
def test_parameters_say_what_they_are_for(file: File) -> None:
    for name, parameter in file.parameters.items():
        descriptions = [d["argument"] for d in parameter["decorators"] if d["type"] == "description"]
        assert descriptions, f"{name} has no @description"


@each(ALL)
def test_types_are_plain_and_their_versions_are_no_previews(file: File) -> None:
    for name, module in file.modules.items():
        assert module["type"] == "local", f"{name} comes from a registry"
    for name, resource in file.resources.items():
        # Diagnostic settings have no other version.
        preview = resource["type"] == "Microsoft.Insights/diagnosticSettings"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d" + ("-preview" if preview else ""), resource["api_version"]), (
            name
        )


@each(ALL)
def test_modules_get_exactly_the_parameters_that_they_declare(file: File) -> None:
    for name, module in file.modules.items():
        declared = File(file.path.parent / module["detail"]["path"]).parameters
        given = set(module["config"]["params"])
        assert given <= set(declared), name
        assert {p for p, declaration in declared.items() if declaration["default"] is None} <= given, name


@each(ALL)
def test_no_output_and_no_expression_brings_a_secret_to_light(file: File) -> None:
    assert not re.search(r"listKeys|listSecrets\(|listAccountSas|getSecret\(|@secure", file.text)
    for name in file.outputs:
        assert not re.search(r"secret|password|connection|token|_key$", name, re.IGNORECASE), name


@each(ALL)
def test_resources_are_as_closed_as_they_can_be(file: File) -> None:
    for plan in ("flex", "premium"):
        for type, expected in SECURE_BY_TYPE.items():
            for resource in file.of_type(type):
                properties = file.value(resource["config"]["properties"], plan=plan)
                assert {path: dig(properties, path) for path in expected} == expected


def test_every_kind_of_resource_that_can_be_closed_is_there() -> None:
    made = {
        resource["type"] for file in ALL for resource in file.resources.values() if not resource["existing"]
    }
    assert made >= set(SECURE_BY_TYPE)


# Parameters and outputs of the deployment


@pytest.mark.parametrize(
    ("parameter", "allowed"),
    [
        ("apimApi", ["legacy", "v1"]),
        ("keyLookup", ["digest", "scan"]),
        ("plan", ["flex", "premium"]),
        ("network", ["public", "integrated", "private"]),
        ("instanceMemoryMB", [512, 2048, 4096]),
    ],
)
def test_choices_are_checked_before_anything_is_made(parameter: str, allowed: list[Any]) -> None:
    decorators = MAIN.parameters[parameter]["decorators"]
    assert [d["argument"] for d in decorators if d["type"] == "allowed"] == [allowed]


@pytest.mark.parametrize("parameter", ["environmentName", "location", "apimBaseUrl", "keySecretPrefix"])
def test_what_must_not_be_empty_is_checked_before_anything_is_made(parameter: str) -> None:
    assert any(d["type"] == "min_length" for d in MAIN.parameters[parameter]["decorators"])


def test_outputs_are_named_like_environment_variables() -> None:
    assert MAIN.outputs
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in MAIN.outputs)


def test_azd_gives_every_parameter_that_has_no_default_and_none_that_is_not_there() -> None:
    given = set(json.loads((INFRA / "main.parameters.json").read_text())["parameters"])
    needed = {name for name, parameter in MAIN.parameters.items() if parameter["default"] is None}
    assert needed <= given <= set(MAIN.parameters)


def test_every_choice_that_azd_hands_on_is_in_the_readme() -> None:
    names = set(re.findall(r"\$\{(\w+)", (INFRA / "main.parameters.json").read_text()))
    readme = (ROOT / "README.md").read_text()
    given_by_azd = {"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "AZURE_PRINCIPAL_TYPE"}
    assert {name for name in names - given_by_azd if f"`{name}`" not in readme} == set()


def test_azd_finds_the_app_by_its_tag_and_runs_hooks_that_are_there() -> None:
    manifest = yaml.safe_load((ROOT / "azure.yaml").read_text())
    (resource,) = APP.of_type("Microsoft.Web/sites")
    assert list(manifest["services"]) == [APP.value(resource["config"]["tags"], tags={})["azd-service-name"]]
    assert set(manifest["hooks"]) == {"preprovision", "postdeploy"}
    for hook in manifest["hooks"].values():
        for shell in hook.values():
            script = ROOT / shell["run"]
            assert script.exists()
            assert script.suffix == ".ps1" or os.access(script, os.X_OK)


# The hooks of azd


async def hook(name: str, **environ: str) -> tuple[int, str]:
    """Runs a hook without a terminal; its exit code, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts/azd" / name,
        env={"PATH": os.environ["PATH"], **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize(
    ("environ", "code", "says"),
    [
        ({}, 1, "azd env set APIM_BASE_URL https://"),
        ({"APIM_BASE_URL": "http://contoso.azure-api.net/a"}, 1, "must begin with https://"),
        ({"APIM_BASE_URL": BASE_URL}, 0, ""),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ALLOWED_ORIGINS": "*"}, 0, ""),
        (
            {"APIM_BASE_URL": BASE_URL, "CORS_ALLOWED_ORIGINS": "https://*.example.com"},
            1,
            "SHIM_PLAN premium",
        ),
        (
            {
                "APIM_BASE_URL": BASE_URL,
                "CORS_ALLOWED_ORIGINS": "https://*.example.com",
                "SHIM_PLAN": "premium",
            },
            0,
            "",
        ),
    ],
    ids=["no url", "no tls", "a url", "any origin", "pattern on flex", "pattern on premium"],
)
async def test_what_cannot_work_is_refused_before_anything_is_made(
    environ: dict[str, str], code: int, says: str
) -> None:
    ended, said = await hook("preprovision.sh", **environ)
    assert (ended, says in said) == (code, True), said


# What `az` says of one service with one API, and of one with two.
AZ = """#!/bin/sh
case "$1 $2" in
"apim list") printf 'contoso\\trg\\thttps://contoso.azure-api.net\\n' ;;
"apim api") printf '%s' "$APIS" ;;
esac
"""


@pytest.mark.parametrize(
    ("apis", "typed", "taken"),
    [
        ("a/openai\n", "", "https://contoso.azure-api.net/a/openai"),
        (
            "a/openai\nb/openai\n",
            "https://contoso.azure-api.net/b/openai",
            "https://contoso.azure-api.net/b/openai",
        ),
        ("", BASE_URL, BASE_URL),
    ],
    ids=["one is taken", "one of two is chosen", "none is found"],
)
async def test_the_base_url_is_found_or_asked_for(tmp_path: Path, apis: str, typed: str, taken: str) -> None:
    for name, script in {"az": AZ, "azd": f'#!/bin/sh\necho "$*" >{tmp_path}/said\n'}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    terminal, end = os.openpty()
    os.write(terminal, f"{typed}\n".encode())
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts/azd/preprovision.sh",
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "APIS": apis},
        stdin=end,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    os.close(terminal)
    os.close(end)
    assert process.returncode == 0
    assert all(f"https://contoso.azure-api.net/{api}" in said.decode() for api in apis.split())
    assert (tmp_path / "said").read_text().strip() == f"env set APIM_BASE_URL {taken}"


async def test_after_a_deployment_the_shim_is_asked_and_the_client_snippet_printed(host: Host) -> None:
    code, said = await hook("postdeploy.sh", SHIM_URL=host.url)
    assert code == 0, said
    assert f'client = OpenAI(base_url="{host.url}/openai/v1"' in said


async def test_a_deployment_that_is_not_ready_fails_with_the_reason_and_the_next_step(
    start_host: StartHost,
) -> None:
    broken = await start_host(APIM_BASE_URL="")
    code, said = await hook("postdeploy.sh", SHIM_URL=broken.url, SHIM_READY_ATTEMPTS="1")
    assert code == 1
    assert "missing or wrong: APIM_BASE_URL" in said
    assert "python -m shim doctor" in said


# The app


@pytest.mark.parametrize("plan", ["flex", "premium"])
def test_the_python_in_azure_is_the_one_that_these_tests_run_on(plan: str) -> None:
    tested = f"{sys.version_info.major}.{sys.version_info.minor}"
    properties = site(plan=plan)
    if plan == "flex":
        assert properties["functionAppConfig"]["runtime"] == {"name": "python", "version": tested}
    else:
        assert properties["siteConfig"]["linuxFxVersion"] == f"Python|{tested}"


def test_the_runtime_is_pinned_to_the_one_that_these_tests_run_on() -> None:
    from importlib.metadata import version

    pins = (ROOT / "requirements.txt").read_text().splitlines()
    assert f"azure-functions-runtime=={version('azure-functions-runtime')}" in pins
    assert all("==" in pin for pin in pins if pin and not pin.startswith("#"))


def test_an_instance_takes_many_calls_at_a_time() -> None:
    concurrency = MAIN.value("httpPerInstanceConcurrency")
    assert concurrency >= 100
    scale = site(plan="flex", httpPerInstanceConcurrency=concurrency)["functionAppConfig"][
        "scaleAndConcurrency"
    ]
    assert scale["triggers"]["http"]["perInstanceConcurrency"] == concurrency
    assert set(scale) == {"instanceMemoryMB", "maximumInstanceCount", "alwaysReady", "triggers"}
    assert (
        MAIN.modules["app"]["config"]["params"]["httpPerInstanceConcurrency"] == "httpPerInstanceConcurrency"
    )


@pytest.mark.parametrize(
    ("ready", "zones", "expected"),
    [(0, False, []), (3, False, [3]), (0, True, [2]), (3, True, [3])],
    ids=["none", "three", "two zones", "three in zones"],
)
def test_always_ready_instances_are_a_parameter(ready: int, zones: bool, expected: list[int]) -> None:
    scale = site(plan="flex", alwaysReady=ready, zoneRedundant=zones)["functionAppConfig"][
        "scaleAndConcurrency"
    ]
    assert scale["alwaysReady"] == [{"name": "http", "instanceCount": count} for count in expected]


def test_the_package_is_read_with_the_identity_of_the_app() -> None:
    storage = site(plan="flex")["functionAppConfig"]["deployment"]["storage"]
    assert storage["type"] == "blobContainer"
    assert storage["authentication"] == {
        "type": "UserAssignedIdentity",
        "userAssignedIdentityResourceId": "identityId",
    }
    (resource,) = APP.of_type("Microsoft.Web/sites")
    assert resource["config"]["identity"]["type"] == "UserAssigned"


def test_flex_is_asked_for_nothing_that_it_refuses() -> None:
    assert not REFUSED_BY_FLEX & set(site(plan="flex")["siteConfig"])
    assert not SET_BY_FLEX & set(app_settings("flex"))


def test_premium_gets_what_flex_does_by_itself() -> None:
    properties = site(plan="premium")
    assert properties["functionAppConfig"] is None
    assert properties["siteConfig"]["ftpsState"] == "Disabled"
    assert set(app_settings("premium")) >= SET_BY_FLEX


def test_one_parameter_feeds_both_the_shims_origins_and_the_platforms() -> None:
    origins = "https://a.example.com, https://b.example.com"
    assert MAIN.value("shimSettings", corsAllowedOrigins=origins)["CORS_ALLOWED_ORIGINS"] == origins
    handed_on = MAIN.value(MAIN.modules["app"]["config"]["params"], corsAllowedOrigins=origins)
    assert handed_on["corsAllowedOrigins"] == ["https://a.example.com", "https://b.example.com"]
    cors = site(plan="flex", corsAllowedOrigins=handed_on["corsAllowedOrigins"])["siteConfig"]["cors"]
    assert cors["allowedOrigins"] == handed_on["corsAllowedOrigins"]
    # Elsewhere a list of the platform's would answer in place of the shim.
    assert "cors" not in site(plan="premium")["siteConfig"]
    assert MAIN.value(MAIN.modules["app"]["config"]["params"])["corsAllowedOrigins"] == []


# Settings


@pytest.mark.parametrize("plan", ["flex", "premium"])
def test_the_shim_starts_with_the_settings_that_it_is_given(plan: str) -> None:
    settings = Settings.from_environment(app_settings(plan))
    assert settings.in_azure
    assert settings.apim_base_url == BASE_URL
    assert settings.azure_client_id == "identity.outputs.clientId"
    assert [origin.text for origin in settings.cors_origins] == ["https://a.example.com"]


@pytest.mark.parametrize("name", ["APIM_BASE_URL", "KEY_VAULT_URL"])
def test_without_a_required_setting_it_would_not(name: str) -> None:
    given = app_settings("flex")
    del given[name]
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(given)


def test_the_settings_that_infra_gives_are_known_to_the_shim() -> None:
    known = "\n".join(file.read_text() for file in [*(ROOT / "shim").rglob("*.py"), ROOT / "function_app.py"])
    assert {name for name in MAIN.value("shimSettings") if f'"{name}"' not in known} == set()


def test_the_timer_that_imports_keys_is_told_of_the_service_where_there_is_one() -> None:
    assert "APIM_RESOURCE_ID" not in MAIN.value("shimSettings")
    assert MAIN.value("shimSettings", apimResourceId="/a/service")["APIM_RESOURCE_ID"] == "/a/service"


def test_no_app_setting_is_a_secret() -> None:
    settings = app_settings("flex") | app_settings("premium")
    assert "LOCAL_SUBSCRIPTION_KEYS" not in settings
    assert not [
        name for name in settings if re.search(r"PASSWORD|AccountKey|_SECRET$|SUBSCRIPTION_KEY", name)
    ]
    # By identity: the connection string would hold a key.
    assert "AzureWebJobsStorage" not in settings
    assert settings["AzureWebJobsStorage__credential"] == "managedidentity"
    assert settings["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].endswith("Authorization=AAD")


# Roles

ROLES = {
    "appReadsSecrets": ("vault", "4633458b-17de-408a-b874-0445c86b69e6"),
    "appWritesSecrets": ("vault", "b86a8fe4-44ce-4948-aee5-eccb2c155cd7"),
    "operatorWritesSecrets": ("vault", "b86a8fe4-44ce-4948-aee5-eccb2c155cd7"),
    "appOwnsBlobs": ("storage", "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"),
    "appWritesTables": ("storage", "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3"),
    "appPublishesTelemetry": ("insights", "3913510d-42f4-4e42-8a64-420c390055eb"),
}


def test_every_role_is_assigned_on_one_resource() -> None:
    rbac = File.named("modules/rbac.bicep")
    assigned = {}
    for name, resource in rbac.resources.items():
        if resource["type"] == "Microsoft.Authorization/roleAssignments":
            role = rbac.value(resource["config"]["properties"]["roleDefinitionId"])
            assigned[name] = (resource["config"]["scope"], re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", role)[0])
    assert assigned == ROLES


def test_the_app_writes_secrets_and_reads_apims_keys_only_where_the_timer_needs_it() -> None:
    rbac = File.named("modules/rbac.bicep")
    assert rbac.resources["appWritesSecrets"]["condition"] == "importsKeys"
    assert MAIN.modules["apimReader"]["condition"] == "importsKeys"
    assert MAIN.value("importsKeys") is False
    assert MAIN.value("importsKeys", apimResourceId="/subscriptions/s/…/service/apim") is True


def test_the_role_on_apim_reads_and_lists_keys_and_nothing_else() -> None:
    reader = File.named("modules/apim-reader.bicep")
    (role,) = reader.of_type("Microsoft.Authorization/roleDefinitions")
    (permissions,) = role["config"]["properties"]["permissions"]
    assert permissions["notActions"] == permissions["dataActions"] == []
    writing = [action for action in permissions["actions"] if not action.endswith("/read")]
    assert writing == ["Microsoft.ApiManagement/service/subscriptions/listSecrets/action"]
    assert not [action for action in permissions["actions"] if "*" in action]
    (assignment,) = reader.of_type("Microsoft.Authorization/roleAssignments")
    assert assignment["config"]["scope"] == "apim"


# What is optional


@pytest.mark.parametrize(
    ("network", "own_subnet", "made"),
    [
        ("public", "", set()),
        ("integrated", "", {"virtualNetwork"}),
        ("integrated", "/subnets/own", set()),
        ("private", "", {"virtualNetwork", "endpoints"}),
        ("private", "/subnets/own", {"endpoints"}),
    ],
)
def test_a_network_is_made_as_far_as_it_is_asked_for(network: str, own_subnet: str, made: set[str]) -> None:
    given = {"network": network, "appSubnetId": own_subnet}
    optional = {name: MAIN.modules[name]["condition"] for name in ("virtualNetwork", "endpoints")}
    assert {name for name, condition in optional.items() if MAIN.value(condition, **given)} == made
    subnet = MAIN.value(MAIN.modules["app"]["config"]["params"], **given)["subnetId"]
    assert bool(subnet) == (network != "public")


@pytest.mark.parametrize("module", ["vault", "storage"])
@pytest.mark.parametrize(
    ("closed", "access", "default"), [(True, "Disabled", "Deny"), (False, "Enabled", "Allow")]
)
def test_a_private_network_closes_vault_and_storage(
    module: str, closed: bool, access: str, default: str
) -> None:
    file = File.named(f"modules/{module}.bicep")
    resource = next(iter(file.resources.values()))
    properties = file.value(resource["config"]["properties"], closed=closed, allowedAddresses=[])
    assert (properties["publicNetworkAccess"], properties["networkAcls"]["defaultAction"]) == (
        access,
        default,
    )
    assert MAIN.value(MAIN.modules[module]["config"]["params"], network="private")["closed"] is True


def test_zones_are_asked_of_plan_and_storage() -> None:
    (farm,) = APP.of_type("Microsoft.Web/serverfarms")
    assert APP.value(farm["config"]["properties"], zoneRedundant=True)["zoneRedundant"] is True
    storage = File.named("modules/storage.bicep")
    sku = storage.resources["account"]["config"]["sku"]
    assert storage.value(sku, zoneRedundant=True) == {"name": "Standard_ZRS"}


def test_alerts_tell_of_5xx_of_the_vault_and_of_storms_of_401() -> None:
    alerts = File.named("modules/alerts.bicep")
    queries = {rule["name"]: rule["query"] for rule in alerts.value("rules")}
    assert set(queries) == {"5xx-rate", "vault-failures", "401-storm"}
    assert MAIN.modules["alerts"]["condition"] == "alertsEnabled"


# Other people's checks


@pytest.mark.static
@pytest.mark.timeout(600)  # the first run makes an environment for checkov
def test_checkov_finds_nothing_and_every_suppression_has_its_reason() -> None:
    folder = subprocess.run(
        [ROOT / "scripts/venv", "requirements-checkov.txt"], check=True, capture_output=True, text=True
    ).stdout.strip()
    # It needs nothing from outside, and would wait for it where it cannot be had.
    checkov = [
        f"{folder}/bin/checkov",
        "--skip-download",
        "--framework",
        "bicep",
        "-d",
        str(INFRA),
        "-o",
        "json",
    ]
    run = subprocess.run(checkov, check=False, capture_output=True, text=True)
    report = json.loads(run.stdout)
    assert report["results"]["failed_checks"] == []
    assert report["results"]["parsing_errors"] == []
    assert report["summary"]["passed"] > 20
    for check in report["results"]["skipped_checks"]:
        reason = check["check_result"]["suppress_comment"]
        assert len(reason.split()) > 5, f"{check['check_id']} is suppressed without a reason"


@pytest.mark.skipif(
    not (shutil.which("az") or shutil.which("bicep")),
    reason="neither az nor bicep is installed: only they compile Bicep, and they come from outside PyPI",
)
def test_bicep_compiles() -> None:
    command = ["bicep", "build"] if shutil.which("bicep") else ["az", "bicep", "build", "--file"]
    run = subprocess.run(
        [*command, str(INFRA / "main.bicep"), "--stdout"], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
