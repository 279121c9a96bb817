"""The API as a table: its operations, its collections of stored objects, and their two addresses, dated and v1."""

from functools import partial

from aiohttp import web

from devhost.standin import chat, media, reply, responses
from devhost.standin.call import Call, Operation
from devhost.standin.collection import Collection
from devhost.standin.resource import Resource
from devhost.standin.wire import Json, fault


def _nest(collection: Collection, member: str, resource: Resource, new: Json) -> None:
    """Store what comes with a new object in one of its members."""
    for each in new.pop(member, None) or []:
        collection.add(resource, each, {f"{new['object']}_id": new["id"]})


def _message(resource: Resource, new: Json) -> None:
    text = {"value": reply.text_of(new.get("content")), "annotations": []}
    new["content"] = [{"type": "text", "text": text}]


def _start_run(resource: Resource, new: Json) -> None:
    """Completed at once, with the assistant's reply as the newest message of the thread."""
    assistant = resource.get("/assistants", new["assistant_id"])
    new |= {name: new.get(name) or assistant.get(name) or "" for name in ("model", "instructions")}
    new |= {"tools": new.get("tools") or assistant.get("tools") or [], "completed_at": new["created_at"]}
    if messages := resource.newest_first(f"/threads/{new['thread_id']}/messages"):
        text = messages[0]["content"][0]["text"]["value"]
        answer = {"role": "assistant", "content": f"You said: {text}"}
        MESSAGES.add(resource, answer, {"thread_id": new["thread_id"]})


def _vector_store(resource: Resource, new: Json) -> None:
    count = len(new.pop("file_ids", None) or [])
    new["file_counts"] = {"in_progress": 0, "completed": count, "failed": 0, "cancelled": 0, "total": count}


def _vector_store_file(resource: Resource, new: Json) -> None:
    new["id"] = new.pop("file_id")


def _video(resource: Resource, new: Json) -> None:
    resource.contents["/videos", new["id"]] = media.MP4


# fmt: off
MESSAGES = Collection("/threads/{thread_id}/messages", "thread.message", "msg_",
    defaults={"role": "user", "status": "completed", "attachments": []}, prepare=_message)
ITEMS = Collection("/conversations/{conversation_id}/items", "conversation.item", "msg_", "create list get delete",
    {"type": "message", "status": "completed"})
COLLECTIONS = (
    Collection("/models", "model", methods="list get"),
    Collection("/chat/completions", "chat.completion", methods="list get update delete"),
    Collection("/responses", "response", methods="get delete"),
    Collection("/responses/{response_id}/input_items", "message", methods="list"),
    Collection("/files", "file", "file-", "create list get delete content", {"status": "processed"}, created=201),
    Collection("/uploads", "upload", "upload_", "create complete=completed cancel=cancelled", {"status": "pending"}),
    Collection("/uploads/{upload_id}/parts", "upload.part", "part_", "create"),
    Collection("/batches", "batch", "batch_", "create list get cancel=cancelling", {"status": "validating"},
        {"input_file_id": "/files"}),
    Collection("/assistants", "assistant", "asst_", defaults={"tools": []}, references={"model": "/models"}),
    Collection("/threads", "thread", "thread_", "create get update delete",
        prepare=partial(_nest, MESSAGES, "messages")),
    MESSAGES,
    Collection("/threads/{thread_id}/runs", "thread.run", "run_",
        "create list get update cancel=cancelled submit_tool_outputs=completed",
        {"status": "completed", "parallel_tool_calls": True}, {"assistant_id": "/assistants"}, _start_run),
    Collection("/threads/{thread_id}/runs/{run_id}/steps", "thread.run.step", methods="list get"),
    Collection("/vector_stores", "vector_store", "vs_", defaults={"usage_bytes": 0, "status": "completed"},
        prepare=_vector_store),
    Collection("/vector_stores/{vector_store_id}/files", "vector_store.file", references={"file_id": "/files"},
        defaults={"status": "completed", "usage_bytes": 0}, prepare=_vector_store_file),
    Collection("/vector_stores/{vector_store_id}/file_batches", "vector_store.files_batch", "vsfb_",
        "create get cancel=cancelled", {"status": "completed"}, prepare=_vector_store),
    Collection("/vector_stores/{vector_store_id}/file_batches/{batch_id}/files", "vector_store.file", methods="list"),
    Collection("/fine_tuning/jobs", "fine_tuning.job", "ftjob-",
        "create list get cancel=cancelled pause=paused resume=running", {"status": "running"},
        {"training_file": "/files"}),
    Collection("/fine_tuning/jobs/{job_id}/events", "fine_tuning.job.event", methods="list"),
    Collection("/fine_tuning/jobs/{job_id}/checkpoints", "fine_tuning.job.checkpoint", methods="list"),
    Collection("/evals", "eval", "eval_", defaults={"testing_criteria": []}),
    Collection("/evals/{eval_id}/runs", "eval.run", "evalrun_", "create list get delete cancel=cancelled",
        {"status": "queued"}),
    Collection("/evals/{eval_id}/runs/{run_id}/output_items", "eval.run.output_item", methods="list get"),
    Collection("/conversations", "conversation", "conv_", "create get update delete",
        prepare=partial(_nest, ITEMS, "items")),
    ITEMS,
    Collection("/containers", "container", "cntr_", "create list get delete", {"status": "running"}),
    Collection("/containers/{container_id}/files", "container.file", "cfile_", "create list get delete content"),
    Collection("/videos", "video", "video_", "create list get delete content",
        {"status": "queued", "progress": 0, "seconds": "4", "size": "720x1280"}, {"model": "/models"}, _video),
)
# fmt: on

# Dated: <base>/deployments/{deployment}<path>. In v1: <base>/v1<path>, the deployment being the model.
ON_A_DEPLOYMENT: dict[str, Operation] = {
    "POST /chat/completions": chat.create,
    "POST /completions": chat.complete,
    "POST /embeddings": media.embed,
    "POST /audio/transcriptions": partial(media.listen, "transcribe", "Heard"),
    "POST /audio/translations": partial(media.listen, "translate", "Translated"),
    "POST /audio/speech": media.speak,
    "POST /images/generations": partial(media.draw, False),
    "POST /images/edits": partial(media.draw, True),
}
# Dated: <base><path>. In v1: <base>/v1<path>.
ON_THE_RESOURCE: dict[str, Operation] = {
    "POST /responses": responses.create,
    "POST /responses/{id}/cancel": responses.cancel,
    **{route: operation for each in COLLECTIONS for route, operation in each.operations().items()},
}


def add_routes(router: web.UrlDispatcher, base: str, resource: Resource) -> None:
    """Put every operation at its addresses under `base`."""
    for below, operations in (("/deployments/{deployment}", ON_A_DEPLOYMENT), ("", ON_THE_RESOURCE)):
        for route, operation in operations.items():
            method, path = route.split(" ")
            router.add_route(method, f"{base}{below}{path}", partial(_run_dated, operation, resource))
            router.add_route(method, f"{base}/v1{path}", partial(_run, operation, resource))


async def _run(operation: Operation, resource: Resource, request: web.Request) -> web.StreamResponse:
    deployment = request.match_info.get("deployment")
    if deployment is not None:
        resource.get("/models", deployment)
    return await operation(Call(request, resource, deployment))


async def _run_dated(operation: Operation, resource: Resource, request: web.Request) -> web.StreamResponse:
    if not request.query.get("api-version"):
        raise fault("aoai_404")
    return await _run(operation, resource, request)
