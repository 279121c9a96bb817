"""Chat completions, and the text completions that came before them."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

from devhost.standin import reply
from devhost.standin.call import Call
from devhost.standin.resource import new_id
from devhost.standin.wire import Json, event, json_response, missing

_SAFE = {
    kind: {"filtered": False, "severity": "safe"} for kind in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_FILTER = {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}]}
# Azure's first event of a chat stream: no choices, and even its id is empty.
_FIRST_CHUNK = {"choices": [], "created": 0, "id": "", "model": "", "object": "", **_PROMPT_FILTER}
_NAMES = "prompt", "completion"


async def create(call: Call) -> web.StreamResponse:
    """POST chat/completions."""
    body = await call.json()
    model = call.model(body.get("model"))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise missing("messages")
    message, text, reason = _message(body, messages[-1])
    count = int(body.get("n") or 1)
    usage = reply.usage_of(model, messages, [text] * count, _NAMES)
    head = _head("chatcmpl-", "chat.completion", model) | {"system_fingerprint": "fp_standin"}
    choices = [_choice(index, reason, message=message) for index in range(count)]
    completion = head | {"choices": choices, "usage": usage} | _PROMPT_FILTER
    if body.get("store"):
        call.resource.put("/chat/completions", completion | {"metadata": body.get("metadata") or {}})
    if body.get("stream"):
        head["object"] = "chat.completion.chunk"
        chunks = _chunks(head, [[{"delta": delta} for delta in _deltas(message)]] * count, reason)
        return await call.stream(_events(body, [_FIRST_CHUNK, *chunks], usage))
    return json_response(completion)


async def complete(call: Call) -> web.StreamResponse:
    """POST completions."""
    body = await call.json()
    model = call.model(body.get("model"))
    prompts = texts_of(body.get("prompt", ""))
    texts = [f"You said: {prompt}" for prompt in prompts for _ in range(int(body.get("n") or 1))]
    usage = reply.usage_of(model, prompts, texts, _NAMES)
    head = _head("cmpl-", "text_completion", model)
    first = head | _PROMPT_FILTER | {"choices": []}
    if body.get("stream"):
        pieces = [[{"text": word} for word in [*reply.words(text), ""]] for text in texts]
        chunks = _chunks(head, pieces, "stop")
        return await call.stream(_events(body, [first, *chunks], usage))
    choices = [_choice(index, "stop", text=text) for index, text in enumerate(texts)]
    return json_response(first | {"choices": choices, "usage": usage})


def texts_of(given: Any) -> list[str]:
    """The texts of a `prompt` or `input`: one or many, each a string or a list of token numbers."""
    if isinstance(given, str) or (given and all(isinstance(token, int) for token in given)):
        return [str(given)]
    return [str(each) for each in given]


def _head(prefix: str, noun: str, model: str) -> Json:
    return {"id": new_id(prefix), "object": noun, "created": int(time.time()), "model": model}


def _message(body: Json, last: Json) -> tuple[Json, str, str]:
    """The reply, its text, and why it ends."""
    functions = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    schema = None
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            pass
        case {"type": "json_object"}:
            schema = {"properties": {"location": {"type": "string"}}}
    replied = reply.reply_to(last, body, functions, schema)
    message: Json = {"role": "assistant", "content": replied, "refusal": None}
    if isinstance(replied, str):
        return message, replied, "stop"
    function = {"name": replied["name"], "arguments": replied["arguments"]}
    call = {"id": replied["call_id"], "type": "function", "function": function}
    return message | {"content": None, "tool_calls": [call]}, replied["arguments"], "tool_calls"


def _choice(index: int, finish_reason: str | None, **piece: Any) -> Json:
    about = {"index": index, "finish_reason": finish_reason, "logprobs": None}
    return about | {"content_filter_results": _SAFE} | piece


def _events(body: Json, chunks: Iterable[Json], usage: Json) -> Iterator[bytes]:
    """With `include_usage` every chunk has `usage`: null in all but the last, which has no choices."""
    include_usage = (body.get("stream_options") or {}).get("include_usage")
    last: Json = {}
    for last in chunks:
        yield event(last | {"usage": None} if include_usage else last)
    if include_usage:
        yield event(last | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _chunks(head: Json, choices: Iterable[list[Json]], finish_reason: str) -> Iterator[Json]:
    for index, pieces in enumerate(choices):
        for piece in pieces[:-1]:
            yield head | {"choices": [_choice(index, None, **piece)]}
        yield head | {"choices": [_choice(index, finish_reason, **pieces[-1])]}


def _deltas(message: Json) -> Iterator[Json]:
    """A message in pieces, the last of them empty."""
    if calls := message.get("tool_calls"):
        function = calls[0]["function"]
        opening = calls[0] | {"index": 0, "function": function | {"arguments": ""}}
        yield {"role": "assistant", "content": None, "tool_calls": [opening]}
        for word in reply.words(function["arguments"]):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": word}}]}
    else:
        yield message | {"content": ""}
        yield from ({"content": word} for word in reply.words(message["content"]))
    yield {}
