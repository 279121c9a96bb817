"""The deployed shim as callers see it: whether it is ready, and CORS in a browser."""

import json
from collections.abc import AsyncIterator, Mapping

from shim.answer.cors import Cors
from shim.cli.doctor.client import Client, NoResponseError
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target
from shim.errors import OriginNotAllowed

_PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def readiness(target: Target, client: Client) -> AsyncIterator[Finding]:
    if target.shim_url is None:
        return
    try:
        response = await client.request("GET", f"{target.shim_url}/readyz")
        report = json.loads(response.text)
        checks, warnings = report["checks"], report.get("warnings", ())
        days_left = report.get("retirement", {}).get("days_left")
    except (NoResponseError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = (
            str(error) if isinstance(error, NoResponseError) else "the response to /readyz is not a shim's"
        )
        yield failed("shim", reason, "check --shim-url; is the app deployed and started? See its log stream")
        return
    if response.status == 200:
        ends = "" if days_left is None else f", {days_left} days before its sunset"
        yield ok("shim", f"ready ({response.seconds * 1000:.0f} ms){ends}")
    for check in checks:
        if not check["ok"]:
            yield failed(
                "shim",
                f"{check['name']}: {check['reason']}",
                "set READYZ_DETAILS=true to see the whole reason",
            )
    for text in warnings:
        yield warning("shim", text, "set READYZ_DETAILS=true to see the whole reason")


async def cors(target: Target, client: Client) -> AsyncIterator[Finding]:
    if target.origin is None:
        if target.settings.cors_origins:
            yield warning("cors", "not tried", "name an origin: --origin https://app.example.com")
        else:
            yield ok("cors", "no web page may call, since CORS_ORIGINS is empty")
        return
    preflight = {"origin": target.origin, **_PREFLIGHT}
    if target.shim_url is None:
        status, headers = _by_these_settings(target, preflight)
        yield _judge(target.origin, "by these settings", status, headers)
        return
    try:
        url = f"{target.shim_url}/openai/v1/chat/completions"
        response = await client.request("OPTIONS", url, headers=preflight)
    except NoResponseError as error:
        yield failed("cors", str(error), "fix the failures above first")
        return
    yield _judge(target.origin, "by the deployed shim", response.status, response.headers)


def _by_these_settings(target: Target, preflight: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
    try:
        headers = Cors.of(target.settings).preflight("OPTIONS", preflight) or []
    except OriginNotAllowed as refused:
        return refused.status, {}
    return 204, {name.decode().title(): value.decode() for name, value in headers}


def _judge(origin: str, by: str, status: int, headers: Mapping[str, str]) -> Finding:
    allowed = headers.get("Access-Control-Allow-Origin", "")
    next_step = f"add {origin} to CORS_ORIGINS (with azd, which on Flex Consumption tells the platform, too)"
    if "," in allowed:
        return failed(
            "cors",
            f"two tiers answer a preflight from {origin} {by}, which browsers refuse",
            "leave CORS to one of them: empty the list in the portal on any plan but Flex Consumption",
        )
    if not 200 <= status < 300 or allowed not in (origin, "*"):
        return failed("cors", f"a preflight from {origin} is refused {by} ({status})", next_step)
    missing = [name for name in ("authorization", "content-type") if not _allows(headers, name)]
    if missing:
        return failed("cors", f"a preflight from {origin} may not send {', '.join(missing)} {by}", next_step)
    return ok("cors", f"a preflight from {origin} is allowed {by}")


def _allows(headers: Mapping[str, str], name: str) -> bool:
    return name in headers.get("Access-Control-Allow-Headers", "").lower() or (
        # The platform may answer with a star, which does not cover Authorization.
        name != "authorization" and headers.get("Access-Control-Allow-Headers") == "*"
    )
