"""Where the worker process finds modules, before and after it takes on an app.

As `DependencyManager` does it (azure-functions-python-worker, workers/proxy_worker/utils/dependency.py): the worker's
own packages first; for the app, its packages before the worker's, and its folder last of all. Whatever had been
imported from a path that changes its place is forgotten, so that the app gets its own versions.
"""

import os
import sys
from types import ModuleType

# What the worker process itself is made of stays, as `proxy_worker` does there.
_KEPT = "devhost"


class Dependencies:
    """The paths of one worker process."""

    def __init__(self) -> None:
        script_root = os.environ.get("AzureWebJobsScriptRoot", "")  # noqa: SIM112 - the platform's name
        packages = [path for path in sys.path if "site-packages" in path]
        inside = [path for path in packages if script_root and path.startswith(script_root)]
        self.worker = os.environ["FUNCTIONS_WORKER_DIRECTORY"]
        self.app_packages = next(iter(inside or packages), "")
        self._script_root = script_root

    def use_workers(self) -> None:
        """For the time before there is an app."""
        _remove(self.app_packages)
        _remove(self._script_root)
        _add(self.worker, first=True)

    def prefer_apps(self, folder: str) -> None:
        """For the app in `folder`."""
        _remove(self.worker)
        _add(self.worker, first=True)
        _add(self.app_packages, first=True)
        _add(folder, first=False)


def _add(path: str, *, first: bool) -> None:
    if not path or path in sys.path:
        return
    sys.path.insert(0 if first else len(sys.path), path)
    _forget(path)


def _remove(path: str) -> None:
    if path:
        sys.path[:] = [other for other in sys.path if other != path]
        _forget(path)


def _forget(path: str) -> None:
    sys.path_importer_cache.pop(path, None)
    doomed = [
        name
        for name, module in sys.modules.items()
        if not name.startswith(_KEPT) and name not in sys.builtin_module_names and _comes_from(path, module)
    ]
    for name in doomed:
        del sys.modules[name]


def _comes_from(path: str, module: object) -> bool:
    if not isinstance(module, ModuleType):
        return False
    places = [*(getattr(module, "__path__", None) or ()), getattr(module, "__file__", None) or ""]
    return any(place.startswith(path) for place in places)
