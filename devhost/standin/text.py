"""Text completions and embeddings."""

import base64
import hashlib
import json
import math
import struct
import time
from typing import Any

from aiohttp import web

from devhost.standin import azure_openai, reply
from devhost.standin.call import Call
from devhost.standin.chat import PROMPT_FILTER_RESULTS, SAFE, usage_of
from devhost.standin.refusal import json_answer
from devhost.standin.sse import EventStream
from devhost.standin.stores import Json, new_id

_DIMENSIONS = 1_536


async def complete(call: Call) -> web.StreamResponse:
    """POST completions."""
    body = await call.json()
    model = call.model(body.get("model"))
    prompts = _inputs(body.get("prompt", ""))
    answers = [f"You said: {prompt}" for prompt in prompts for _ in range(int(body.get("n") or 1))]
    head: Json = {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    if body.get("stream"):
        return await _stream(call, head, answers)
    choices = [_choice(answer, index, "stop") for index, answer in enumerate(answers)]
    usage = usage_of(str(prompts), "".join(answers))
    return json_answer(
        head | {"prompt_filter_results": PROMPT_FILTER_RESULTS, "choices": choices, "usage": usage}
    )


async def embed(call: Call) -> web.StreamResponse:
    """POST embeddings."""
    body = await call.json()
    model = call.model(body.get("model"))
    if "input" not in body:
        raise azure_openai.bad_request("'input' is a required property", "input")
    inputs = _inputs(body["input"])
    dimensions = int(body.get("dimensions") or _DIMENSIONS)
    encode = _as_base64 if body.get("encoding_format") == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector(text, dimensions))}
        for index, text in enumerate(inputs)
    ]
    count = sum(reply.tokens(text) for text in inputs)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage})


def vector(text: str, dimensions: int) -> tuple[float, ...]:
    """A unit vector that depends on the text alone."""
    noise = struct.unpack(f"<{dimensions}h", hashlib.shake_256(text.encode()).digest(2 * dimensions))
    length = math.hypot(*noise)
    return tuple(value / length for value in noise)


def _as_base64(values: tuple[float, ...]) -> str:
    """Little-endian 32-bit floats, which is what SDKs ask for to save two thirds of the bytes."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _inputs(given: Any) -> list[str]:
    """The texts of a `prompt` or `input`: one or many, each a string or a list of token numbers."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(token, int) for token in given):
        return [json.dumps(given)]
    return [each if isinstance(each, str) else json.dumps(each) for each in given]


def _choice(answer: str, index: int, finish_reason: str | None) -> Json:
    return {
        "text": answer,
        "index": index,
        "finish_reason": finish_reason,
        "logprobs": None,
        "content_filter_results": SAFE,
    }


async def _stream(call: Call, head: Json, answers: list[str]) -> web.StreamResponse:
    stream = await EventStream.open(call)
    await stream.send(head | {"choices": [], "prompt_filter_results": PROMPT_FILTER_RESULTS})
    for index, answer in enumerate(answers):
        for word in reply.words(answer):
            await stream.send(head | {"choices": [_choice(word, index, None)]})
        await stream.send(head | {"choices": [_choice("", index, "stop")]})
    return await stream.done()
