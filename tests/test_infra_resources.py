"""What each module of infra/ makes of what it is handed, to the letter.

A property that is left out has a default of Azure's, and one with another resource's id is a valid id: both deploy
without a complaint, and show when somebody needs what is not there. What must be closed is in tests/test_infra.py, and
what is handed on in tests/test_infra_wiring.py.
"""

from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.bicep import FILES, INFRA, File, Tree

COMMON = {"location": "westeurope", "tags": {"azd-env-name": "dev"}}


def made(file: File, resource: str, /, **given: Any) -> Tree:
    """One resource of a file, with the values of a deployment."""
    config: Tree = file.value(file.resources[resource]["config"], **COMMON, **given)
    return config


def outputs(file: File, **given: Any) -> Tree:
    return {name: file.value(output["value"], **given) for name, output in file.outputs.items()}


# The app

APP = File.named("modules/app.bicep")
GIVEN_TO_APP: dict[str, Any] = {
    "name": "func-1",
    "planName": "plan-1",
    "instanceMemoryMB": 4096,
    "maximumInstanceCount": 77,
    "perInstanceConcurrency": 9,
    "alwaysReady": 3,
    "zoneRedundant": False,
    "updateStrategy": "Recreate",
    "identityId": "/identities/id-1",
    "identityClientId": "client-1",
    "storageName": "st1",
    "deploymentContainerName": "packages",
    "insightsName": "appi-1",
    "apimBaseUrl": "https://contoso.azure-api.net/openai",
    "hostBodyBytes": 5,
    "corsOrigins": ["https://a.example"],
    "corsCredentials": True,
    "subnetId": "/subnets/app",
    "publicAccess": True,
    "allowedAddresses": ["192.0.2.1"],
    "settings": {},
}


def test_the_app_is_all_that_its_parameters_say() -> None:
    config = made(APP, "app", **GIVEN_TO_APP)
    assert {name: config[name] for name in ("name", "location", "kind", "identity")} == {
        "name": "func-1",
        "location": "westeurope",
        "kind": "functionapp,linux",
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {"/identities/id-1": {}}},
    }
    # The second is how azd finds it.
    assert config["tags"] == {"azd-env-name": "dev", "azd-service-name": "shim"}
    assert config["properties"] == {
        "serverFarmId": "serverFarm.id",
        "httpsOnly": True,
        "siteScopedCertificatesEnabled": True,
        # Affinity would hold a client's calls to one instance, however busy that is.
        "clientAffinityEnabled": False,
        "publicNetworkAccess": "Enabled",
        "keyVaultReferenceIdentity": "/identities/id-1",
        "virtualNetworkSubnetId": "/subnets/app",
        "functionAppConfig": {
            "deployment": {
                "storage": {
                    "type": "blobContainer",
                    "value": "storage.properties.primaryEndpoints.blobpackages",
                    "authentication": {
                        "type": "UserAssignedIdentity",
                        "userAssignedIdentityResourceId": "/identities/id-1",
                    },
                }
            },
            "runtime": {"name": "python", "version": "3.13"},
            "scaleAndConcurrency": {
                "instanceMemoryMB": 4096,
                "maximumInstanceCount": 77,
                "alwaysReady": [{"name": "http", "instanceCount": 3}],
                "triggers": {"http": {"perInstanceConcurrency": 9}},
            },
            "siteUpdateStrategy": {"type": "Recreate"},
        },
        "siteConfig": {
            "minTlsVersion": "1.2",
            "scmMinTlsVersion": "1.2",
            "http20Enabled": True,
            "cors": {"allowedOrigins": ["https://a.example"], "supportCredentials": True},
            "ipSecurityRestrictionsDefaultAction": "Deny",
            "ipSecurityRestrictions": [
                {"name": "allowed-0", "action": "Allow", "priority": 100, "ipAddress": "192.0.2.1/32"}
            ],
        },
    }


def test_the_app_is_in_no_network_where_there_is_none() -> None:
    # An empty id would be refused.
    assert (
        made(APP, "app", **{**GIVEN_TO_APP, "subnetId": ""})["properties"]["virtualNetworkSubnetId"] is None
    )


def test_the_plan_is_for_linux() -> None:
    assert made(APP, "serverFarm", **GIVEN_TO_APP) == {
        "name": "plan-1",
        **COMMON,
        "kind": "functionapp",
        "sku": {"name": "FC1", "tier": "FlexConsumption"},
        "properties": {"reserved": True, "zoneRedundant": False},
    }


def test_the_settings_are_the_apps_and_the_base_url_is_the_one_that_was_checked() -> None:
    given = {**GIVEN_TO_APP, "settings": {"LOG_CALLS": "all", "APIM_BASE_URL": "https://another.example"}}
    config = made(APP, "appSettings", **given)
    assert (config["parent"], config["name"]) == ("app", "appsettings")
    assert config["properties"]["LOG_CALLS"] == "all"
    assert config["properties"]["APIM_BASE_URL"] == "https://contoso.azure-api.net/openai"


def test_neither_ftp_nor_the_deployment_site_takes_passwords() -> None:
    assert [made(APP, name) for name in ("ftpPasswords", "scmPasswords")] == [
        {"parent": "app", "name": "ftp", "properties": {"allow": False}},
        {"parent": "app", "name": "scm", "properties": {"allow": False}},
    ]


# Logs


def test_logs_are_kept_for_the_days_that_were_asked_for_and_without_addresses() -> None:
    file = File.named("modules/monitoring.bicep")
    assert made(file, "workspace", token="t1", retentionDays=77) == {
        "name": "log-t1",
        **COMMON,
        "properties": {
            "sku": {"name": "PerGB2018"},
            "retentionInDays": 77,
            "features": {"disableLocalAuth": True, "enableLogAccessUsingOnlyResourcePermissions": True},
        },
    }
    assert made(file, "insights", token="t1", retentionDays=77) == {
        "name": "appi-t1",
        **COMMON,
        "kind": "web",
        "properties": {
            "Application_Type": "web",
            "WorkspaceResourceId": "workspace.id",
            "DisableLocalAuth": True,
            "DisableIpMasking": False,
        },
    }


def test_the_workbook_is_found_at_the_workspace_that_it_asks() -> None:
    file = File.named("modules/workbook.bicep")
    config = made(file, "workbook", workspaceId="/workspaces/log-1")
    text = config["properties"].pop("serializedData")
    assert text.startswith("load_text_content(../workbook.json")
    assert (file.path.parent / "../workbook.json").resolve() == INFRA / "workbook.json"
    assert config == {
        "name": "guid(/workspaces/log-1, apim-openai-shim)",
        **COMMON,
        "kind": "shared",
        "properties": {
            "displayName": "APIM OpenAI shim",
            "category": "workbook",
            "version": "Notebook/1.0",
            "sourceId": "/workspaces/log-1",
        },
    }


# Alerts

ALERTS = File.named("modules/alerts.bicep")
GIVEN_TO_ALERTS = {"token": "t1", "workspaceId": "/workspaces/log-1"}


@pytest.mark.parametrize(("email", "told"), [("", []), ("oncall@contoso.com", ["receivers.id"])])
def test_an_alert_fires_on_a_row_and_tells_whoever_is_to_be_told(email: str, told: list[str]) -> None:
    alerts = ALERTS.each("alerts", **COMMON, **GIVEN_TO_ALERTS, email=email)
    for alert in alerts:
        properties = alert["properties"]
        assert {name: alert[name] for name in (*COMMON, "kind")} == {**COMMON, "kind": "LogAlert"}
        del properties["criteria"]["allOf"][0]["query"]  # tests/test_usage.py runs them
        assert properties.pop("displayName") == properties.pop("description") != ""
        del properties["severity"]
        assert properties == {
            "enabled": True,
            "skipQueryValidation": True,
            "evaluationFrequency": "PT5M",
            # "fires when, in 15 minutes": docs/deploy.md
            "windowSize": "PT15M",
            "scopes": ["/workspaces/log-1"],
            "criteria": {
                "allOf": [
                    {
                        # A query has a row where there is something to tell.
                        "timeAggregation": "Count",
                        "operator": "GreaterThan",
                        "threshold": 0,
                        "failingPeriods": {"numberOfEvaluationPeriods": 1, "minFailingPeriodsToAlert": 1},
                    }
                ]
            },
            "autoMitigate": True,
            "actions": {"actionGroups": told},
        }
    assert ALERTS.value(ALERTS.resources["receivers"]["condition"], email=email) is bool(told)


def test_each_alert_has_its_own_name_title_query_and_severity() -> None:
    alerts = ALERTS.each("alerts", **COMMON, **GIVEN_TO_ALERTS, email="")
    assert {
        alert["name"]: (alert["properties"]["displayName"], alert["properties"]["severity"])
        for alert in alerts
    } == {
        "alert-5xx-rate-t1": ("More than 5 % of calls answered with 5xx", 1),
        "alert-vault-failures-t1": ("Subscription keys could not be checked", 1),
        "alert-401-storm-t1": ("Many calls with keys that are not good", 2),
        "alert-slow-first-event-t1": ("Streams wait more than 20 s for their first event", 2),
    }
    assert [alert["properties"]["criteria"]["allOf"][0]["query"].split('"')[1] for alert in alerts] == [
        "gen_ai.server.request.duration",
        "apim_shim.vault.duration",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
    ]


def test_mail_goes_to_the_address_that_was_given() -> None:
    assert made(ALERTS, "receivers", **GIVEN_TO_ALERTS, email="oncall@contoso.com") == {
        "name": "ag-t1",
        "location": "global",
        "tags": COMMON["tags"],
        "properties": {
            "groupShortName": "shim",
            "enabled": True,
            "emailReceivers": [
                {"name": "operator", "emailAddress": "oncall@contoso.com", "useCommonAlertSchema": True}
            ],
        },
    }


# Vault and storage


def test_the_vault_lets_in_what_it_is_told_to_and_keeps_what_is_deleted() -> None:
    file = File.named("modules/vault.bicep")
    assert made(file, "vault", name="kv-1", closed=True, allowedAddresses=["192.0.2.1", "192.0.2.2"]) == {
        "name": "kv-1",
        **COMMON,
        "properties": {
            "tenantId": "subscription(None).tenantId",
            "sku": {"family": "A", "name": "standard"},
            "enableRbacAuthorization": True,
            "enableSoftDelete": True,
            # "recoverable for 90 days": docs/deploy.md
            "softDeleteRetentionInDays": 90,
            "enablePurgeProtection": True,
            "publicNetworkAccess": "Enabled",
            "networkAcls": {
                "bypass": "None",
                "defaultAction": "Deny",
                "ipRules": [{"value": "192.0.2.1"}, {"value": "192.0.2.2"}],
            },
        },
    }


def test_the_storage_is_the_cheapest_that_will_do_and_takes_identities_alone() -> None:
    file = File.named("modules/storage.bicep")
    assert made(file, "account", name="st1", closed=False, zoneRedundant=False) == {
        "name": "st1",
        **COMMON,
        "kind": "StorageV2",
        "sku": {"name": "Standard_LRS"},
        "properties": {
            "allowSharedKeyAccess": False,
            "allowBlobPublicAccess": False,
            "allowCrossTenantReplication": False,
            "defaultToOAuthAuthentication": True,
            "minimumTlsVersion": "TLS1_2",
            "supportsHttpsTrafficOnly": True,
            "publicNetworkAccess": "Enabled",
            "networkAcls": {"bypass": "AzureServices", "defaultAction": "Allow"},
        },
    }
    assert made(file, "blobs") == {
        "parent": "account",
        "name": "default",
        "properties": {"deleteRetentionPolicy": {"enabled": True, "days": 7}},
    }
    assert made(file, "deployments") == {
        "parent": "blobs",
        "name": "app-package",
        "properties": {"publicAccess": "None"},
    }


# Networks


def test_a_new_network_has_a_subnet_for_the_app_and_one_for_endpoints() -> None:
    file = File.named("modules/network.bicep")
    given = {"token": "t1", "addressPrefixes": ["10.0.0.0/26", "10.0.1.0/27"]}
    assert made(file, "network", **given) == {
        "name": "vnet-t1",
        **COMMON,
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.0.0.0/26", "10.0.1.0/27"]},
            "subnets": [
                {
                    "name": "app",
                    "properties": {
                        "addressPrefix": "10.0.0.0/26",
                        "networkSecurityGroup": {"id": "guard.id"},
                        "delegations": [
                            {"name": "app", "properties": {"serviceName": "Microsoft.App/environments"}}
                        ],
                    },
                },
                {
                    "name": "endpoints",
                    "properties": {
                        "addressPrefix": "10.0.1.0/27",
                        "networkSecurityGroup": {"id": "guard.id"},
                        # Else the security group would not count for private endpoints.
                        "privateEndpointNetworkPolicies": "Enabled",
                    },
                },
            ],
        },
    }


TARGETS = [
    {"name": "vault", "resourceId": "/vaults/kv-1", "zone": "privatelink.vaultcore.azure.net"},
    {"name": "sites", "resourceId": "/sites/func-1", "zone": "privatelink.azurewebsites.net"},
]


def endpoints(name: str, zones_group: str = "") -> list[Any]:
    given = {"subnetId": "/subnets/endpoints", "virtualNetworkId": "/vnets/1", "zonesGroupId": zones_group}
    return File.named("modules/endpoints.bicep").each(name, **COMMON, **given, targets=TARGETS)


def test_an_endpoint_in_its_subnet_stands_for_one_resource() -> None:
    vault, sites = endpoints("endpoints")
    assert vault == {
        "name": "pe-vault-uniqueString(target.resourceId)",
        **COMMON,
        "properties": {
            "subnet": {"id": "/subnets/endpoints"},
            "privateLinkServiceConnections": [
                {
                    "name": "vault",
                    "properties": {"privateLinkServiceId": "/vaults/kv-1", "groupIds": ["vault"]},
                }
            ],
        },
    }
    (connection,) = sites["properties"]["privateLinkServiceConnections"]
    assert connection["properties"] == {"privateLinkServiceId": "/sites/func-1", "groupIds": ["sites"]}


def test_a_new_zone_is_linked_to_the_network_and_takes_no_names_but_its_endpoints() -> None:
    assert endpoints("zones")[1] == {
        "name": "privatelink.azurewebsites.net",
        "location": "global",
        "tags": COMMON["tags"],
    }
    assert endpoints("links")[1] == {
        "parent": "index_accessor(zones, 1)",
        "name": "link-uniqueString(virtualNetworkId)",
        "location": "global",
        "properties": {"registrationEnabled": False, "virtualNetwork": {"id": "/vnets/1"}},
    }


@pytest.mark.parametrize(
    ("group", "scope"),
    [("", "resource_group(None, None).id"), ("/resourceGroups/hub", "/resourceGroups/hub")],
)
def test_an_endpoint_is_written_into_its_zone_once_the_zone_is_linked(group: str, scope: str) -> None:
    assert endpoints("records", group)[1] == {
        "parent": "index_accessor(endpoints, 1)",
        "name": "default",
        "properties": {
            "privateDnsZoneConfigs": [
                {
                    "name": "sites",
                    "properties": {
                        "privateDnsZoneId": f"{scope}/providers/Microsoft.Network/privateDnsZones/"
                        "privatelink.azurewebsites.net"
                    },
                }
            ]
        },
        "dependsOn": ["links"],
    }


# A name of one's own


def test_a_certificate_is_asked_for_once_the_name_is_bound() -> None:
    file = File.named("modules/domain.bicep")
    given = {"appName": "func-1", "hostName": "ai.example.com", "isBound": False}
    binding = {"hostNameType": "Verified", "customHostNameDnsRecordType": "CName"}
    assert file.value(file.resources["name"]["config"], **given) == {
        "parent": "app",
        "name": "ai.example.com",
        "properties": {**binding, "sslState": "Disabled"},
    }
    assert made(file, "certificate", **given) == {
        "parent": "app",
        "name": "ai-example-com",
        **COMMON,
        "properties": {"canonicalName": "ai.example.com"},
        "dependsOn": ["name"],
    }
    assert file.value(file.modules["tls"]["config"]["params"], **given) == {
        "appName": "func-1",
        "hostName": "ai.example.com",
        "thumbprint": "certificate.properties.thumbprint",
    }
    tls = File.named("modules/domain-tls.bicep")
    assert made(tls, "binding", hostName="ai.example.com", thumbprint="ABCD") == {
        "parent": "app",
        "name": "ai.example.com",
        "properties": {**binding, "sslState": "SniEnabled", "thumbprint": "ABCD"},
    }


# Roles


def test_a_role_is_one_of_azures_own_and_its_assignment_has_a_name_that_no_other_has() -> None:
    """Two assignments of one name are one: the second would be refused, or would take the first one's place."""
    file = File.named("modules/rbac.bicep")
    given = {"appPrincipalId": "app-1", "operatorPrincipalId": "operator-1"}
    assigned = {
        name: file.value(resource["config"], **given)
        for name, resource in file.resources.items()
        if not resource["existing"]
    }
    who = "4633458b-17de-408a-b874-0445c86b69e6"
    assert assigned["appReadsSecrets"]["properties"]["roleDefinitionId"] == (
        f"subscription_resource_id(Microsoft.Authorization/roleDefinitions, {who}, None, None)"
    )
    for name, assignment in assigned.items():
        role = assignment["properties"]["roleDefinitionId"]
        assert role.startswith("subscription_resource_id(Microsoft.Authorization/roleDefinitions, "), name
        # The role is the last part of the name.
        assert assignment["name"].rpartition(", ")[2].rstrip(")") == role.split(", ")[1], name
    assert len({assignment["name"] for assignment in assigned.values()}) == len(assigned) == 6


def test_what_the_app_cannot_do_without_it_may_always_do() -> None:
    resources = File.named("modules/rbac.bicep").resources
    optional = {name for name, resource in resources.items() if resource.get("condition") is not None}
    assert optional == {"appWritesSecrets", "operatorWritesSecrets"}


def test_the_role_on_apim_is_one_of_its_deployment_and_of_its_group_alone() -> None:
    file = File.named("modules/apim-reader.bicep")
    config = file.value(file.resources["keyReader"]["config"], token="t1")
    # Two deployments that import from one service have a role each, and names are of the whole tenant.
    assert config["name"] == "guid(resource_group(None, None).id, t1, apim subscription key reader)"
    assert config["properties"]["roleName"] == "APIM subscription key reader (t1)"
    assert config["properties"]["type"] == "CustomRole"
    assert config["properties"]["assignableScopes"] == ["resource_group(None, None).id"]
    assignment = file.value(file.resources["appReadsKeys"]["config"], appPrincipalId="app-1")
    assert assignment["name"] == "guid(apim.id, app-1, keyReader.id)"


# Every module


OUTPUTS = {
    "app": {
        "id": "app.id",
        "name": "app.name",
        # Not put together from the name: newer apps have a part of their own in their host name.
        "url": "https://app.properties.defaultHostName",
        "domainVerificationId": "app.properties.customDomainVerificationId",
    },
    "monitoring": {
        "workspaceId": "workspace.id",
        # What queries name the workspace by, which is not its id.
        "workspaceGuid": "workspace.properties.customerId",
        "insightsName": "insights.name",
    },
    "network": {
        "id": "network.id",
        "appSubnetId": "network.id/subnets/app",
        "endpointSubnetId": "network.id/subnets/endpoints",
    },
    "storage": {"id": "account.id", "name": "account.name", "deploymentContainerName": "deployments.name"},
    # Clouds other than the public one have other suffixes.
    "vault": {
        "id": "vault.id",
        "name": "vault.name",
        "url": "https://vault.nameenvironment().suffixes.keyvaultDns",
    },
}


@pytest.mark.parametrize("module", OUTPUTS)
def test_a_module_gives_away_what_others_know_it_by(module: str) -> None:
    assert outputs(File.named(f"modules/{module}.bicep")) == OUTPUTS[module]


# These have none: assignments and definitions of roles, and parts of another resource.
WITHOUT_TAGS = (
    "Microsoft.Authorization/",
    "Microsoft.Insights/diagnosticSettings",
    "Microsoft.KeyVault/vaults/",
    "Microsoft.Network/privateDnsZones/",
    "Microsoft.Network/privateEndpoints/",
    "Microsoft.Storage/storageAccounts/",
    "Microsoft.Web/sites/basicPublishing",
    "Microsoft.Web/sites/config",
    "Microsoft.Web/sites/hostNameBindings",
)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_whatever_takes_tags_has_those_of_the_environment(path: Any) -> None:
    """`azd down` and whoever reads the bill go by them."""
    file = File.named(path.relative_to(INFRA).as_posix())
    for name, resource in file.resources.items():
        if not resource["existing"] and not resource["type"].startswith(WITHOUT_TAGS):
            tags = file.value(resource["config"]["tags"], tags={"azd-env-name": "dev"}, environmentName="dev")
            assert tags["azd-env-name"] == "dev", name
