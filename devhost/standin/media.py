"""Embeddings, audio, images and video: canned, with the caller's words where a test looks for them."""

import base64
import hashlib
import math
import struct
import time

from aiohttp import web
from multipart import MultipartPart

from devhost.standin import reply
from devhost.standin.call import Call
from devhost.standin.chat import texts_of
from devhost.standin.wire import Json, json_response, missing

# One blue pixel; and the box that every MP4 begins with.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGOQz38NAAIqAXp4ksuCAAAAAElFTkSuQmCC"
MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"

# Of a square image. https://platform.openai.com/docs/guides/image-generation#cost-and-latency
_TOKENS_BY_QUALITY = {"low": 272, "medium": 1_056, "high": 4_160, "auto": 4_160}


async def embed(call: Call) -> web.StreamResponse:
    """POST embeddings: unit vectors that depend on the text alone."""
    body = await call.json()
    model = call.model(body.get("model"))
    if "input" not in body:
        raise missing("input")
    texts = texts_of(body["input"])
    dimensions, as_base64 = int(body.get("dimensions") or 1_536), body.get("encoding_format") == "base64"
    vectors = [_vector(text, dimensions, as_base64) for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
    count = sum(map(reply.tokens, texts))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


async def listen(task: str, verb: str, call: Call) -> web.StreamResponse:
    """POST audio/transcriptions and audio/translations."""
    fields, files = await call.form()
    call.model(fields.get("model"))
    text = f"{verb} {_described(files)}."
    wanted = fields.get("response_format", "json")
    if wanted in ("text", "srt", "vtt"):
        return web.Response(text=f"{text}\n")
    heard: Json = {"text": text}
    if wanted == "verbose_json":
        heard |= {"task": task, "language": fields.get("language", "english"), "duration": 1.0}
        heard["segments"] = [{"id": 0, "start": 0.0, "end": 1.0, "text": text}]
    return json_response(heard)


async def speak(call: Call) -> web.StreamResponse:
    """POST audio/speech: 4 KiB for each word of the input, and no Content-Length, as from the service."""
    body = await call.json()
    call.model(body.get("model"))
    if not body.get("input"):
        raise missing("input")
    kind = body.get("response_format") or "mpeg"
    response = web.StreamResponse(headers={"Content-Type": f"audio/{kind}"})
    await response.prepare(call.request)
    for word in str(body["input"]).split():
        await response.write(hashlib.shake_256(word.encode()).digest(4_096))
    return response


async def draw(edited: bool, call: Call) -> web.StreamResponse:
    """POST images/generations and images/edits."""
    fields, files = await call.form()
    model = call.model(fields.get("model"))
    if not (prompt := fields.get("prompt")):
        raise missing("prompt")
    if edited:
        prompt += f" ({_described(files)})"
    count = int(fields.get("n") or 1)
    made: Json = {"created": int(time.time())}
    if not model.startswith("gpt-image"):
        return json_response(made | {"data": [{"b64_json": PNG, "revised_prompt": prompt}] * count})
    quality = fields.get("quality") or "auto"
    details = {"text_tokens": reply.tokens(prompt), "image_tokens": 323 * len(files)}
    asked, drawn = sum(details.values()), count * _TOKENS_BY_QUALITY.get(quality, 0)
    usage = {"input_tokens": asked, "input_tokens_details": details, "output_tokens": drawn}
    made |= {"output_format": "png", "quality": quality, "size": "1024x1024"}
    usage["total_tokens"] = asked + drawn
    return json_response(made | {"data": [{"b64_json": PNG}] * count, "usage": usage})


def _described(files: list[MultipartPart]) -> str:
    if not files:
        raise missing("file")
    return f"{files[0].filename}, {files[0].size} bytes"


def _vector(text: str, dimensions: int, as_base64: bool) -> list[float] | str:
    noise = struct.unpack(f"<{dimensions}h", hashlib.shake_256(text.encode()).digest(2 * dimensions))
    length = math.hypot(*noise)
    values = [value / length for value in noise]
    # Little-endian 32-bit floats, which is what SDKs ask for to save two thirds of the bytes.
    return base64.b64encode(struct.pack(f"<{dimensions}f", *values)).decode() if as_base64 else values
