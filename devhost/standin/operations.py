"""The operations of the API as a table, and their two addresses: dated and v1."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from devhost.standin import assistants, azure_openai, chat, media, objects, responses, text
from devhost.standin.call import Call
from devhost.standin.received import Received
from devhost.standin.stores import Resource

Operation = Callable[[Call], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Operation]

RECEIVED = web.RequestKey("received", Received)

# Dated: <base>/deployments/{deployment}<path>. In v1: <base>/v1<path>, the deployment being the model.
ON_A_DEPLOYMENT: tuple[Route, ...] = (
    ("POST", "/chat/completions", chat.create),
    ("POST", "/completions", text.complete),
    ("POST", "/embeddings", text.embed),
    ("POST", "/audio/transcriptions", media.transcribe),
    ("POST", "/audio/translations", media.translate),
    ("POST", "/audio/speech", media.speak),
    ("POST", "/images/generations", media.generate_image),
    ("POST", "/images/edits", media.edit_image),
)

# Dated: <base><path>. In v1: <base>/v1<path>.
ON_THE_RESOURCE: tuple[Route, ...] = (
    ("GET", "/chat/completions", chat.list_stored),
    ("GET", "/chat/completions/{id}", chat.get_stored),
    ("DELETE", "/chat/completions/{id}", chat.delete_stored),
    ("POST", "/responses", responses.create),
    ("GET", "/responses/{id}", responses.get),
    ("DELETE", "/responses/{id}", responses.delete),
    ("GET", "/responses/{id}/input_items", responses.input_items),
    ("POST", "/responses/{id}/cancel", responses.cancel),
    ("GET", "/models", objects.list_models),
    ("GET", "/models/{id}", objects.get_model),
    ("POST", "/files", objects.upload_file),
    ("GET", "/files", objects.list_files),
    ("GET", "/files/{id}", objects.get_file),
    ("GET", "/files/{id}/content", objects.get_file_content),
    ("DELETE", "/files/{id}", objects.delete_file),
    ("POST", "/batches", objects.create_batch),
    ("GET", "/batches", objects.list_batches),
    ("GET", "/batches/{id}", objects.get_batch),
    ("POST", "/batches/{id}/cancel", objects.cancel_batch),
    ("POST", "/vector_stores", objects.create_vector_store),
    ("GET", "/vector_stores", objects.list_vector_stores),
    ("GET", "/vector_stores/{id}", objects.get_vector_store),
    ("DELETE", "/vector_stores/{id}", objects.delete_vector_store),
    ("POST", "/assistants", assistants.create),
    ("GET", "/assistants", assistants.list_all),
    ("GET", "/assistants/{id}", assistants.get),
    ("DELETE", "/assistants/{id}", assistants.delete),
    ("POST", "/threads", assistants.create_thread),
    ("GET", "/threads/{id}", assistants.get_thread),
    ("DELETE", "/threads/{id}", assistants.delete_thread),
    ("POST", "/threads/{id}/messages", assistants.create_message),
    ("GET", "/threads/{id}/messages", assistants.list_messages),
    ("POST", "/threads/{id}/runs", assistants.create_run),
    ("GET", "/threads/{id}/runs", assistants.list_runs),
    ("GET", "/threads/{id}/runs/{run_id}", assistants.get_run),
)


def add_routes(router: web.UrlDispatcher, base: str, resource: Resource) -> None:
    """Put every operation at its addresses under `base`."""
    for method, path, operation in ON_A_DEPLOYMENT:
        router.add_route(method, f"{base}/deployments/{{deployment}}{path}", _dated(operation, resource))
        router.add_route(method, f"{base}/v1{path}", _v1(operation, resource))
    for method, path, operation in ON_THE_RESOURCE:
        router.add_route(method, f"{base}{path}", _dated(operation, resource))
        router.add_route(method, f"{base}/v1{path}", _v1(operation, resource))


def _dated(
    operation: Operation, resource: Resource
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        if not request.query.get("api-version"):
            raise azure_openai.resource_not_found()
        deployment = request.match_info.get("deployment")
        if deployment is not None:
            resource.require(deployment)
        return await operation(Call(request, request[RECEIVED], resource, deployment))

    return handle


def _v1(operation: Operation, resource: Resource) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await operation(Call(request, request[RECEIVED], resource))

    return handle
