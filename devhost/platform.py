"""The platforms that devhost can stand in for, and what differs between them.

Everything that depends on where the app runs is a field here, so that the rest of devhost asks a field and never a
name. Sources are named where each thing is imitated, and listed in docs/platform.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from devhost import environment


@dataclass(frozen=True, slots=True)
class Platform:
    """What one platform does to the app."""

    name: str
    #: The worker starts on an empty placeholder and is specialized with the app later; otherwise it starts on the app.
    placeholder: bool
    #: The app's log records are dropped unless the invocation they belong to is executing.
    drops_logs: bool
    #: The host answers every preflight itself, from the site's own list of origins.
    cors_middleware: bool
    #: The host's way with requests and responses: sizes, rates, buffering, header rules, bare 500s.
    limits: bool
    #: The environment that the app's process gets, from its settings and its folder.
    environment: Callable[[Mapping[str, str], Path], dict[str, str]]


FLEX = Platform(
    name="flex",
    placeholder=True,
    drops_logs=True,
    cors_middleware=True,
    limits=True,
    environment=environment.flex,
)
# Core Tools run the same host on the developer's machine; its CORS middleware is there only where `Host.CORS` is set.
CORE_TOOLS = Platform(
    name="core-tools",
    placeholder=False,
    drops_logs=True,
    cors_middleware=False,
    limits=True,
    environment=environment.core_tools,
)
#: Nothing imitated but routes and forwarding: for telling the app's own behaviour from the platform's.
NONE = Platform(
    name="none",
    placeholder=False,
    drops_logs=False,
    cors_middleware=False,
    limits=False,
    environment=environment.unchanged,
)

PLATFORMS = {platform.name: platform for platform in (FLEX, CORE_TOOLS, NONE)}
