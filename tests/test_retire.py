"""`python -m shim retire`: what can take the shim's place in APIM, as files to review and deploy.

They are deployed into somebody's gateway, where a wrong policy is an open API or an outage.
"""

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from openai import OpenAI
from typer.testing import CliRunner, Result

from devhost.azure.services import RESOURCE_ID, Azure, Subscribed, running_azure
from shim.__main__ import app
from shim.cli.session import Dependencies
from tests.support.bicep import File

ORIGIN = "https://app.example.com"
OFFLINE = (
    "--resource-id", RESOURCE_ID, "--api", "openai", "--gateway", "https://gw.example/", "--path", "/ai/openai/",
)  # fmt: skip
FILES = {
    "README.md",
    "callers.md",
    *(
        f"{folder}/{name}"
        for folder in ("v1", "front")
        for name in ("main.bicep", "main.parameters.json", "policy.xml")
    ),
}

type Retire = Callable[..., Awaitable[Result]]


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    async with running_azure(tmp_path) as running:
        running.apim.apis["openai"] = {
            "path": "ai/openai",
            "serviceUrl": "https://contoso.openai.azure.com/openai",
            "subscriptionKeyParameterNames": {"header": "api-key", "query": "subscription-key"},
        }
        running.apim.products_of["openai"] = ["gold"]
        running.apim.subscribe(
            # In no order, as the service lists them.
            Subscribed("team-e", "secret-e1", "secret-e2", scope="/apis"),
            # Its key has administrative rights, whatever its scope.
            Subscribed("master", "master-1", "master-2", scope="/apis"),
            Subscribed("team-f", "secret-f1", "secret-f2", scope="/products/Gold"),
            Subscribed("team-g", "secret-g1", "secret-g2", scope="/apis/open"),
            Subscribed("team-a", "secret-a1", "secret-a2", label='Team "A" ${x}', scope="/products/gold"),
            Subscribed("team-b", "secret-b1", "secret-b2", label="Équipe B", scope="/apis/openai"),
            Subscribed("team-c", "secret-c1", "secret-c2", scope="/products/other"),
            Subscribed("team-d", "secret-d1", "secret-d2", scope="/products/gold", state="suspended"),
        )
        yield running


@pytest.fixture
def retire(azure: Azure) -> Retire:
    """Runs the command, in a thread of its own since it has its own event loop."""

    async def command(*arguments: str) -> Result:
        # No vault: an operator needs none for this.
        given = Dependencies({}, azure.open_secrets, azure.open_apim)
        run = functools.partial(CliRunner().invoke, app, ["retire", *arguments], obj=given)
        return await asyncio.to_thread(run)

    return command


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def parameters(folder: Path, name: str) -> dict[str, Any]:
    content = json.loads((folder / name / "main.parameters.json").read_text())
    return {key: value["value"] for key, value in content["parameters"].items()}


def inbound(folder: Path, name: str) -> list[ElementTree.Element]:
    return policy(folder, name).findall("inbound/*")


def policy(folder: Path, name: str) -> ElementTree.Element:
    return ElementTree.parse(folder / name / "policy.xml").getroot()


async def test_files_are_written_from_what_the_service_says_and_hold_no_key(
    azure: Azure, retire: Retire, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = await retire("--resource-id", RESOURCE_ID, "--api", "openai", "--out", str(out))
    assert done.exit_code == 0, done.output
    files = files_in(out)
    assert set(files) == FILES
    assert "secret-" not in done.output + "".join(files.values())
    assert azure.apim.calls["secrets"] == 0
    assert parameters(out, "v1") == {
        "serviceName": "contoso-apim",
        "apiName": "openai-v1-bearer",
        "apiPath": "ai/openai-v1",
        "backendUrl": "https://contoso.openai.azure.com/openai/v1",
        "products": ["gold"],
        "subscriptions": [
            {"id": "team-a", "displayName": 'Team "A" ${x}', "scope": "products/gold"},
            {"id": "team-b", "displayName": "Équipe B", "scope": "apis/openai-v1-bearer"},
            {"id": "team-e", "displayName": "team-e", "scope": "apis"},
            {"id": "team-f", "displayName": "team-f", "scope": "products/gold"},
        ],
    }
    assert parameters(out, "front") == {
        "serviceName": "contoso-apim",
        "apiName": "openai-front",
        "apiPath": "ai-bearer/openai",
        "legacyUrl": "https://contoso-apim.azure-api.net/ai/openai",
    }
    for name in ("v1", "front"):
        stated = json.loads(files[f"{name}/main.parameters.json"])
        assert (stated["$schema"], stated["contentVersion"]) == (
            "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#", "1.0.0.0"
        )  # fmt: skip
    # They are there to be reviewed.
    assert "Équipe B" in files["v1/main.parameters.json"]
    assert set(done.stdout.split()) == {str(out / name) for name in FILES}
    assert done.stderr == "Review README.md there first. Nothing has been deployed.\n"
    assert policy(out, "front").find("inbound/set-header[@name='api-key']") is not None


async def test_the_service_may_be_named_by_the_settings_and_a_backend_by_an_option(
    azure: Azure, tmp_path: Path
) -> None:
    given = Dependencies({"APIM_RESOURCE_ID": RESOURCE_ID}, azure.open_secrets, azure.open_apim)
    arguments = (
        *(
            "retire",
            "--api",
            "OpenAI",
            "--backend-url",
            "https://aoai.example/openai/",
            "--out",
            str(tmp_path),
        ),
        # Without a path, the gateway's own URL is what counts.
        *("--gateway", "https://elsewhere.example", "--key-header", "x-elsewhere", "--origin", ORIGIN),
    )
    azure.apim.apis["OpenAI"] = azure.apim.apis.pop("openai")
    azure.apim.apis["OpenAI"]["subscriptionKeyParameterNames"]["header"] = "x-team-key"
    azure.apim.products_of = {"OpenAI": ["gold", "silver"]}
    azure.apim.subscribe(Subscribed("team-h", "secret-h1", "secret-h2", scope="/products/silver"))
    done = await asyncio.to_thread(functools.partial(CliRunner().invoke, app, arguments, obj=given))
    assert done.exit_code == 0, done.output
    said = parameters(tmp_path, "v1")
    assert said["backendUrl"] == "https://aoai.example/openai/v1"
    assert said["products"] == ["gold", "silver"]
    assert inbound(tmp_path, "front")[3].get("name") == "x-team-key"
    assert policy(tmp_path, "v1").findtext(".//allowed-origins/origin") == ORIGIN
    # Ids of APIs have no case.
    assert [twin["id"] for twin in said["subscriptions"]] == [
        "team-a",
        "team-b",
        "team-e",
        "team-f",
        "team-h",
    ]
    assert parameters(tmp_path, "front")["legacyUrl"] == "https://contoso-apim.azure-api.net/ai/openai"


async def test_what_is_still_to_be_filled_in_is_said(retire: Retire, tmp_path: Path) -> None:
    done = await retire(*OFFLINE, "--out", str(tmp_path))
    assert done.stderr.splitlines() == [
        "v1/main.parameters.json lacks backendUrl: policies of the legacy API choose its backend. Fill it in.",
        "v1/main.parameters.json names no subscription: add those that are to get a twin.",
        "Review README.md there first. Nothing has been deployed.",
    ]
    assert parameters(tmp_path, "v1")["backendUrl"] == ""
    assert "No subscription is named in `subscriptions`: name those" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("path", "v1", "front"),
    [
        ("openai", "openai-v1", "legacy-bearer/openai"),
        ("ai/openai", "ai/openai-v1", "ai-bearer/openai"),
        ("a/b/openai", "a/b/openai-v1", "a/b-bearer/openai"),
        ("gpt", "gpt-v1", "gpt-bearer"),
        ("ai/gpt", "ai/gpt-v1", "ai/gpt-bearer"),
    ],
)
async def test_the_new_apis_are_beside_the_legacy_one(
    retire: Retire, tmp_path: Path, path: str, v1: str, front: str
) -> None:
    await retire(*OFFLINE, "--path", path, "--out", str(tmp_path))
    assert [parameters(tmp_path, name)["apiPath"] for name in ("v1", "front")] == [v1, front]


async def test_run_twice_the_files_are_the_same(retire: Retire, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--resource-id", RESOURCE_ID, "--api", "openai", "--origin", ORIGIN, "--out", str(out))
    assert (await retire(*arguments)).exit_code == 0
    first = files_in(out)
    assert (await retire(*arguments)).exit_code == 0
    assert files_in(out) == first


async def test_what_was_changed_by_hand_is_replaced_only_on_request(retire: Retire, tmp_path: Path) -> None:
    arguments = (*OFFLINE, "--out", str(tmp_path))
    await retire(*arguments)
    changed = tmp_path / "v1" / "policy.xml"
    changed.write_text("<policies />")
    refused = await retire(*arguments)
    assert (refused.exit_code, changed.read_text()) == (1, "<policies />")
    assert refused.stderr.splitlines() == [
        f"Error: v1/policy.xml in {tmp_path} would be replaced",
        "Write to another folder with --out, or replace them with --force.",
    ]
    assert refused.stdout == ""
    assert (await retire(*arguments, "--force")).exit_code == 0
    assert changed.read_text() != "<policies />"


async def test_flags_alone_are_enough(azure: Azure, retire: Retire, tmp_path: Path) -> None:
    done = await retire(
        *OFFLINE,
        "--subscription",
        "team-z",
        "--subscription",
        "team-y",
        "--backend-url",
        "https://aoai.example/openai",
        "--out",
        str(tmp_path),
    )
    assert (done.exit_code, sum(azure.apim.calls.values())) == (0, 0)
    given = parameters(tmp_path, "v1")
    assert given["backendUrl"] == "https://aoai.example/openai/v1"
    assert given["subscriptions"] == [
        {"id": "team-y", "displayName": "team-y", "scope": "apis"},
        {"id": "team-z", "displayName": "team-z", "scope": "apis"},
    ]
    assert given["products"] == []
    assert done.stderr == "Review README.md there first. Nothing has been deployed.\n"
    assert policy(tmp_path, "front").find("inbound/set-header[@name='api-key']") is not None
    assert policy(tmp_path, "front").find("inbound/set-header[@name='Host']") is None
    assert parameters(tmp_path, "front")["legacyUrl"] == "https://gw.example/ai/openai"


async def test_the_new_apis_can_be_where_callers_are_used_to_find_the_shim(
    retire: Retire, tmp_path: Path
) -> None:
    await retire(*OFFLINE, "--new-path", "/openai/v1/", "--front-path", "/openai/", "--out", str(tmp_path))
    assert [parameters(tmp_path, name)["apiPath"] for name in ("v1", "front")] == ["openai/v1", "openai"]
    assert 'base_url="https://gw.example/openai/v1"' in (tmp_path / "README.md").read_text()


async def test_every_bicep_file_parses_and_takes_the_parameters_that_are_given(
    retire: Retire, tmp_path: Path
) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    for name in ("v1", "front"):
        bicep = File(tmp_path / name / "main.bicep")
        assert set(bicep.parameters) == set(parameters(tmp_path, name))
        assert "listSecrets" not in str(bicep.outputs)
        [stated] = bicep.of_type("Microsoft.ApiManagement/service/apis/policies")
        assert "loadTextContent('policy.xml')" in bicep.text
        assert stated["config"]["properties"]["format"] == "xml"
        # The only name that Resource Manager takes for a policy.
        assert stated["config"]["name"] == "policy"
        [api] = bicep.of_type("Microsoft.ApiManagement/service/apis")
        assert api["config"]["properties"]["subscriptionRequired"] is (name == "v1")


async def test_twins_have_the_keys_of_their_originals_as_bearer_by_reference(
    retire: Retire, tmp_path: Path
) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    bicep = File(tmp_path / "v1" / "main.bicep")
    twin, original = bicep.resources["twins"], bicep.resources["originals"]
    assert (original["existing"], twin["existing"]) == (True, False)
    properties = twin["config"]["properties"]
    assert properties["primaryKey"] == "Bearer ${originals[index].listSecrets().primaryKey}"
    assert properties["secondaryKey"] == "Bearer ${originals[index].listSecrets().secondaryKey}"
    given = parameters(tmp_path, "v1") | {
        "subscriptions": [{"id": "team-a", "displayName": "Team A", "scope": "products/gold"}]
    }
    [made] = bicep.each("twins", **given, service={"id": "/the/service"})
    assert made["name"] == "team-a-bearer"
    assert {name: made["properties"][name] for name in ("displayName", "scope", "state")} == {
        "displayName": "Team A (Bearer)", "scope": "/the/service/products/gold", "state": "active"
    }  # fmt: skip
    assert [each["name"] for each in bicep.each("originals", **given)] == ["team-a"]
    [api] = bicep.of_type("Microsoft.ApiManagement/service/apis")
    assert api["config"]["properties"]["subscriptionKeyParameterNames"]["header"] == "Authorization"


async def test_each_api_is_deployed_with_what_the_parameters_say(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--backend-url", "https://aoai.example/openai", "--out", str(tmp_path))
    for name, url in (("v1", "https://aoai.example/openai/v1"), ("front", "https://gw.example/ai/openai")):
        bicep = File(tmp_path / name / "main.bicep")
        given = parameters(tmp_path, name)
        api = bicep.value(bicep.resources["api"]["config"], **given)
        assert api["name"] == given["apiName"]
        properties = api["properties"]
        assert (properties["path"], properties["serviceUrl"]) == (given["apiPath"], url)
        assert properties["protocols"] == ["https"]
        assert bicep.value(bicep.resources["service"]["config"], **given)["name"] == "contoso-apim"
        operations = bicep.each("operations", **given)
        assert [each["properties"]["method"] for each in operations] == ["GET", "POST", "DELETE"]
        assert {each["properties"]["urlTemplate"] for each in operations} == {"/*"}
        assert {name: output["value"] for name, output in bicep.outputs.items()} == {
            "baseUrl": "${service.properties.gatewayUrl}/${apiPath}"
        }
        belongs = {name: resource["config"].get("parent") for name, resource in bicep.resources.items()}
        assert (belongs["api"], belongs["operations"], belongs["policy"]) == ("service", "api", "api")
        # An empty URL is refused before anything is deployed.
        required = bicep.parameters["backendUrl" if name == "v1" else "legacyUrl"]["decorators"]
        assert {"type": "min_length", "argument": 1} in required
    bicep = File(tmp_path / "v1" / "main.bicep")
    given = parameters(tmp_path, "v1") | {"products": ["gold"]}
    assert [each["name"] for each in bicep.each("memberships", **given)] == [
        "contoso-apim/gold/openai-v1-bearer"
    ]
    properties = bicep.resources["api"]["config"]["properties"]
    assert properties["subscriptionKeyParameterNames"]["query"] == "subscription-key"
    # Either names the new API, which must be there first.
    assert [bicep.resources[name]["config"]["dependsOn"] for name in ("memberships", "twins")] == [
        ["api"]
    ] * 2
    assert bicep.resources["twins"]["config"]["parent"] == "service"


# https://learn.microsoft.com/azure/api-management/api-management-policies
KNOWN_POLICIES = {
    "base", "cors", "choose", "set-header", "authentication-managed-identity", "forward-request", "return-response",
}  # fmt: skip


@pytest.mark.parametrize("name", ["v1", "front"])
@pytest.mark.parametrize("more", [(), ("--origin", ORIGIN, "--internal")], ids=["least", "all"])
async def test_policies_are_well_formed_in_their_sections_and_expressions_balanced(
    retire: Retire, tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    await retire(*OFFLINE, *more, "--out", str(tmp_path))
    root = policy(tmp_path, name)
    assert [section.tag for section in root] == ["inbound", "backend", "outbound", "on-error"]
    assert {statement.tag for section in root for statement in section} <= KNOWN_POLICIES
    texts = [text for element in root.iter() for text in (*element.attrib.values(), element.text or "")]
    for expression in (text for text in texts if text.startswith("@(")):
        assert expression.endswith(")")
        assert expression.count("(") == expression.count(")")
        assert expression.count('"') % 2 == 0
        assert set(re.findall(r"context\.(\w+)", expression)) <= {"Request"}
    [forward] = root.findall("backend/forward-request")
    # The platform in front of the shim waits for as long.
    assert forward.attrib == {"timeout": "240", "buffer-response": "false"}
    assert [section.tag for section in root if section.find("base") is not None] == [
        "inbound", "outbound", "on-error"
    ]  # fmt: skip


async def test_the_front_api_moves_the_key_once_it_is_known_to_be_one(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--key-header", "x-team-key", "--out", str(tmp_path))
    statements = inbound(tmp_path, "front")
    said = [
        (statement.tag, statement.get("name"), statement.get("exists-action")) for statement in statements
    ]
    assert said == [
        ("base", None, None),
        ("choose", None, None),
        ("set-header", "x-team-key", "override"),
        ("set-header", "Authorization", "delete"),
        ("set-header", "Origin", "delete"),
    ]
    [when] = statements[1]
    bearer = 'context.Request.Headers.GetValueOrDefault("Authorization", "")'
    assert when.get("condition") == f'@(!{bearer}.StartsWith("Bearer "))'
    assert statements[2].findtext("value") == f"@({bearer}.Substring(7).Trim())"
    status = when.find("return-response/set-status")
    assert status is not None
    assert status.attrib == {"code": "401", "reason": "Unauthorized"}
    headers = [(header.get("name"), header.findtext("value")) for header in when.iterfind(".//set-header")]
    assert headers == [("Content-Type", "application/json"), ("WWW-Authenticate", "Bearer")]
    body = policy(tmp_path, "front").findtext(".//set-body") or ""
    assert json.loads(body)["error"] == {
        "message": "Send the subscription key as Authorization: Bearer <key>.",
        "type": "authentication_error",
        "param": None,
        "code": "missing_api_key",
    }


async def test_a_key_header_is_quoted_where_it_would_end_the_attribute(
    retire: Retire, tmp_path: Path
) -> None:
    await retire(*OFFLINE, "--key-header", 'x-"team"&<key>', "--out", str(tmp_path))
    assert inbound(tmp_path, "front")[2].get("name") == 'x-"team"&<key>'


async def test_the_v1_api_sends_no_key_upstream(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    statements = inbound(tmp_path, "v1")
    # It sets Authorization, and so replaces the key there.
    assert statements[-1].tag == "authentication-managed-identity"
    assert statements[-1].attrib == {"resource": "https://cognitiveservices.azure.com"}
    assert (statements[-2].get("name"), statements[-2].get("exists-action")) == ("api-key", "delete")


# Of OpenAI's SDKs, in pages: what they send by themselves, with an option, and for the resources that poll.
SENT_BY_SDKS = [
    "accept", "authorization", "content-type", "idempotency-key", "openai-beta", "openai-organization",
    "openai-project", "x-request-id", "x-stainless-arch", "x-stainless-custom-poll-interval",
    "x-stainless-helper-method", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version",
    "x-stainless-poll-helper", "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version",
    "x-stainless-timeout",
]  # fmt: skip


async def test_cors_names_the_origins_and_what_the_sdk_sends(retire: Retire, tmp_path: Path) -> None:
    other = "https://other.example"
    await retire(*OFFLINE, "--origin", ORIGIN, "--origin", other, "--out", str(tmp_path))
    for name in ("v1", "front"):
        cors = inbound(tmp_path, name)[1]
        # Its elements in the documented order: https://learn.microsoft.com/azure/api-management/cors-policy
        assert [element.tag for element in cors] == [
            *("allowed-origins", "allowed-methods", "allowed-headers", "expose-headers")
        ]
        assert cors.attrib == {"allow-credentials": "false", "terminate-unmatched-request": "true"}
        assert [origin.text for origin in cors.iterfind("allowed-origins/origin")] == [ORIGIN, other]
        assert [method.text for method in cors.iterfind("allowed-methods/method")] == [
            "GET",
            "POST",
            "DELETE",
        ]
        assert cors[1].attrib == {"preflight-result-max-age": "600"}
        assert [header.text for header in cors.iterfind("allowed-headers/header")] == SENT_BY_SDKS
        assert [header.text for header in cors.iterfind("expose-headers/header")] == ["*"]
    sent = {name.lower() for name in OpenAI(api_key="x").default_headers} - {
        "user-agent",
        "x-stainless-async",
    }
    assert sent <= set(SENT_BY_SDKS)
    page = (tmp_path / "README.md").read_text()
    assert f"Both policies answer CORS for {ORIGIN}, {other}." in page
    assert page.count(f"--key-stdin --origin {ORIGIN}\n") == 2


async def test_any_origin_may_be_allowed_by_name(retire: Retire, tmp_path: Path) -> None:
    assert (await retire(*OFFLINE, "--origin", "*", "--out", str(tmp_path))).exit_code == 0
    for name in ("v1", "front"):
        assert [each.text for each in policy(tmp_path, name).iterfind(".//allowed-origins/origin")] == ["*"]


async def test_without_an_origin_no_cors_is_written(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    assert [policy(tmp_path, name).find(".//cors") for name in ("v1", "front")] == [None, None]
    page = (tmp_path / "README.md").read_text()
    assert "No origin was given, so neither policy has a cors element" in page
    assert "--origin " not in page.replace("--origin https://app.example.com", "")
    assert page.count("--key-stdin\n") == 2


async def test_an_internal_gateway_is_called_by_the_loopback_address_under_its_own_name(
    azure: Azure, retire: Retire, tmp_path: Path
) -> None:
    azure.apim.service["virtualNetworkType"] = "Internal"
    out = tmp_path / "out"
    await retire("--resource-id", RESOURCE_ID, "--api", "openai", "--out", str(out))
    assert parameters(out, "front")["legacyUrl"] == "https://127.0.0.1/ai/openai"
    hosts = policy(out, "front").findall("inbound/set-header[@name='Host']/value")
    assert [host.text for host in hosts] == ["contoso-apim.azure-api.net"]
    assert "`contoso-apim` is in internal virtual network mode" in (out / "README.md").read_text()
    assert "known workaround" in (out / "README.md").read_text()


async def test_an_internal_gateway_may_be_described_by_flags(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--internal", "--gateway", "https://gw.example:8443/base", "--out", str(tmp_path))
    assert parameters(tmp_path, "front")["legacyUrl"] == "https://127.0.0.1/ai/openai"
    [host] = policy(tmp_path, "front").findall("inbound/set-header[@name='Host']")
    assert (host.findtext("value"), host.get("exists-action")) == ("gw.example:8443", "override")
    assert policy(tmp_path, "v1").find("inbound/set-header[@name='Host']") is None


REFUSED = {
    "no service": (("--api", "openai"), 2, "name the service: set APIM_RESOURCE_ID, or use --resource-id"),
    "a service by its name": (
        ("--api", "openai", "--resource-id", "contoso"),
        2,
        "it looks like /subscriptions/",
    ),
    "a pattern of origins": ((*OFFLINE, "--origin", "https://*.example.com"), 2, "exact origins, or * alone"),
    "an origin with a path": (
        (*OFFLINE, "--origin", f"{ORIGIN}/page"),
        2,
        f"--origin: '{ORIGIN}/page' is not an origin",
    ),
    "a gateway over plain HTTP": (
        (*OFFLINE, "--gateway", "http://127.0.0.1"),
        2,
        "--gateway must begin with https://",
    ),
    "a backend over plain HTTP": (
        (*OFFLINE, "--backend-url", "http://127.0.0.1"),
        2,
        "--backend-url must begin with https://",
    ),
    "an API that is not there": (("--resource-id", RESOURCE_ID, "--api", "gone"), 6, "was not found"),
}


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_written_is_refused_in_words(
    retire: Retire, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = await retire(*arguments, "--out", str(tmp_path / "out"))
    assert (done.exit_code, words in " ".join(done.output.replace("│", " ").split())) == (code, True), (
        done.output
    )
    assert not (tmp_path / "out").exists()


async def test_the_page_names_the_service_the_apis_and_where_each_is(retire: Retire, tmp_path: Path) -> None:
    given = ("--key-header", "x-key", "--subscription", "team-b", "--subscription", "team-a")
    await retire(*OFFLINE, *given, "--api", "chat", "--out", str(tmp_path))
    page = (tmp_path / "README.md").read_text()
    for words in (
        "For the API `chat` of the API Management service `contoso-apim`, served at https://gw.example/ai/openai.",
        'Callers use `base_url="https://gw.example/ai/openai-v1"` and nothing else changes.',
        "These subscriptions get a twin: `team-a`, `team-b`.",
        "what-if --resource-group rg --template-file v1/main.bicep --parameters v1/main.parameters.json\n",
        "create --resource-group rg --template-file v1/main.bicep --parameters v1/main.parameters.json\n",
        "doctor --native https://gw.example/ai/openai-v1 --model <deployment> --key-stdin\n",
        "Callers use `https://gw.example/ai-bearer/openai` with the paths that the legacy API has",
        "Callers that send `x-key` on those paths",
        "they can call https://gw.example/ai/openai.",
        "what-if --resource-group rg --template-file front/main.bicep --parameters front/main.parameters.json\n",
        "create --resource-group rg --template-file front/main.bicep --parameters front/main.parameters.json\n",
        "doctor --native https://gw.example/ai-bearer/openai --model <deployment> --key-stdin\n",
        "`contoso-apim` is not in that mode.",
        "A twin is the subscription `<id>-bearer`; delete it in the portal",
        "delete --yes --resource-group rg --service-name contoso-apim --api-id openai-v1-bearer\n",
        "delete --yes --resource-group rg --service-name contoso-apim --api-id openai-front\n",
    ):
        assert words in page
    assert [parameters(tmp_path, name)["apiName"] for name in ("v1", "front")] == [
        "openai-v1-bearer", "openai-front"
    ]  # fmt: skip
    callers = (tmp_path / "callers.md").read_text()
    assert "The API `chat` reads the subscription key from `x-key`." in callers
    assert "| dated paths | `AzureOpenAI`, with `https://gw.example` and the path below it" in callers
    assert "| v1 paths | `OpenAI`, with the line below |" in callers
    # In each of the five languages; Go's SDK wants the slash at the end.
    assert callers.count('"https://gw.example/ai/openai"') == 4
    assert 'option.WithBaseURL("https://gw.example/ai/openai/")' in callers
    assert callers.count("APIM_KEY") == 5
    assert callers.count('"x-key"') == 5


async def test_the_page_says_what_each_replacement_costs(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--subscription", "team-a", "--out", str(tmp_path))
    page = (tmp_path / "README.md").read_text()
    for words in (
        'base_url="https://gw.example/ai/openai-v1"',
        "No self-service keys",
        "A user's own token cannot travel",
        "a twin has a count of its own",
        "Errors of APIM (401, 429) are in APIM's shape",
        "counts twice against its capacity",
        "Whoever can reach the gateway reaches this API without a key",
        "v1 paths do not become dated ones",
        "internal virtual network mode",
        "No model mapping",
        "`team-a`",
    ):
        assert words in page
    callers = (tmp_path / "callers.md").read_text()
    assert re.findall(r"^```(\w+)", callers, re.MULTILINE) == ["python", "js", "csharp", "go", "java"]
    assert "$" not in re.sub(r"\$\{?\w*APIM", "", callers)
