"""Where a call goes: from the caller's path, query and model to those of the APIM API. Pure."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from shim import operations
from shim.errors import Headers, InvalidPath, InvalidRequest, NotFound, RealtimeNotSupported
from shim.operations import Operation
from shim.settings import Api, Settings

# The first that fits. What follows is the path below the API.
_ROOTS: tuple[tuple[str, Api], ...] = (("/openai/v1", "v1"), ("/openai", "legacy"), ("/v1", "v1"))
_DEPLOYMENT = re.compile(r"/deployments/(?P<deployment>[^/]+)(?P<path>/.+)")
_TWICE_ENCODED_SLASH = re.compile("%252f", re.IGNORECASE)
_REALTIME = ("GET", "/realtime")

# Subscription keys and Functions keys; in no case are they the caller's to send upstream.
_KEY_PARAMETERS = frozenset(["subscription-key", "code", "clientid"])
_API_VERSION = "api-version"

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_MAX_MODEL_LENGTH = 256
# What most paths are: nothing in them has a second meaning.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
# Encodings of encodings, of which a gateway and the service behind it may each undo one.
_MAX_ENCODINGS = 4

type UseOfModel = Literal["unread", "optional", "required"]


@dataclass(frozen=True, slots=True)
class Call:
    """What the caller asked for: `path` and `query` are as they were sent, `path` below the API's root.

    Where the table knows the operation, `operation_path` is its path in the v1 API, ids as they were sent;
    `deployment` is the one that an AzureOpenAI client has in the path, as it was sent.
    """

    method: str
    dialect: Api
    path: str
    query: str
    operation: Operation | None = None
    operation_path: str = ""
    deployment: str | None = None

    @property
    def has_model_in_body(self) -> bool:
        """Whether the body's `model` names what the call is for."""
        return (
            self.operation is not None and self.operation.deployment != "nowhere" and self.deployment is None
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Where the call goes: `origin` is `https://host[:port]`, `path_and_query` what is asked of it.

    `deployment` is the one asked for and `named` what the body named, where the shim knows them; `model` is what the
    body has to name, None where it stays as it came.
    """

    origin: str
    path_and_query: str
    named: str | None = None
    deployment: str | None = None
    model: str | None = None


def parse(method: str, raw_path: bytes, raw_query: bytes, headers: Headers) -> Call:
    """Raises InvalidPath if the path could leave the configured base, NotFound if it is not of an OpenAI API,
    RealtimeNotSupported for a WebSocket.
    """
    try:
        path, query = raw_path.decode("ascii"), raw_query.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidPath("Percent-encode what is not ASCII in the URL.") from None
    # The Functions host re-encodes `%2F` as `%252F`, for it leaves that one encoded when it decodes the path.
    path = _TWICE_ENCODED_SLASH.sub("%2F", path)
    _refuse_escapes(path)
    for root, dialect in _ROOTS:
        below = path[len(root) :]
        # The host's routes ignore case.
        if path[: len(root)].lower() == root and (not below or below.startswith("/")):
            # The host removes `Upgrade`, but not this one (RFC 6455, section 4.1).
            if (method, below.rstrip("/")) == _REALTIME or any(
                name == b"sec-websocket-key" for name, _ in headers
            ):
                raise RealtimeNotSupported(
                    "The Realtime API needs a WebSocket, which this shim cannot carry. Connect the realtime client to"
                    " the APIM API or to the Azure OpenAI resource itself, or stream over HTTP: chat completions or"
                    ' responses with "stream": true, and audio through /audio/transcriptions and /audio/speech.'
                )
            return _recognised(method, dialect, below, query)
    raise NotFound(
        'There is nothing at this path. Point the client at "https://<this host>/openai/v1"'
        ' (OpenAI) or at "https://<this host>" (AzureOpenAI).'
    )


def use_of_model(call: Call, settings: Settings) -> UseOfModel:
    """Whether the body's `model` decides where the call goes, or has to be put right in the body.

    A body that is neither is not read.
    """
    apis = {settings.apim_api, *settings.model_apis.values()}
    if call.deployment is not None:
        return "optional" if _api(call, None, unquote(call.deployment), settings) == "v1" else "unread"
    if not call.has_model_in_body or call.operation is None:
        return "unread"
    maps = call.dialect == "v1" and any(
        model != deployment for model, deployment in settings.model_deployments.items()
    )
    if call.operation.deployment == "path":
        return "required" if maps or "legacy" in apis else "unread"
    return "optional" if maps or len(apis) > 1 else "unread"


def choose(call: Call, named: str | None, settings: Settings) -> Route:
    """Where `call` goes, whose body names the model `named`; None where it names none or was not read.

    Raises InvalidRequest for a model that cannot be a deployment's name.
    """
    deployment = _deployment(call, named, settings)
    api = _api(call, named, deployment, settings)
    if api == "legacy":
        base, query = settings.apim_base_url, _with_api_version(call, settings.apim_api_version)
    elif call.dialect == "legacy":
        base, query = settings.apim_v1_base_url, _without(_KEY_PARAMETERS | {_API_VERSION}, call.query)
    else:
        base, query = settings.apim_v1_base_url, _without(_KEY_PARAMETERS, call.query)
    in_body = api == "v1" or (call.operation is not None and call.operation.deployment == "body")
    model = deployment if in_body and deployment != named else None
    origin, path = split(base)
    target = path + _path(call, api, deployment) + (f"?{'&'.join(query)}" if query else "")
    return Route(origin, target, named, deployment, model)


@lru_cache(maxsize=8)  # the settings name two at most
def split(base: str) -> tuple[str, str]:
    """The origin of a base URL, and its path."""
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}", parts.path


def _recognised(method: str, dialect: Api, path: str, query: str) -> Call:
    """The call with the table's operation, whose path has no trailing slash."""
    below, deployment = path.rstrip("/"), None
    if dialect == "legacy" and (match := _DEPLOYMENT.fullmatch(below)):
        below, deployment = match["path"], match["deployment"]
    operation = operations.find(method, below)
    # In a legacy path, these operations and no others stand under a deployment.
    under_deployment = operation is not None and operation.deployment == "path"
    if operation is None or (dialect == "legacy" and under_deployment != (deployment is not None)):
        return Call(method, dialect, path, query)
    return Call(method, dialect, path, query, operation, below, deployment)


def _deployment(call: Call, named: str | None, settings: Settings) -> str | None:
    """OpenAI clients name models, AzureOpenAI clients deployments."""
    if call.deployment is not None:
        return unquote(call.deployment)
    if named is None or call.dialect == "legacy":
        return named
    return settings.model_deployments.get(named, named)


def _api(call: Call, named: str | None, deployment: str | None, settings: Settings) -> Api:
    if call.operation is None:
        # Passed on as it is: what the table does not know, the v1 API need not have.
        return settings.apim_api if call.dialect == "v1" else "legacy"
    for name in (named if call.deployment is None else None, deployment):
        if name is not None and name in settings.model_apis:
            return settings.model_apis[name]
    return settings.apim_api


def _path(call: Call, api: Api, deployment: str | None) -> str:
    if api == call.dialect or call.operation is None:
        return call.path
    if api == "v1" or call.operation.deployment != "path":
        return call.operation_path
    assert deployment is not None, "a required model was not read"
    return f"/deployments/{_encoded(deployment)}{call.operation_path}"


def _refuse_escapes(path: str) -> None:
    """Raises InvalidPath where any reader of the path, after any number of decodings, could see it climb."""
    if _PLAIN_PATH.fullmatch(path):
        return
    for _ in range(_MAX_ENCODINGS):
        segments = (segment.split(";")[0] for segment in path.split("/"))
        if not path.startswith("/") or path.startswith("//") or any(s in (".", "..") for s in segments):
            raise InvalidPath("The path must begin with one slash and hold no '.' or '..' segments.")
        if "\\" in path or any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
            raise InvalidPath("The path must hold no backslashes and no control characters.")
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded
    raise InvalidPath("The path is percent-encoded too many times over.")


def _encoded(deployment: str) -> str:
    if len(deployment) > _MAX_MODEL_LENGTH:
        raise InvalidRequest(f"`model` has more than {_MAX_MODEL_LENGTH} characters.")
    try:
        encoded = quote(deployment, safe="")
        _refuse_escapes(f"/{encoded}")
    except (UnicodeEncodeError, InvalidPath):
        raise InvalidRequest("`model` is not the name of a deployment.") from None
    return encoded


def _without(names: frozenset[str], query: str) -> list[str]:
    return [parameter for parameter in query.split("&") if parameter and _name(parameter) not in names]


def _with_api_version(call: Call, default: str) -> list[str]:
    """The parameters with one api-version: the first of the caller's that the legacy API can use, or the default."""
    kept: list[str] = []
    found = False
    for parameter in _without(_KEY_PARAMETERS, call.query):
        if _name(parameter) != _API_VERSION:
            kept.append(parameter)
        elif not found and _is_usable(parameter, call.dialect):
            kept.append(parameter)
            found = True
    return kept if found else [*kept, f"{_API_VERSION}={quote(default)}"]


def _is_usable(version: str, dialect: Api) -> bool:
    value = version.partition("=")[2]
    # What v1 callers may send (`preview`) means nothing to the dated API.
    return bool(value) if dialect == "legacy" else _DATED.match(value) is not None


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).lower()
