"""Operations on stored objects: models, files, batches, vector stores."""

import time

from aiohttp import web

from devhost.standin import azure_openai
from devhost.standin.call import Call
from devhost.standin.form import read_form
from devhost.standin.refusal import json_answer
from devhost.standin.stores import Json, StoredFile, new_id, page


def _deleted(noun: str, object_id: str) -> web.Response:
    return json_answer({"id": object_id, "object": noun, "deleted": True})


async def list_models(call: Call) -> web.StreamResponse:
    """GET models."""
    return json_answer({"object": "list", "data": [_model(name) for name in call.resource.deployments]})


async def get_model(call: Call) -> web.StreamResponse:
    """GET models/{id}."""
    return json_answer(_model(call.resource.require(call.path_id)))


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "standin"}


async def upload_file(call: Call) -> web.StreamResponse:
    """POST files. The description of every file is kept, the content of small ones."""
    form = await read_form(call)
    file = form.file()
    description: Json = {
        "id": new_id("file-"),
        "object": "file",
        "bytes": file.size,
        "created_at": int(time.time()),
        "filename": file.filename,
        "purpose": form.fields.get("purpose", ""),
        "status": "processed",
    }
    call.resource.files.put(description["id"], StoredFile(description, file.content))
    return json_answer(description, 201)


async def list_files(call: Call) -> web.StreamResponse:
    """GET files, of one `purpose` where the query names one."""
    purpose = call.request.query.get("purpose")
    files = [file.description for file in call.resource.files.newest_first()]
    return json_answer(page([file for file in files if purpose in (None, file["purpose"])]))


async def get_file(call: Call) -> web.StreamResponse:
    """GET files/{id}."""
    return json_answer(call.resource.files.get(call.path_id).description)


async def get_file_content(call: Call) -> web.StreamResponse:
    """GET files/{id}/content: the bytes as uploaded."""
    content = call.resource.files.get(call.path_id).content
    if content is None:
        raise azure_openai.bad_request("The stand-in keeps the content of small files only.")
    return web.Response(body=content, content_type="application/octet-stream")


async def delete_file(call: Call) -> web.StreamResponse:
    """DELETE files/{id}."""
    call.resource.files.remove(call.path_id)
    return _deleted("file", call.path_id)


async def create_batch(call: Call) -> web.StreamResponse:
    """POST batches. A batch starts, and is never worked on."""
    body = await call.json()
    call.resource.files.get(str(body.get("input_file_id")))
    batch: Json = {
        "id": new_id("batch_"),
        "object": "batch",
        "created_at": int(time.time()),
        "endpoint": body.get("endpoint"),
        "input_file_id": body.get("input_file_id"),
        "completion_window": body.get("completion_window", "24h"),
        "status": "validating",
        "metadata": body.get("metadata") or {},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }
    return json_answer(call.resource.batches.put(batch["id"], batch))


async def list_batches(call: Call) -> web.StreamResponse:
    """GET batches."""
    return json_answer(page(call.resource.batches.newest_first()))


async def get_batch(call: Call) -> web.StreamResponse:
    """GET batches/{id}."""
    return json_answer(call.resource.batches.get(call.path_id))


async def cancel_batch(call: Call) -> web.StreamResponse:
    """POST batches/{id}/cancel."""
    batch = call.resource.batches.get(call.path_id)
    batch["status"] = "cancelling"
    return json_answer(batch)


async def create_vector_store(call: Call) -> web.StreamResponse:
    """POST vector_stores."""
    body = await call.json()
    count = len(body.get("file_ids") or [])
    counts = {"in_progress": 0, "completed": count, "failed": 0, "cancelled": 0, "total": count}
    store: Json = {
        "id": new_id("vs_"),
        "object": "vector_store",
        "created_at": int(time.time()),
        "last_active_at": int(time.time()),
        "name": body.get("name"),
        "usage_bytes": 0,
        "file_counts": counts,
        "status": "completed",
        "metadata": body.get("metadata") or {},
    }
    return json_answer(call.resource.vector_stores.put(store["id"], store))


async def list_vector_stores(call: Call) -> web.StreamResponse:
    """GET vector_stores."""
    return json_answer(page(call.resource.vector_stores.newest_first()))


async def get_vector_store(call: Call) -> web.StreamResponse:
    """GET vector_stores/{id}."""
    return json_answer(call.resource.vector_stores.get(call.path_id))


async def delete_vector_store(call: Call) -> web.StreamResponse:
    """DELETE vector_stores/{id}."""
    call.resource.vector_stores.remove(call.path_id)
    return _deleted("vector_store.deleted", call.path_id)
