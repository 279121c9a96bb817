"""Where a call goes: from the caller's path and query to those of the APIM API. Pure."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from shim.errors import InvalidPath, InvalidRequest, NotFound
from shim.settings import Settings

type Dialect = Literal["legacy", "v1"]

# The operations whose deployment the legacy API has in its path, as `/deployments/{deployment}<operation>`.
# The v1 API has the deployment in the body, as `model`.
DEPLOYMENT_OPERATIONS = frozenset(
    [
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/images/edits",
        "/images/generations",
    ]
)

# The first that fits. What follows is the path below the API.
_ROOTS: tuple[tuple[str, Dialect], ...] = (("/openai/v1", "v1"), ("/openai", "legacy"), ("/v1", "v1"))

# Subscription keys and Functions keys; in no case are they the caller's to send upstream.
_KEY_PARAMETERS = frozenset(["subscription-key", "code", "clientid"])

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_MAX_MODEL_LENGTH = 256
# Encodings of encodings, of which a gateway and the service behind it may each undo one.
_MAX_ENCODINGS = 4


@dataclass(frozen=True, slots=True)
class Call:
    """What the caller asked for: `path` and `query` are as they were sent, `path` below the API's root."""

    method: str
    dialect: Dialect
    path: str
    query: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where the call goes: `origin` is `https://host[:port]`, `path_and_query` what is asked of it."""

    origin: str
    path_and_query: str


def parse(method: str, raw_path: bytes, raw_query: bytes) -> Call:
    """Raises InvalidPath if the path could leave the configured base, NotFound if it is not of an OpenAI API."""
    try:
        path, query = raw_path.decode("ascii"), raw_query.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidPath("Percent-encode what is not ASCII in the URL.") from None
    # The Functions host re-encodes `%2F` as `%252F`, for it leaves that one encoded when it decodes the path.
    path = re.sub("%252f", "%2F", path, flags=re.IGNORECASE)
    _refuse_escapes(path)
    for root, dialect in _ROOTS:
        below = path[len(root) :]
        # The host's routes ignore case.
        if path[: len(root)].lower() == root and (not below or below.startswith("/")):
            return Call(method, dialect, below, query)
    raise NotFound(
        'There is nothing at this path. Point the client at "https://<this host>/openai/v1"'
        ' (OpenAI) or at "https://<this host>" (AzureOpenAI).'
    )


def needs_model(call: Call, settings: Settings) -> bool:
    """Whether the route depends on the `model` in the body: a v1 call that the legacy API has under deployments.

    By method too: `GET /chat/completions` lists stored completions, of all deployments.
    """
    to_deployment = call.method == "POST" and call.path.rstrip("/") in DEPLOYMENT_OPERATIONS
    return to_deployment and call.dialect == "v1" and settings.apim_api == "legacy"


def route(call: Call, model: str | None, settings: Settings) -> Target:
    """Where `call` goes. `model` is needed for deployment operations on a legacy API only.

    Raises InvalidRequest for a model that cannot be a deployment's name.
    """
    if settings.apim_api == "v1" and call.dialect == "v1":
        return _target(settings.apim_v1_base_url, call.path, _without_keys(call.query))
    path = call.path
    if model is not None:
        deployment = settings.model_deployments.get(model, model)
        path = f"/deployments/{_encoded(deployment)}{path}"
    return _target(settings.apim_base_url, path, _with_api_version(call, settings.apim_api_version))


def _target(base_url: str, path: str, parameters: list[str]) -> Target:
    base = urlsplit(base_url)
    query = "&".join(parameters)
    return Target(f"{base.scheme}://{base.netloc}", f"{base.path}{path}" + (f"?{query}" if query else ""))


def _refuse_escapes(path: str) -> None:
    """Raises InvalidPath where any reader of the path, after any number of decodings, could see it climb."""
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


def _without_keys(query: str) -> list[str]:
    return [
        parameter for parameter in query.split("&") if parameter and _name(parameter) not in _KEY_PARAMETERS
    ]


def _with_api_version(call: Call, default: str) -> list[str]:
    parameters = _without_keys(call.query)
    versions = [parameter for parameter in parameters if _name(parameter) == "api-version"]
    # What v1 callers may send (`preview`) means nothing to the dated API.
    if any(call.dialect == "legacy" or _DATED.match(version.partition("=")[2]) for version in versions):
        return parameters
    others = [parameter for parameter in parameters if parameter not in versions]
    return [*others, f"api-version={quote(default)}"]


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).lower()
