"""The shim put together from the environment; what is wrong with that is said on every call."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping

from shim.answer.cors import Cors
from shim.answer.retirement import report
from shim.app import Shim, answer
from shim.asgi import Request, Response
from shim.errors import Misconfigured
from shim.keys import open_key_store
from shim.monitoring import health
from shim.monitoring.call_log import announce
from shim.monitoring.exporting import Telemetry
from shim.monitoring.health import Check, Readiness
from shim.monitoring.record import CallRecord, Meter
from shim.settings import Settings, SettingsError, names_in
from shim.transport.choice import choose_transport, open_transport
from shim.upstream import Upstream

log = logging.getLogger("shim")

_WHERE_TO_LOOK = "the log says why, and so does this page with READYZ_DETAILS=true"


class Service:
    """What the Functions app serves. With faulty settings it starts all the same, to tell why it cannot work.

    An app that failed to start would leave its operator with a bare 404, and the reasons in a log to be found.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._shim: Shim | None = None
        self._settings: Settings | None = None
        self._telemetry = Telemetry(Meter())
        # Kept, since the event loop itself keeps tasks weakly.
        self._background: list[asyncio.Task[None] | None] = []
        try:
            settings = Settings.from_environment(environ)
        except SettingsError as error:
            for problem in error.problems:
                log.error("setting: %s", problem)
            self._problems = error.problems
            # No max-age: what browsers remember would outlast the faulty settings.
            self._cors = Cors(error.cors_origins, credentials=error.cors_credentials, max_age=0)
            # The flag may be good where others are not.
            details = environ.get("READYZ_DETAILS", "").strip().lower() == "true"
            self._retirement = error.retirement
            self._readiness = Readiness(
                [self._settings_check()], details=details, also=self._retirement_report
            )
        else:
            self._problems = []
            for text in settings.warnings:
                log.warning("setting: %s", text)
            self._cors = Cors.of(settings)
            self._retirement = settings.retirement
            self._settings = settings
            upstream = _open_upstream(settings, environ)
            self._telemetry = Telemetry.of(settings, connections=lambda: upstream.connections)
            keys = open_key_store(settings, process=self._telemetry.meter.process)
            self._shim = Shim(settings, keys, upstream)
            self._readiness = Readiness(
                [
                    self._settings_check(),
                    Check("key store", keys.check, f"the key store could not be read; {_WHERE_TO_LOOK}"),
                    Check(
                        "upstream",
                        lambda: upstream.check(settings.apim_base_url),
                        f"the APIM API could not be reached; {_WHERE_TO_LOOK}",
                    ),
                ],
                details=settings.readyz_details,
                warnings=settings.warnings if settings.readyz_details else _without_values(settings.warnings),
                also=self._retirement_report,
            )
            work = (keys.warm(), self._telemetry.run(), asyncio.to_thread(announce, settings))
            self._background = [_in_background(each) for each in work]

    @property
    def import_schedule(self) -> str | None:
        """When keys are imported from APIM, as NCRONTAB; None where no service is named."""
        settings = self._settings
        return settings.apim_import_schedule if settings and settings.apim_resource_id else None

    async def import_keys(self) -> None:
        """Brings APIM's keys into the vault. Raises ApimError or VaultError, whose reasons name no key."""
        # Only now: what it takes would be 3 % of every cold start.
        from shim.keys.admin.importing import import_keys

        if self._settings is not None:
            await import_keys(self._settings)

    async def proxy(self, request: Request) -> Response:
        handle = self._shim.forward if self._shim else _misconfigured
        return await answer(request, self._cors, self._retirement, handle, self._telemetry.meter)

    async def healthz(self, request: Request) -> Response:
        return await answer(request, self._cors, self._retirement, health.alive)

    async def readyz(self, request: Request) -> Response:
        return await answer(request, self._cors, self._retirement, self._readiness.report)

    def _retirement_report(self) -> dict[str, object]:
        return report(self._retirement, time.time())

    def _settings_check(self) -> Check:
        return Check(
            "settings",
            self._check_settings,
            f"missing or wrong: {', '.join(names_in(self._problems))}; {_WHERE_TO_LOOK}",
        )

    async def _check_settings(self) -> None:
        if self._problems:
            raise Misconfigured("; ".join(self._problems))


def _without_values(warnings: Iterable[str]) -> list[str]:
    return [f"{name}: {_WHERE_TO_LOOK}" for name in names_in(warnings)]


def _open_upstream(settings: Settings, environ: Mapping[str, str]) -> Upstream:
    choice = choose_transport(settings, environ)
    if choice.reason:
        log.warning("upstream: calls are carried by %s: %s", choice.name, choice.reason)
    return Upstream(
        open_transport(choice),
        connect_timeout=settings.upstream_connect_timeout,
        first_byte_timeout=settings.upstream_first_byte_timeout,
        idle_timeout=settings.upstream_idle_timeout,
    )


async def _misconfigured(_: Request, __: CallRecord) -> Response:
    raise Misconfigured(
        "The shim's settings are incomplete or wrong. Its operator finds them at /readyz and in the log."
    )


def _in_background(work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
    """Starts `work` where an event loop runs, as it does when the worker imports the app."""
    try:
        return asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        return None
