"""Audio and images."""

import base64
import hashlib
import struct
import time
import zlib

from aiohttp import web

from devhost.standin import azure_openai
from devhost.standin.call import Call
from devhost.standin.form import Form, read_form
from devhost.standin.refusal import json_answer
from devhost.standin.stores import Json

_SPEECH_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_SPEECH_BLOCK = 4_096


async def transcribe(call: Call) -> web.StreamResponse:
    """POST audio/transcriptions."""
    return await _listen(call, "transcribe", "Heard")


async def translate(call: Call) -> web.StreamResponse:
    """POST audio/translations."""
    return await _listen(call, "translate", "Translated")


async def speak(call: Call) -> web.StreamResponse:
    """POST audio/speech: bytes that depend on the input, and no Content-Length, as from the service."""
    body = await call.json()
    call.model(body.get("model"))
    if not body.get("input"):
        raise azure_openai.bad_request("'input' is a required property", "input")
    content_type = _SPEECH_TYPES.get(body.get("response_format") or "mp3", "application/octet-stream")
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(call.request)
    for block in speech_blocks(str(body["input"])):
        await response.write(block)
    return response


def speech_blocks(text: str) -> list[bytes]:
    """The audio for a text: one block of noise per word."""
    return [hashlib.shake_256(word.encode()).digest(_SPEECH_BLOCK) for word in text.split()]


async def generate_image(call: Call) -> web.StreamResponse:
    """POST images/generations."""
    body = await call.json()
    call.model(body.get("model"))
    if not body.get("prompt"):
        raise azure_openai.bad_request("'prompt' is a required property", "prompt")
    return _images(str(body["prompt"]), int(body.get("n") or 1))


async def edit_image(call: Call) -> web.StreamResponse:
    """POST images/edits."""
    form = await read_form(call)
    call.model(form.fields.get("model"))
    image = form.file()
    prompt = f"{form.fields.get('prompt', '')} ({image.filename}, {image.size} bytes)"
    return _images(prompt, int(form.fields.get("n", "1")))


async def _listen(call: Call, task: str, verb: str) -> web.StreamResponse:
    form = await read_form(call)
    call.model(form.fields.get("model"))
    file = form.file()
    return _transcript(form, task, f"{verb} {file.filename}, {file.size} bytes.")


def _transcript(form: Form, task: str, text: str) -> web.Response:
    match form.fields.get("response_format", "json"):
        case "text":
            return web.Response(text=f"{text}\n")
        case "srt":
            return web.Response(text=f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n")
        case "vtt":
            return web.Response(text=f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{text}\n\n")
        case "verbose_json":
            return json_answer(_verbose(form, task, text))
    return json_answer({"text": text})


def _verbose(form: Form, task: str, text: str) -> Json:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.0,
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    language = form.fields.get("language", "english")
    return {"task": task, "language": language, "duration": 1.0, "text": text, "segments": [segment]}


def _images(prompt: str, count: int) -> web.Response:
    colour = hashlib.sha256(prompt.encode()).digest()[:3]
    image = {"b64_json": base64.b64encode(png(colour)).decode(), "revised_prompt": prompt}
    return json_answer({"created": int(time.time()), "data": [image] * count})


def png(colour: bytes) -> bytes:
    """A PNG of one pixel, of the given three bytes of RGB."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + colour)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
