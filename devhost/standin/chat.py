"""Chat completions: plain, streamed, with tools, structured output and images; and the stored ones."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from devhost.standin import azure_openai, reply
from devhost.standin.call import Call
from devhost.standin.refusal import json_answer
from devhost.standin.reply import ToolCall
from devhost.standin.sse import EventStream
from devhost.standin.stores import Json, new_id, page

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PROMPT_FILTER_RESULTS = [{"prompt_index": 0, "content_filter_results": SAFE}]

# Azure's first event of a chat stream: no choices, and even its id is empty.
PROMPT_FILTER_CHUNK: Json = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": PROMPT_FILTER_RESULTS,
}

_FINGERPRINT = "fp_standin"


@dataclass(frozen=True, slots=True)
class _Completion:
    """One answer on its way to a body or to chunks."""

    id: str
    created: int
    model: str
    choices: int
    content: str | ToolCall
    usage: Json

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if isinstance(self.content, ToolCall) else "stop"


async def create(call: Call) -> web.StreamResponse:
    """POST chat/completions."""
    body = await call.json()
    completion = _complete(body, call.model(body.get("model")))
    if body.get("store"):
        call.resource.completions.put(completion.id, _stored(completion, body))
    if body.get("stream"):
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream(call, completion, include_usage)
    return json_answer(_whole(completion))


async def list_stored(call: Call) -> web.StreamResponse:
    """GET chat/completions: those created with `store`."""
    return json_answer(page(call.resource.completions.newest_first()))


async def get_stored(call: Call) -> web.StreamResponse:
    """GET chat/completions/{id}."""
    return json_answer(call.resource.completions.get(call.path_id))


async def delete_stored(call: Call) -> web.StreamResponse:
    """DELETE chat/completions/{id}."""
    call.resource.completions.remove(call.path_id)
    return json_answer({"object": "chat.completion.deleted", "id": call.path_id, "deleted": True})


def usage_of(prompt: str, answer: str) -> Json:
    """Token counts, as completions and chat completions report them."""
    prompt_tokens, completion_tokens = reply.tokens(prompt), reply.tokens(answer)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chunk(
    completion_id: str,
    created: int,
    model: str,
    delta: Json,
    index: int = 0,
    finish_reason: str | None = None,
) -> Json:
    """One `chat.completion.chunk` with one choice."""
    choice = {
        "content_filter_results": SAFE if delta.get("content") else {},
        "delta": delta,
        "finish_reason": finish_reason,
        "index": index,
        "logprobs": None,
    }
    return {
        "choices": [choice],
        "created": created,
        "id": completion_id,
        "model": model,
        "object": "chat.completion.chunk",
        "system_fingerprint": _FINGERPRINT,
    }


def _complete(body: Json, model: str) -> _Completion:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise azure_openai.bad_request("'messages' is a required property", "messages")
    content = _content(body, messages[-1])
    answer = content.arguments if isinstance(content, ToolCall) else content
    choices = int(body.get("n") or 1)
    usage = usage_of(str(messages), answer * choices)
    return _Completion(new_id("chatcmpl-"), int(time.time()), model, choices, content, usage)


def _content(body: Json, last: Json) -> str | ToolCall:
    said = reply.last_said(str(last.get("role", "user")), last.get("content"))
    tools = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    if tools and said.role == "user" and body.get("tool_choice") != "none":
        return reply.call_of(tools[0]["name"], tools[0].get("parameters"))
    wanted: Json = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return reply.json_for(wanted["json_schema"].get("schema") or {})
    if wanted.get("type") == "json_object":
        return reply.json_for({"properties": {"location": {"type": "string"}}})
    return reply.text_for(said)


def _tool_call(wish: ToolCall) -> Json:
    function = {"name": wish.name, "arguments": wish.arguments}
    return {"id": wish.call_id, "type": "function", "function": function}


def _message(content: str | ToolCall) -> Json:
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    if isinstance(content, ToolCall):
        return message | {"tool_calls": [_tool_call(content)]}
    return message | {"content": content}


def _whole(completion: _Completion) -> Json:
    choice = {
        "content_filter_results": SAFE,
        "finish_reason": completion.finish_reason,
        "logprobs": None,
        "message": _message(completion.content),
    }
    return {
        "choices": [choice | {"index": index} for index in range(completion.choices)],
        "created": completion.created,
        "id": completion.id,
        "model": completion.model,
        "object": "chat.completion",
        "prompt_filter_results": PROMPT_FILTER_RESULTS,
        "system_fingerprint": _FINGERPRINT,
        "usage": completion.usage,
    }


def _stored(completion: _Completion, body: Json) -> Json:
    return _whole(completion) | {"metadata": body.get("metadata") or {}}


async def _stream(call: Call, completion: _Completion, include_usage: bool) -> web.StreamResponse:
    # With include_usage every chunk has the member; it is null in all but the last, which has no choices.
    absent: dict[str, Any] = {"usage": None} if include_usage else {}
    stream = await EventStream.open(call)
    await stream.send(PROMPT_FILTER_CHUNK | absent)
    for each in _chunks(completion):
        await stream.send(each | absent)
    if include_usage:
        last = chunk(completion.id, completion.created, completion.model, {})
        await stream.send(last | {"choices": [], "usage": completion.usage})
    return await stream.done()


def _chunks(completion: _Completion) -> Iterator[Json]:
    head = completion.id, completion.created, completion.model
    for index in range(completion.choices):
        for delta in _deltas(completion.content):
            yield chunk(*head, delta, index)
        yield chunk(*head, {}, index, completion.finish_reason)


def _deltas(content: str | ToolCall) -> Iterator[Json]:
    if not isinstance(content, ToolCall):
        yield {"role": "assistant", "content": "", "refusal": None}
        yield from ({"content": word} for word in reply.words(content))
        return
    opening = _tool_call(content) | {"index": 0, "function": {"name": content.name, "arguments": ""}}
    yield {"role": "assistant", "content": None, "tool_calls": [opening]}
    for word in reply.words(content.arguments):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": word}}]}
