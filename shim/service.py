"""The shim put together from the environment; what is wrong with that is said on every call."""

import logging
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from shim import health
from shim.app import Shim, new_request_id, refuse, respond
from shim.cors import Cors
from shim.errors import Misconfigured
from shim.health import Readiness
from shim.keys import open_key_store
from shim.settings import Settings, SettingsError
from shim.transport import AiohttpTransport
from shim.upstream import Upstream

log = logging.getLogger("shim")


class Service:
    """What the Functions app serves. With faulty settings it starts all the same, to tell why it cannot work.

    An app that failed to start would leave its operator with a bare 404, and the reasons in a log to be found.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._shim: Shim | None = None
        try:
            settings = Settings.from_environment(environ)
        except SettingsError as error:
            for problem in error.problems:
                log.error("setting: %s", problem)
            self._problems = error.problems
            # No max-age: what browsers remember would outlast the faulty settings.
            self._cors = Cors(error.cors_origins, credentials=error.cors_credentials, max_age=0)
            self._readiness = Readiness({"settings": self._check_settings})
        else:
            self._problems = []
            self._cors = Cors.of(settings)
            keys = open_key_store(settings)
            transport = AiohttpTransport(connect_timeout=settings.upstream_connect_timeout)
            upstream = Upstream(transport, first_byte_timeout=settings.upstream_first_byte_timeout)
            self._shim = Shim(settings, keys, upstream)
            self._readiness = Readiness(
                {
                    "settings": self._check_settings,
                    "key store": keys.check,
                    "upstream": lambda: upstream.check(settings.apim_base_url),
                }
            )

    async def proxy(self, request: Request) -> Response:
        if self._shim is None:
            return self._misconfigured(request)
        return await self._shim.handle(request)

    def _misconfigured(self, request: Request) -> Response:
        if preflight := self._cors.preflight(request.method, request.headers):
            return respond(*preflight)
        error = Misconfigured(
            "The shim's settings are incomplete or wrong. Its operator finds them at /readyz and in the log."
        )
        return self._decorated(request, refuse(error, new_request_id()))

    async def healthz(self, request: Request) -> Response:
        return self._decorated(request, health.alive())

    async def readyz(self, request: Request) -> Response:
        return self._decorated(request, await self._readiness.report())

    def _decorated(self, request: Request, response: Response) -> Response:
        response.raw_headers = self._cors.decorate(response.raw_headers, request.headers.get("origin"))
        return response

    async def _check_settings(self) -> None:
        if self._problems:
            raise Misconfigured("; ".join(self._problems))
