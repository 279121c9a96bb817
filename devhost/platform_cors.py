"""The CORS middleware that the Functions host has on Flex Consumption and Linux Consumption. Pure.

From HostCorsOptionsSetup.cs and CorsOptionsSetup.cs of the host (WebJobs.Script.WebHost/Configuration, 4.1037), and
from CorsMiddleware.cs, CorsService.cs and CorsPolicyBuilder.cs of ASP.NET Core (src/Middleware/CORS): the list as it
stands, any header, any method. Every preflight is answered here, whatever its origin, and never reaches the app; on
other responses headers are set, not added, and none is exposed. It knows no subdomain patterns and no port stars.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict

_ORIGINS = "CORS_ALLOWED_ORIGINS"
_CREDENTIALS = "CORS_SUPPORT_CREDENTIALS"


@dataclass(frozen=True, slots=True)
class PlatformCors:
    """The site's CORS settings (`siteConfig.cors`); with none, the policy is empty, and there all the same."""

    origins: tuple[str, ...] = ()
    credentials: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "PlatformCors":
        """From the host's own two variables, which the platform writes.

        Raises ValueError for values with which the host does not start: a list that is no JSON array, credentials that
        are neither true nor false, or both credentials and the star.
        """
        cors = cls(_origins(environ.get(_ORIGINS, "")), _flag(environ.get(_CREDENTIALS, "")))
        if cors._any and cors.credentials:
            raise ValueError(f"{_CREDENTIALS}=true does not go with * in {_ORIGINS}: name the origins")
        return cors

    @property
    def _any(self) -> bool:
        return self.origins == ("*",)

    def preflight(self, method: str, headers: Mapping[str, str]) -> CIMultiDict[str] | None:
        """The headers of the host's 204; None if the request is no preflight."""
        if method != "OPTIONS" or "Origin" not in headers or "Access-Control-Request-Method" not in headers:
            return None
        answer = CIMultiDict[str]()
        self.apply(headers["Origin"], answer)
        if answer:
            if asked := headers.get("Access-Control-Request-Headers"):
                answer["Access-Control-Allow-Headers"] = ",".join(name.strip() for name in asked.split(","))
            answer["Access-Control-Allow-Methods"] = headers["Access-Control-Request-Method"]
        return answer

    def apply(self, origin: str | None, headers: CIMultiDict[str]) -> None:
        """Sets the headers of a response to `origin`; for one that is not listed it leaves the app's alone."""
        if not origin or not (self._any or origin in self.origins):
            return
        headers["Access-Control-Allow-Origin"] = "*" if self._any else origin
        if self.credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if len(self.origins) > 1:
            headers.add("Vary", "Origin")  # a line of its own, beside the app's


def _origins(listed: str) -> tuple[str, ...]:
    if not listed.strip():
        return ()
    try:
        parsed = json.loads(listed)
    except ValueError:
        parsed = listed
    if parsed is None:
        return ()
    if not isinstance(parsed, list) or not all(isinstance(origin, str) for origin in parsed):
        raise ValueError(f'{_ORIGINS} is the Functions host\'s: a JSON array such as ["https://app.example"]')
    return tuple(origin.lower() for origin in parsed)


def _flag(text: str) -> bool:
    """As .NET's Boolean.Parse; an empty one is false."""
    try:
        return {"": False, "false": False, "true": True}[text.strip().lower()]
    except KeyError:
        raise ValueError(f"{_CREDENTIALS} is the Functions host's: true or false") from None
