"""The files of the replacement, from the facts. Pure: the same facts give the same files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from xml.sax.saxutils import escape

from shim.cli.retire.facts import Facts, Twin

_V1, _FRONT = "openai-v1-bearer", "openai-front"
# https://learn.microsoft.com/azure/azure-resource-manager/templates/parameter-files
_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#"
# What OpenAI's SDK sends from a page, by name: no star covers Authorization
# (https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name).
SDK_HEADERS = (
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-request-id",
    "x-stainless-arch",
    "x-stainless-custom-poll-interval",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)
_CLOSED_CORS = (
    "No origin was given, so neither policy has a cors element: pages cannot call, and"
    " `python -m shim retire --origin https://app.example.com` adds one."
)
_OPEN_CORS = (
    "Both policies answer CORS for {origins}. Keep it there and nowhere else: two tiers that both answer send"
    " `Access-Control-Allow-Origin` twice, which browsers refuse."
)
_INTERNAL = (
    "`{service}` is in internal virtual network mode, where its own name leads to a load balancer that it cannot reach"
    " from behind: the policy calls 127.0.0.1 with the gateway's name as `Host`. That is a known workaround, not a"
    " documented feature; if the gateway refuses it, use v1/."
)
_EXTERNAL = (
    "It does not work in internal virtual network mode without a workaround, which `--internal` writes into the"
    " policy. `{service}` is not in that mode."
)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the new APIs are served, below the gateway; empty for a place beside the legacy API."""

    v1: str = ""
    front: str = ""

    def beside(self, legacy: str) -> Paths:
        return Paths(self.v1 or f"{legacy}-v1", self.front or _beside(legacy))


def replacement(facts: Facts, paths: Paths) -> dict[str, str]:
    """Each file's text by its path."""
    paths = paths.beside(facts.path)
    values = _values(facts, paths)
    front = {"legacyUrl": _front_backend(facts)}
    v1 = {
        "backendUrl": facts.backend and f"{facts.backend.rstrip('/')}/v1",
        "products": list(facts.products),
        "subscriptions": [_parameter(twin) for twin in facts.twins],
    }
    return {
        "README.md": _filled("README.md", values),
        "callers.md": _filled("callers.md", values),
        "v1/main.bicep": _template("v1/main.bicep"),
        "v1/main.parameters.json": _parameters(facts, _V1, paths.v1, v1),
        "v1/policy.xml": _filled("v1/policy.xml", {"cors": _cors(facts)}),
        "front/main.bicep": _template("front/main.bicep"),
        "front/main.parameters.json": _parameters(facts, _FRONT, paths.front, front),
        "front/policy.xml": _filled(
            "front/policy.xml",
            {"cors": _cors(facts), "key_header": _attribute(facts.key_header), "loopback": _loopback(facts)},
        ),
    }


def _values(facts: Facts, paths: Paths) -> dict[str, str]:
    origins = ", ".join(facts.origins)
    return {
        "api": facts.api,
        "service": facts.service,
        "group": facts.group,
        "gateway": facts.gateway,
        "key_header": facts.key_header,
        "legacy_url": f"{facts.gateway}/{facts.path}",
        "v1_url": f"{facts.gateway}/{paths.v1}",
        "v1_name": _V1,
        "front_url": f"{facts.gateway}/{paths.front}",
        "front_name": _FRONT,
        "twins": _told(facts.twins),
        "origin_option": f" --origin {facts.origins[0]}" if facts.origins else "",
        "cors_note": _OPEN_CORS.format(origins=origins) if origins else _CLOSED_CORS,
        "network": (_INTERNAL if facts.is_internal else _EXTERNAL).format(service=facts.service),
    }


def _told(twins: tuple[Twin, ...]) -> str:
    if not twins:
        return "No subscription is named in `subscriptions`: name those that are to get a twin."
    names = ", ".join(f"`{twin.sid}`" for twin in twins)
    return f"These subscriptions get a twin: {names}."


def _beside(legacy: str) -> str:
    """AzureOpenAI adds /openai to its endpoint, so that an end like that stays the end."""
    stem, slash, last = legacy.rpartition("/")
    if last == "openai":
        return f"{stem or 'legacy'}-bearer/openai"
    return f"{stem}{slash}{last}-bearer"


def _front_backend(facts: Facts) -> str:
    return f"{'https://127.0.0.1' if facts.is_internal else facts.gateway}/{facts.path}"


def _parameter(twin: Twin) -> dict[str, str]:
    # What was for the legacy API alone is for the new one alone.
    scope = f"apis/{_V1}" if twin.scope.startswith("apis/") else twin.scope
    return {"id": twin.sid, "displayName": twin.label, "scope": scope}


def _parameters(facts: Facts, name: str, path: str, more: Mapping[str, object]) -> str:
    values = {"serviceName": facts.service, "apiName": name, "apiPath": path, **more}
    content = {
        "$schema": _SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {key: {"value": value} for key, value in values.items()},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _cors(facts: Facts) -> str:
    """https://learn.microsoft.com/azure/api-management/cors-policy: its elements, in its order."""
    if not facts.origins:
        return ""
    lines = [
        '    <cors allow-credentials="false" terminate-unmatched-request="true">',
        "      <allowed-origins>",
        *(f"        <origin>{escape(origin)}</origin>" for origin in facts.origins),
        "      </allowed-origins>",
        '      <allowed-methods preflight-result-max-age="600">',
        *(f"        <method>{method}</method>" for method in ("GET", "POST", "DELETE")),
        "      </allowed-methods>",
        "      <allowed-headers>",
        *(f"        <header>{name}</header>" for name in SDK_HEADERS),
        "      </allowed-headers>",
        "      <expose-headers>",
        "        <header>*</header>",
        "      </expose-headers>",
        "    </cors>",
    ]
    return "\n".join(lines) + "\n"


def _loopback(facts: Facts) -> str:
    """As in Azure/api-management-policy-snippets: "Loopback request for service at same API Management service"."""
    if not facts.is_internal:
        return ""
    return (
        "    <!-- The gateway answers on 127.0.0.1 to its own name only. -->\n"
        '    <set-header name="Host" exists-action="override">\n'
        f"      <value>{escape(facts.host)}</value>\n"
        "    </set-header>\n"
    )


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _filled(name: str, values: Mapping[str, str]) -> str:
    return Template(_template(name)).substitute(values)


@cache
def _template(name: str) -> str:
    return (files("shim.cli.retire") / "templates" / name).read_text(encoding="utf-8")
