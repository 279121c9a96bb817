"""Bodies read as far as `model`, put right there, and otherwise the bytes that came."""

import json
from collections.abc import Iterable
from typing import cast

import pytest
from starlette.types import Message

from shim.call.body import Body, open_body
from shim.call.caller import Caller
from shim.call.routes import ModelUse
from shim.errors import InvalidRequest
from shim.headers import Headers

MIB = 1024 * 1024
FORM: Headers = [(b"content-type", b"multipart/form-data; boundary=b"), (b"transfer-encoding", b"chunked")]
JSON: Headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]


class Sender:
    """A caller's `receive`, which counts the chunks that were asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = list(chunks) or [b""]
        self.asked = 0

    async def __call__(self) -> Message:
        if self.asked == len(self._chunks):
            return {"type": "http.disconnect"}
        self.asked += 1
        return {
            "type": "http.request",
            "body": self._chunks[self.asked - 1],
            "more_body": self.asked < len(self._chunks),
        }


async def opened(
    chunks: Iterable[bytes], headers: Headers = FORM, use: str = "required", max_bytes: int = 100 * MIB
) -> Body:
    caller = Caller(Sender(chunks))
    body = await open_body(headers, caller, model=cast("ModelUse", use), max_bytes=max_bytes)
    assert body is not None
    return body


async def sent(body: Body) -> bytes:
    content = b"".join([chunk async for chunk in body])
    body.close()
    return content


def part(name: str, value: bytes, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


FILE = part("file", b"\r\n--\r\n--a\r\r\n" * 50, "model")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 64, 10_000])
@pytest.mark.parametrize(
    "parts",
    [
        [part("model", b"gpt-4o"), FILE],
        [FILE, part("model", b"gpt-4o")],
        [part("n", b"gpt-4o"), FILE, part("model", b"gpt-4o"), part("prompt", b"gpt-4o")],
        [part("model", b"of a file", "model.bin"), part("model", b"gpt-4o")],
        [b"a preamble\r\n" + FILE, part("model", b"gpt-4o")],
    ],
    ids=["first", "last", "between others of its value", "beside a file of its name", "after a preamble"],
)
async def test_a_forms_model_is_found_and_replaced_however_it_is_cut(parts: list[bytes], size: int) -> None:
    content = b"".join(parts) + b"--b--\r\nan epilogue"
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    body = await opened(chunks)
    assert body.model == "gpt-4o"
    assert await sent(body) == content
    body = await opened(chunks)
    await body.replace_model("another")
    wanted = [part("model", b"another") if each == part("model", b"gpt-4o") else each for each in parts]
    assert await sent(body) == b"".join(wanted) + b"--b--\r\nan epilogue"
    assert body.growth == 1


@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
async def test_a_form_without_a_model_gets_one_before_its_first_part(size: int) -> None:
    content = b"a preamble\r\n" + FILE + b"--b--\r\n"
    body = await opened(
        [content[start : start + size] for start in range(0, len(content), size)], use="optional"
    )
    assert body.model is None
    await body.replace_model("whisper")
    inserted = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    assert await sent(body) == b"a preamble\r\n" + inserted + FILE + b"--b--\r\n"
    assert body.growth == len(inserted)


async def test_a_form_is_read_no_further_than_its_model() -> None:
    chunks = [part("model", b"whisper") + part("file", b"x" * 1000, "a"), *[b"x" * 1000] * 100]
    sender = Sender(chunks)
    body = await open_body(FORM, Caller(sender), model="required", max_bytes=MIB)
    assert body is not None
    assert (body.model, sender.asked) == ("whisper", 1)
    assert await sent(body) == b"".join(chunks)


async def test_a_file_before_the_model_is_spooled_to_disk_beyond_a_mebibyte() -> None:
    blocks = [part("file", b"x" * 100, "a")[:-2], *[bytes([number]) * MIB for number in range(20)], b"\r\n"]
    body = await opened([*blocks, part("model", b"whisper"), b"--b--\r\n"])
    assert getattr(body._read, "_rolled", False)
    assert body.model == "whisper"
    assert await sent(body) == b"".join([*blocks, part("model", b"whisper"), b"--b--\r\n"])


@pytest.mark.parametrize(
    "content",
    [
        b'{"model":"a"}',
        b' \r\n\t{ "x" : {"model":"a"} , "model"\n:\t"a" , "y":["model","a",{"model":"a"}]} ',
        b'{"x":"\\"model\\":\\"a\\"","model":"a"}',
        b'\xef\xbb\xbf{"model":"a"}',
        b'{"model":"b","model":"a"}',
        b'{"a":[' + b",".join([b'{"model":"a"}'] * 400) + b'],"model":"a","z":' + b'{"model":"a"}}',
    ],
)
async def test_a_json_objects_model_is_replaced_in_its_place(content: bytes) -> None:
    body = await opened([content], JSON)
    assert body.model == "a"
    await body.replace_model("å/1")
    changed = await sent(body)
    before = json.loads(content.decode("utf-8-sig"))
    assert json.loads(changed.decode("utf-8-sig")) == {**before, "model": "å/1"}
    assert len(changed) == len(content) + body.growth
    # One replacement, and nothing else.
    assert changed.count(b'"\\u00e5/1"') == 1
    assert changed.replace(b'"\\u00e5/1"', b'"a"') == content


@pytest.mark.parametrize(
    "content",
    [b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"a","x":{"model":"a"}}', b'{"x":[%s],"model":"a"}'],
    ids=["escaped", "escaped beside a plain one", "in too many places"],
)
async def test_a_model_that_cannot_be_placed_is_refused(content: bytes) -> None:
    if b"%s" in content:
        content %= b",".join([b'{"model":"a"}'] * 20_000)
    body = await opened([content], JSON)
    assert body.model == "a"
    with pytest.raises(InvalidRequest):
        await body.replace_model("b")
    body.close()


async def test_what_needs_no_reading_is_taken_as_far_as_it_has_come() -> None:
    sender = Sender([b"{", b"not JSON"])
    body = await open_body(JSON, Caller(sender), model="unread", max_bytes=1)
    assert body is not None
    assert sender.asked == 1
    assert body.content is None
    assert await sent(body) == b"{not JSON"


@pytest.mark.parametrize("use", ["unread", "required"])
async def test_a_short_body_that_came_at_once_need_not_be_streamed(use: str) -> None:
    body = await opened([b'{"model":"a"}'], JSON, use)
    assert body.content == b'{"model":"a"}'
    body.close()


@pytest.mark.parametrize("name", ["b", "a longer one", ""])
async def test_a_short_body_has_its_model_replaced_as_a_streamed_one_has(name: str) -> None:
    body = await opened([b'{"n":1, "model" : "a" }'], JSON)
    await body.replace_model(name)
    content = body.content
    assert content is not None
    assert content == await sent(body) == b'{"n":1, "model" : "%s" }' % name.encode()


async def test_a_long_body_is_streamed() -> None:
    body = await opened([b'{"model":"a"}' + b" " * 70_000], JSON)
    assert body.content is None
    body.close()


async def test_what_was_read_is_forgotten_once_it_is_sent() -> None:
    # An answer may stream for minutes.
    body = await opened([b'{"model"', b':"a"}'], JSON)
    assert await sent(body) == b'{"model":"a"}'
    assert not body._read
    assert body._found is None
