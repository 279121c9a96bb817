"""What each part of infra/ is handed, and in which order: a value at the wrong place deploys without a complaint.

The Bicep compiler checks that a parameter is there and of the right type, not that it is the right one. A role for the
wrong principal, or an app that starts before its roles, shows only in Azure.
"""

import re
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.bicep import INFRA, File, Tree

MAIN = File.named("main.bicep")
APP = File.named("modules/app.bicep")
SERVICE = (
    "/subscriptions/sub-of-apim/resourceGroups/group-of-apim/providers/Microsoft.ApiManagement/service/apim-1"
)


def handed(module: str, **given: Any) -> Tree:
    parameters: Tree = MAIN.value(MAIN.modules[module]["config"]["params"], **given)
    return parameters


# A parameter of the deployment at an odd value, and what it becomes, of which module.
WIRES: list[tuple[str, Any, str, str, Any]] = [
    ("logRetentionDays", 77, "monitoring", "retentionDays", 77),
    ("network", "private", "vault", "closed", True),
    ("network", "integrated", "vault", "closed", False),
    ("network", "private", "storage", "closed", True),
    ("inbound", "private", "vault", "closed", False),
    (
        "vaultAllowedAddresses",
        "192.0.2.1, 192.0.2.2",
        "vault",
        "allowedAddresses",
        ["192.0.2.1", "192.0.2.2"],
    ),
    ("zoneRedundant", True, "storage", "zoneRedundant", True),
    ("zoneRedundant", True, "app", "zoneRedundant", True),
    ("addressPrefixes", ["a", "b"], "virtualNetwork", "addressPrefixes", ["a", "b"]),
    ("privateDnsZonesGroupId", "/dns", "endpoints", "zonesGroupId", "/dns"),
    ("privateDnsZonesGroupId", "/dns", "inboundEndpoint", "zonesGroupId", "/dns"),
    ("apimResourceId", SERVICE, "rbac", "importsKeys", True),
    ("apimResourceId", "", "rbac", "importsKeys", False),
    ("apimResourceId", SERVICE, "apimReader", "apimName", "apim-1"),
    ("principalId", "operator-1", "rbac", "operatorPrincipalId", "operator-1"),
    ("principalType", "Group", "rbac", "operatorPrincipalType", "Group"),
    ("instanceMemoryMB", 4096, "app", "instanceMemoryMB", 4096),
    ("maximumInstanceCount", 41, "app", "maximumInstanceCount", 41),
    ("httpPerInstanceConcurrency", 9, "app", "perInstanceConcurrency", 9),
    ("alwaysReady", 3, "app", "alwaysReady", 3),
    ("updateStrategy", "Recreate", "app", "updateStrategy", "Recreate"),
    ("allowedAddresses", "192.0.2.3, 192.0.2.4", "app", "allowedAddresses", ["192.0.2.3", "192.0.2.4"]),
    ("vaultAllowedAddresses", "192.0.2.1", "app", "allowedAddresses", []),
    ("inbound", "private", "app", "publicAccess", False),
    ("network", "private", "app", "publicAccess", True),
    ("alertEmail", "oncall@contoso.com", "alerts", "email", "oncall@contoso.com"),
]


@pytest.mark.parametrize(("parameter", "value", "module", "name", "becomes"), WIRES)
def test_a_parameter_arrives_where_it_is_meant_to(
    parameter: str, value: Any, module: str, name: str, becomes: Any
) -> None:
    assert handed(module, **{parameter: value})[name] == becomes


# Parameters of the deployment that become settings of the shim, each at an odd value.
SETTINGS = {
    "apimApi": ("v1", "APIM_API", "v1"),
    "apimV1BaseUrl": ("https://a.example/v1", "APIM_V1_BASE_URL", "https://a.example/v1"),
    "apimApiVersion": ("2031-01-02", "APIM_API_VERSION", "2031-01-02"),
    "apimKeyHeader": ("x-odd", "APIM_KEY_HEADER", "x-odd"),
    "modelDeployments": ("a=b", "MODEL_DEPLOYMENTS", "a=b"),
    "keyLookup": ("scan", "KEY_LOOKUP", "scan"),
    "keySecretPrefix": ("odd-", "KEY_SECRET_PREFIX", "odd-"),
    "corsOrigins": ("https://b.example", "CORS_ORIGINS", "https://b.example"),
    "corsCredentials": (True, "CORS_CREDENTIALS", "True"),
    "readyzDetails": (True, "READYZ_DETAILS", "True"),
    "maxBodyBytes": (12345, "MAX_BODY_BYTES", "12345"),
    "apimResourceId": (SERVICE, "APIM_RESOURCE_ID", SERVICE),
    "settings": ({"SSE_HEARTBEAT": "7"}, "SSE_HEARTBEAT", "7"),
}


@pytest.mark.parametrize("parameter", SETTINGS)
def test_a_parameter_becomes_its_setting(parameter: str) -> None:
    value, setting, text = SETTINGS[parameter]
    assert handed("app", **{parameter: value})["settings"][setting] == text


def test_what_infra_knows_wins_over_further_settings() -> None:
    settings = handed("app", settings={"KEY_VAULT_URL": "https://another.vault.azure.net"})["settings"]
    assert settings["KEY_VAULT_URL"] == "vault.outputs.url"


# Outputs of one module that another is handed.
OUTPUTS = {
    "vault": {"workspaceId": "monitoring.outputs.workspaceId"},
    "rbac": {
        "vaultName": "vault.outputs.name",
        "storageName": "storage.outputs.name",
        "insightsName": "monitoring.outputs.insightsName",
        "appPrincipalId": "identity.outputs.principalId",
    },
    "apimReader": {"appPrincipalId": "identity.outputs.principalId"},
    "app": {
        "identityId": "identity.outputs.id",
        "identityClientId": "identity.outputs.clientId",
        "storageName": "storage.outputs.name",
        "deploymentContainerName": "storage.outputs.deploymentContainerName",
        "insightsName": "monitoring.outputs.insightsName",
    },
    "alerts": {"workspaceId": "monitoring.outputs.workspaceId"},
}


@pytest.mark.parametrize("module", OUTPUTS)
def test_a_module_is_handed_the_outputs_that_it_is_about(module: str) -> None:
    outputs = {name: value for name, value in handed(module).items() if ".outputs." in str(value)}
    outputs.pop("settings", None)
    assert outputs == OUTPUTS[module]


def test_the_identity_gives_away_the_three_ids_that_it_has() -> None:
    """They look alike, and each is of use in one place only."""
    outputs = File.named("modules/identity.bicep").outputs
    values = {
        name: File.named("modules/identity.bicep").value(output["value"]) for name, output in outputs.items()
    }
    assert values == {
        "id": "identity.id",
        "clientId": "identity.properties.clientId",
        "principalId": "identity.properties.principalId",
    }


def test_the_app_comes_after_its_roles_and_its_private_endpoints() -> None:
    """Else its first start would read neither its package nor its keys, and look like a broken deployment."""
    assert MAIN.modules["app"]["config"]["dependsOn"] == ["rbac", "endpoints"]


def test_the_reader_of_apims_keys_is_the_app_in_the_group_of_the_service() -> None:
    scope = MAIN.modules["apimReader"]["config"]["scope"]["function"]
    assert scope["type"] == "resource_group"
    named = {name: MAIN.value(part, apimResourceId=SERVICE) for name, part in scope["parameters"].items()}
    assert named == {"subscription_id": "sub-of-apim", "resource_group_name": "group-of-apim"}
    reader = File.named("modules/apim-reader.bicep")
    (assignment,) = reader.of_type("Microsoft.Authorization/roleAssignments")
    properties = reader.value(assignment["config"]["properties"])
    assert properties == {
        "roleDefinitionId": "keyReader.id",
        "principalId": "appPrincipalId",
        "principalType": "ServicePrincipal",
    }


def test_the_hosts_own_settings_name_the_identity_and_nothing_that_is_a_secret() -> None:
    given = {"identityClientId": "client-1", "hostBodyBytes": 7}
    settings = {name: str(value) for name, value in APP.value("hostSettings", **given).items()}
    assert settings == {
        "AzureWebJobsDisableHomepage": "true",
        "AzureWebJobsStorage__credential": "managedidentity",
        "AzureWebJobsStorage__clientId": "client-1",
        "AzureWebJobsStorage__blobServiceUri": "storage.properties.primaryEndpoints.blob",
        "AzureWebJobsStorage__tableServiceUri": "storage.properties.primaryEndpoints.table",
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "ClientId=client-1;Authorization=AAD",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": "insights.properties.ConnectionString",
        "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "7",
    }


def test_who_read_or_wrote_which_secret_is_on_record() -> None:
    vault = File.named("modules/vault.bicep")
    (audit,) = vault.of_type("Microsoft.Insights/diagnosticSettings")
    assert audit["config"]["scope"] == "vault"
    assert vault.value(audit["config"]["properties"], workspaceId="workspace-1") == {
        "workspaceId": "workspace-1",
        "logs": [{"category": "AuditEvent", "enabled": True}],
    }


# azd's defaults, as the guide tells them.

NOTHING = {"", "none", "all", "nobody", "no timer", "a new network", "new zones"}
ELSEWHERE = {"asked for", "as there"}


def rows() -> list[tuple[list[str], list[str]]]:
    """Names and defaults of the guide's table of parameters, by row."""
    section = (ROOT / "docs/deploy.md").read_text().split("## Parameters")[1].split("\n## ")[0]
    table = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", row[1]), row[-2].strip().split(", ")) for row in table]


def test_azds_defaults_are_those_of_the_guide() -> None:
    text = (INFRA / "main.parameters.json").read_text()
    defaults = dict(re.findall(r"\$\{(\w+)(?:=([^}]*))?\}", text))
    told: dict[str, str] = {}
    for names, words in rows():
        if words[0] not in ELSEWHERE:
            words = words * len(names) if len(words) == 1 else words
            told |= {
                name: "" if word in NOTHING else word.strip("`")
                for name, word in zip(names, words, strict=True)
            }
    assert len(told) > 18
    assert told == {name: defaults[name] for name in told}
