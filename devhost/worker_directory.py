"""The folder that the worker process is installed in, laid out as on the platform.

There it is /azure-functions-host/workers/python/3.13/LINUX/X64, with the worker's packages beside the worker
(azure-functions-python-worker, workers/proxy_worker/utils/dependency.py). Here it holds links to the packages that
devhost itself runs with, so that the worker process finds no others until it takes on the app.
"""

import importlib.util
import sys
from pathlib import Path

# Of the worker's pyproject.toml, with what they need themselves; gRPC's part is played by devhost.
_PACKAGES = (
    "azure.functions",
    "azure_functions_runtime",
    "azurefunctions.extensions.base",
    "devhost",
    "markupsafe",
    "uvloop",
    "werkzeug",
)


def make(parent: Path) -> Path:
    """Makes the folder below `parent`."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = parent / "workers" / "python" / version / "LINUX" / "X64"
    folder.mkdir(parents=True)
    for name in _PACKAGES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue  # no uvloop on Windows
        link = folder.joinpath(*name.split("."))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(found.origin).parent, target_is_directory=True)
    return folder
