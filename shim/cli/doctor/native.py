"""What a caller gets from APIM without the shim: the same call, with the key as Bearer, and what still differs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shim.cli.doctor.client import Client, NoResponseError, Response
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.settings import LATEST_GA_API_VERSION

type Form = Literal["v1", "dated"]
# What came of a call: served, or what stood in its way.
type Outcome = Literal["served", "no key", "no path", "no deployment", "refused"]

_DEFAULT_KEY_HEADER = "api-key"
_MESSAGES = [{"role": "user", "content": "Say OK."}]
_PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
_FIRST = "fix this first, then ask again"


@dataclass(frozen=True, slots=True)
class NativeCaller:
    """One caller's call. `url` is the base URL it would be given in place of the shim's; `key` must never be shown."""

    url: str
    model: str
    key: str = field(repr=False)
    origin: str | None = None
    api_version: str = LATEST_GA_API_VERSION

    def chat_url(self, form: Form) -> str:
        if form == "v1":
            return f"{self.url}/chat/completions"
        return f"{self.url}/deployments/{self.model}/chat/completions?api-version={self.api_version}"

    @property
    def bearer(self) -> dict[str, str]:
        origin = {"origin": self.origin} if self.origin else {}
        return {"authorization": f"Bearer {self.key}", **origin}

    def body(self, *, stream: bool = False) -> dict[str, object]:
        return {"model": self.model, "messages": _MESSAGES, **({"stream": True} if stream else {})}


async def check(caller: NativeCaller, client: Client) -> AsyncIterator[Finding]:
    """The findings, and last the verdict: whether this caller still needs the shim, and for what."""
    try:
        async for finding in _check(caller, client):
            yield finding
    except NoResponseError as error:
        yield failed("native", str(error), "is this the URL of an APIM API, and does this network reach it?")


async def _check(caller: NativeCaller, client: Client) -> AsyncIterator[Finding]:
    v1 = await _chat(caller, client, "v1", caller.bearer)
    dated = await _chat(caller, client, "dated", caller.bearer)
    findings = [_key(v1, dated)]
    if findings[0].outcome == "failed":
        header = _key_header(v1, dated)
        by_header = {header: caller.key}
        v1 = await _chat(caller, client, "v1", by_header)
        dated = await _chat(caller, client, "dated", by_header)
        if "no key" in (_outcome(v1), _outcome(dated)):
            yield failed(
                "native key",
                f"refused as Bearer and in {header} alike (401): this is no key of this API",
                "use a key of an active subscription for a product, or an API, that holds this API",
            )
            return
    findings.append(_paths(caller, v1, dated))
    outcomes: dict[Form, Outcome] = {"v1": _outcome(v1), "dated": _outcome(dated)}
    served = next((form for form, outcome in outcomes.items() if outcome == "served"), None)
    if served is None and "no deployment" not in outcomes.values():
        yield findings[-1]
        yield failed("native", "whether this caller needs the shim could not be judged", _FIRST)
        return
    if served is not None and findings[0].outcome == "ok":
        findings.append(await _stream(caller, client, served))
    if caller.origin:
        findings.append(await _browser(caller, client, served or "v1", v1 if served == "v1" else dated))
    for finding in findings:
        yield finding
    yield _verdict(caller, findings, dated_is_served=outcomes["dated"] == "served")


async def _chat(caller: NativeCaller, client: Client, form: Form, headers: Mapping[str, str]) -> Response:
    return await client.request("POST", caller.chat_url(form), headers=headers, body=caller.body())


def _key(v1: Response, dated: Response) -> Finding:
    # APIM looks for the operation before it looks at the key: a path that does not exist says nothing of the key.
    outcomes = {_outcome(v1), _outcome(dated)}
    if "no key" not in outcomes:
        return ok("native key", "taken as Authorization: Bearer, as OpenAI SDKs send it")
    return failed(
        "native key",
        f"APIM reads the key from {_key_header(v1, dated)}, not from Authorization",
        "send it in that header (default_headers), or deploy what `python -m shim retire` generates",
    )


def _key_header(v1: Response, dated: Response) -> str:
    """The header that APIM's challenge names."""
    for response in (dated, v1):
        _, found, rest = response.headers.get("WWW-Authenticate", "").partition('name="')
        if found:
            return rest.partition('"')[0]
    return _DEFAULT_KEY_HEADER


def _paths(caller: NativeCaller, v1: Response, dated: Response) -> Finding:
    check = "native paths"
    by_v1, by_dated = _outcome(v1), _outcome(dated)
    if by_v1 == "served":
        return ok(check, "v1 paths are served")
    if by_v1 == "no deployment" or (by_v1 == "no path" and by_dated == "no deployment"):
        return failed(
            check,
            f"there is no deployment {caller.model}: the shim maps this model to another name (MODEL_DEPLOYMENTS)",
            "have the caller use the deployment's own name as the model",
        )
    if by_v1 == "no path" and by_dated == "served":
        return failed(
            check,
            "only dated paths are served (/deployments/<deployment>/…?api-version=…), v1 paths are not",
            "use AzureOpenAI in place of OpenAI, or add a v1 API: `python -m shim retire`",
        )
    if by_v1 == by_dated == "no path":
        return failed(
            check, "neither v1 nor dated paths are served here", "compare the URL with the API's in APIM"
        )
    response = dated if by_v1 == "no path" else v1
    return failed(check, f"answered {response.status}: {_excerpt(caller, response.text)}", _FIRST)


async def _stream(caller: NativeCaller, client: Client, form: Form) -> Finding:
    chunks = [
        chunk
        async for _, chunk in client.stream(
            caller.chat_url(form), headers=caller.bearer, body=caller.body(stream=True)
        )
    ]
    status, text = chunks[0].decode(), b"".join(chunks[1:]).decode("utf-8", "replace")
    if status == "200" and "data: [DONE]" in text:
        return ok("native streaming", f"{text.count('data:')} events, to the end")
    return failed("native streaming", f"answered {status}: {_excerpt(caller, text)}", _FIRST)


async def _browser(caller: NativeCaller, client: Client, form: Form, response: Response) -> Finding:
    check, origin = "native browser", caller.origin or ""
    preflight = await client.request(
        "OPTIONS", caller.chat_url(form), headers={"origin": origin, **_PREFLIGHT}
    )
    reason = _blocked(preflight, response, origin)
    if reason is None:
        return ok(check, f"a page at {origin} may call, and read the response")
    return failed(
        check,
        f"a page at {origin} is blocked: {reason}",
        "add a cors policy to that API, and to no other tier: `python -m shim retire --origin` writes one",
    )


def _blocked(preflight: Response, response: Response, origin: str) -> str | None:
    """Why a browser would not let the page call (https://fetch.spec.whatwg.org/#http-cors-protocol)."""
    if not 200 <= preflight.status < 300:
        return f"its preflight is answered {preflight.status}"
    if _allowed_origin(preflight) not in (origin, "*"):
        return "its preflight is not allowed"
    # No star covers Authorization: https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name.
    if "authorization" not in preflight.headers.get("Access-Control-Allow-Headers", "").lower():
        return "it may not send Authorization"
    if _allowed_origin(response) not in (origin, "*"):
        return "it may not read the response"
    return None


def _allowed_origin(response: Response) -> str:
    return response.headers.get("Access-Control-Allow-Origin", "")


# What the shim is still needed for, by the check that failed.
_NEEDED_FOR = {
    "native key": "the key as Bearer",
    "native paths": "v1 paths",
    "native streaming": "streams",
    "native browser": "browsers (CORS)",
}


def _verdict(caller: NativeCaller, findings: list[Finding], *, dated_is_served: bool) -> Finding:
    troubles = [finding.check for finding in findings if finding.outcome == "failed"]
    if not troubles:
        tried = "" if caller.origin else " (pages were not tried: --origin)"
        return ok("native", f"the shim is not needed for this caller any more{tried}: {caller.url}")
    needed = " and ".join(_NEEDED_FOR[check] for check in troubles)
    if troubles == ["native paths"] and dated_is_served:
        return warning(
            "native",
            "the shim is needed for v1 paths only",
            "callers on dated paths (AzureOpenAI, with the key as Bearer) can move today",
        )
    return failed("native", f"the shim is still needed for {needed}", "see what to do about each above")


def _outcome(response: Response) -> Outcome:
    if 200 <= response.status < 300:
        return "served"
    if response.status == 401:
        # One with a code is Azure OpenAI's, which refuses APIM and not the caller.
        return "refused" if _code(response) else "no key"
    if response.status in (404, 405):
        return "no deployment" if _code(response) not in ("404", "405", "") else "no path"
    return "refused"


def _code(response: Response) -> str:
    """Azure OpenAI's code, such as DeploymentNotFound; APIM's own errors have none."""
    try:
        return str(json.loads(response.text)["error"]["code"])
    except (KeyError, TypeError, ValueError):
        return ""


def _excerpt(caller: NativeCaller, text: str) -> str:
    return " ".join(text.split()).replace(caller.key, "<key>")[:200] or "nothing"
