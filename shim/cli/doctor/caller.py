"""What a caller sees: the deployed shim, CORS in a browser, and whether streams come as they are made."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from shim.cli.doctor.api import chat_url
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.patient import Client, NoAnswerError, Patient
from shim.cors import Cors
from shim.errors import OriginNotAllowed

_PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
_PROMPT = "Count from 1 to 40 in words, one per line."
# A stream that took this long, in seconds, and came in less than this part of it was held back on its way.
_LONG_ENOUGH = 0.3
_BURST = 0.1


async def shim(patient: Patient, client: Client) -> AsyncIterator[Finding]:
    if patient.shim_url is None:
        return
    try:
        answer = await client.ask("GET", f"{patient.shim_url}/readyz")
        report = json.loads(answer.text)
        checks, warnings = report["checks"], report.get("warnings", ())
    except (NoAnswerError, KeyError, TypeError, ValueError) as error:
        says = str(error) if isinstance(error, NoAnswerError) else "/readyz is not the shim's"
        yield failed("shim", says, "check --shim-url; is the app deployed and started? See its log stream")
        return
    if answer.status == 200:
        yield ok("shim", f"ready ({answer.seconds * 1000:.0f} ms)")
    for check in checks:
        if not check["ok"]:
            yield failed(
                "shim",
                f"{check['name']}: {check['reason']}",
                "READYZ_DETAILS=true shows it in full",
            )
    for text in warnings:
        yield warning("shim", text, "READYZ_DETAILS=true shows it in full")


async def cors(patient: Patient, client: Client) -> AsyncIterator[Finding]:
    if patient.origin is None:
        if patient.settings.cors_origins:
            yield warning("cors", "not tried", "name an origin: --origin https://app.example.com")
        else:
            yield ok("cors", "no web page may call, since CORS_ORIGINS is empty")
        return
    asked = {"origin": patient.origin, **_PREFLIGHT}
    if patient.shim_url is None:
        yield _judged(patient.origin, "by these settings", *_own_answer(patient, asked))
        return
    try:
        answer = await client.ask("OPTIONS", f"{patient.shim_url}/openai/v1/chat/completions", headers=asked)
    except NoAnswerError as error:
        yield failed("cors", str(error), "mend what failed above first")
        return
    yield _judged(patient.origin, "by the deployed shim", answer.status, answer.headers)


def _own_answer(patient: Patient, asked: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
    try:
        headers = Cors.of(patient.settings).preflight("OPTIONS", asked) or []
    except OriginNotAllowed as refused:
        return refused.status, {}
    return 204, {name.decode().title(): value.decode() for name, value in headers}


def _judged(origin: str, by: str, status: int, headers: Mapping[str, str]) -> Finding:
    allowed = headers.get("Access-Control-Allow-Origin", "")
    next_step = f"add {origin} to CORS_ORIGINS (by azd: on Flex it tells the platform, too)"
    if "," in allowed:
        return failed(
            "cors",
            f"two tiers answer a preflight from {origin} {by}, which browsers refuse",
            "leave CORS to one of them: empty the list in the portal on any plan but Flex",
        )
    if not 200 <= status < 300 or allowed not in (origin, "*"):
        return failed("cors", f"a preflight from {origin} is refused {by} ({status})", next_step)
    lacking = [name for name in ("authorization", "content-type") if not _allows(headers, name)]
    if lacking:
        return failed("cors", f"a preflight from {origin} may not send {', '.join(lacking)} {by}", next_step)
    return ok("cors", f"a preflight from {origin} is allowed {by}")


def _allows(headers: Mapping[str, str], name: str) -> bool:
    return name in headers.get("Access-Control-Allow-Headers", "").lower() or (
        # The platform may answer with a star, which does not span Authorization.
        name != "authorization" and headers.get("Access-Control-Allow-Headers") == "*"
    )


@dataclass(frozen=True, slots=True)
class _Course:
    """How a stream went. Seconds since it was asked for, of each piece."""

    status: int
    times: list[float]
    events: int
    text: str


async def streaming(patient: Patient, client: Client) -> AsyncIterator[Finding]:
    model = patient.model or next(iter(patient.settings.model_deployments), None)
    if patient.key is None or model is None:
        yield warning(
            "streaming",
            "not tried",
            "give a key (--key-stdin) and a model that it may use (--model gpt-4o); a few tokens are billed",
        )
        return
    deployment = patient.settings.model_deployments.get(model, model)
    upstream = chat_url(patient.settings, patient.settings.apim_api, deployment)
    yield await _course(
        patient, client, "from APIM", upstream, {patient.settings.apim_key_header: patient.key}, model
    )
    if patient.shim_url is not None:
        through = f"{patient.shim_url}/openai/v1/chat/completions"
        bearer = {"authorization": f"Bearer {patient.key}"}
        yield await _course(patient, client, "through the shim", through, bearer, model)


async def _course(
    patient: Patient, client: Client, way: str, url: str, headers: Mapping[str, str], model: str
) -> Finding:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": _PROMPT}]}
    try:
        course = await _follow(client, url, headers, body)
    except NoAnswerError as error:
        return failed("streaming", f"{way}: {error}", "mend what failed above first")
    if course.status != 200 or not course.times:
        said = " ".join(course.text.replace(patient.key or "\0", "<key>").split())[:200]
        return failed(
            "streaming", f"{way}: answered {course.status}: {said}", "check --model and its deployment"
        )
    first, last = course.times[0], course.times[-1]
    gap = max((b - a for a, b in zip(course.times, course.times[1:], strict=False)), default=0.0)
    says = (
        f"{way}: first byte after {first * 1000:.0f} ms, {course.events} events in {len(course.times)} pieces"
        f" over {(last - first) * 1000:.0f} ms, longest gap {gap * 1000:.0f} ms"
    )
    if course.events > 2 and last > _LONG_ENOUGH and last - first < last * _BURST:
        return warning(
            "streaming",
            f"{says}: all at once, so something buffers",
            "in APIM set buffer-response to false on forward-request, and log no bodies; then look at proxies",
        )
    return ok("streaming", says)


async def _follow(client: Client, url: str, headers: Mapping[str, str], body: object) -> _Course:
    pieces = [piece async for piece in client.stream(url, headers=headers, body=body)]
    (_, status), *rest = pieces
    text = b"".join(piece for _, piece in rest).decode("utf-8", "replace")
    return _Course(int(status), [at for at, _ in rest], text.count("data:"), text)
