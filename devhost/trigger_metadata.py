"""What the host tells the worker of a request beside its body: an invocation's `trigger_metadata`. Pure.

From HttpTriggerAttributeBindingProvider.cs (GetRequestBindingData) and Utility.cs of Azure/azure-webjobs-sdk-extensions
(WebJobs.Extensions.Http 3.2.0), and ScriptInvocationContextExtensions.cs and GrpcMessageConversionExtensions.cs of the
host (4.1037). Not imitated: strings that look like dates come in another format.
"""

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl

from devhost.host_headers import Headers

#: A name's value: its kind in the protocol, and the value as that kind has it.
type Metadata = dict[str, tuple[str, str]]


def trigger_metadata(content: bytes, query: str, params: Mapping[str, str], headers: Headers) -> Metadata:
    """`content` is a body of known length; of a chunked one the host knows nothing."""
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    bound = {name: value for name, value in parameters.items() if name.lower() != "code"}
    found = _Names()
    for name, value in [*_top_level(content).items(), *_strings(bound).items(), *_strings(params).items()]:
        found[name] = value
    found.setdefault("Query", ("json", json.dumps(parameters)))
    found.setdefault("Headers", ("json", json.dumps(_by_name(headers))))
    return found.metadata


class _Names:
    """Names whose case does not count; the first spelling stays."""

    def __init__(self) -> None:
        self.metadata: Metadata = {}
        self._spelled: dict[str, str] = {}

    def __setitem__(self, name: str, value: tuple[str, str]) -> None:
        self.metadata[self._spelled.setdefault(name.lower(), name)] = value

    def setdefault(self, name: str, value: tuple[str, str]) -> None:
        if name.lower() not in self._spelled:
            self[name] = value


def _top_level(content: bytes) -> Metadata:
    """A JSON object's own values, but for lists and nulls."""
    text = content.removeprefix(b"\xef\xbb\xbf").strip()
    if text[:1] + text[-1:] not in (b"{}", b"[]"):  # Utility.IsJson
        return {}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {
        name: ("json", json.dumps(value)) if isinstance(value, dict) else ("string", str(value))
        for name, value in parsed.items()
        if value is not None and not isinstance(value, list)
    }


def _strings(named: Mapping[str, str]) -> Metadata:
    return {name: ("string", value) for name, value in named.items()}


def _by_name(headers: Headers) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined
