"""The Responses API: plain, streamed, with tools, chained, in the background."""

import time
from collections.abc import Iterator

from aiohttp import web

from devhost.standin import azure_openai, reply
from devhost.standin.call import Call
from devhost.standin.refusal import json_answer
from devhost.standin.reply import Said, ToolCall
from devhost.standin.sse import EventStream
from devhost.standin.stores import Json, Store, StoredResponse, new_id, page


async def create(call: Call) -> web.StreamResponse:
    """POST responses."""
    body = await call.json()
    model = call.model(body.get("model"))
    items = _input_items(body.get("input", ""))
    response = _response(body, model, _output(body, items, call.resource.responses))
    stored = StoredResponse(response, items)
    if body.get("store", True):
        call.resource.responses.put(response["id"], stored)
    if body.get("stream"):
        return await _stream(call, response)
    if body.get("background"):
        response["status"] = "queued"
        return json_answer(response | {"output": []})
    return json_answer(response)


async def get(call: Call) -> web.StreamResponse:
    """GET responses/{id}. One queued in the background is done when first asked for."""
    response = call.resource.responses.get(call.path_id).response
    if response["status"] == "queued":
        response["status"] = "completed"
    return json_answer(response)


async def delete(call: Call) -> web.StreamResponse:
    """DELETE responses/{id}."""
    call.resource.responses.remove(call.path_id)
    return json_answer({"id": call.path_id, "object": "response.deleted", "deleted": True})


async def input_items(call: Call) -> web.StreamResponse:
    """GET responses/{id}/input_items."""
    return json_answer(page(call.resource.responses.get(call.path_id).input_items))


async def cancel(call: Call) -> web.StreamResponse:
    """POST responses/{id}/cancel, which only a background response allows."""
    response = call.resource.responses.get(call.path_id).response
    if not response["background"]:
        raise azure_openai.bad_request("Cannot cancel a synchronous response.")
    if response["status"] == "queued":
        response.update(status="cancelled", output=[])
    return json_answer(response)


def _input_items(given: object) -> list[Json]:
    """The input as items, each with the id that `input_items` lists it by."""
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    return [{"id": new_id("msg_"), "type": "message"} | item for item in items]


def _said(items: list[Json]) -> Said:
    last = items[-1] if items else {}
    if last.get("type") == "function_call_output":
        return reply.last_said("tool", last.get("output"))
    return reply.last_said(str(last.get("role", "user")), last.get("content"))


def _output(body: Json, items: list[Json], earlier: Store[StoredResponse]) -> list[Json]:
    said = _said(items)
    tools = [tool for tool in body.get("tools") or [] if tool.get("type") == "function"]
    if tools and said.role == "user" and body.get("tool_choice") != "none":
        return [_function_call(reply.call_of(tools[0]["name"], tools[0].get("parameters")))]
    wanted: Json = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        return [_message(reply.json_for(wanted.get("schema") or {}))]
    return [_message(reply.text_for(said) + _before(body.get("previous_response_id"), earlier))]


def _before(previous_id: str | None, earlier: Store[StoredResponse]) -> str:
    """Words that only a model which has read the previous response could say."""
    if previous_id is None:
        return ""
    return f" Before that you said: {_said(earlier.get(previous_id).input_items).text}"


def _message(text: str) -> Json:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }


def _function_call(wish: ToolCall) -> Json:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "completed",
        "call_id": wish.call_id,
        "name": wish.name,
        "arguments": wish.arguments,
    }


def _response(body: Json, model: str, output: list[Json]) -> Json:
    asked, answered = reply.tokens(str(body.get("input"))), reply.tokens(str(output))
    usage = {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + answered,
    }
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
    }


async def _stream(call: Call, response: Json) -> web.StreamResponse:
    """The response as events, each numbered; this stream has no `[DONE]`."""
    stream = await EventStream.open(call)
    for number, event in enumerate(_events(response)):
        await stream.send(event | {"sequence_number": number}, event["type"])
    return await stream.end()


def _events(response: Json) -> Iterator[Json]:
    begun = response | {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item_events(item, index)
    yield {"type": "response.completed", "response": response}


def _item_events(item: Json, index: int) -> Iterator[Json]:
    is_call = item["type"] == "function_call"
    empty: Json = {"arguments": ""} if is_call else {"content": []}
    begun = item | {"status": "in_progress"} | empty
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    at = {"item_id": item["id"], "output_index": index}
    yield from _argument_events(item, at) if is_call else _text_events(item, at)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _argument_events(item: Json, at: Json) -> Iterator[Json]:
    for word in reply.words(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **at, "delta": word}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **at, **done}


def _text_events(item: Json, at: Json) -> Iterator[Json]:
    at = at | {"content_index": 0}
    part: Json = item["content"][0]
    yield {"type": "response.content_part.added", **at, "part": part | {"text": ""}}
    for word in reply.words(part["text"]):
        yield {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}
