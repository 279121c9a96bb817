"""The table's order, and when a body is read at all."""

import pytest

from shim.call import operations, routes
from shim.call.parse import parse
from shim.errors import RealtimeNotSupported
from shim.settings import Settings, SettingsError
from tests.conftest import KEY

ENVIRONMENT = {"APIM_BASE_URL": "https://contoso.azure-api.net/openai", "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}
MAPPED = {"MODEL_DEPLOYMENTS": "gpt-4o=prod"}
MIXED = {"MODEL_APIS": "gpt-5=v1"}
V1 = {"APIM_API": "v1"}


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("POST", "/threads/runs", "/threads/runs"),
        ("POST", "/threads/abc", "/threads/{id}"),
        ("POST", "/files/import", "/files/import"),
        ("GET", "/files/import", "/files/{id}"),
        ("POST", "/chat/completions", "/chat/completions"),
        ("POST", "/chat/completions/abc", "/chat/completions/{id}"),
        ("GET", "/evals/a/runs/b/output_items/c", "/evals/{id}/runs/{run}/output_items/{item}"),
        ("GET", "/files/a/content/b", None),
        ("PUT", "/files/a", None),
        ("GET", "/Files", None),
        ("GET", "/filesX", None),
        ("GET", "/", None),
        ("GET", "", None),
    ],
)
def test_the_first_operation_that_fits_is_taken(method: str, path: str, template: str | None) -> None:
    found = operations.find(method, path)
    assert (found.path if found else None) == template


CHAT, RESPONSE, AZURE = "/v1/chat/completions", "/v1/responses", "/openai/deployments/gpt-4o/chat/completions"


@pytest.mark.parametrize(
    ("settings", "path", "use"),
    [
        ({}, CHAT, "required"),
        ({}, RESPONSE, "unread"),
        ({}, AZURE, "unread"),
        ({}, "/openai/responses", "unread"),
        ({}, "/v1/files", "unread"),
        ({}, "/v1/nobody/knows", "unread"),
        (V1, CHAT, "unread"),
        (V1, RESPONSE, "unread"),
        (V1, AZURE, "optional"),
        (V1, "/openai/responses", "unread"),
        (MAPPED, CHAT, "required"),
        (MAPPED, RESPONSE, "optional"),
        (MAPPED, AZURE, "unread"),
        (MAPPED, "/openai/responses", "unread"),
        ({"MODEL_DEPLOYMENTS": "gpt-4o=gpt-4o"}, RESPONSE, "unread"),
        (V1 | MAPPED, CHAT, "required"),
        (MIXED, CHAT, "required"),
        (MIXED, RESPONSE, "optional"),
        (MIXED, AZURE, "unread"),
        (MIXED, AZURE.replace("gpt-4o", "gpt-5"), "optional"),
        (MIXED, "/openai/responses", "optional"),
        (MIXED, "/v1/fine_tuning/jobs", "unread"),
        (V1 | MIXED, CHAT, "unread"),
    ],
)
def test_a_body_is_read_only_where_its_model_matters(settings: dict[str, str], path: str, use: str) -> None:
    call = parse("POST", path.encode(), b"", [])
    assert routes.model_use(call, Settings.from_environment(ENVIRONMENT | settings)) == use


def test_a_websocket_is_known_by_the_header_that_the_host_leaves() -> None:
    with pytest.raises(RealtimeNotSupported):
        parse("GET", b"/v1/anything", b"", [(b"sec-websocket-key", b"x")])
    # What prepares a session is plain HTTP.
    assert parse("POST", b"/v1/realtime/client_secrets", b"", []).path == "/realtime/client_secrets"


def test_settings_of_models_are_read() -> None:
    settings = Settings.from_environment(
        ENVIRONMENT | {"MODEL_APIS": " gpt-5 = V1 , vendor/old=legacy", "MODELS": " a, b/c ,a,, "}
    )
    assert settings.model_apis == {"gpt-5": "v1", "vendor/old": "legacy"}
    assert settings.models == ("a", "b/c")


@pytest.mark.parametrize("value", ["gpt-5=v2", "gpt-5", "gpt-5=", "a=v1,a=legacy"])
def test_a_faulty_model_api_is_reported(value: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_APIS"):
        Settings.from_environment(ENVIRONMENT | {"MODEL_APIS": value})
