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
from shim.cli.retire.files import SDK_HEADERS
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
            Subscribed("master", "master-1", "master-2", scope="/"),
            Subscribed("team-a", "secret-a1", "secret-a2", label='Team "A" ${x}', scope="/products/gold"),
            Subscribed("team-b", "secret-b1", "secret-b2", label="Team B", scope="/apis/openai"),
            Subscribed("team-c", "secret-c1", "secret-c2", scope="/products/other"),
            Subscribed("team-d", "secret-d1", "secret-d2", scope="/products/gold", state="suspended"),
            Subscribed("team-e", "secret-e1", "secret-e2", scope="/apis"),
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
            {"id": "team-b", "displayName": "Team B", "scope": "apis/openai-v1-bearer"},
            {"id": "team-e", "displayName": "team-e", "scope": "apis"},
        ],
    }
    assert parameters(out, "front") == {
        "serviceName": "contoso-apim",
        "apiName": "openai-front",
        "apiPath": "ai-bearer/openai",
        "legacyUrl": "https://contoso-apim.azure-api.net/ai/openai",
    }


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
    assert "v1/policy.xml" in refused.stderr
    assert (await retire(*arguments, "--force")).exit_code == 0
    assert changed.read_text() != "<policies />"


async def test_flags_alone_are_enough(azure: Azure, retire: Retire, tmp_path: Path) -> None:
    done = await retire(
        *OFFLINE,
        "--subscription",
        "team-z",
        "--backend-url",
        "https://aoai.example/openai",
        "--out",
        str(tmp_path),
    )
    assert (done.exit_code, sum(azure.apim.calls.values())) == (0, 0)
    given = parameters(tmp_path, "v1")
    assert given["backendUrl"] == "https://aoai.example/openai/v1"
    assert given["subscriptions"] == [{"id": "team-z", "displayName": "team-z", "scope": "apis"}]
    assert parameters(tmp_path, "front")["legacyUrl"] == "https://gw.example/ai/openai"


async def test_the_new_apis_can_be_where_callers_are_used_to_find_the_shim(
    retire: Retire, tmp_path: Path
) -> None:
    await retire(*OFFLINE, "--new-path", "/openai/v1", "--front-path", "openai", "--out", str(tmp_path))
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
    [api] = bicep.of_type("Microsoft.ApiManagement/service/apis")
    assert api["config"]["properties"]["subscriptionKeyParameterNames"]["header"] == "Authorization"


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
    assert forward.attrib["buffer-response"] == "false"


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
    body = policy(tmp_path, "front").findtext(".//set-body") or ""
    assert json.loads(body)["error"]["code"] == "missing_api_key"


async def test_the_v1_api_sends_no_key_upstream(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    statements = inbound(tmp_path, "v1")
    # It sets Authorization, and so replaces the key there.
    assert statements[-1].tag == "authentication-managed-identity"
    assert (statements[-2].get("name"), statements[-2].get("exists-action")) == ("api-key", "delete")


async def test_cors_names_the_origins_and_what_the_sdk_sends(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--origin", ORIGIN, "--out", str(tmp_path))
    for name in ("v1", "front"):
        cors = inbound(tmp_path, name)[1]
        # Its elements in the documented order: https://learn.microsoft.com/azure/api-management/cors-policy
        assert [element.tag for element in cors] == [
            *("allowed-origins", "allowed-methods", "allowed-headers", "expose-headers")
        ]
        assert [origin.text for origin in cors.iterfind("allowed-origins/origin")] == [ORIGIN]
    sent = {name.lower() for name in OpenAI(api_key="x").default_headers} - {
        "user-agent",
        "x-stainless-async",
    }
    assert sent <= set(SDK_HEADERS)


async def test_without_an_origin_no_cors_is_written(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--out", str(tmp_path))
    assert [policy(tmp_path, name).find(".//cors") for name in ("v1", "front")] == [None, None]


async def test_an_internal_gateway_is_called_by_the_loopback_address_under_its_own_name(
    azure: Azure, retire: Retire, tmp_path: Path
) -> None:
    azure.apim.service["virtualNetworkType"] = "Internal"
    out = tmp_path / "out"
    await retire("--resource-id", RESOURCE_ID, "--api", "openai", "--out", str(out))
    assert parameters(out, "front")["legacyUrl"] == "https://127.0.0.1/ai/openai"
    hosts = policy(out, "front").findall("inbound/set-header[@name='Host']/value")
    assert [host.text for host in hosts] == ["contoso-apim.azure-api.net"]
    assert "known workaround" in (out / "README.md").read_text()


REFUSED = {
    "no service": (("--api", "openai"), "name the service"),
    "a service by its name": (
        ("--api", "openai", "--resource-id", "contoso"),
        "it looks like /subscriptions/",
    ),
    "a pattern of origins": ((*OFFLINE, "--origin", "https://*.example.com"), "exact origins"),
    "an origin with a path": ((*OFFLINE, "--origin", f"{ORIGIN}/page"), "is not an origin"),
    "a gateway over plain HTTP": ((*OFFLINE, "--gateway", "http://gw.example"), "must begin with https://"),
    "an API that is not there": (("--resource-id", RESOURCE_ID, "--api", "gone"), "was not found"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_written_is_refused_in_words(
    retire: Retire, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = await retire(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code != 0
    assert words in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


async def test_the_page_says_what_each_replacement_costs(retire: Retire, tmp_path: Path) -> None:
    await retire(*OFFLINE, "--subscription", "team-a", "--out", str(tmp_path))
    page = (tmp_path / "README.md").read_text()
    for words in (
        'base_url="https://gw.example/ai/openai-v1"',
        "No self-service keys",
        "A user's own token cannot travel",
        "v1 paths do not become dated ones",
        "internal virtual network mode",
        "No model mapping",
        "`team-a`",
    ):
        assert words in page
    callers = (tmp_path / "callers.md").read_text()
    assert re.findall(r"^```(\w+)", callers, re.MULTILINE) == ["python", "js", "csharp", "go", "java"]
    assert "$" not in re.sub(r"\$\{?\w*APIM", "", callers)
