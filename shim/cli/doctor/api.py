"""The APIM API itself: what it says to no key, a wrong key and a given one, and what it speaks."""

import json
import secrets
from collections.abc import AsyncIterator
from typing import Literal

from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.patient import Answer, Client, NoAnswerError, Patient
from shim.settings import Settings

type Dialect = Literal["legacy", "v1"]

# No deployment has this name, so that no model runs and nothing is billed.
_NO_MODEL = "shim-doctor-asks-for-no-model"
_CHAT = {"model": _NO_MODEL, "messages": [{"role": "user", "content": "-"}]}


def chat_url(settings: Settings, dialect: Dialect, model: str) -> str:
    if dialect == "v1":
        return f"{settings.apim_v1_base_url}/chat/completions"
    return f"{settings.apim_base_url}/deployments/{model}/chat/completions?api-version={settings.apim_api_version}"


async def _ask(patient: Patient, client: Client, dialect: Dialect, key: str | None) -> Answer:
    headers = {patient.settings.apim_key_header: key} if key else {}
    return await client.ask(
        "POST", chat_url(patient.settings, dialect, _NO_MODEL), headers=headers, body=_CHAT
    )


async def keys(patient: Patient, client: Client) -> AsyncIterator[Finding]:
    dialect: Dialect = patient.settings.apim_api
    try:
        yield _without_key(patient, await _ask(patient, client, dialect, None))
        yield _wrong_key(patient, await _ask(patient, client, dialect, secrets.token_hex(16)))
        if patient.key is None:
            yield warning(
                "given key",
                "not tried",
                "give a subscription key on standard input: … | python -m shim doctor --key-stdin",
            )
        else:
            yield _given_key(patient, await _ask(patient, client, dialect, patient.key))
    except NoAnswerError as error:
        yield failed("api", str(error), "mend what failed above first; then see APIM's own logs")


def _without_key(patient: Patient, answer: Answer) -> Finding:
    says = f"answered {answer.status}: {patient.words(answer)}"
    if answer.status == 401:
        return ok("no key", f"refused, as it should be ({answer.seconds * 1000:.0f} ms)")
    if _is_missing(answer):
        return failed(
            "no key",
            says,
            "no such operation: compare APIM_BASE_URL with the API's URL in APIM, and APIM_API with what it speaks",
        )
    if answer.status == 403:
        return failed("no key", says, "an IP filter, a firewall or a policy refuses this network: let it in")
    if 300 <= answer.status < 400 or answer.status >= 500:
        return failed(
            "no key", says, "this is not the API itself: check APIM_BASE_URL, and the health of APIM"
        )
    return warning(
        "no key",
        says,
        "the API asks for no subscription key: require a subscription in its settings, or anybody may call it",
    )


def _wrong_key(patient: Patient, answer: Answer) -> Finding:
    if answer.status == 401 and "missing" in answer.text:
        return failed(
            "wrong key",
            f"APIM did not see it in the header {patient.settings.apim_key_header}",
            f"set APIM_KEY_HEADER to the name in the API's settings{_hint(answer)}",
        )
    if answer.status == 401:
        return ok("wrong key", "refused, as it should be")
    if _is_missing(answer):
        return failed("wrong key", "no such operation", "as above")
    return warning(
        "wrong key",
        f"answered {answer.status}: {patient.words(answer)}",
        "the API takes any key: require a subscription in its settings",
    )


def _hint(answer: Answer) -> str:
    _, found, rest = answer.headers.get("WWW-Authenticate", "").partition('name="')
    return f", which APIM says is {rest.partition('"')[0]}" if found else ""


# What a 401 or a 403 says, in words that it holds, from the particular to the general.
_REFUSALS: tuple[tuple[int, str, str], ...] = (
    (
        401,
        '"error"',
        "APIM took the key, but Azure OpenAI refused APIM: mend the backend's credential in APIM",
    ),
    (401, "missing", "set APIM_KEY_HEADER to the name in the API's settings"),
    (
        401,
        "",
        "use a key of an active subscription for a product, or an API, that holds this API; copy it whole",
    ),
    (403, "quota", "wait for the quota, or raise it in the product's policy"),
    (403, "", "a policy refuses this key or this network: see APIM's trace"),
)


def _given_key(patient: Patient, answer: Answer) -> Finding:
    says = f"answered {answer.status}: {patient.words(answer)}"
    for status, words, next_step in _REFUSALS:
        if answer.status == status and words in answer.text:
            return failed("given key", says, next_step)
    if answer.status == 429:
        return warning("given key", says, "the key is good, but its limit is spent: try again later")
    if answer.status >= 500:
        return failed("given key", says, "the key is good, but the API behind fails: see the backend in APIM")
    if _is_missing(answer):
        return failed("given key", says, "the key is good, but there is no such operation: see above")
    return ok("given key", f"taken ({answer.seconds * 1000:.0f} ms)")


async def dialect(patient: Patient, client: Client) -> AsyncIterator[Finding]:
    """APIM looks for the operation before it looks at the key, so that this needs none; a key makes it surer."""
    try:
        spoken = [d for d in ("legacy", "v1") if not _is_missing(await _ask(patient, client, d, patient.key))]
    except NoAnswerError as error:
        yield failed("dialect", str(error), "mend what failed above first")
        return
    configured = patient.settings.apim_api
    if configured in spoken:
        yield ok("dialect", f"the API speaks {' and '.join(spoken)}; APIM_API={configured} is right")
    elif spoken:
        yield failed("dialect", f"the API speaks {spoken[0]}, not {configured}", f"set APIM_API={spoken[0]}")
    else:
        yield failed(
            "dialect",
            "the API has chat completions neither in legacy form nor in v1",
            "compare APIM_BASE_URL (and APIM_V1_BASE_URL) with the API's URL and operations in APIM",
        )


def _is_missing(answer: Answer) -> bool:
    """APIM or Azure OpenAI knows no such operation; a missing deployment is something else."""
    if answer.status not in (404, 405):
        return False
    try:
        code = str(json.loads(answer.text)["error"]["code"])
    except (KeyError, TypeError, ValueError):
        return True
    return code in ("404", "405")
