"""The environment of the app's process, as each platform writes it from the app's settings. Pure."""

import json
from collections.abc import Mapping


def flex(settings: Mapping[str, str]) -> dict[str, str]:
    """As HostAssignmentContext.ApplyAppSettings leaves it."""
    return {**settings, **_cors(settings)}


def core_tools(settings: Mapping[str, str]) -> dict[str, str]:
    """As `func start` leaves it."""
    return dict(settings)


def _cors(settings: Mapping[str, str]) -> dict[str, str]:
    """The site's CORS settings, which win over app settings of the same names.

    A JSON array in CORS_ALLOWED_ORIGINS is taken for the site's list; otherwise the site has the app's own, as
    infra/ gives it.
    """
    listed = settings.get("CORS_ALLOWED_ORIGINS", "")
    if not listed.startswith("["):
        own = (origin.strip() for origin in settings.get("CORS_ORIGINS", "").split(","))
        listed = json.dumps([origin for origin in own if origin], separators=(",", ":"))
    credentials = settings.get("CORS_CREDENTIALS", "").strip().lower() == "true"
    return {"CORS_ALLOWED_ORIGINS": listed, "CORS_SUPPORT_CREDENTIALS": str(credentials)}
