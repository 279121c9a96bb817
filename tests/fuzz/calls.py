"""Well-formed calls, before anything is done to them, and the tags that tell whose bytes are whose."""

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

# Everything secret in a campaign holds this, so that a leak is found however it came about.
CANARY = "c4n4ry"
KEYS = (f"{CANARY}0123456789abcdef0123456789", f"{CANARY}fedcba9876543210fedcba9876")
_TAG = re.compile(rb"zz(\d{7})[0-9a-f]{8}zz")
# Routed by MODEL_APIS and MODEL_DEPLOYMENTS, unknown, hard to encode.
MODELS = ("gpt-4o", "gpt-5", "old", "other", "a b", "vendor/m", "å?#&%")


def tag(number: int) -> bytes:
    """A call's own mark. Its checksum keeps a mutated one from passing for another call's."""
    return b"zz%07d%08xzz" % (number, zlib.crc32(b"fuzz %d" % number))


def tags_in(content: bytes) -> set[int]:
    numbers = set()
    while match := _TAG.search(content):
        if match[0] == tag(int(match[1])):
            numbers.add(int(match[1]))
        # All of its kind at once: a body may hold nothing but thousands of the same.
        content = content.replace(match[0], b" ")
    return numbers


@dataclass(slots=True)
class Call:
    """What a caller sends, and how. Mutations change any of it; `framed` tells that it still ends where it says."""

    tag: bytes
    method: bytes
    target: bytes
    headers: list[bytes]
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    #: The lines that frame the body; None for those that fit it.
    framing: list[bytes] | None = None
    #: The body's bytes on the wire, where they are not the body itself.
    encoded: bytes | None = None
    framed: bool = True
    #: Where the bytes are cut into writes, as fractions of the whole.
    cuts: list[float] = field(default_factory=list)
    #: Seconds after which the caller leaves without a word; None for one who stays.
    leaves: float | None = None
    #: How much of its bytes a caller who leaves has sent by then.
    sends: float = 1
    half_closes: bool = False
    mutations: list[str] = field(default_factory=list)

    def head(self) -> bytes:
        framing = self.framing
        if framing is None:
            framing = [b"content-length: %d" % len(self.body)] if self.body else []
        line = b" ".join([self.method, self.target, self.version])
        return b"\r\n".join([line, b"host: shim.example.com", *self.headers, *framing, b"", b""])

    def render(self) -> bytes:
        return self.head() + (self.body if self.encoded is None else self.encoded)


def base_call(rng: Random, number: int) -> Call:
    """One of BASES, as a client library would send it."""
    mark = tag(number)
    method, target, body_of = rng.choice(BASES)
    target = target.replace("{model}", rng.choice(("gpt-4o", "gpt-5", "old", "other")))
    query = f"{'&' if '?' in target else '?'}tag={mark.decode()}"
    key = rng.choice(KEYS)
    credential = rng.choice([f"authorization: Bearer {key}", f"api-key: {key}"])
    headers = [credential.encode(), b"x-fuzz-tag: " + mark, b"accept: application/json"]
    if rng.random() < 0.3:
        headers.append(b"origin: https://app.example.com")
    call = Call(mark, method.encode(), (target + query).encode(), headers)
    if body_of is not None:
        content_type, call.body = body_of(rng, mark)
        headers.append(b"content-type: " + content_type)
    if call.body and rng.random() < 0.3:
        as_chunks(rng, call)
    return call


def as_chunks(rng: Random, call: Call) -> None:
    """Frames the body anew, in chunks of random sizes."""
    call.framing, call.encoded, left = [b"transfer-encoding: chunked"], b"", call.body
    while left:
        size = rng.randint(1, len(left))
        call.encoded += b"%x\r\n%b\r\n" % (size, left[:size])
        left = left[size:]
    call.encoded += b"0\r\n\r\n"


def _chat(rng: Random, mark: bytes) -> tuple[bytes, bytes]:
    content = {
        "model": rng.choice(MODELS),
        "messages": [{"role": "user", "content": mark.decode() + "å" * rng.choice([0, 1, 50, 5000])}],
        "stream": rng.random() < 0.4,
    }
    keys = list(content)
    rng.shuffle(keys)
    return b"application/json", json.dumps({key: content[key] for key in keys}).encode()


def _form(rng: Random, mark: bytes) -> tuple[bytes, bytes]:
    boundary = b"b%d" % rng.randrange(10**9)
    file = mark * rng.choice([1, 10, 4000])
    parts = [
        b'content-disposition: form-data; name="model"\r\n\r\n' + rng.choice(MODELS).encode(),
        b'content-disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"content-type: audio/wav\r\n\r\n" + file,
    ]
    rng.shuffle(parts)
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary
    return b"multipart/form-data; boundary=" + boundary, body


def _octets(rng: Random, mark: bytes) -> tuple[bytes, bytes]:
    return b"application/octet-stream", mark + rng.randbytes(rng.choice([0, 100, 70_000]))


type BodyOf = Callable[[Random, bytes], tuple[bytes, bytes]]

BASES: list[tuple[str, str, BodyOf | None]] = [
    ("POST", "/v1/chat/completions", _chat),
    ("POST", "/openai/v1/chat/completions", _chat),
    ("POST", "/openai/v1/responses", _chat),
    ("POST", "/v1/embeddings", _chat),
    ("POST", "/openai/deployments/{model}/chat/completions?api-version=2024-10-21", _chat),
    ("POST", "/openai/deployments/{model}/audio/transcriptions?api-version=2024-10-21", _form),
    ("POST", "/v1/audio/transcriptions", _form),
    ("POST", "/v1/images/edits", _form),
    ("POST", "/v1/files", _form),
    ("POST", "/v1/something/else", _octets),
    ("PUT", "/openai/v1/something/else", _octets),
    ("PATCH", "/v1/vector_stores/vs_1", _chat),
    ("GET", "/v1/models", None),
    ("GET", "/openai/v1/files/file-1/content", None),
    ("GET", "/openai/v1/responses/resp_1?stream=true", None),
    ("GET", "/openai/files?api-version=2024-10-21", None),
    ("HEAD", "/v1/files/file-1", None),
    ("DELETE", "/v1/files/file-1", None),
    ("OPTIONS", "/v1/chat/completions", None),
]
