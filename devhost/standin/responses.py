"""The Responses API: plain, streamed, with tools, chained, in the background."""

import time
from collections.abc import Iterator

from aiohttp import web

from devhost.standin import reply
from devhost.standin.call import Call
from devhost.standin.resource import Resource, new_id
from devhost.standin.wire import Json, bad_request, event, json_response

_NAMES = "input", "output"
# What a response repeats of its request.
_DEFAULTS: Json = {
    "background": False, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
    "previous_response_id": None, "store": True, "temperature": 1.0, "text": {"format": {"type": "text"}},
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled",
}  # fmt: skip
_DONE = {"status": "completed", "error": None, "incomplete_details": None}


async def create(call: Call) -> web.StreamResponse:
    """POST responses. One in the background is queued, and done when next asked for."""
    body = await call.json()
    model = call.model(body.get("model"))
    given = body.get("input", "")
    items: list[Json] = given if isinstance(given, list) else [{"role": "user", "content": given}]
    response = _response(body, model, _output(body, items[-1] if items else {}, call.resource))
    if body.get("store", True):
        call.resource.put("/responses", response)
        for item in items:
            item = {"id": new_id("msg_"), "type": "message"} | item
            call.resource.put(f"/responses/{response['id']}/input_items", item)
    if body.get("stream"):
        # Each event is numbered, and this stream has no `[DONE]`.
        events = ({**each, "sequence_number": number} for number, each in enumerate(_events(response)))
        return await call.stream(event(each, each["type"]) for each in events)
    if body.get("background"):
        response["status"] = "queued"
        return json_response(response | {"output": []})
    return json_response(response)


async def cancel(call: Call) -> web.StreamResponse:
    """POST responses/{id}/cancel, which only a background response allows."""
    response = call.resource.get("/responses", call.request.match_info["id"])
    if not response["background"]:
        raise bad_request("Cannot cancel a synchronous response.")
    if response["status"] == "queued":
        response.update(status="cancelled", output=[])
    return json_response(response)


def _output(body: Json, last: Json, resource: Resource) -> Json:
    """The one item of the output. A text tells that the previous response has been read."""
    functions = [tool for tool in body.get("tools") or [] if tool.get("type") == "function"]
    wanted: Json = (body.get("text") or {}).get("format") or {}
    schema = (wanted.get("schema") or {}) if wanted.get("type") == "json_schema" else None
    if last.get("type") == "function_call_output":
        last = {"role": "tool", "content": last.get("output")}
    replied = reply.reply_to(last, body, functions, schema)
    if isinstance(replied, dict):
        return {"id": new_id("fc_"), "type": "function_call", "status": "completed", **replied}
    if schema is None and (previous_id := body.get("previous_response_id")):
        resource.get("/responses", previous_id)
        for item in resource.newest_first(f"/responses/{previous_id}/input_items")[:1]:
            replied += f" Before that you said: {reply.text_of(item.get('content'))}"
    part = {"type": "output_text", "text": replied, "annotations": [], "logprobs": []}
    message = {"id": new_id("msg_"), "type": "message", "role": "assistant", "status": "completed"}
    return message | {"content": [part]}


def _response(body: Json, model: str, item: Json) -> Json:
    text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
    usage = reply.usage_of(model, body.get("input"), [text], _NAMES)
    asked = {name: body[name] for name in _DEFAULTS if body.get(name) is not None}
    made = {"id": new_id("resp_"), "object": "response", "created_at": int(time.time()), "model": model}
    return _DEFAULTS | asked | made | _DONE | {"output": [item], "usage": usage}


def _events(response: Json) -> Iterator[Json]:
    begun = response | {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    (item,) = response["output"]
    at: Json = {"item_id": item["id"], "output_index": 0}
    added = {"type": "response.output_item.added", "output_index": 0}
    if item["type"] == "function_call":
        yield added | {"item": item | {"status": "in_progress", "arguments": ""}}
        for word in reply.words(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **at, "delta": word}
        done = {"name": item["name"], "arguments": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", **at, **done}
    else:
        yield added | {"item": item | {"status": "in_progress", "content": []}}
        (part,) = item["content"]
        at |= {"content_index": 0}
        yield {"type": "response.content_part.added", **at, "part": part | {"text": ""}}
        for word in reply.words(part["text"]):
            yield {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
        yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **at, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": response}
