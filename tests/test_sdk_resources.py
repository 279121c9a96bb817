"""Every operation of the installed OpenAI SDK, found in its source: routed by the table, or passed on as it is.

A new SDK may bring an operation whose `model` is a deployment; this is where that is noticed.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai.resources
import pytest
from openai.lib.azure import _deployments_endpoints

from shim.call import routes
from shim.call.operations import OPERATIONS, deployment_place
from shim.call.parse import parse
from shim.settings import Settings
from tests.test_routes import ENVIRONMENT

METHODS = {
    "_get": "GET",
    "_get_api_list": "GET",
    "_post": "POST",
    "_put": "PUT",
    "_patch": "PATCH",
    "_delete": "DELETE",
}

# Of operations with a `model` in the body, those where it is no deployment, and why.
NO_DEPLOYMENT = {
    "/fine_tuning/jobs": "the base model that is to be tuned",
    "/agents": "OpenAI's own: Azure OpenAI has no such operation",
    "/agents/{}": "OpenAI's own: Azure OpenAI has no such operation",
    "/audio/voices": "OpenAI's own: Azure OpenAI has no such operation",
    "/decisions": "OpenAI's own: Azure OpenAI has no such operation",
    "/images/variations": "OpenAI's own: Azure OpenAI has no such operation",
    "/moderations": "OpenAI's own: Azure has Content Safety for this",
}


@dataclass(frozen=True, order=True)
class SdkOperation:
    """`path` has `{}` for each id."""

    method: str
    path: str
    has_model: bool


def operations() -> Iterator[SdkOperation]:
    for file in Path(openai.resources.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from operations_in(function)


def operations_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[SdkOperation]:
    parameters = {each.arg for each in [*function.args.args, *function.args.kwonlyargs]}
    for call in ast.walk(function):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in METHODS
            and call.args
        ):
            path = next(
                (
                    each.value
                    for each in ast.walk(call.args[0])
                    if isinstance(each, ast.Constant) and str(each.value)[:1] == "/"
                ),
                None,
            )
            method = next(
                (ast.literal_eval(each.value) for each in call.keywords if each.arg == "method"), None
            )
            if path is not None:
                plain = re.sub(r"\{\w+\}", "{}", str(path).partition("?")[0])
                yield SdkOperation(
                    (method or METHODS[call.func.attr]).upper(),
                    plain,
                    "model" in parameters and "{model}" not in str(path),
                )


ALL = sorted(set(operations()))


def template(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def test_the_sdks_operations_were_found() -> None:
    found = {(each.method, each.path) for each in ALL}
    assert len(found) > 200
    assert {("POST", "/chat/completions"), ("GET", "/files/{}/content"), ("DELETE", "/responses/{}")} <= found
    assert {("POST", "/vector_stores/{}/search"), ("POST", "/videos/{}/remix")} <= found


def test_an_operation_with_a_model_is_in_the_table_or_its_model_is_no_deployment() -> None:
    with_model = {each.path for each in ALL if each.has_model and each.method == "POST"}
    table = {template(path) for path in OPERATIONS}
    assert with_model == table | NO_DEPLOYMENT.keys()
    assert not table & NO_DEPLOYMENT.keys()


def test_what_azureopenai_sends_below_a_deployment_is_what_the_table_says() -> None:
    assert {path for path, place in OPERATIONS.items() if place == "path"} == _deployments_endpoints


@pytest.mark.parametrize("api", ["legacy", "v1"])
@pytest.mark.parametrize("root", ["/openai/v1", "/openai"])
def test_every_other_operation_is_passed_on_as_it_is(root: str, api: str) -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"APIM_API": api, "MODEL_DEPLOYMENTS": "a=b"})
    base = "/openai/v1" if api == "v1" else "/openai"
    for operation in ALL:
        path = operation.path.format(*["id_1", "id_2", "id_3", "id_4"])
        if deployment_place(operation.method, path) is None:
            call = parse(operation.method, f"{root}{path}".encode(), b"", [])
            assert routes.model_use(call, settings) == "unread"
            assert routes.find_route(call, None, settings).target.partition("?")[0] == f"{base}{path}"
