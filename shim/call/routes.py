"""Where a call goes: from the caller's path, query and model to those of the APIM API. Pure."""

from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from shim.call import query
from shim.call.parse import Call
from shim.call.paths import refuse_escapes
from shim.errors import InvalidPath, InvalidRequest
from shim.settings import Api, Settings

_MAX_MODEL_LENGTH = 256

type ModelUse = Literal["unread", "optional", "required"]


class Route(NamedTuple):
    """Where the call goes: `origin` is `https://host[:port]`, `target` the path and query to ask it for.

    `model` is what the caller's body named and `deployment` the deployment it leads to, where the shim knows them;
    `new_model` is what the body must name instead, None if it stays as it came.
    """

    origin: str
    target: str
    model: str | None = None
    deployment: str | None = None
    new_model: str | None = None


def model_use(call: Call, settings: Settings) -> ModelUse:
    """What the body's `model` is needed for: it may decide where the call goes, or have to be replaced.

    A body that neither applies to is not read. `required` is a `model` without which a legacy path has no deployment.
    """
    if call.deployment is not None:
        return "optional" if _api(call, None, unquote(call.deployment), settings) == "v1" else "unread"
    if not call.has_model_in_body:
        return "unread"
    if call.deployment_place == "path" and settings.apim_api == "legacy":
        return "required"
    is_mapped = call.dialect == "v1" and any(
        model != deployment for model, deployment in settings.model_deployments.items()
    )
    has_both_apis = any(api != settings.apim_api for api in settings.model_apis.values())
    return "optional" if is_mapped or has_both_apis else "unread"


def find_route(call: Call, model: str | None, settings: Settings) -> Route:
    """Where `call` goes; `model` is what its body names, None if it names none or was not read.

    Raises InvalidRequest for a model that cannot be a deployment's name.
    """
    deployment = _deployment(call, model, settings)
    api = _api(call, model, deployment, settings)
    origin, path = split(settings.apim_base_url if api == "legacy" else settings.apim_v1_base_url)
    # With a base URL that has no path, the API's own root is the empty path: a target is "/" then (RFC 9112, 3.2.1).
    target = path + _path(call, api, deployment) or "/"
    parameters = query.for_upstream(
        call.query, dialect=call.dialect, api=api, default_version=settings.apim_api_version
    )
    if parameters:
        target += f"?{parameters}"
    in_body = api == "v1" or call.deployment_place == "body"
    return Route(origin, target, model, deployment, deployment if in_body and deployment != model else None)


@lru_cache(maxsize=8)  # the settings name two at most
def split(base: str) -> tuple[str, str]:
    """The origin of a base URL, and its path."""
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}", parts.path


def _deployment(call: Call, model: str | None, settings: Settings) -> str | None:
    """OpenAI clients name models, AzureOpenAI clients deployments."""
    if call.deployment is not None:
        return unquote(call.deployment)
    if model is None or call.dialect == "legacy":
        return model
    return settings.model_deployments.get(model, model)


def _api(call: Call, model: str | None, deployment: str | None, settings: Settings) -> Api:
    if call.is_legacy_only:
        return "legacy"
    for name in (model if call.deployment is None else None, deployment):
        if name is not None and name in settings.model_apis:
            return settings.model_apis[name]
    return settings.apim_api


def _path(call: Call, api: Api, deployment: str | None) -> str:
    if api == call.dialect:
        return call.path
    if api == "v1" or call.deployment_place != "path":
        return call.operation
    assert deployment is not None, "a required model was not read"
    return f"/deployments/{_encoded(deployment)}{call.operation}"


@lru_cache(maxsize=128)
def _encoded(deployment: str) -> str:
    if len(deployment) > _MAX_MODEL_LENGTH:
        raise InvalidRequest(f"`model` has more than {_MAX_MODEL_LENGTH} characters.")
    try:
        encoded = quote(deployment, safe="")
        refuse_escapes(f"/{encoded}")
    except (UnicodeEncodeError, InvalidPath):
        raise InvalidRequest("`model` is not the name of a deployment.") from None
    return encoded
