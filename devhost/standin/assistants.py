"""Assistants and their threads, messages and runs: enough for one question and its answer."""

import time

from aiohttp import web

from devhost.standin import reply
from devhost.standin.call import Call
from devhost.standin.refusal import json_answer
from devhost.standin.stores import Json, Thread, new_id, page


async def create(call: Call) -> web.StreamResponse:
    """POST assistants."""
    body = await call.json()
    assistant: Json = {
        "id": new_id("asst_"),
        "object": "assistant",
        "created_at": int(time.time()),
        "model": call.model(body.get("model")),
        "name": body.get("name"),
        "description": body.get("description"),
        "instructions": body.get("instructions"),
        "tools": body.get("tools") or [],
        "metadata": body.get("metadata") or {},
    }
    return json_answer(call.resource.assistants.put(assistant["id"], assistant))


async def list_all(call: Call) -> web.StreamResponse:
    """GET assistants."""
    return json_answer(page(call.resource.assistants.newest_first()))


async def get(call: Call) -> web.StreamResponse:
    """GET assistants/{id}."""
    return json_answer(call.resource.assistants.get(call.path_id))


async def delete(call: Call) -> web.StreamResponse:
    """DELETE assistants/{id}."""
    call.resource.assistants.remove(call.path_id)
    return json_answer({"id": call.path_id, "object": "assistant.deleted", "deleted": True})


async def create_thread(call: Call) -> web.StreamResponse:
    """POST threads, with `messages` or without."""
    body = await call.json()
    thread = Thread(
        {
            "id": new_id("thread_"),
            "object": "thread",
            "created_at": int(time.time()),
            "metadata": body.get("metadata") or {},
            "tool_resources": {},
        }
    )
    call.resource.threads.put(thread.description["id"], thread)
    for message in body.get("messages") or []:
        _add_message(thread, str(message.get("role", "user")), message.get("content"))
    return json_answer(thread.description)


async def get_thread(call: Call) -> web.StreamResponse:
    """GET threads/{id}."""
    return json_answer(_thread(call).description)


async def delete_thread(call: Call) -> web.StreamResponse:
    """DELETE threads/{id}."""
    call.resource.threads.remove(call.path_id)
    return json_answer({"id": call.path_id, "object": "thread.deleted", "deleted": True})


async def create_message(call: Call) -> web.StreamResponse:
    """POST threads/{id}/messages."""
    body = await call.json()
    return json_answer(_add_message(_thread(call), str(body.get("role", "user")), body.get("content")))


async def list_messages(call: Call) -> web.StreamResponse:
    """GET threads/{id}/messages."""
    return json_answer(page(_thread(call).messages.newest_first()))


async def create_run(call: Call) -> web.StreamResponse:
    """POST threads/{id}/runs: completed at once, with the answer as the thread's newest message."""
    body = await call.json()
    thread = _thread(call)
    assistant = call.resource.assistants.get(str(body.get("assistant_id")))
    if newest := next(iter(thread.messages.newest_first()), None):
        answer = reply.text_for(reply.last_said("user", newest["content"][0]["text"]["value"]))
        _add_message(thread, "assistant", answer)
    run = _run(call.path_id, assistant)
    return json_answer(thread.runs.put(run["id"], run))


async def list_runs(call: Call) -> web.StreamResponse:
    """GET threads/{id}/runs."""
    return json_answer(page(_thread(call).runs.newest_first()))


async def get_run(call: Call) -> web.StreamResponse:
    """GET threads/{id}/runs/{run_id}."""
    return json_answer(_thread(call).runs.get(call.request.match_info["run_id"]))


def _thread(call: Call) -> Thread:
    return call.resource.threads.get(call.path_id)


def _add_message(thread: Thread, role: str, content: object) -> Json:
    text = reply.last_said(role, content).text
    message: Json = {
        "id": new_id("msg_"),
        "object": "thread.message",
        "created_at": int(time.time()),
        "thread_id": thread.description["id"],
        "role": role,
        "status": "completed",
        "content": [{"type": "text", "text": {"value": text, "annotations": []}}],
        "attachments": [],
        "metadata": {},
    }
    return thread.messages.put(message["id"], message)


def _run(thread_id: str, assistant: Json) -> Json:
    now = int(time.time())
    return {
        "id": new_id("run_"),
        "object": "thread.run",
        "created_at": now,
        "completed_at": now,
        "thread_id": thread_id,
        "assistant_id": assistant["id"],
        "model": assistant["model"],
        "instructions": assistant["instructions"] or "",
        "tools": assistant["tools"],
        "parallel_tool_calls": True,
        "status": "completed",
        "metadata": {},
    }
