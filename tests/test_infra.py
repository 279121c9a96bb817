"""What infra/ would create in Azure, as far as that can be told without Azure.

A template is tried for the first time on somebody's subscription: an open door or a missing role shows only then.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shim.keys.azure.api_management import ACTIONS
from shim.settings import Settings, SettingsError
from tests.support.bicep import FILES, INFRA, File, Tree

ROOT = Path(__file__).parent.parent
MAIN = File.named("main.bicep")
APP = File.named("modules/app.bicep")
ALL = [File.named(path.relative_to(INFRA).as_posix()) for path in FILES]
BASE_URL = "https://contoso.azure-api.net/my-openai-api/openai"
MIB = 1024 * 1024

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
# Settings and properties that Flex Consumption refuses or ignores, whole as the page lists them:
# https://learn.microsoft.com/azure/azure-functions/functions-app-settings#flex-consumption-plan-deprecations
SETTINGS_NOT_FOR_FLEX = {
    "ENABLE_ORYX_BUILD",
    "FUNCTIONS_EXTENSION_VERSION",
    "FUNCTIONS_MAX_HTTP_CONCURRENCY",
    "FUNCTIONS_WORKER_DYNAMIC_CONCURRENCY_ENABLED",
    "FUNCTIONS_WORKER_PROCESS_COUNT",
    "FUNCTIONS_WORKER_RUNTIME",
    "FUNCTIONS_WORKER_RUNTIME_VERSION",
    "SCM_DO_BUILD_DURING_DEPLOYMENT",
    "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING",
    "WEBSITE_CONTENTOVERVNET",
    "WEBSITE_CONTENTSHARE",
    "WEBSITE_DNS_SERVER",
    "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT",
    "WEBSITE_NODE_DEFAULT_VERSION",
    "WEBSITE_RUN_FROM_PACKAGE",
    "WEBSITE_SKIP_CONTENTSHARE_VALIDATION",
    "WEBSITE_VNET_ROUTE_ALL",
}
PROPERTIES_NOT_FOR_FLEX = {
    "alwaysOn",
    "containerSize",
    "dnsConfiguration",
    "ftpsState",
    "functionAppScaleLimit",
    "isReserved",
    "isXenon",
    "javaVersion",
    "linuxFxVersion",
    "netFrameworkVersion",
    "powerShellVersion",
    "preWarmedInstanceCount",
    "use32BitWorkerProcess",
    "vnetBackupRestoreEnabled",
    "vnetContentShareEnabled",
    "vnetImagePullEnabled",
    "vnetRouteAllEnabled",
    "windowsFxVersion",
}


def each(files: list[File]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=[str(file.path.relative_to(INFRA)) for file in files])


def site(**given: Any) -> Tree:
    """The app's properties, where the deployment's parameters have their defaults or what is given."""
    (resource,) = APP.of_type("Microsoft.Web/sites")
    properties: Tree = APP.value(resource["config"]["properties"], **app_parameters(**given))
    return properties


def app_parameters(**given: Any) -> Tree:
    """What the main file hands on to the app's module."""
    parameters: Tree = MAIN.value(MAIN.modules["app"]["config"]["params"], **given)
    return parameters


def app_settings(**given: Any) -> Tree:
    """Every app setting that the platform is given, with the values of a deployment."""
    given = {"apimBaseUrl": BASE_URL, "corsOrigins": "https://a.example.com", **given}
    (resource,) = APP.of_type("Microsoft.Web/sites/config")
    parameters = app_parameters(**given)
    settings: Tree = APP.value(resource["config"]["properties"], **parameters)
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
        path = (file.path.parent / module["detail"]["path"]).relative_to(INFRA)
        declared = File.named(path.as_posix()).parameters
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
    for type, expected in SECURE_BY_TYPE.items():
        for resource in file.of_type(type):
            properties = file.value(resource["config"]["properties"], allowedAddresses=[])
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
        ("network", ["public", "integrated", "private"]),
        ("inbound", ["public", "private"]),
        ("updateStrategy", ["Recreate", "RollingUpdate"]),
        ("afterSunset", ["serve", "refuse"]),
        ("principalType", ["User", "Group", "ServicePrincipal"]),
        ("instanceMemoryMB", [512, 2048, 4096]),
    ],
)
def test_choices_are_checked_before_anything_is_made(parameter: str, allowed: list[Any]) -> None:
    decorators = MAIN.parameters[parameter]["decorators"]
    assert [d["argument"] for d in decorators if d["type"] == "allowed"] == [allowed]


@pytest.mark.parametrize("parameter", ["environmentName", "location", "apimKeyHeader", "keySecretPrefix"])
def test_what_must_not_be_empty_is_checked_before_anything_is_made(parameter: str) -> None:
    assert any(d["type"] == "min_length" for d in MAIN.parameters[parameter]["decorators"])


def test_outputs_are_named_like_environment_variables() -> None:
    assert MAIN.outputs
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in MAIN.outputs)


# The app


def test_the_python_in_azure_is_the_one_that_these_tests_run_on() -> None:
    tested = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert site()["functionAppConfig"]["runtime"] == {"name": "python", "version": tested}


def scale(**given: Any) -> Tree:
    properties: Tree = site(**given)["functionAppConfig"]["scaleAndConcurrency"]
    assert set(properties) == {"instanceMemoryMB", "maximumInstanceCount", "alwaysReady", "triggers"}
    return properties


@pytest.mark.parametrize(("memory", "calls"), [(512, 25), (2048, 102), (4096, 204)])
def test_an_instance_takes_as_many_calls_as_its_memory_carries(memory: int, calls: int) -> None:
    assert scale(instanceMemoryMB=memory)["triggers"]["http"]["perInstanceConcurrency"] == calls
    # 20 MB each: ten times a body of 2 MB.
    assert memory / (calls + 1) < 20 <= memory / calls


def test_the_number_of_calls_in_an_instance_can_be_chosen() -> None:
    assert scale(httpPerInstanceConcurrency=7)["triggers"]["http"]["perInstanceConcurrency"] == 7


@pytest.mark.parametrize(
    ("given", "shims", "hosts"),
    [
        ({}, 100 * MIB, 125 * MIB),
        ({"instanceMemoryMB": 512}, 26_843_648, 33_554_560),
        ({"instanceMemoryMB": 4096}, 100 * MIB, 125 * MIB),
        ({"maxBodyBytes": 8 * MIB}, 8 * MIB, 10 * MIB),
        ({"uploadLimitBytes": 512 * MIB}, 100 * MIB, 512 * MIB),
        ({"uploadLimitBytes": 1}, 100 * MIB, 125 * MIB),
    ],
    ids=["2048 MB", "512 MB", "4096 MB", "smaller bodies", "large uploads", "a limit below the shim's"],
)
def test_a_body_somewhat_too_large_meets_the_shims_413_and_not_the_hosts_500(
    given: dict[str, int], shims: int, hosts: int
) -> None:
    settings = app_settings(**given)
    assert int(settings["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"]) == hosts
    assert Settings.from_environment(settings).max_body_bytes == shims
    assert hosts >= shims * 1.25
    # Ten times its size is what the largest body may take while it arrives: half of the memory at most.
    assert given.get("maxBodyBytes", shims) * 10 <= given.get("instanceMemoryMB", 2048) * MIB / 2 + MIB


@pytest.mark.parametrize(
    ("ready", "zones", "expected"),
    [(0, False, []), (3, False, [3]), (0, True, [2]), (3, True, [3])],
    ids=["none", "three", "two zones", "three in zones"],
)
def test_always_ready_instances_are_a_parameter(ready: int, zones: bool, expected: list[int]) -> None:
    instances = scale(alwaysReady=ready, zoneRedundant=zones)["alwaysReady"]
    assert instances == [{"name": "http", "instanceCount": count} for count in expected]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "RollingUpdate"), ({"updateStrategy": "Recreate"}, "Recreate")]
)
def test_updates_drain_instances_unless_they_are_told_not_to(given: dict[str, str], expected: str) -> None:
    assert site(**given)["functionAppConfig"]["siteUpdateStrategy"] == {"type": expected}


def test_the_api_version_is_one_that_knows_the_update_strategy() -> None:
    # azure-rest-api-specs, Microsoft.Web/AppService/models.tsp: @added(Versions.v2025_05_01) SiteUpdateStrategyType.
    (resource,) = APP.of_type("Microsoft.Web/sites")
    assert resource["api_version"] >= "2025-05-01"


def test_the_package_is_read_with_the_identity_of_the_app() -> None:
    storage = site()["functionAppConfig"]["deployment"]["storage"]
    assert storage["type"] == "blobContainer"
    assert storage["authentication"] == {
        "type": "UserAssignedIdentity",
        "userAssignedIdentityResourceId": "identity.outputs.id",
    }
    (resource,) = APP.of_type("Microsoft.Web/sites")
    assert resource["config"]["identity"]["type"] == "UserAssigned"


def names(tree: Any) -> set[str]:
    """Every property's name, at any depth."""
    if isinstance(tree, dict):
        return set(tree).union(*map(names, tree.values()))
    return set().union(*map(names, tree)) if isinstance(tree, list) else set()


def test_flex_is_asked_for_nothing_that_is_not_valid_there() -> None:
    given = {
        "network": "private",
        "inbound": "private",
        "allowedAddresses": "192.0.2.1",
        "apimResourceId": "/a/b",
    }
    for properties in (site(), site(**given)):
        assert not {name.lower() for name in PROPERTIES_NOT_FOR_FLEX} & {n.lower() for n in names(properties)}
    for settings in (app_settings(), app_settings(**given)):
        assert not SETTINGS_NOT_FOR_FLEX & set(settings)


def test_infra_knows_one_plan() -> None:
    (farm,) = APP.of_type("Microsoft.Web/serverfarms")
    assert farm["config"]["sku"] == {"name": "FC1", "tier": "FlexConsumption"}
    assert not any(re.search(r"premium|EP1|elastic", file.text, re.IGNORECASE) for file in ALL)


def test_one_parameter_feeds_both_the_shims_origins_and_the_platforms() -> None:
    origins = "https://a.example.com, https://b.example.com"
    settings = app_settings(corsOrigins=origins, corsCredentials=True)
    assert settings["CORS_ORIGINS"] == origins
    assert settings["CORS_CREDENTIALS"] == "True"
    cors = site(corsOrigins=origins, corsCredentials=True)["siteConfig"]["cors"]
    assert cors == {
        "allowedOrigins": ["https://a.example.com", "https://b.example.com"],
        "supportCredentials": True,
    }
    assert site()["siteConfig"]["cors"] == {"allowedOrigins": [], "supportCredentials": False}


def test_the_two_lists_agree_as_the_shim_compares_them() -> None:
    # The Functions host writes the site's list into the environment; the shim warns where the two differ.
    origins = "https://a.example.com, https://b.example.com"
    platform = {
        "CORS_ALLOWED_ORIGINS": json.dumps(site(corsOrigins=origins)["siteConfig"]["cors"]["allowedOrigins"]),
        "CORS_SUPPORT_CREDENTIALS": "False",
    }
    settings = Settings.from_environment({**app_settings(corsOrigins=origins), **platform})
    assert settings.warnings == ()
    assert [origin.text for origin in settings.cors_origins] == origins.split(", ")


def test_no_setting_has_a_name_of_the_platforms_cors() -> None:
    assert not {"CORS_ALLOWED_ORIGINS", "CORS_SUPPORT_CREDENTIALS"} & set(app_settings())


# Settings


def test_the_shim_starts_with_the_settings_that_it_is_given() -> None:
    settings = Settings.from_environment(app_settings())
    assert settings.in_azure
    assert settings.apim_base_url == BASE_URL
    assert settings.azure_client_id == "identity.outputs.clientId"
    assert [origin.text for origin in settings.cors_origins] == ["https://a.example.com"]


@pytest.mark.parametrize("name", ["APIM_BASE_URL", "KEY_VAULT_URL"])
def test_without_a_required_setting_it_would_not(name: str) -> None:
    given = app_settings()
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
    settings = app_settings()
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


def assignments() -> dict[str, Tree]:
    rbac = File.named("modules/rbac.bicep").resources
    type = "Microsoft.Authorization/roleAssignments"
    return {name: resource["config"] for name, resource in rbac.items() if resource["type"] == type}


def test_every_role_is_assigned_on_one_resource() -> None:
    rbac = File.named("modules/rbac.bicep")
    assigned = {}
    for name, assignment in assignments().items():
        role = rbac.value(assignment["properties"]["roleDefinitionId"])
        assigned[name] = (assignment["scope"], re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", role)[0])
    assert assigned == ROLES


def test_every_role_goes_to_the_app_or_to_the_operator() -> None:
    for name, assignment in assignments().items():
        given = {key: assignment["properties"][key] for key in ("principalId", "principalType")}
        assert given == (
            {"principalId": "operatorPrincipalId", "principalType": "operatorPrincipalType"}
            if name.startswith("operator")
            else {"principalId": "appPrincipalId", "principalType": "ServicePrincipal"}
        ), name
        # The name is made of what must be unique: the resource, who, and which role.
        (made,) = re.findall(
            r"guid\((\w+)\.id, (\w+), ", str(File.named("modules/rbac.bicep").value(assignment["name"]))
        )
        assert made == (assignment["scope"], given["principalId"])


def test_the_principals_are_the_identity_of_the_app_and_who_deploys() -> None:
    handed_on = MAIN.modules["rbac"]["config"]["params"]
    assert MAIN.value(handed_on["appPrincipalId"]) == "identity.outputs.principalId"
    assert (handed_on["operatorPrincipalId"], handed_on["operatorPrincipalType"]) == (
        "principalId",
        "principalType",
    )
    (operator,) = (config for name, config in assignments().items() if name.startswith("operator"))
    rbac = File.named("modules/rbac.bicep").resources["operatorWritesSecrets"]
    assert File.named("modules/rbac.bicep").value(rbac["condition"], operatorPrincipalId="") is False
    assert operator["scope"] == "vault"


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
    service = "Microsoft.ApiManagement/service"
    assert {action.removeprefix(service) for action in permissions["actions"]} == {
        "/read",
        "/apis/read",
        "/apis/products/read",  # for APIM_IMPORT_APIS: a subscription to a product is one to its APIs
        "/products/read",
        "/users/read",
        "/subscriptions/read",
        "/subscriptions/listSecrets/action",
    }
    assert set(ACTIONS) <= set(permissions["actions"])
    (assignment,) = reader.of_type("Microsoft.Authorization/roleAssignments")
    assert assignment["config"]["scope"] == "apim"


# What is optional


OWN = {"appSubnetId": "/vnets/a/subnets/app", "endpointSubnetId": "/vnets/b/subnets/endpoints"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, set()),
        ({"network": "integrated"}, {"virtualNetwork"}),
        ({"network": "integrated", **OWN}, set()),
        ({"network": "private"}, {"virtualNetwork", "endpoints"}),
        ({"network": "private", **OWN}, {"endpoints"}),
        ({"inbound": "private"}, {"virtualNetwork", "inboundEndpoint"}),
        ({"inbound": "private", "endpointSubnetId": OWN["endpointSubnetId"]}, {"inboundEndpoint"}),
        ({"network": "private", "inbound": "private"}, {"virtualNetwork", "endpoints", "inboundEndpoint"}),
    ],
    ids=lambda value: str(
        sorted(value) if isinstance(value, set) else value
    ),  # a set's order is of its process
)
def test_a_network_is_made_as_far_as_it_is_asked_for(given: dict[str, str], made: set[str]) -> None:
    optional = {
        name: MAIN.modules[name]["condition"] for name in ("virtualNetwork", "endpoints", "inboundEndpoint")
    }
    assert {name for name, condition in optional.items() if MAIN.value(condition, **given)} == made
    parameters = app_parameters(**given)
    assert bool(parameters["subnetId"]) == (given.get("network", "public") != "public")
    assert site(**given)["publicNetworkAccess"] == ("Disabled" if given.get("inbound") else "Enabled")


@pytest.mark.parametrize(("module", "network"), [("endpoints", "/vnets/a"), ("inboundEndpoint", "/vnets/b")])
def test_new_zones_are_linked_to_the_network_of_the_subnets_that_are_given(module: str, network: str) -> None:
    given = {"network": "private", "inbound": "private", **OWN}
    parameters = MAIN.value(MAIN.modules[module]["config"]["params"], **given)
    assert parameters["virtualNetworkId"] == network
    assert parameters["subnetId"] == OWN["endpointSubnetId"]


def endpoint_resources(zones_group: str) -> dict[str, list[Any]]:
    """What endpoints.bicep makes for the vault, blobs and tables, by the names of its loops."""
    file = File.named("modules/endpoints.bicep")
    parameters = MAIN.modules["endpoints"]["config"]["params"]
    given = MAIN.value(parameters, network="private", privateDnsZonesGroupId=zones_group)
    return {name: file.each(name, **given) for name in file.resources}


def test_private_dns_zones_are_made_and_linked_or_those_of_a_central_group_are_used() -> None:
    new = endpoint_resources("")
    assert len(new["zones"]) == len(new["links"]) == len(new["endpoints"]) == len(new["records"]) == 3
    group = "/subscriptions/hub/resourceGroups/dns"
    existing = endpoint_resources(group)
    assert existing["zones"] == existing["links"] == []
    ids = [
        record["properties"]["privateDnsZoneConfigs"][0]["properties"]["privateDnsZoneId"]
        for record in existing["records"]
    ]
    assert len(ids) == 3
    assert f"{group}/providers/Microsoft.Network/privateDnsZones/privatelink.vaultcore.azure.net" in ids


def test_every_endpoint_asks_for_the_sub_resource_that_its_zone_is_for() -> None:
    # https://learn.microsoft.com/azure/private-link/private-endpoint-dns
    targets = [
        (target["name"], re.sub(r"\$\{.*|environment.*|suffixes.*", "", target["zone"]))
        for module in ("endpoints", "inboundEndpoint")
        for target in MAIN.modules[module]["config"]["params"]["targets"]
    ]
    assert targets == [
        ("vault", "privatelink.vaultcore.azure.net"),
        ("blob", "privatelink.blob."),
        ("table", "privatelink.table."),
        ("sites", "privatelink.azurewebsites.net"),
    ]


def test_addresses_that_may_call_the_app_can_be_named() -> None:
    config = site(allowedAddresses="192.0.2.1, 198.51.100.0/24,2001:db8::1")["siteConfig"]
    assert config["ipSecurityRestrictionsDefaultAction"] == "Deny"
    assert [
        (rule["ipAddress"], rule["action"], rule["priority"]) for rule in config["ipSecurityRestrictions"]
    ] == [
        ("192.0.2.1/32", "Allow", 100),
        ("198.51.100.0/24", "Allow", 101),
        ("2001:db8::1/128", "Allow", 102),
    ]
    assert site()["siteConfig"]["ipSecurityRestrictionsDefaultAction"] == "Allow"
    assert site()["siteConfig"]["ipSecurityRestrictions"] == []


def test_the_subnet_of_the_app_is_delegated_as_flex_wants_it() -> None:
    (network,) = File.named("modules/network.bicep").of_type("Microsoft.Network/virtualNetworks")
    subnet = network["config"]["properties"]["subnets"][0]["properties"]
    assert [d["properties"]["serviceName"] for d in subnet["delegations"]] == ["Microsoft.App/environments"]


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
    assert set(queries) == {"5xx-rate", "vault-failures", "401-storm", "slow-first-event"}
    assert MAIN.modules["alerts"]["condition"] == "alertsEnabled"
    # Metrics are not sampled; tests/test_usage.py runs the queries.
    assert all(query.startswith("AppMetrics | where Name == ") for query in queries.values())


def test_alerts_can_be_made_in_a_workspace_that_has_no_tables_yet() -> None:
    (rule,) = File.named("modules/alerts.bicep").of_type("Microsoft.Insights/scheduledQueryRules")
    # The flag counts for this kind alone.
    assert rule["config"]["kind"] == "LogAlert"
    assert rule["config"]["properties"]["skipQueryValidation"] is True


def test_a_timer_has_the_storage_that_it_needs() -> None:
    # Its lock and its schedule are blobs: Storage Blob Data Owner, by identity.
    settings = app_settings(apimResourceId="/subscriptions/s/service/apim")
    assert settings["AzureWebJobsStorage__credential"] == "managedidentity"
    assert settings["AzureWebJobsStorage__clientId"] == "identity.outputs.clientId"
    assert "AzureWebJobsStorage__blobServiceUri" in settings
    assert ROLES["appOwnsBlobs"] == ("storage", "b7e6dc6d-f1e8-4753-8033-0f276bb0955b")


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


def test_the_end_of_the_shim_can_be_announced_by_a_deployment() -> None:
    given = {
        "deprecated": "2027-01-31",
        "sunset": "2027-03-31",
        "sunsetLink": "https://wiki.example.com/shim",
        "afterSunset": "refuse",
        "brownout": "10m/day",
    }
    retirement = Settings.from_environment(app_settings(**given)).retirement
    assert (retirement.refuse_after_sunset, retirement.link) == (True, "https://wiki.example.com/shim")
    assert retirement.sunset is not None
    assert retirement.deprecated is not None
    assert retirement.sunset - retirement.deprecated == 59 * 86400
    assert retirement.brownout is not None


def test_callers_are_told_a_name_of_ones_own_where_there_is_one() -> None:
    assert MAIN.outputs["SHIM_OPENAI_BASE_URL"]["value"] == "${callersUrl}/openai/v1"
    assert MAIN.value("callersUrl", customDomain="ai.example.com") == "https://ai.example.com"
    assert MAIN.value("callersUrl", customDomain="") == "app.outputs.url"


def test_a_name_that_is_bound_already_never_loses_its_tls() -> None:
    domain, tls = File.named("modules/domain.bicep"), File.named("modules/domain-tls.bicep")
    without_tls, certificate = domain.resources["name"], domain.resources["certificate"]
    assert without_tls["condition"] == {"operator": {"type": "not", "operands": {"bool_value": "isBound"}}}
    assert without_tls["config"]["properties"]["sslState"] == "Disabled"
    # Certificates of Flex Consumption belong to the site.
    assert certificate["type"] == "Microsoft.Web/sites/certificates"
    (app,) = APP.of_type("Microsoft.Web/sites")
    assert app["config"]["properties"]["siteScopedCertificatesEnabled"] is True
    assert tls.resources["binding"]["config"]["properties"]["sslState"] == "SniEnabled"
    params = MAIN.modules["domain"]["config"]["params"]
    assert MAIN.value(params["isBound"], customDomain="a.example", boundDomain="a.example") is True
    assert MAIN.value(params["isBound"], customDomain="a.example", boundDomain="") is False


def test_no_setting_of_an_operators_own_takes_the_place_of_the_hosts() -> None:
    hosts = app_settings()
    given = {
        name: "an operator's"
        for name in hosts
        if name.startswith(("AzureWebJobs", "APPLICATIONINSIGHTS_", "FUNCTIONS_"))
    }
    assert len(given) >= 8
    assert app_settings(settings=given) == hosts
    assert app_settings(settings={"LOG_CALLS": "all"}) == {**hosts, "LOG_CALLS": "all"}


def test_alerts_look_at_all_that_has_come_since_they_last_looked() -> None:
    (rule,) = File.named("modules/alerts.bicep").of_type("Microsoft.Insights/scheduledQueryRules")
    every, window = (
        int(re.fullmatch(r"PT(\d+)M", rule["config"]["properties"][name])[1])  # type: ignore[index]
        for name in ("evaluationFrequency", "windowSize")
    )
    assert every <= window


@pytest.mark.parametrize(
    ("closed", "addresses", "access", "action"),
    [
        (False, [], "Enabled", "Allow"),
        (True, [], "Disabled", "Deny"),
        (True, ["192.0.2.1"], "Enabled", "Deny"),
    ],
    ids=["open", "closed", "closed but for an operator"],
)
def test_a_closed_vault_lets_in_the_addresses_that_are_named(
    closed: bool, addresses: list[str], access: str, action: str
) -> None:
    vault = File.named("modules/vault.bicep")
    given = {"closed": closed, "allowedAddresses": addresses}
    properties = vault.resources["vault"]["config"]["properties"]
    assert vault.value(properties["publicNetworkAccess"], **given) == access
    assert vault.value(properties["networkAcls"]["defaultAction"], **given) == action
