"""The Functions app: its routes, and the service that answers them."""

# ruff: noqa: E402 - the garbage collector is switched off before anything else is imported
import gc

# Nothing that is imported is garbage, and looking for it among all that takes a tenth of a cold start. Switched on
# again by worker/memory.py, as soon as the server runs.
gc.disable()

import os

import azure.functions as func

import shim.worker.extension  # noqa: F401 - it registers the worker's HTTP extension
from shim.asgi import Request, Response
from shim.monitoring import logs
from shim.service import Service

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

logs.configure()
# Anonymous to the platform: the shim itself checks subscription keys.
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
service = Service(os.environ)


@app.route(trigger_arg_name="request", route="openai/{*path}", methods=METHODS)
async def openai(request: Request) -> Response:
    return await service.proxy(request)


@app.route(trigger_arg_name="request", route="v1/{*path}", methods=METHODS)
async def v1(request: Request) -> Response:
    return await service.proxy(request)


@app.route(trigger_arg_name="request", route="healthz", methods=["GET", "HEAD"])
async def healthz(request: Request) -> Response:
    return await service.healthz(request)


@app.route(trigger_arg_name="request", route="readyz", methods=["GET", "HEAD"])
async def readyz(request: Request) -> Response:
    return await service.readyz(request)


# A wrong base URL leads here: any path but `/`, where the host has a page of its own. The host tries routes in the
# alphabetical order of the functions' names and takes the first that matches (FunctionMetadataManager.cs,
# WebJobsRouter.cs), so this name must stay behind all others.
@app.route(trigger_arg_name="request", route="{root}/{*path}", methods=METHODS)
async def wrong_path(request: Request) -> Response:
    return await service.proxy(request)


if service.import_schedule:

    @app.timer_trigger(arg_name="timer", schedule=service.import_schedule)
    async def import_keys(timer: func.TimerRequest) -> None:
        await service.import_keys()
