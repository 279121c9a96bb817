"""What a method and a path ask for. Pure."""

import re
from dataclasses import dataclass

from shim.call import operations
from shim.call.operations import Operation
from shim.call.paths import refuse_escapes
from shim.errors import InvalidPath, NotFound, RealtimeNotSupported
from shim.headers import Headers
from shim.settings import Api

# The first that fits. What follows is the path below the API.
_ROOTS: tuple[tuple[str, Api], ...] = (("/openai/v1", "v1"), ("/openai", "legacy"), ("/v1", "v1"))
_DEPLOYMENT = re.compile(r"/deployments/(?P<deployment>[^/]+)(?P<path>/.+)")
_TWICE_ENCODED_SLASH = re.compile("%252f", re.IGNORECASE)
_REALTIME = ("GET", "/realtime")


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
    refuse_escapes(path)
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
            return _recognized(method, dialect, below, query)
    raise NotFound(
        'There is nothing at this path. Point the client at "https://<this host>/openai/v1"'
        ' (OpenAI) or at "https://<this host>" (AzureOpenAI).'
    )


def _recognized(method: str, dialect: Api, path: str, query: str) -> Call:
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
