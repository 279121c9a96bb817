"""The start of a worker process: its folders, its arguments and the environment that it begins with.

As azure-functions-host 4.1037 does it (WebJobs.Script/Workers: RpcWorkerProcess.cs, DefaultWorkerProcessFactory.cs),
with what the worker's own start adds (azure-functions-python-worker 4.40: worker.config.json, proxyV4/worker.py).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devhost import worker_directory
from devhost.environment import placeholder
from devhost.platform import Platform

type Loop = Literal["uvloop", "asyncio"]

#: The longest line that a worker may write. An invocation brings the top level of a JSON body with it.
LINE_BYTES = 2**30
# Where a remote build puts the app's packages.
_PACKAGES = Path(".python_packages/lib/site-packages")


@dataclass(frozen=True, slots=True)
class App:
    """What is to be run, and how. `python` has what the app requires, unless the app brings it."""

    folder: Path
    settings: Mapping[str, str]
    platform: Platform
    loop: Loop
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        return self.platform.environment(self.settings, self.folder)


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one worker process: where it is installed, and where a placeholder begins."""

    installed: Path
    standby: Path

    @classmethod
    def below(cls, folder: Path) -> "Place":
        standby = folder / "standby"
        standby.mkdir()
        return cls(worker_directory.make(folder), standby)

    def variables(self, folder: Path) -> dict[str, str]:
        """What the host adds to the environment of a worker that runs in `folder`."""
        return {
            "FUNCTIONS_WORKER_DIRECTORY": str(self.installed),
            "FUNCTIONS_APPLICATION_DIRECTORY": str(folder),
        }


async def spawn(app: App, place: Place, address: str) -> asyncio.subprocess.Process:
    """Starts the process, which will connect to `address`. Its stdout is a pipe, and so Python buffers it."""
    folder = place.standby if app.platform.placeholder else app.folder
    environ = placeholder(app.settings) if app.platform.placeholder else app.environment
    path, isolated = str(place.installed), []
    if app.platform.placeholder and (app.folder / _PACKAGES).is_dir():
        # Only in Azure does the worker look here; the Python there has no packages of the app's beside these.
        path, isolated = f"{app.folder / _PACKAGES}:{path}", ["-S"]
    return await asyncio.create_subprocess_exec(
        app.python, "-P", *isolated, "-X", "no_debug_ranges", "-m", "devhost.worker", address, app.loop,
        cwd=folder,
        env={**environ, **place.variables(folder), "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES,
        start_new_session=True,  # so that Ctrl+C reaches the host alone, which then kills the worker
    )  # fmt: skip
