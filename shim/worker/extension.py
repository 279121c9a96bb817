"""The HTTP-streams extension of the Functions worker. Importing it is what registers it.

The worker finds an extension through the trackers of `azurefunctions.extensions.base`: the classes that stand here.
"""

from collections.abc import Mapping

from azurefunctions.extensions import base

from shim import asgi
from shim.worker.server import WebApp, WebServer

__all__ = ["Request", "RequestSynchronizer", "Response", "WebApp", "WebServer"]


class RequestSynchronizer(base.RequestSynchronizer):
    def sync_route_params(self, request: asgi.Request, path_params: Mapping[str, str]) -> None:
        request.scope["path_params"] = dict(path_params)


class Request(metaclass=base.RequestTrackerMeta):
    request_type = asgi.Request
    synchronizer = RequestSynchronizer()


class Response(metaclass=base.ResponseTrackerMeta):
    label = base.ResponseLabels.STANDARD
    response_type = asgi.Response
