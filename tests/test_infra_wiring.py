"""What each part of infra/ is handed, and in which order: a value at the wrong place deploys without a complaint.

The Bicep compiler checks that a parameter is there and of the right type, not that it is the right one. A role for the
wrong principal, or an app that starts before its roles, shows only in Azure.
"""

import re
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.bicep import FILES, INFRA, File, Tree

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
    ("customDomain", "ai.example.com", "domain", "hostName", "ai.example.com"),
    ("apimBaseUrl", "https://a.example/openai", "app", "apimBaseUrl", "https://a.example/openai"),
    ("corsCredentials", True, "app", "corsCredentials", True),
]

# What a number or the length of a text is held to before anything is made: least and most.
LIMITS = {
    "environmentName": (1, 40),
    "location": (1, None),
    "apimKeyHeader": (1, None),
    "keySecretPrefix": (1, 63),  # a secret's name has 127, and a digest of 64 comes after it
    "maxBodyBytes": (0, None),
    "uploadLimitBytes": (0, None),
    "maximumInstanceCount": (40, 1000),
    "httpPerInstanceConcurrency": (0, 1000),
    "alwaysReady": (0, 20),
    "addressPrefixes": (2, 2),
    "logRetentionDays": (30, 730),
}


def limits(parameter: Tree) -> dict[str, Any]:
    """By the kind of the limit."""
    kinds = ("allowed", "min_length", "max_length", "min_value", "max_value")
    return {each["type"]: each["argument"] for each in parameter["decorators"] if each["type"] in kinds}


def test_numbers_and_lengths_are_checked_before_anything_is_made() -> None:
    bounds = {}
    for name, parameter in MAIN.parameters.items():
        kept = limits(parameter)
        least, most = (kept.get(f"{end}_value", kept.get(f"{end}_length")) for end in ("min", "max"))
        if least is not None or most is not None:
            bounds[name] = (least, most)
    assert bounds == LIMITS


def test_a_module_admits_what_the_deployment_admits() -> None:
    """A narrower limit would be met after half of the deployment."""
    same = 0
    for module in MAIN.modules.values():
        declared = File.named(module["detail"]["path"]).parameters
        for name, given in module["config"]["params"].items():
            if isinstance(given, str) and given in MAIN.parameters and given != "apimBaseUrl":
                ours, its = limits(MAIN.parameters[given]), limits(declared[name])
                if ours and name != "location":
                    assert its == ours, f"{name} in {module['detail']['path']}"
                    same += 1
    assert same >= 7


# What a module refuses whoever hands it over: lengths that Azure takes, and what must not be empty.
REFUSED = {
    ("alerts", "token"): {"min_length": 5},
    ("apim-reader", "apimName"): {"min_length": 1},
    ("apim-reader", "token"): {"min_length": 5},
    ("app", "name"): {"min_length": 2, "max_length": 60},
    ("app", "perInstanceConcurrency"): {"min_value": 1, "max_value": 1000},
    ("app", "apimBaseUrl"): {"min_length": 12},
    ("app", "hostBodyBytes"): {"min_value": 1},
    ("domain", "hostName"): {"min_length": 4},
    # With a subnet of one's own for the app alone, the one for endpoints is missing.
    ("endpoints", "subnetId"): {"min_length": 1},
    ("endpoints", "virtualNetworkId"): {"min_length": 1},
    ("identity", "name"): {"min_length": 3},
    ("monitoring", "token"): {"min_length": 5},
    ("network", "token"): {"min_length": 5},
    ("storage", "name"): {"min_length": 3, "max_length": 24},
    ("vault", "name"): {"min_length": 3, "max_length": 24},
}


def test_a_module_refuses_what_azure_would() -> None:
    handed_through = {"instanceMemoryMB", "maximumInstanceCount", "alwaysReady", "updateStrategy"}
    handed_through |= {"addressPrefixes", "retentionDays", "operatorPrincipalType"}  # as the deployment's own
    refused = {
        (path.stem, name): limits(parameter)
        for path in FILES
        if path.parent.name == "modules"
        for name, parameter in File.named(f"modules/{path.name}").parameters.items()
        if limits(parameter) and name not in handed_through
    }
    assert refused == REFUSED


def test_a_new_network_has_room_for_the_app_and_its_endpoints() -> None:
    # A /26 and a /27 at least, which do not overlap.
    assert MAIN.value("addressPrefixes") == ["10.90.0.0/26", "10.90.0.64/26"]


def test_a_deployment_without_azd_has_the_same_defaults() -> None:
    """azd leaves out what is not set: there the defaults of the Bicep file count for both."""
    nothing = {name for name in MAIN.parameters if MAIN.parameters[name]["default"] in ("", {})}
    assert nothing == {
        *("apimBaseUrl", "apimV1BaseUrl", "apimApiVersion", "modelDeployments", "corsOrigins", "settings"),
        *("deprecated", "sunset", "sunsetLink", "brownout", "principalId", "apimResourceId", "alertEmail"),
        *("appSubnetId", "endpointSubnetId", "privateDnsZonesGroupId", "allowedAddresses"),
        *("vaultAllowedAddresses", "customDomain", "boundDomain"),
    }


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
    "domain": {"appName": "app.outputs.name"},
    "workbook": {"workspaceId": "monitoring.outputs.workspaceId"},
    "alerts": {"workspaceId": "monitoring.outputs.workspaceId"},
}


@pytest.mark.parametrize("module", OUTPUTS)
def test_a_module_is_handed_the_outputs_that_it_is_about(module: str) -> None:
    outputs = {name: value for name, value in handed(module).items() if ".outputs." in str(value)}
    outputs.pop("settings", None)
    assert outputs == OUTPUTS[module]


@pytest.mark.parametrize("given", [{"network": "private"}, {"inbound": "private"}], ids=str)
def test_in_a_new_network_the_app_and_the_endpoints_have_a_subnet_each(given: dict[str, str]) -> None:
    app = "virtualNetwork.outputs.appSubnetId" if "network" in given else ""
    assert handed("app", **given)["subnetId"] == app
    endpoints = handed("endpoints" if "network" in given else "inboundEndpoint", **given)
    assert endpoints["subnetId"] == "virtualNetwork.outputs.endpointSubnetId"
    assert endpoints["virtualNetworkId"] == "virtualNetwork.outputs.id"


def test_an_endpoint_is_one_of_the_resource_that_its_zone_is_for() -> None:
    targets = [
        (target["name"], target["resourceId"])
        for module in ("endpoints", "inboundEndpoint")
        for target in handed(module)["targets"]
    ]
    assert targets == [
        ("vault", "vault.outputs.id"),
        ("blob", "storage.outputs.id"),
        ("table", "storage.outputs.id"),
        ("sites", "app.outputs.id"),
    ]


# What azd keeps in its environment, for its hooks, the next deployment, and commands of operators.
KEPT = {
    "AZURE_LOCATION": "westeurope",
    "AZURE_TENANT_ID": "tenant().tenantId",
    "AZURE_RESOURCE_GROUP": "group.name",
    "AZURE_FUNCTION_NAME": "app.outputs.name",
    "KEY_VAULT_NAME": "vault.outputs.name",
    "KEY_VAULT_URL": "vault.outputs.url",
    "LOG_ANALYTICS_WORKSPACE_ID": "monitoring.outputs.workspaceGuid",
    # The hook after a deployment asks it, and a name of one's own may not lead there yet.
    "SHIM_URL": "app.outputs.url",
    "SHIM_OPENAI_BASE_URL": "https://ai.example.com/openai/v1",
    "SHIM_BOUND_DOMAIN": "ai.example.com",
    "SHIM_DOMAIN_VERIFICATION_ID": "app.outputs.domainVerificationId",
}


def test_azd_keeps_what_comes_after_a_deployment_asks_for() -> None:
    given = {"location": "westeurope", "customDomain": "ai.example.com", "boundDomain": "old.example.com"}
    assert {name: MAIN.value(output["value"], **given) for name, output in MAIN.outputs.items()} == KEPT


def test_names_are_those_of_the_last_deployment_and_of_no_other() -> None:
    """Under another name everything would be made anew beside what there is, with an empty vault."""
    assert MAIN.value("token", environmentName="dev", location="westeurope") == (
        "to_lower(unique_string(subscription(None).id, dev, westeurope))"
    )
    given = {"token": "abcdefghijklm", "environmentName": "dev", "location": "westeurope"}
    names = {module: handed(module, **given).get("name") for module in MAIN.modules}
    assert {module: name for module, name in names.items() if name} == {
        "identity": "id-shim-abcdefghijklm",
        "vault": "kv-abcdefghijklm",
        "storage": "stabcdefghijklm",  # letters and digits alone
        "app": "func-shim-abcdefghijklm",
    }
    assert handed("app", **given)["planName"] == "plan-shim-abcdefghijklm"
    assert handed("apimReader", **given)["token"] == "abcdefghijklm"
    # azd finds the group of an environment by this tag, and takes it away with `azd down`.
    assert MAIN.value(MAIN.resources["group"]["config"], **given) == {
        "name": "rg-dev",
        "location": "westeurope",
        "tags": {"azd-env-name": "dev"},
    }


def test_everything_is_in_the_group_of_the_environment_but_the_role_on_apim() -> None:
    elsewhere = {name for name, module in MAIN.modules.items() if module["config"]["scope"] != "group"}
    assert elsewhere == {"apimReader"}
    for name, module in MAIN.modules.items():
        params = module["config"]["params"]
        assert {params.get("location"), params.get("tags")} <= {"location", "tags", None}, name
    # Two deployments of one name in a group would be one, and that group may have others.
    assert MAIN.modules["apimReader"]["config"]["name"] == "apim-reader-${token}"
    names = [module["config"]["name"] for module in MAIN.modules.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("module", "given"),
    [
        ("domain", {"customDomain": "ai.example.com"}),
        ("alerts", {"alertsEnabled": True}),
        ("apimReader", {"apimResourceId": SERVICE}),
    ],
)
def test_what_is_asked_for_is_made_and_nothing_else_of_its_kind(module: str, given: dict[str, Any]) -> None:
    condition = MAIN.modules[module]["condition"]
    assert MAIN.value(condition, boundDomain="old.example.com", alertEmail="oncall@contoso.com") is False
    assert MAIN.value(condition, **given) is True


# Resources that a module changes or asks, and which of its parameters names them.
REFERRED_TO = {
    "rbac": {
        "vault": ("Microsoft.KeyVault/vaults", "vaultName"),
        "storage": ("Microsoft.Storage/storageAccounts", "storageName"),
        "insights": ("Microsoft.Insights/components", "insightsName"),
    },
    "app": {
        "storage": ("Microsoft.Storage/storageAccounts", "storageName"),
        "insights": ("Microsoft.Insights/components", "insightsName"),
    },
    "apim-reader": {"apim": ("Microsoft.ApiManagement/service", "apimName")},
    "domain": {"app": ("Microsoft.Web/sites", "appName")},
    "domain-tls": {"app": ("Microsoft.Web/sites", "appName")},
}


@pytest.mark.parametrize("module", REFERRED_TO)
def test_a_module_works_on_what_it_was_named(module: str) -> None:
    resources = File.named(f"modules/{module}.bicep").resources
    assert {
        name: (resource["type"], resource["config"]["name"])
        for name, resource in resources.items()
        if resource["existing"]
    } == REFERRED_TO[module]


def test_a_deployment_is_one_of_a_subscription() -> None:
    """It makes its own resource group."""
    assert re.findall(r"^targetScope = '(\w+)'$", MAIN.text, re.MULTILINE) == ["subscription"]


def test_what_every_deployment_has_is_made_without_a_condition() -> None:
    unconditional = {name for name, module in MAIN.modules.items() if module.get("condition") is None}
    assert unconditional == {"identity", "monitoring", "vault", "storage", "rbac", "app", "workbook"}


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
    # It is computed even where there is no service.
    assert {name: MAIN.value(part, environmentName="dev") for name, part in scope["parameters"].items()} == {
        "subscription_id": "subscription(None).subscriptionId",
        "resource_group_name": "rg-dev",
    }
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


# What the guide says of the parts of infra/, in its own words.


def guide(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, by row, without their marks."""
    section = (ROOT / "docs/deploy.md").read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table[1:]]


# Names of roles, and of what they are on, as the portal shows them.
CALLED = {
    "Key Vault Secrets User": "4633458b-17de-408a-b874-0445c86b69e6",
    "Key Vault Secrets Officer": "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
    "Storage Blob Data Owner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "Storage Table Data Contributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
    "Monitoring Metrics Publisher": "3913510d-42f4-4e42-8a64-420c390055eb",
}
PLACES = {"the vault": "vault", "the storage account": "storage", "Application Insights": "insights"}


def test_the_guide_names_every_role_with_who_has_it_and_on_what() -> None:
    rbac = File.named("modules/rbac.bicep")
    assigned = set()
    for resource in rbac.resources.values():
        if resource["existing"]:
            continue
        properties = resource["config"]["properties"]
        who = "you" if properties["principalId"] == "operatorPrincipalId" else "the app"
        if resource.get("condition") == "importsKeys":
            who += ", with `APIM_RESOURCE_ID"
        role = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", str(rbac.value(properties["roleDefinitionId"])))[0]
        assigned.add((who, role, resource["config"]["scope"]))
    told = [row[:3] for row in guide("### Identity and roles")]
    assert [
        "the app, with `APIM_RESOURCE_ID",
        "APIM subscription key reader (custom)",
        "the APIM service",
    ] in told
    assert {(who, CALLED[role], PLACES[place]) for who, role, place in told if role in CALLED} == assigned
    assert len(told) == len(assigned) + 1


def test_the_guide_tells_when_each_alert_fires() -> None:
    """The bounds are those that tests/test_usage.py tries the queries at."""
    assert guide("## Alerts") == [
        ["5xx rate", "more than 5 % of more than 20 calls were answered with 5xx"],
        ["vault failures", "more than five questions to Key Vault failed: keys could not be checked"],
        ["401 storm", "more than 300 calls came with keys that are not good"],
        ["slow first event", "more than ten streams waited for their first event, 20 s on average"],
    ]
    assert "| rule | fires when, in 15 minutes |" in (ROOT / "docs/deploy.md").read_text()


def test_the_guide_reckons_with_the_calls_that_an_instance_is_given() -> None:
    (bold,) = (row for row in guide("### Request bodies") if row[0] == "2 MB")
    sizes = (512, 2048, 4096)
    assert bold[2:] == [str(handed("app", instanceMemoryMB=size)["perInstanceConcurrency"]) for size in sizes]


def test_the_guide_gives_a_plan_of_ones_own_what_infra_gives_to_its_app() -> None:
    table = dict(row[:2] for row in guide("## Your own plan"))
    assert handed("app")["hostBodyBytes"] == 131072000
    assert table["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"].endswith("`131072000` for the default")
    assert table["AzureWebJobsDisableHomepage"] == "true"
    assert "AzureWebJobsStorage__credential`, `__clientId`, `__blobServiceUri`, `__tableServiceUri" in table


def test_the_guide_tells_the_limits_that_are_kept() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    least, most = LIMITS["logRetentionDays"]
    assert f"how long logs are kept, {least} to {most} days" in text
    assert f"most instances; {LIMITS['maximumInstanceCount'][0]} at least" in text
    assert f"`SHIM_MAXIMUM_INSTANCE_COUNT` goes to {LIMITS['maximumInstanceCount'][1]:,}" in text
    assert "a timer imports keys every five minutes (`APIM_IMPORT_SCHEDULE`)" in text
    assert "requests, of 1 KB and at most one a\n  second" in text
