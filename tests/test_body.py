"""Bodies are read as far as `model`, changed there alone, and bounded in memory and in turns of the event loop.

A proxy that changed another byte would break signatures and files; one that read a body in one go would hold up every
other stream meanwhile.
"""

import asyncio
import contextlib
import json
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from types import FrameType, ModuleType
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.asgi import Message
from shim.call import json_top_level
from shim.call.body import Body, open_body
from shim.call.caller import Caller
from shim.call.json_top_level import MAX_BYTES, MAX_STRING_BYTES, JsonTopLevel
from shim.call.model_in_json import JsonModel
from shim.call.routes import ModelUse
from shim.call.spool import MEMORY_BYTES, PIECE_BYTES, Spool, SpoolSpace
from shim.errors import BodyTooLarge, CallerGone, InvalidRequest, ModelRequired, TooBusy
from shim.headers import Headers
from tests.support.memory import traced

type TraceFunction = Callable[[FrameType, str, Any], TraceFunction | None]

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
    chunks: Iterable[bytes],
    headers: Headers = FORM,
    use: str = "required",
    max_bytes: int = 100 * MIB,
    space: SpoolSpace | None = None,
) -> Body:
    return await open_body(
        headers,
        Caller(Sender(chunks)),
        model=cast("ModelUse", use),
        max_bytes=max_bytes,
        space=space or SpoolSpace(max_bytes),
    )


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
    body.replace_model("another")
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
    body.replace_model("whisper")
    inserted = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    assert await sent(body) == b"a preamble\r\n" + inserted + FILE + b"--b--\r\n"
    assert body.growth == len(inserted)


async def test_a_form_is_read_no_further_than_its_model() -> None:
    chunks = [part("model", b"whisper") + part("file", b"x" * 1000, "a"), *[b"x" * 1000] * 100]
    sender = Sender(chunks)
    body = await open_body(FORM, Caller(sender), model="required", max_bytes=MIB, space=SpoolSpace(MIB))
    assert (body.model, sender.asked) == ("whisper", 1)
    assert await sent(body) == b"".join(chunks)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model":"a"}',
        b' \r\n\t{ "x" : {"model":"a"} , "model"\n:\t"a" , "y":["model","a",{"model":"a"}]} ',
        b'{"x":"\\"model\\":\\"a\\"","model":"a"}',
        b'\xef\xbb\xbf{"model":"a"}',
        b'{"model":"b","model":"a"}',
        b'{"a":[' + b",".join([b'{"model":"a"}'] * 20_000) + b'],"model":"a","z":' + b'{"model":"a"}}',
        b'{"mod\\u0065l":"a","x":{"model":"a"}}',
        b'{"a":"\\\\","b":"\\\\\\"","model":"a","c":"]}"}',
        b'{"input":"' + b'"][{}'.replace(b'"', b'\\"') * 20_000 + b'","model":"a"}',
    ],
    ids=["alone", "nested ones beside it", "in a string", "byte order mark", "twice", "in 20,000 places", "escaped",
        "backslashes", "behind a long string"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 64, 10_000_000])
async def test_a_json_objects_model_is_replaced_in_its_place(content: bytes, size: int) -> None:
    size = max(size, len(content) // 10_000)
    body = await opened([content[at : at + size] for at in range(0, len(content), size)], JSON)
    assert body.model == "a"
    body.replace_model("å/1")
    changed = await sent(body)
    before = json.loads(content.decode("utf-8-sig"))
    assert json.loads(changed.decode("utf-8-sig")) == {**before, "model": "å/1"}
    assert len(changed) == len(content) + body.growth
    # One replacement, and nothing else.
    assert changed.count(b'"\\u00e5/1"') == 1
    assert changed.replace(b'"\\u00e5/1"', b'"a"') == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"model":"' + b"a" * (MAX_STRING_BYTES + 1) + b'"}', "too long"),
        (b'{"model":"a",%b}' % (b'"b":1,' * (MAX_BYTES // 6) + b'"c":1'), "top level"),
        (b'{"model":"a"', "not a JSON object"),
        (b'{"model":"a"]', "not a JSON object"),
        (b'{"model":"a\\', "not a JSON object"),
        (b'{"model":"a"}}', "not a JSON object"),
        (b'{"model":"a"}\\', "not a JSON object"),
        (b'{"model":"a",}', "not a JSON object"),
        (b'{"model" "a"}', "not a JSON object"),
        (b'{"a":[1,2}],"model":"a"', "not a JSON object"),
    ],
)
async def test_json_that_names_no_model_for_certain_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await opened([content], JSON)


@pytest.mark.parametrize(("size", "is_too_long"), [(131_072, False), (131_073, True)])
@pytest.mark.parametrize("chunk_bytes", [1000, PIECE_BYTES])
async def test_the_top_level_of_json_has_128_kib_at_most(
    size: int, is_too_long: bool, chunk_bytes: int
) -> None:
    # What is nested does not count.
    content = b'{"model":"a","b":[],%b"c":1}' % (b" " * (size - len(b'{"model":"a","b":[],"c":1}')))
    content = content.replace(b"[]", b'["x", {"y": 1}]')
    chunks = [content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes)]
    if is_too_long:
        with pytest.raises(InvalidRequest, match="more than 131072 bytes at the top level of its JSON"):
            await opened(chunks, JSON)
    else:
        body = await opened(chunks, JSON)
        assert body.model == "a"
        assert await sent(body) == content


def worst_bodies(size: int) -> dict[str, tuple[Headers, bytes]]:
    """Bodies of about `size` bytes that cost the most to read."""
    return {
        "numbers": (JSON, b'{"a":[' + b"1," * (size // 2) + b'1],"model":"x"}'),
        "nesting": (JSON, b'{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b',"model":"x"}'),
        "members": (JSON, b'{"a":[' + b'{"":[]},' * (size // 8) + b'1],"model":"x"}'),
        "quotes": (JSON, b'{"a":[' + b'"",' * (size // 3) + b'1],"model":"x"}'),
        "a string": (JSON, b'{"a":"' + b'\\"' * (size // 2) + b'","model":"x"}'),
        "many places of model": (JSON, b'{"a":[' + b'{"model":"x"},' * (size // 14) + b'1],"model":"x"}'),
        "parts of a form": (
            FORM,
            part("n", b"") * (size // len(part("n", b""))) + part("model", b"x") + b"--b--",
        ),
        "line breaks in a form": (FORM, part("n", b"\r\n--" * (size // 4)) + part("model", b"x") + b"--b--"),
    }


@pytest.mark.parametrize("kind", worst_bodies(0))
@pytest.mark.parametrize("chunk_bytes", [PIECE_BYTES, 4 * MIB], ids=["chunks", "large chunks"])
async def test_other_calls_get_their_turn_for_every_64_kib_of_a_body(kind: str, chunk_bytes: int) -> None:
    headers, content = worst_bodies(4 * MIB)[kind]
    chunks = [content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes)]
    turns = 0

    async def other_calls() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(other_calls())
    await asyncio.sleep(0)
    body = await opened(chunks, headers)
    reading = turns
    body.replace_model("y")
    await sent(body)
    others.cancel()
    pieces = len(content) // PIECE_BYTES
    # Chunks that come one by one leave a turn between them by themselves, which a Sender does not.
    assert reading >= pieces - len(chunks)
    assert turns - reading >= pieces


@pytest.mark.parametrize("kind", worst_bodies(0))
async def test_a_body_is_fed_to_its_reader_in_pieces_whose_cost_is_bounded(kind: str) -> None:
    headers, content = worst_bodies(PIECE_BYTES)[kind]
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(5):
        await sent(await opened([content], headers))
    # Measured at 15 ms at most for each; ten times as much is not the fault of a busy machine.
    assert loop.time() - started < 5 * 0.15


async def test_what_is_kept_of_a_json_body_does_not_grow_with_it() -> None:
    document = b'{"input":"%b","nested":[%b],"model":"a"}' % (b"x" * MIB, b'{"a":"b"},' * 100_000 + b"1")
    with traced() as size:
        top_level = JsonTopLevel()
        for start in range(0, len(document), 100):
            top_level.feed(document[start : start + 100])
        assert size() < 64 * 1024
    assert top_level.is_complete
    assert len(top_level.text) < 2 * MAX_STRING_BYTES


async def test_many_large_bodies_at_once_take_up_a_mebibyte_each_in_memory_and_bounded_space_on_disk() -> (
    None
):
    space = SpoolSpace(largest_body=MIB, total=20 * MIB)
    content = b'{"a":"' + b"x" * (3 * MIB) + b'","model":"gpt-4o"}'
    chunks = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
    with traced() as size:
        bodies = [await opened(chunks, JSON, space=space) for _ in range(6)]
        assert size() < 6 * 1.1 * MIB
    with pytest.raises(TooBusy, match="Try again shortly") as raised:
        await opened(chunks, JSON, space=space)
    assert (b"retry-after", b"1") in raised.value.headers
    assert await sent(bodies.pop()) == content
    bodies.append(await opened(chunks, JSON, space=space))
    for body in bodies:
        body.close()
        body.close()
    assert space.free == 20 * MIB


@pytest.mark.parametrize(
    ("headers", "content", "max_bytes"),
    [
        (JSON, b"{}", 100),
        (JSON, b"{", 100),
        (JSON, b'{"model":"a"}', 12),
        (FORM, b"none", 100),
        (FORM, part("model", b"a"), 12),
    ],
)
async def test_a_refused_body_gives_back_the_space_that_it_took(
    headers: Headers, content: bytes, max_bytes: int
) -> None:
    space = SpoolSpace(1000, total=1000)
    with pytest.raises(InvalidRequest):
        await opened([content[:5], content[5:]], headers, max_bytes=max_bytes, space=space)
    assert space.free == 1000


@pytest.mark.parametrize("headers", [JSON, FORM], ids=["JSON", "form"])
@pytest.mark.parametrize("leaves", [True, False], ids=["by a caller who leaves", "by a cancelled call"])
async def test_a_body_that_is_not_read_to_its_end_gives_back_the_space_that_it_took(
    leaves: bool, headers: Headers
) -> None:
    space, waited = SpoolSpace(1000, total=1000), asyncio.Event()
    pieces = [b"{", b'"a"'] if headers is JSON else [b"--b", b"\r\n"]

    async def receive() -> Message:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": True}
        waited.set()
        return {"type": "http.disconnect"} if leaves else await asyncio.Future()

    opening = asyncio.create_task(
        open_body(headers, Caller(receive), model="optional", max_bytes=1000, space=space)
    )
    await waited.wait()
    if not leaves:
        assert space.free == 1000 - len(b'{"a"' if headers is JSON else b"--b\r\n")
        opening.cancel()
    with pytest.raises(CallerGone if leaves else asyncio.CancelledError):
        await opening
    assert space.free == 1000


@pytest.mark.parametrize("headers", [JSON, FORM], ids=["JSON", "form"])
async def test_a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not(headers: Headers) -> None:
    content = (
        b'{"n":"%b","model":"a"}'
        if headers is JSON
        else part("n", b"%b") + part("model", b"a") + b"--b--\r\n"
    )
    content %= b"x" * 500
    chunks = [content[:300], content[300:]]
    body = await opened(chunks, headers, max_bytes=len(content))
    assert (body.model, await sent(body)) == ("a", content)
    with pytest.raises(BodyTooLarge):
        await opened(chunks, headers, max_bytes=len(content) - 1)
    announced = [*headers[:1], (b"content-length", b"%d" % len(content))]
    assert await sent(await opened(chunks, announced, max_bytes=len(content))) == content
    with pytest.raises(BodyTooLarge):
        await opened([b"", b"never asked for"], announced, max_bytes=len(content) - 1)


@pytest.mark.parametrize("headers", [JSON, FORM], ids=["JSON", "form"])
async def test_a_body_that_comes_all_at_once_is_held_to_the_limit_too(headers: Headers) -> None:
    content = b'{"model":"a"}' if headers is JSON else part("model", b"a") + b"--b--\r\n"
    await sent(await opened([content], headers, max_bytes=len(content)))
    words = f"the {len(content) - 1} bytes .* Send less, or ask the operator to raise MAX_BODY_BYTES"
    with pytest.raises(BodyTooLarge, match=words):
        await opened([content], headers, max_bytes=len(content) - 1)
    announced = [*headers[:1], (b"content-length", b"%d" % len(content))]
    with pytest.raises(BodyTooLarge, match=words):
        await opened([content], announced, max_bytes=len(content) - 1)


@pytest.mark.parametrize("headers", [JSON, FORM], ids=["JSON", "form"])
@pytest.mark.parametrize("use", ["required", "optional"])
async def test_a_compressed_body_is_refused_where_it_would_have_to_be_read(
    use: str, headers: Headers
) -> None:
    compressed = [*headers, (b"content-encoding", b"gzip")]
    with pytest.raises(InvalidRequest, match="Send the body without Content-Encoding"):
        await opened([b"\x1f\x8b"], compressed, use)
    assert await sent(await opened([b"\x1f\x8b"], compressed, "unread")) == b"\x1f\x8b"


@pytest.mark.parametrize("size", [100, 10_000])
async def test_a_model_in_a_form_has_1024_bytes_at_most(size: int) -> None:
    content = part("model", b"m" * 1024) + b"--b--"
    body = await opened([content[at : at + size] for at in range(0, len(content), size)])
    assert body.model == "m" * 1024
    body.close()
    content = part("model", b"m" * 1025) + b"--b--"
    with pytest.raises(InvalidRequest, match="The part `model` is too long to be a model's name"):
        await opened([content[at : at + size] for at in range(0, len(content), size)])


async def test_of_two_models_in_a_form_the_first_counts() -> None:
    content = part("model", b"a") + part("model", b"b") + b"--b--"
    body = await opened([content])
    assert body.model == "a"
    body.replace_model("c")
    assert await sent(body) == part("model", b"c") + part("model", b"b") + b"--b--"


@pytest.mark.parametrize(("value", "name"), [("p\u00e4".encode(), "p\u00e4"), (b"p\xe4", "p\ufffd")])
async def test_a_model_in_a_form_is_utf_8(value: bytes, name: str) -> None:
    body = await opened([part("model", value) + b"--b--"])
    assert body.model == name
    body.replace_model("\u00e5/1")
    assert await sent(body) == part("model", "\u00e5/1".encode()) + b"--b--"


async def test_a_form_larger_than_the_limit_passes_if_its_model_comes_first() -> None:
    content = part("model", b"a") + part("file", b"x" * 1000, "a")
    body = await opened([content[:100], content[100:]], max_bytes=200)
    assert await sent(body) == content


async def test_what_needs_no_reading_is_taken_as_far_as_it_has_come() -> None:
    sender = Sender([b"{", b"not JSON"])
    body = await open_body(JSON, Caller(sender), model="unread", max_bytes=1, space=SpoolSpace(1))
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
    body.replace_model(name)
    content = body.content
    assert content is not None
    assert content == await sent(body) == b'{"n":1, "model" : "%s" }' % name.encode()


async def test_a_long_body_is_streamed() -> None:
    body = await opened([b'{"model":"a"}' + b" " * 70_000], JSON)
    assert body.content is None
    body.close()


async def test_what_was_read_is_forgotten_once_it_is_sent() -> None:
    # A response may stream for minutes.
    space = SpoolSpace(100, total=100)
    body = await opened([b'{"model"', b':"a"}'], JSON, space=space)
    assert space.free == 100 - len(b'{"model":"a"}')
    assert await sent(body) == b'{"model":"a"}'
    assert space.free == 100


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b",
        "Multipart/Form-Data; boundary=b",
        "MULTIPART/FORM-DATA; BOUNDARY=b",
        'multipart/form-data; boundary="b"',
        "multipart/form-data; charset=utf-8; boundary=b",
        "multipart/form-data;boundary=b;charset=utf-8",
    ],
)
async def test_a_form_is_one_however_its_type_is_written(content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"transfer-encoding", b"chunked")]
    body = await opened([part("model", b"gpt-4o"), b"--b--"], headers)
    assert body.model == "gpt-4o"
    body.close()


def test_a_spool_gives_back_any_stretch_of_what_was_written() -> None:
    content = bytes(range(256)) * (MEMORY_BYTES // 128)
    space = SpoolSpace(len(content))
    spool = Spool(space)
    for start in range(0, len(content), 100_000):
        spool.write(content[start : start + 100_000])
    for start, end in (
        (0, None),
        (1, 2),
        (PIECE_BYTES - 1, 3 * PIECE_BYTES),
        (5, 5),
        (len(content) - 1, None),
    ):
        pieces = list(spool.pieces(start, end))
        assert b"".join(pieces) == content[start:end]
        assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    before = space.free
    spool.close()
    spool.close()
    assert space.free == before + len(content)


def test_the_space_for_bodies_may_be_taken_to_its_last_byte_and_fits_the_largest_body() -> None:
    space = SpoolSpace(10, total=8)
    space.take(9)
    space.take(1)
    assert space.free == 0
    with pytest.raises(TooBusy, match="Try again shortly"):
        space.take(1)
    space.give_back(3)
    space.take(3)
    assert SpoolSpace(8, total=10).free == 10


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """For this process, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("piece", [100, 5000, PIECE_BYTES], ids="pieces of {}".format)
def test_a_disk_without_space_is_no_defect_and_costs_later_calls_no_space(piece: int) -> None:
    space = SpoolSpace(4 * MIB, total=4 * MIB)
    spool = Spool(space)
    with files_of_at_most(MEMORY_BYTES + 10_000):
        with pytest.raises(TooBusy):
            fill(spool, piece)
        spool.close()
    assert space.free == 4 * MIB


def fill(spool: Spool, piece: int) -> None:
    for _ in range(2 * MIB // piece):
        spool.write(b"x" * piece)


def test_a_disk_that_is_full_when_the_last_bytes_are_written_is_no_defect() -> None:
    space = SpoolSpace(4 * MIB, total=4 * MIB)
    spool = Spool(space)
    with files_of_at_most(MEMORY_BYTES + 150):
        spool.write(b"x" * (MEMORY_BYTES + 100))
        spool.write(b"y" * 100)  # which is buffered
        with pytest.raises(TooBusy):
            list(spool.pieces())
        spool.close()
    assert space.free == 4 * MIB


def test_a_model_has_its_place_whatever_the_pieces() -> None:
    document = json.dumps(
        {"a": "\\", '"': ["model", {"model": "x\\"}], "model": "a\u00e5", "z": "]"}, indent=1
    ).encode()
    for size in range(1, len(document)):
        reader = JsonModel()
        for at in range(0, len(document), size):
            reader.feed(document[at : at + size])
        reader.finish()
        splice = reader.splice("b")
        assert (reader.name, json.loads(document[splice.start : splice.end])) == ("a\u00e5", "a\u00e5")


_NAMES = st.sampled_from(["gpt-4o", "", "p\u00e4", "\ud800", "a" * 300, 'quoted "name"', "back\\slash"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | _NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
_MEMBERS = st.lists(st.tuples(st.sampled_from(["model", "a", "messages"]), _VALUES), max_size=4)


@given(
    members=_MEMBERS, ascii_only=st.booleans(), junk=st.sampled_from([b"", b" ", b"}", b"\xff", b",", b"\0"])
)
@example(members=[("model", "gpt-4o"), ("model", "gpt-4o-mini")], ascii_only=True, junk=b"")
def test_a_short_document_read_in_one_go_names_the_model_that_a_streamed_one_does(
    members: list[tuple[str, object]], ascii_only: bool, junk: bytes
) -> None:
    parts = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=ascii_only)}" for name, value in members)
    document = ("{" + ", ".join(parts) + "}").encode("utf-8", "surrogatepass") + junk
    whole, streamed = JsonModel(), JsonModel()
    if whole.read_whole(document):
        streamed.feed(document)
        streamed.finish()
        assert whole.name == streamed.name
        assert whole.splice("other") == streamed.splice("other")


@pytest.mark.parametrize("use", ["required", "optional", "unread"])
async def test_a_call_without_a_body_names_no_model(use: str) -> None:
    if use == "required":
        with pytest.raises(ModelRequired, match="one path for each deployment"):
            await opened([], [], use)
    else:
        body = await opened([], [], use)
        assert (body.model, body.content) == (None, b"")


@pytest.mark.parametrize(("size", "at_once"), [(64 * 1024, True), (64 * 1024 + 1, False)])
async def test_a_body_of_up_to_64_kib_that_has_arrived_is_sent_at_once(size: int, at_once: bool) -> None:
    body = await opened([b"x" * size], JSON, "unread")
    assert (body.content is not None) is at_once
    assert await sent(body) == b"x" * size


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (b"{}", b'{"model":"m"}'),
        (b" { } ", b' {"model":"m" } '),
        (b'{"n": 1}', b'{"model":"m","n": 1}'),
        (b'{\n  "n": 1}', b'{"model":"m",\n  "n": 1}'),
        (b'{"model": "gpt-4o"}', b'{"model": "m"}'),
        (b'{"model":"a","model":"b"}', b'{"model":"a","model":"m"}'),
        (b'{"a":{"model":"x"},"model" :"b","c":[]}', b'{"a":{"model":"x"},"model" :"m","c":[]}'),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "bytewise"])
async def test_a_model_is_replaced_in_its_place_or_put_first(
    content: bytes, changed: bytes, cut: bool
) -> None:
    chunks = [content[at : at + 1] for at in range(len(content))] if cut else [content]
    body = await opened(chunks, JSON, "optional")
    body.replace_model("m")
    assert body.growth == len(changed) - len(content)
    result = await sent(body)
    assert json.loads(result) == json.loads(changed)
    assert result.replace(b" ", b"").replace(b"\n", b"") == changed.replace(b" ", b"").replace(b"\n", b"")


@pytest.mark.parametrize("length", [255, 256, 257])
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "in two"])
async def test_a_long_name_of_a_model_is_found_however_the_body_comes(length: int, cut: bool) -> None:
    content = b'{"model":"' + b"m" * length + b'"}'
    body = await opened([content[:20], content[20:]] if cut else [content], JSON)
    assert body.model == "m" * length
    body.close()


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"[]", ModelRequired, "must be a JSON object that names a `model`"),
        (b'[{"model": "m"}]', ModelRequired, "must be a JSON object that names a `model`"),
        (b"{}", ModelRequired, "Name a `model` in the body"),
        (b'{"model": null}', ModelRequired, "Name a `model` in the body"),
        (b'{"model": ""}', ModelRequired, "Name a `model` in the body"),
        (b'{"model": 5}', ModelRequired, "`model` must be a string"),
        (b'{"model": {}}', ModelRequired, "`model` must be a string"),
        (b'"model"', InvalidRequest, "no `model` can be read from it"),
        (b"5", InvalidRequest, "no `model` can be read from it"),
        (b'{"model": "m"', InvalidRequest, "no `model` can be read from it"),
        (b'{"model": "m"} {}', InvalidRequest, "no `model` can be read from it"),
        (b'{"model" "m"}', InvalidRequest, "no `model` can be read from it"),
        (rb'{"model": "\ud800"}', InvalidRequest, "`model` is not JSON in UTF-8"),
        (b'{"model": "\xff"}', InvalidRequest, "`model` is not JSON in UTF-8"),
        (rb'{"model": "\q"}', InvalidRequest, "`model` is not JSON in UTF-8"),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "bytewise"])
async def test_a_body_that_names_no_model_is_refused_however_it_comes(
    content: bytes, error: type[InvalidRequest], words: str, cut: bool
) -> None:
    with pytest.raises(error, match=words) as raised:
        await opened([content[at : at + 1] for at in range(len(content))] if cut else [content], JSON)
    assert raised.type is error


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "m"}',
        rb'{"\u006dodel": "m"}',
        rb'{"\q": 1, "model": "m"}',
        rb'{"model": "m", "\q": 1}',
        b'\xef\xbb\xbf{"model": "m"}',
    ],
    ids=["plain", "an escaped name", "behind a name that is none", "before one", "after a byte order mark"],
)
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "bytewise"])
async def test_a_model_is_read_however_it_comes(content: bytes, cut: bool) -> None:
    body = await opened([content[at : at + 1] for at in range(len(content))] if cut else [content], JSON)
    assert body.model == "m"
    assert await sent(body) == content


@pytest.mark.parametrize(
    ("length", "is_too_long"), [(3071, False), (3072, False), (3073, True), (9000, True)]
)
@pytest.mark.parametrize("cuts", [(), (20,), (2000,), (3081,), (20, 1500, 3000)], ids=str)
async def test_a_string_of_up_to_3072_bytes_is_kept_however_it_is_cut(
    length: int, is_too_long: bool, cuts: tuple[int, ...]
) -> None:
    content = b'{"model":"' + b"m" * length + b'","n":1}'
    chunks = [content[start:end] for start, end in pairwise((0, *cuts, len(content)))]
    if is_too_long:
        with pytest.raises(InvalidRequest, match="too long"):
            await opened(chunks, JSON)
    else:
        body = await opened(chunks, JSON)
        assert body.model == "m" * length
        assert await sent(body) == content


async def test_a_caller_who_leaves_is_noticed_though_the_rest_of_the_body_is_not_wanted() -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    caller = Caller(messages.get)
    body = caller.body()
    messages.put_nowait({"type": "http.request", "body": b"begun", "more_body": True})
    assert await anext(body) == b"begun"
    await body.aclose()
    messages.put_nowait({"type": "http.request", "body": b"not wanted", "more_body": True})
    messages.put_nowait({"type": "http.disconnect"})

    async def answering() -> None:
        async with asyncio.timeout(5):
            with caller.cancelling():
                await asyncio.Event().wait()

    with pytest.raises(CallerGone):
        await answering()


def test_what_is_as_large_as_the_space_that_is_left_is_held() -> None:
    space = SpoolSpace(100, total=100)
    space.take(100)
    assert space.free == 0
    with pytest.raises(TooBusy):
        space.take(1)


@pytest.mark.parametrize(
    "nested", [b'["%b"]' % (b"m" * 9000), b"[\xff]", b'{"a": \xfe}', b"[[[]}]"], ids=repr
)
@pytest.mark.parametrize("cut", [0, 100, 5000])
async def test_what_is_nested_is_not_judged(nested: bytes, cut: int) -> None:
    content = b'{"a": ' + nested + b', "model": "m"}'
    body = await opened([content[:cut], content[cut:]] if cut else [content], JSON)
    assert body.model == "m"
    assert await sent(body) == content


def test_a_long_string_is_left_out_where_a_piece_ends_within_an_escape() -> None:
    reader = JsonTopLevel()
    reader.feed(b'{"p":"' + b"m" * (MAX_STRING_BYTES + 1) + b"\\")
    assert bytes(reader.text) == b'{"p":"\0'
    reader.feed(b'n","model":"m"}')
    assert bytes(reader.text) == b'{"p":"\0","model":"m"}'


@pytest.mark.parametrize(
    ("before", "within", "after"),
    [(b"", b'{"a":[' + b"[]," * 21_000 + b"[]]", b""), (b'{"a":[', b"[]," * 21_000, b"[]]}")],
    ids=["with the top level beside it", "one level below it"],
)
def test_brackets_that_are_nested_are_not_looked_at_one_by_one(
    before: bytes, within: bytes, after: bytes
) -> None:
    # 42,000 of them in 64 KiB; only what is on the edge of the top level is.
    reader = JsonTopLevel()
    reader.feed(before)
    with lines_run_in(json_top_level) as lines:
        reader.feed(within)
    assert len(lines) < 6 * 2048
    reader.feed(after)
    assert bytes(reader.text).startswith(b'{"a":[]')


@contextlib.contextmanager
def lines_run_in(module: ModuleType) -> Iterator[list[int]]:
    """Collects the number of each line of the module that is run: what takes time, however busy the machine is."""
    lines: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
