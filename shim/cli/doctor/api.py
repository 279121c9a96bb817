"""The APIM API itself: its response to no key, a wrong key and a given one, and which form of the API it has."""

import json
import secrets
from collections.abc import AsyncIterator

from shim.cli.doctor.client import Client, NoResponseError, Response
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target
from shim.settings import Api

# No deployment has this name, so that no model runs and nothing is billed.
_NO_MODEL = "shim-doctor-no-such-model"
_CHAT = {"model": _NO_MODEL, "messages": [{"role": "user", "content": "-"}]}
_FORMS: tuple[Api, ...] = ("legacy", "v1")


def chat_url(target: Target, form: Api, model: str) -> str:
    settings = target.settings
    if form == "v1":
        return f"{settings.apim_v1_base_url}/chat/completions"
    return f"{settings.apim_base_url}/deployments/{model}/chat/completions?api-version={settings.apim_api_version}"


async def keys(target: Target, client: Client) -> AsyncIterator[Finding]:
    form: Api = target.settings.apim_api
    try:
        yield _without_key(target, await _chat(target, client, form, None))
        yield _wrong_key(target, await _chat(target, client, form, secrets.token_hex(16)))
        if target.key is None:
            yield warning(
                "given key",
                "not tried",
                "pass a subscription key on standard input: … | python -m shim doctor --key-stdin",
            )
        else:
            yield _given_key(target, await _chat(target, client, form, target.key))
    except NoResponseError as error:
        yield failed("api", str(error), "fix the failures above first; then look at APIM's own logs")


async def forms(target: Target, client: Client) -> AsyncIterator[Finding]:
    """APIM looks for the operation before it looks at the key, so that this needs none; a key makes it surer."""
    try:
        found = [form for form in _FORMS if not _is_missing(await _chat(target, client, form, target.key))]
    except NoResponseError as error:
        yield failed("APIM_API", str(error), "fix the failures above first")
        return
    configured = target.settings.apim_api
    if configured in found:
        yield ok("APIM_API", f"{configured} is right: the API has chat completions as {' and '.join(found)}")
    elif found:
        yield failed(
            "APIM_API",
            f"the API has chat completions as {found[0]}, not as {configured}",
            f"set APIM_API={found[0]}",
        )
    else:
        yield failed(
            "APIM_API",
            "the API has chat completions neither as legacy nor as v1",
            "compare APIM_BASE_URL (and APIM_V1_BASE_URL) with the API's URL and operations in APIM",
        )


async def _chat(target: Target, client: Client, form: Api, key: str | None) -> Response:
    headers = {target.settings.apim_key_header: key} if key else {}
    return await client.request("POST", chat_url(target, form, _NO_MODEL), headers=headers, body=_CHAT)


def _summary(target: Target, response: Response) -> str:
    return f"answered {response.status}: {target.excerpt(response.text)}"


def _without_key(target: Target, response: Response) -> Finding:
    summary = _summary(target, response)
    if response.status == 401:
        return ok("no key", f"refused, as it should be ({response.seconds * 1000:.0f} ms)")
    if _is_missing(response):
        return failed(
            "no key",
            summary,
            "no such operation: compare APIM_BASE_URL with the API's URL in APIM, and APIM_API with what it offers",
        )
    if response.status == 403:
        return failed(
            "no key", summary, "an IP filter, a firewall or a policy refuses this network: let it in"
        )
    if 300 <= response.status < 400 or response.status >= 500:
        return failed(
            "no key", summary, "this is not the API itself: check APIM_BASE_URL, and the health of APIM"
        )
    return warning(
        "no key",
        summary,
        "the API asks for no subscription key: require a subscription in its settings, or anybody may call it",
    )


def _wrong_key(target: Target, response: Response) -> Finding:
    if response.status == 401 and "missing" in response.text:
        return failed(
            "wrong key",
            f"APIM did not see it in the header {target.settings.apim_key_header}",
            f"set APIM_KEY_HEADER to the name in the API's settings{_header_hint(response)}",
        )
    if response.status == 401:
        return ok("wrong key", "refused, as it should be")
    if _is_missing(response):
        return failed("wrong key", "no such operation", "as above")
    return warning(
        "wrong key",
        _summary(target, response),
        "the API takes any key: require a subscription in its settings",
    )


def _header_hint(response: Response) -> str:
    _, found, rest = response.headers.get("WWW-Authenticate", "").partition('name="')
    return f", which APIM says is {rest.partition('"')[0]}" if found else ""


# What a 401 or a 403 means, by words that it contains, from the particular to the general.
_REFUSALS: tuple[tuple[int, str, str], ...] = (
    (
        401,
        '"error"',
        "APIM accepted the key, but Azure OpenAI refused APIM: fix the backend's credential in APIM",
    ),
    (401, "missing", "set APIM_KEY_HEADER to the name in the API's settings"),
    (
        401,
        "",
        "use a key of an active subscription to this API, or to a product that contains it; copy it whole",
    ),
    (403, "quota", "wait for the quota to renew, or raise it in the product's policy"),
    (403, "", "a policy refuses this key or this network: see APIM's trace"),
)


def _given_key(target: Target, response: Response) -> Finding:
    summary = _summary(target, response)
    for status, words, next_step in _REFUSALS:
        if response.status == status and words in response.text:
            return failed("given key", summary, next_step)
    if response.status == 429:
        return warning(
            "given key", summary, "the key is good, but its rate limit is used up: try again later"
        )
    if response.status >= 500:
        return failed(
            "given key", summary, "the key is good, but the API behind it fails: see the backend in APIM"
        )
    if _is_missing(response):
        return failed("given key", summary, "the key is good, but there is no such operation: see above")
    return ok("given key", f"accepted ({response.seconds * 1000:.0f} ms)")


def _is_missing(response: Response) -> bool:
    """Whether APIM or Azure OpenAI knows no such operation; a missing deployment is something else."""
    if response.status not in (404, 405):
        return False
    try:
        code = str(json.loads(response.text)["error"]["code"])
    except (KeyError, TypeError, ValueError):
        return True
    return code in ("404", "405")
