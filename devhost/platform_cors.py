"""The CORS middleware that the Functions host has on Flex Consumption and Linux Consumption. Pure.

As read from the host (CorsOptionsSetup: origins as written, any header, any method) and from ASP.NET Core
(CorsMiddleware, CorsService): every preflight is answered here, whatever its origin, and never reaches the app;
on other answers headers are set, not added, and none is exposed. It knows no subdomain patterns and no port stars.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict


@dataclass(frozen=True, slots=True)
class PlatformCors:
    """The site's CORS settings (`siteConfig.cors`); with none, the policy is empty, and there all the same."""

    origins: tuple[str, ...] = ()
    credentials: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "PlatformCors":
        """From the environment, as the host reads it (HostCorsOptionsSetup): a JSON array, and True or False."""
        listed = json.loads(environ.get("CORS_ALLOWED_ORIGINS") or "[]")
        return cls(tuple(listed), environ.get("CORS_SUPPORT_CREDENTIALS", "").strip().lower() == "true")

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
        """Sets the headers of an answer to `origin`; for one that is not listed it leaves the app's alone."""
        if not origin or not (self._any or origin in self.origins):
            return
        headers["Access-Control-Allow-Origin"] = "*" if self._any else origin
        if self.credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if len(self.origins) > 1:
            headers.add("Vary", "Origin")  # a line of its own, beside the app's
