"""The HTTP-streams extension of the Functions worker. Importing it is what registers it.

The worker finds an extension through the trackers of `azurefunctions.extensions.base`: the classes that stand here.
"""

import logging
from collections.abc import Mapping

from azurefunctions.extensions import base
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from shim.worker.server import WebApp, WebServer

__all__ = ["Request", "RequestSynchronizer", "Response", "WebApp", "WebServer", "quieten_runtime"]


def quieten_runtime() -> None:
    """Keeps the runtime's three INFO lines a request, and the Azure SDK's, out of the log and off its bill.

    Nor does a line look up its thread, process and task, which tell nothing here
    (https://docs.python.org/3/howto/logging.html#optimization).
    """
    for name in ("azure", "azure.functions", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)


class RequestSynchronizer(base.RequestSynchronizer):
    def sync_route_params(self, request: HttpRequest, path_params: Mapping[str, str]) -> None:
        request.scope["path_params"] = dict(path_params)


class Request(metaclass=base.RequestTrackerMeta):
    request_type = HttpRequest
    synchronizer = RequestSynchronizer()


class Response(metaclass=base.ResponseTrackerMeta):
    label = base.ResponseLabels.STANDARD
    response_type = HttpResponse
