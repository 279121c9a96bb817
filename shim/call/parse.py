"""What a method and a path ask for. Pure."""

import re
from functools import lru_cache
from typing import NamedTuple

from shim.call.operations import DeploymentPlace, deployment_place
from shim.call.paths import refuse_escapes
from shim.errors import InvalidPath, NotFound, RealtimeNotSupported
from shim.headers import Headers
from shim.settings import Api

# The first that fits. What follows is the path below the API.
_ROOTS: tuple[tuple[str, Api], ...] = (("/openai/v1", "v1"), ("/openai", "legacy"), ("/v1", "v1"))
_DEPLOYMENT = re.compile(r"/deployments/(?P<deployment>[^/]+)(?P<path>/.+)")
_DOUBLY_ENCODED_SLASH = re.compile("%252f", re.IGNORECASE)
_TWO_SLASHES = re.compile("/(?:/|%(?:25)*2f)", re.IGNORECASE)
_REALTIME = ("GET", "/realtime")
_OPENAI_BASE = 'For the OpenAI client, base_url is "https://<this host>/openai/v1".'
_RIGHT_BASES = f'{_OPENAI_BASE} For AzureOpenAI, azure_endpoint is "https://<this host>".'
# What follows the root only where a client's base URL already names more than the root.
_REPEATED_ROOT = re.compile(r"/(?:openai|v1)(?:/|$)", re.IGNORECASE)


class Call(NamedTuple):
    """What the caller asked for: `path` and `query` are as they were sent, `path` below the API's root.

    `operation` is that path as the v1 API has it: without a deployment and without a trailing slash. `deployment` is
    the one that an AzureOpenAI client has in the path, as it was sent. `deployment_place` is where the legacy API
    wants the deployment, None where the call has none. Only the legacy API has a path like that of a call that
    `is_legacy_only`.
    """

    method: str
    dialect: Api
    path: str
    query: str
    operation: str
    deployment_place: DeploymentPlace | None = None
    deployment: str | None = None
    is_legacy_only: bool = False

    @property
    def has_model_in_body(self) -> bool:
        """Whether the body's `model` names what the call is for."""
        return self.deployment_place is not None and self.deployment is None


def parse(method: str, raw_path: bytes, raw_query: bytes, headers: Headers) -> Call:
    """Raises InvalidPath if the path could leave the configured base, NotFound if it is not of an OpenAI API,
    RealtimeNotSupported for a WebSocket.
    """
    # The host removes `Upgrade`, but not this one (RFC 6455, section 4.1).
    return _parse(method, raw_path, raw_query, any(name == b"sec-websocket-key" for name, _ in headers))


# Of at most 8 KB each, the host's limit; most callers ask for few paths, again and again.
@lru_cache(maxsize=128)
def _parse(method: str, raw_path: bytes, raw_query: bytes, is_websocket: bool) -> Call:
    try:
        path, query = raw_path.decode("ascii"), raw_query.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidPath("Percent-encode what is not ASCII in the URL.") from None
    # The Functions host leaves `%2F` encoded when it decodes the path, and so encodes it once more as `%252F`.
    path = _DOUBLY_ENCODED_SLASH.sub("%2F", path)
    refuse_escapes(path)
    for root, dialect in _ROOTS:
        below = path[len(root) :]
        # The host's routes ignore case.
        if path[: len(root)].lower() == root and (not below or below.startswith("/")):
            if is_websocket or (method, below.rstrip("/")) == _REALTIME:
                raise _realtime()
            if _TWO_SLASHES.match(below):
                raise InvalidPath(f'There are two slashes after "{root}": remove one. {_RIGHT_BASES}')
            return _call(method, dialect, below, query, root)
    raise NotFound(f"There is nothing at this path. {_RIGHT_BASES}")


def _realtime() -> RealtimeNotSupported:
    return RealtimeNotSupported(
        "The Realtime API needs a WebSocket, which this shim cannot carry. Connect the realtime client to"
        " the APIM API or to the Azure OpenAI resource itself, or stream over HTTP: chat completions or"
        ' responses with "stream": true, and audio through /audio/transcriptions and /audio/speech.'
    )


def _call(method: str, dialect: Api, path: str, query: str, root: str) -> Call:
    below = path.rstrip("/")
    _refuse_wrong_base(method, dialect, below, root)
    if dialect == "legacy" and below.startswith("/deployments/"):
        match = _DEPLOYMENT.fullmatch(below)
        if match and deployment_place(method, match["path"]) == "path":
            return Call(method, dialect, path, query, match["path"], "path", match["deployment"])
        return Call(method, dialect, path, query, below, is_legacy_only=True)
    place = deployment_place(method, below)
    if dialect == "legacy" and place == "path":
        # AzureOpenAI always sends an api-version, and leaves the deployment out if the call names no model.
        if "api-version" not in query.lower():
            raise NotFound(f'"{root}{below}" is a path of neither API. {_RIGHT_BASES}')
        place = None
    return Call(method, dialect, path, query, below, place)


def _refuse_wrong_base(method: str, dialect: Api, path: str, root: str) -> None:
    """Raises NotFound for what a client sends that adds its paths to more than the root of the API."""
    is_repeated = _REPEATED_ROOT.match(path) or "/openai/deployments/" in path
    if is_repeated or (dialect == "v1" and path.startswith("/deployments/")):
        raise NotFound(f'The client\'s base URL goes on after "{root}". {_RIGHT_BASES}')
    head, _, _ = path.rpartition("/")
    while head:
        if deployment_place("POST", head) and deployment_place(method, path[len(head) :]):
            raise NotFound(
                f'The client\'s base URL ends with "{head}", which the client itself adds. {_RIGHT_BASES}'
            )
        head, _, _ = head.rpartition("/")
