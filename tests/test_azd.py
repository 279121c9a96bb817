"""What azd does with infra/ and scripts/azd, as far as that can be told without azd.

These scripts run once per deployment, on an operator's machine: whatever they get wrong is met by somebody new to the
project.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from devhost.host import Host
from tests.conftest import StartHost
from tests.support.bicep import INFRA, File

ROOT = Path(__file__).parent.parent
HOOKS = ROOT / "scripts/azd"
MAIN = File.named("main.bicep")
APP = File.named("modules/app.bicep")
BASE_URL = "https://contoso.azure-api.net/my-openai-api/openai"

# azd sets these itself (azure-dev, cli/azd/pkg/infra/provisioning/bicep/bicep_provider.go), and asks for a region.
SET_BY_AZD = {
    "AZURE_ENV_NAME": "dev",
    "AZURE_LOCATION": "westeurope",
    "AZURE_PRINCIPAL_ID": "00000000-0000-0000-0000-000000000001",
    "AZURE_PRINCIPAL_TYPE": "User",
}


# Parameters

CONVERTED: dict[str, Callable[[str], Any]] = {"string": str, "int": int, "bool": lambda text: text == "true"}
LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "allowed": lambda value, among: value in among,
    "min_length": lambda value, least: len(value) >= least,
    "max_length": lambda value, most: len(value) <= most,
    "min_value": lambda value, least: bool(value >= least),
    "max_value": lambda value, most: bool(value <= most),
}


def handed_on(environ: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that azd deploys with: loadParameters and armParameterFileValue of bicep_provider.go.

    A parameter is left out, and has its default, where its variable is not set; numbers and booleans are converted.
    """
    given = {}
    for name, entry in json.loads((INFRA / "main.parameters.json").read_text())["parameters"].items():
        match = re.fullmatch(r"\$\{(\w+)(?:=(.*))?\}", entry["value"])
        assert match is not None, f"{name} is not one variable"
        text = environ.get(match[1], match[2] or "")
        if text or match[1] in environ:
            given[name] = CONVERTED[MAIN.parameters[name]["type"]](text)
    return given


def names_in_parameters_file() -> set[str]:
    return set(re.findall(r"\$\{(\w+)", (INFRA / "main.parameters.json").read_text()))


# The variable of azd's environment that each parameter has its value from.
VARIABLES = {
    "environmentName": "AZURE_ENV_NAME",
    "location": "AZURE_LOCATION",
    "principalId": "AZURE_PRINCIPAL_ID",
    "principalType": "AZURE_PRINCIPAL_TYPE",
    "apimBaseUrl": "APIM_BASE_URL",
    "apimApi": "APIM_API",
    "apimV1BaseUrl": "APIM_V1_BASE_URL",
    "apimApiVersion": "APIM_API_VERSION",
    "apimKeyHeader": "APIM_KEY_HEADER",
    "modelDeployments": "MODEL_DEPLOYMENTS",
    "keyLookup": "KEY_LOOKUP",
    "keySecretPrefix": "KEY_SECRET_PREFIX",
    "corsOrigins": "CORS_ORIGINS",
    "corsCredentials": "CORS_CREDENTIALS",
    "maxBodyBytes": "MAX_BODY_BYTES",
    "uploadLimitBytes": "SHIM_UPLOAD_LIMIT_BYTES",
    "readyzDetails": "READYZ_DETAILS",
    "deprecated": "SHIM_DEPRECATED",
    "sunset": "SHIM_SUNSET",
    "sunsetLink": "SHIM_SUNSET_LINK",
    "afterSunset": "SHIM_AFTER_SUNSET",
    "brownout": "SHIM_BROWNOUT",
    "instanceMemoryMB": "SHIM_INSTANCE_MEMORY_MB",
    "maximumInstanceCount": "SHIM_MAXIMUM_INSTANCE_COUNT",
    "httpPerInstanceConcurrency": "SHIM_HTTP_CONCURRENCY",
    "alwaysReady": "SHIM_ALWAYS_READY",
    "zoneRedundant": "SHIM_ZONE_REDUNDANT",
    "updateStrategy": "SHIM_UPDATE_STRATEGY",
    "network": "SHIM_NETWORK",
    "inbound": "SHIM_INBOUND",
    "allowedAddresses": "SHIM_ALLOWED_ADDRESSES",
    "appSubnetId": "SHIM_APP_SUBNET_ID",
    "endpointSubnetId": "SHIM_ENDPOINT_SUBNET_ID",
    "privateDnsZonesGroupId": "SHIM_PRIVATE_DNS_ZONES_GROUP_ID",
    "vaultAllowedAddresses": "SHIM_VAULT_ALLOWED_ADDRESSES",
    "customDomain": "SHIM_CUSTOM_DOMAIN",
    "boundDomain": "SHIM_BOUND_DOMAIN",
    "apimResourceId": "APIM_RESOURCE_ID",
    "alertsEnabled": "SHIM_ALERTS",
    "alertEmail": "SHIM_ALERT_EMAIL",
    "logRetentionDays": "SHIM_LOG_RETENTION_DAYS",
}


def test_a_parameter_has_its_value_from_the_variable_that_is_named_for_it() -> None:
    content = json.loads((INFRA / "main.parameters.json").read_text())
    found = {name: re.findall(r"\$\{(\w+)", entry["value"]) for name, entry in content["parameters"].items()}
    assert found == {name: [variable] for name, variable in VARIABLES.items()}
    # The Resource Manager, asked without azd, wants to be told what kind of file it is.
    assert content["$schema"].endswith("/2019-04-01/deploymentParameters.json#")
    assert content["contentVersion"] == "1.0.0.0"


def test_azd_asks_for_a_region_and_nothing_else_before_the_hook_runs() -> None:
    # ensureParameters of bicep_provider.go prompts for every parameter that has neither a default nor a value, and
    # `azd up` calls it before the preprovision hook. With --no-prompt it fails instead.
    required = {name for name, parameter in MAIN.parameters.items() if parameter["default"] is None}
    assert required == {"environmentName", "location"}
    assert required <= set(handed_on(SET_BY_AZD))


def test_a_fresh_environment_and_a_base_url_are_enough() -> None:
    given = handed_on({**SET_BY_AZD, "APIM_BASE_URL": BASE_URL})
    checked = [
        (name, decorator["type"], LIMITS[decorator["type"]](value, decorator["argument"]))
        for name, value in given.items()
        for decorator in MAIN.parameters[name]["decorators"]
        if decorator["type"] in LIMITS
    ]
    assert len(checked) > 20
    assert [(name, limit) for name, limit, kept in checked if not kept] == []


def test_what_azd_hands_on_by_default_is_the_default_of_the_bicep_file() -> None:
    given = handed_on(SET_BY_AZD)
    defaults = {name: MAIN.value(name) for name in given if MAIN.parameters[name]["default"] is not None}
    assert {name: given[name] for name in defaults} == {**defaults, "principalId": given["principalId"]}


def test_a_deployment_without_a_base_url_is_refused_by_the_template_itself() -> None:
    # Without azd there is no hook; the module that needs the URL has a limit in place of the missing one.
    assert MAIN.value("apimBaseUrl") == ""
    assert MAIN.modules["app"]["config"]["params"]["apimBaseUrl"] == "apimBaseUrl"
    assert {"type": "min_length", "argument": 12} in APP.parameters["apimBaseUrl"]["decorators"]


def test_azd_hands_on_every_parameter_that_is_not_an_object_or_a_list() -> None:
    given = set(json.loads((INFRA / "main.parameters.json").read_text())["parameters"])
    plain = {
        name for name, parameter in MAIN.parameters.items() if parameter["type"] not in ("object", "array")
    }
    assert given == plain


def test_every_choice_that_azd_hands_on_is_in_the_deployment_guide() -> None:
    guide = (ROOT / "docs/deploy.md").read_text()
    assert {
        name for name in names_in_parameters_file() - set(SET_BY_AZD) if f"`{name}`" not in guide
    } == set()


# The manifest


def manifest() -> Any:
    return yaml.safe_load((ROOT / "azure.yaml").read_text())


def test_azd_finds_the_app_by_its_tag() -> None:
    (resource,) = APP.of_type("Microsoft.Web/sites")
    assert list(manifest()["services"]) == [
        APP.value(resource["config"]["tags"], tags={})["azd-service-name"]
    ]


def test_the_service_is_a_function_app_in_python_at_the_root() -> None:
    assert manifest()["services"] == {"shim": {"project": ".", "language": "python", "host": "function"}}


def test_each_hook_runs_its_own_script() -> None:
    run = {
        (name, system): shell["run"]
        for name, hook in manifest()["hooks"].items()
        for system, shell in hook.items()
    }
    assert run == {
        ("preprovision", "posix"): "./scripts/azd/preprovision.sh",
        ("preprovision", "windows"): "./scripts/azd/preprovision.ps1",
        ("postdeploy", "posix"): "./scripts/azd/postdeploy.sh",
        ("postdeploy", "windows"): "./scripts/azd/postdeploy.ps1",
    }


def test_every_hook_is_there_for_posix_and_for_windows() -> None:
    hooks = manifest()["hooks"]
    assert set(hooks) == {"preprovision", "postdeploy"}
    for hook in hooks.values():
        assert (hook["posix"]["shell"], hook["windows"]["shell"]) == ("sh", "pwsh")
        assert os.access(ROOT / hook["posix"]["run"], os.X_OK)
        assert (ROOT / hook["windows"]["run"]).exists()
        # azd hands on its terminal to interactive hooks alone.
        assert all(shell["interactive"] for shell in hook.values())


@pytest.mark.parametrize("name", ["preprovision", "postdeploy"])
def test_both_versions_of_a_hook_read_the_same_variables_and_refuse_with_the_same_words(name: str) -> None:
    posix, windows = (HOOKS / f"{name}.sh").read_text(), (HOOKS / f"{name}.ps1").read_text()
    variables = r"\b(?:SHIM|APIM|CORS|KEY|AZD|AZURE)_\w+\b"
    assert set(re.findall(variables, posix)) == set(re.findall(variables, windows))
    words = re.findall(r"(?:fail|echo) \"([^\"$]+)[\"$]", posix)
    assert len(words) >= 3
    assert [text for text in words if text not in windows] == []


def test_both_hooks_after_deployment_are_as_patient_and_print_the_same() -> None:
    posix, windows = (HOOKS / "postdeploy.sh").read_text(), (HOOKS / "postdeploy.ps1").read_text()
    for attempts, pause, patience in (
        (r"READY_ATTEMPTS:-(\d+)", r"READY_PAUSE:-(\d+)", r"--max-time (\d+)"),
        (r"READY_ATTEMPTS .*else \{ (\d+) \}", r"READY_PAUSE .*else \{ (\d+) \}", r"-TimeoutSec (\d+)"),
    ):
        text = posix if "--" in patience else windows
        assert [re.findall(number, text) for number in (attempts, pause, patience)] == [
            ["30"],
            ["10"],
            ["30"],
        ]
    (here,) = re.findall(r"<<END\n(.*)\nEND\n", posix, re.DOTALL)
    (there,) = re.findall(r'Write-Host @"\n(.*)\n"@', windows, re.DOTALL)
    for variable, ours in (
        ("${SHIM_OPENAI_BASE_URL:-$SHIM_URL/openai/v1}", "$openai"),
        ("${KEY_VAULT_URL:-}", "$($env:KEY_VAULT_URL)"),
        ("$SHIM_URL", "$env:SHIM_URL"),
    ):
        here = here.replace(variable, ours)
    assert here == there


# The hook before provisioning


async def hook(name: str, **environ: str) -> tuple[int, str]:
    """Runs a hook without a terminal; its exit code, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        HOOKS / name,
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
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "*"}, 0, ""),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "https://a.example.com, https://b.example.com"}, 0, ""),
        (
            {"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "https://*.example.com"},
            1,
            "'Your own plan' in docs/deploy.md",
        ),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "http://localhost:*"}, 1, "takes exact origins"),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "*", "CORS_CREDENTIALS": "true"}, 1, "browsers refuse"),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "*", "CORS_CREDENTIALS": "True"}, 1, "name the origins"),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "*", "CORS_CREDENTIALS": "false"}, 0, ""),
        (
            {"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "https://a.example", "CORS_CREDENTIALS": "true"},
            0,
            "",
        ),
        ({"APIM_BASE_URL": BASE_URL, "CORS_ORIGINS": "*,https://a.example"}, 1, "takes exact origins"),
        ({"APIM_BASE_URL": "https://"}, 1, "azd env set APIM_BASE_URL https://..."),
    ],
    ids=[
        *("no url", "no tls", "a url", "any origin", "origins", "pattern", "any port", "credentials for any"),
        *("the same in capitals", "no credentials", "credentials for one", "a star among others", "no host"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_made(
    environ: dict[str, str], code: int, says: str
) -> None:
    ended, said = await hook("preprovision.sh", **environ)
    assert (ended, says in said) == (code, True), said


def test_the_section_that_the_hook_points_to_is_there() -> None:
    assert "\n## Your own plan\n" in (ROOT / "docs/deploy.md").read_text()


# What `az` says of one service, and where it is told of the subscription that azd was given.
AZ = """#!/bin/sh
echo "$*" >>"$CALLS"
cat >/dev/null # as a command that asks for a password would
if [ -n "${SIGNED_OUT:-}" ]; then
    echo "Please run 'az login'" >&2
    exit 1
fi
case "$1 $2 $*" in
"apim list"*) printf "${SERVICES:-contoso\\trg\\thttps://contoso.azure-api.net\\n}" ;;
"apim api"*--service-name\\ contoso*) printf '%s' "$APIS" ;;
"apim api"*) echo other ;;
esac
"""
AZD = """#!/bin/sh
echo "azd $*" >>"$CALLS"
"""
# azd starts hooks through a shell (azure-dev, cli/azd/pkg/exec/command_runner.go); this is its command line to `ps`.
LIKE_AZD = """#!/bin/sh
/bin/sh -c "$HOOK; exit \\$?"
"""


async def at_a_terminal(folder: Path, typed: str, *flags: str, **environ: str) -> tuple[int, str, list[str]]:
    """Runs the hook as `azd up <flags>` does, with somebody who types; exit code, output, and calls of az and azd."""
    calls = folder / "calls"
    calls.touch()
    for name, script in {"az": AZ, "azd": AZD, "like-azd": LIKE_AZD}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    terminal, end = os.openpty()
    os.write(terminal, f"{typed}\n".encode())
    process = await asyncio.create_subprocess_exec(
        folder / "like-azd",
        "up",
        *flags,
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOOK": str(HOOKS / "preprovision.sh"),
            "CALLS": str(calls),
            "APIS": "",
            **environ,
        },
        stdin=end,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    os.close(terminal)
    os.close(end)
    return process.returncode or 0, said.decode(), calls.read_text().splitlines()


ONE = "a/openai\n"
TWO = "a/openai\nb/openai\n"


@pytest.mark.parametrize(
    ("apis", "typed", "taken"),
    [
        (ONE, "", "https://contoso.azure-api.net/a/openai"),
        (TWO, "2", "https://contoso.azure-api.net/b/openai"),
        (TWO, "https://contoso.azure-api.net/b/openai", "https://contoso.azure-api.net/b/openai"),
        ("", BASE_URL, BASE_URL),
    ],
    ids=["the only one", "one by number", "one in full", "none found"],
)
async def test_the_base_url_is_found_or_asked_for_once(
    tmp_path: Path, apis: str, typed: str, taken: str
) -> None:
    code, said, calls = await at_a_terminal(tmp_path, typed, APIS=apis)
    assert code == 0, said
    assert all(f"https://contoso.azure-api.net/{api}" in said for api in apis.split())
    assert said.count("APIM_BASE_URL") == 1
    assert [call for call in calls if call.startswith("azd")] == [f"azd env set APIM_BASE_URL {taken}"]


async def test_apis_are_looked_for_in_the_subscription_that_azd_was_given(tmp_path: Path) -> None:
    _, _, calls = await at_a_terminal(tmp_path, "1", APIS=ONE, AZURE_SUBSCRIPTION_ID="sub-1")
    assert [call for call in calls if call.startswith("apim")] == [
        "apim list --subscription sub-1 --query [].[name, resourceGroup, gatewayUrl] --output tsv",
        "apim api list --subscription sub-1 --service-name contoso --resource-group rg"
        " --query [].path --output tsv",
    ]


async def test_the_apis_of_every_service_are_listed_by_number(tmp_path: Path) -> None:
    services = "".join(f"{name}\\trg\\thttps://{name}.azure-api.net\\n" for name in ("contoso", "fabrikam"))
    code, said, calls = await at_a_terminal(tmp_path, "3", APIS=TWO, SERVICES=services)
    assert code == 0
    assert said.splitlines() == [
        "APIs of the APIM services in this subscription:",
        "   1  https://contoso.azure-api.net/a/openai",
        "   2  https://contoso.azure-api.net/b/openai",
        "   3  https://fabrikam.azure-api.net/other",
        "Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions.",
        "APIM_BASE_URL, or a number from the list: ",
    ]
    assert calls[-1] == "azd env set APIM_BASE_URL https://fabrikam.azure-api.net/other"


async def test_the_only_api_is_offered_to_whoever_presses_enter(tmp_path: Path) -> None:
    _, said, _ = await at_a_terminal(tmp_path, "", APIS=ONE)
    assert said.endswith(
        "APIM_BASE_URL, or a number from the list [https://contoso.azure-api.net/a/openai]: "
    )


async def test_without_a_sign_in_to_azure_cli_the_hook_asks_all_the_same(tmp_path: Path) -> None:
    code, said, calls = await at_a_terminal(tmp_path, BASE_URL, APIS=TWO, SIGNED_OUT="1")
    assert (code, said.splitlines()[0]) == (
        0,
        "Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions.",
    )
    assert said.endswith("\nAPIM_BASE_URL: ")
    assert calls[-1] == f"azd env set APIM_BASE_URL {BASE_URL}"


@pytest.mark.parametrize(("apis", "typed"), [(TWO, ""), (TWO, "3"), (ONE, "no-url"), ("", "7")])
async def test_an_answer_that_is_no_url_is_refused_and_not_kept(
    tmp_path: Path, apis: str, typed: str
) -> None:
    code, said, calls = await at_a_terminal(tmp_path, typed, APIS=apis)
    assert (code, "must begin with https://" in said) == (1, True), said
    assert not [call for call in calls if call.startswith("azd")]


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (["--no-prompt"], {}),
        (["--non-interactive", "--debug"], {}),
        ([], {"CI": "true"}),
        ([], {"AZD_NON_INTERACTIVE": "1"}),
        ([], {"AZD_NON_INTERACTIVE": "True"}),
    ],
    ids=["--no-prompt", "--non-interactive", "CI", "AZD_NON_INTERACTIVE", "the same in words"],
)
async def test_without_prompts_nobody_is_asked_and_the_choices_are_listed(
    tmp_path: Path, flags: list[str], environ: dict[str, str]
) -> None:
    code, said, calls = await at_a_terminal(tmp_path, "1", *flags, APIS=TWO, **environ)
    assert code == 1
    assert "https://contoso.azure-api.net/b/openai" in said
    assert "azd env set APIM_BASE_URL https://" in said
    assert not [call for call in calls if call.startswith("azd")]


async def test_without_azure_cli_the_hook_asks_and_says_nothing_of_it(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "awk", "tr"):
        place = shutil.which(name)
        assert place is not None
        (tools / name).symlink_to(place)
    process = await asyncio.create_subprocess_exec(
        HOOKS / "preprovision.sh", env={"PATH": str(tools)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, refused = await process.communicate()
    assert (process.returncode, said) == (1, b"")
    assert refused == (
        b"APIM_BASE_URL is not set: azd env set APIM_BASE_URL https://<apim>.azure-api.net/<api>/openai\n"
    )


async def test_without_prompts_a_base_url_that_is_set_is_enough(tmp_path: Path) -> None:
    code, said, calls = await at_a_terminal(tmp_path, "", "--no-prompt", APIM_BASE_URL=BASE_URL)
    assert (code, said, calls) == (0, "", [])


# The hook after deployment


async def test_after_a_deployment_the_shim_is_asked_and_the_client_snippet_printed(host: Host) -> None:
    code, said = await hook("postdeploy.sh", SHIM_URL=host.url)
    assert code == 0, said
    assert f'client = OpenAI(base_url="{host.url}/openai/v1"' in said


# What `curl` gets from a shim whose roles arrive at its vault between two questions, and where it is told to put it.
CURL = """#!/bin/sh
echo "$*" >>"$CALLS"
while [ "$1" != --output ]; do shift; done
if [ "$(wc -l <"$CALLS")" -lt "$READY_AT" ]; then
    printf 'no role yet' >"$2"
    printf '503'
    exit "${CURL_FAILS:-0}"
fi
printf '200'
"""


async def after_deployment(folder: Path, **environ: str) -> tuple[int, str, list[str]]:
    """Runs the hook on a shim that is ready at the time `READY_AT`; exit code, output, and how it was asked."""
    calls = folder / "calls"
    calls.touch()
    (folder / "curl").write_text(CURL)
    (folder / "curl").chmod(0o755)
    (folder / "sleep").write_text('#!/bin/sh\necho "sleep $*" >>"$SLEPT"\n')
    (folder / "sleep").chmod(0o755)
    (folder / "tmp").mkdir()
    given = {"SHIM_URL": "https://func-1.example", "SLEPT": str(folder / "slept"), "CALLS": str(calls)}
    (folder / "slept").touch()
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder / "tmp")}
    code, said = await hook("postdeploy.sh", **given, **path, **environ)
    assert list((folder / "tmp").iterdir()) == []
    return code, said, [*calls.read_text().splitlines(), *(folder / "slept").read_text().splitlines()]


async def test_a_deployment_is_waited_for_while_roles_are_on_their_way(tmp_path: Path) -> None:
    """They take minutes: 30 questions, ten seconds apart."""
    code, said, calls = await after_deployment(tmp_path, READY_AT="3", KEY_VAULT_URL="https://kv.example")
    assert (code, "no role yet" in said) == (0, False), said
    asked, slept = calls[:3], calls[3:]
    assert all(call.endswith(" https://func-1.example/readyz") for call in asked)
    assert slept == ["sleep 10", "sleep 10"]
    assert 'base_url="https://func-1.example/openai/v1"' in said
    assert "Keys come from Key Vault https://kv.example: bring them in with python -m shim keys." in said


async def test_a_deployment_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    code, said, calls = await after_deployment(
        tmp_path, READY_AT="99", CURL_FAILS="7", APIM_BASE_URL="https://apim.example/openai"
    )
    assert code == 1
    assert "(503): https://func-1.example/readyz said\nno role yet\n" in said
    assert "--shim-url https://func-1.example --base-url https://apim.example/openai\n" in said
    # None after the last question.
    assert len(calls) == 30 + 29


async def test_callers_are_shown_the_name_of_ones_own_where_there_is_one(tmp_path: Path) -> None:
    base_url = "https://ai.example.com/openai/v1"
    code, said, calls = await after_deployment(tmp_path, READY_AT="1", SHIM_OPENAI_BASE_URL=base_url)
    assert (code, len(calls)) == (0, 1)
    assert f'client = OpenAI(base_url="{base_url}", api_key="<APIM subscription key>")' in said


async def test_without_an_address_the_hook_says_where_it_comes_from() -> None:
    code, said = await hook("postdeploy.sh")
    assert code != 0
    assert "SHIM_URL is not set: run azd provision first" in said


@pytest.mark.parametrize(
    "restriction", [{}, {"SHIM_INBOUND": "private"}, {"SHIM_ALLOWED_ADDRESSES": "192.0.2.1"}]
)
async def test_a_deployment_that_is_not_ready_fails_with_the_reason_and_the_next_step(
    start_host: StartHost, restriction: dict[str, str]
) -> None:
    broken = await start_host(APIM_BASE_URL="")
    code, said = await hook("postdeploy.sh", SHIM_URL=broken.url, SHIM_READY_ATTEMPTS="1", **restriction)
    assert code == 1
    assert "missing or wrong: APIM_BASE_URL" in said
    assert "python -m shim doctor" in said
    assert ("keep this machine out" in said) == bool(restriction)


# Core Tools


def test_the_way_to_publish_names_the_language() -> None:
    # Core Tools take it from local.settings.json, which a fresh clone has not, and fail without it
    # (azure-functions-core-tools, GlobalCoreToolsSettings.Init and CurrentWorkerRuntime).
    guide = (ROOT / "docs/deploy.md").read_text()
    published = re.findall(r"func azure functionapp publish [^\n`]*", guide)
    assert published
    assert [command for command in published if "--python" not in command] == []


def test_core_tools_build_remotely_since_there_are_requirements() -> None:
    # PublishHelper.ResolveBuildOption: a Python app with a requirements.txt that is not empty.
    assert (ROOT / "requirements.txt").stat().st_size > 0
