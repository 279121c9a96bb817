"""The stand-in responds as APIM and Azure OpenAI do, and knows what it was sent and how that ended.

Most tests judge the shim by what the stand-in saw; they are only as true as it is.
"""

import asyncio
import base64
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import BaseModel

from devhost.standin import Received, Standin
from devhost.standin.wire import FAULTS

KEY = "standin-upstream-key"
API_VERSION = "2024-10-21"
# The SDK warns about operations that Azure still has, and callers still use.
DEPRECATIONS = "ignore:(deprecated|The Assistants API is deprecated):DeprecationWarning"


@pytest.fixture(scope="session")
async def standin() -> AsyncIterator[Standin]:
    running = await Standin.start(chunk_delay=0)
    yield running
    await running.stop()


@pytest.fixture(scope="session")
async def azure(standin: Standin) -> AsyncIterator[AsyncAzureOpenAI]:
    async with AsyncAzureOpenAI(
        base_url=standin.base_url, api_key=KEY, api_version=API_VERSION, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
async def v1(standin: Standin) -> AsyncIterator[AsyncOpenAI]:
    """The OpenAI client with the key in the header that APIM wants: all that keeps callers from v1 today."""
    async with AsyncOpenAI(
        base_url=standin.v1_base_url, api_key="unused", default_headers={"api-key": KEY}, max_retries=0
    ) as client:
        yield client


@pytest.fixture(params=["azure", "v1"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def http(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"{standin.base_url}/", headers={"api-key": KEY}) as session:
        yield session


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def script(**what: Any) -> dict[str, str]:
    return {"x-standin": json.dumps(what)}


STREAMED = {"model": "gpt-4o", "messages": said("hi"), "stream": True}


# What APIM refuses

MISSING = "missing subscription key. Make sure to include subscription key when making requests to an API."
INVALID = "invalid subscription key. Make sure to provide a valid key for an active subscription."
KEYS = {
    "no key": ({}, MISSING),
    "empty key": ({"api-key": ""}, MISSING),
    "the key as a bearer token": ({"Authorization": f"Bearer {KEY}"}, MISSING),
    "the key in another header": ({"Ocp-Apim-Subscription-Key": KEY}, MISSING),
    "wrong key": ({"api-key": "wrong"}, INVALID),
    "wrong and bearer": ({"api-key": "wrong", "Authorization": f"Bearer {KEY}"}, INVALID),
}


@pytest.mark.parametrize(("headers", "reason"), KEYS.values(), ids=KEYS)
async def test_apim_looks_for_the_key_in_one_header_only(
    standin: Standin, headers: dict[str, str], reason: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{standin.base_url}/models", headers=headers) as response,
    ):
        assert await response.json() == {"statusCode": 401, "message": f"Access denied due to {reason}"}
        assert response.status == 401
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["WWW-Authenticate"].startswith("AzureApiManagementKey realm=")
        assert response.headers["WWW-Authenticate"].endswith('name="api-key",type="header"')


async def test_the_key_header_and_the_keys_are_parameters() -> None:
    standin = await Standin.start(keys=("one", "two"), key_header="Ocp-Apim-Subscription-Key")
    async with aiohttp.ClientSession() as session:
        for key, status in (("two", 200), ("three", 401)):
            headers = {"ocp-apim-subscription-key": key}
            async with session.get(f"{standin.v1_base_url}/models", headers=headers) as response:
                assert response.status == status
                if status == 401:
                    assert 'name="Ocp-Apim-Subscription-Key"' in response.headers["WWW-Authenticate"]
    await standin.stop()


REFUSED: dict[str, tuple[str, object, int, object]] = {
    "unknown operation": ("nothing/here", {}, 404, {"statusCode": 404, "message": "Resource not found"}),
    "deployment in the wrong place": ("deployments/gpt-4o/files", {}, 404, {"message": "Resource not found"}),
    "realtime": ("realtime", {}, 404, {"message": "Resource not found"}),
    "deployment in v1's path": ("v1/deployments/x/y", {}, 404, {"message": "Resource not found"}),
    "no JSON": ("v1/chat/completions", [], 400, {"type": "invalid_request_error"}),
    "no model": ("v1/chat/completions", {"messages": said("hi")}, 400, {"param": "model"}),
    "no messages": ("v1/chat/completions", {"model": "gpt-4o"}, 400, {"param": "messages"}),
    "no input": ("v1/embeddings", {"model": "gpt-4o"}, 400, {"param": "input"}),
    "nothing to say": ("v1/audio/speech", {"model": "tts-1"}, 400, {"param": "input"}),
    "nothing to hear": ("v1/audio/transcriptions", {"model": "whisper-1"}, 400, {"param": "file"}),
    "nothing to edit": ("v1/images/edits", {"model": "dall-e-3", "prompt": "x"}, 400, {"param": "file"}),
    "no reference": ("batches", {}, 400, {"param": "input_file_id"}),
    "nothing of that id": ("batches", {"input_file_id": "f"}, 404, {"message": "No such object: /files/f"}),
    "no such parent": ("threads/t/messages", {}, 404, {"message": "No such object: /threads/t"}),
    "unknown deployment": ("assistants", {"model": "gpt-9"}, 404, {"code": "DeploymentNotFound"}),
    "unknown deployment in v1": ("v1/responses", {"model": "gpt-9"}, 404, {"code": "DeploymentNotFound"}),
    "unknown deployment in the path": (
        "deployments/gpt-9/chat/completions", {}, 404, {"code": "DeploymentNotFound"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "error"), REFUSED.values(), ids=REFUSED)
async def test_a_call_that_makes_no_sense_is_refused(
    path: str, body: object, status: int, error: dict[str, object], http: aiohttp.ClientSession
) -> None:
    async with http.post(path, json=body, params={"api-version": API_VERSION}) as response:
        got = await response.json()
        assert response.status == status
        assert error.items() <= got.get("error", got).items()


async def test_a_dated_call_without_api_version_is_azures_404(http: aiohttp.ClientSession) -> None:
    async with http.post("deployments/gpt-4o/chat/completions", json={"messages": said("hi")}) as response:
        assert response.status == 404
        assert await response.json() == {"error": {"code": "404", "message": "Resource not found"}}


async def test_responses_carry_azures_own_ids(http: aiohttp.ClientSession) -> None:
    async with http.get("v1/models", headers={"x-request-id": "mine"}) as response:
        assert response.headers["x-request-id"] != "mine"
        assert response.headers["apim-request-id"]
        assert response.headers["x-ms-region"] == "Stand-in"
        assert int(response.headers["x-ratelimit-remaining-requests"]) > 0
        assert int(response.headers["x-ratelimit-remaining-tokens"]) > 0


# What the model says

PLACE = {"type": "object", "properties": {"location": {"type": "string"}}}
IMAGE = {"chat": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}}
IMAGE["responses"] = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
TEXTS = {
    "a text": ("a  b\nc", "You said: a  b\nc"),
    "parts": ([{"text": "what is"}, {"text": "this?"}], "You said: what is this?"),
    "images": ([{"text": "what is this?"}, "image", "image"], "You said: what is this? [2 images]"),
}
PARAMETERS = {
    "some": (PLACE, {"location": "Oslo"}),
    "none": (None, {}),
    "an empty object": ({"type": "object", "properties": {}}, {}),
    "no properties": ({}, {}),
}


def parts(content: Any, api: str) -> Any:
    """Content as an API types it."""
    if isinstance(content, str):
        return content
    kind = "text" if api == "chat" else "input_text"
    return [IMAGE[api] if part == "image" else {"type": kind, **part} for part in content]


@pytest.mark.parametrize(("content", "text"), TEXTS.values(), ids=TEXTS)
async def test_the_model_quotes_the_last_message(content: Any, text: str, client: Any) -> None:
    asked = {"model": "gpt-4o", "messages": said(parts(content, "chat"))}
    completion = await client.chat.completions.create(**asked, n=2)
    assert [choice.message.content for choice in completion.choices] == [text, text]
    pieces = ["", ""]
    async for chunk in await client.chat.completions.create(**asked, n=2, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == [text, text]
    asked = {"model": "gpt-4o", "input": said(parts(content, "responses"))}
    assert (await client.responses.create(**asked)).output_text == text
    async with client.responses.stream(**asked) as stream:
        assert (await stream.get_final_response()).output_text == text


@pytest.mark.parametrize(("parameters", "arguments"), PARAMETERS.values(), ids=PARAMETERS)
async def test_the_model_calls_a_tool_and_then_tells_its_result(
    parameters: Any, arguments: object, azure: AsyncAzureOpenAI
) -> None:
    function = {"name": "look", **({} if parameters is None else {"parameters": parameters})}
    asked: Any = {"model": "gpt-4o", "tools": [{"type": "function", "function": function}]}
    plain = await azure.chat.completions.create(messages=said("Look!"), **asked)
    async with azure.chat.completions.stream(messages=said("Look!"), **asked) as stream:
        for completion in (plain, await stream.get_final_completion()):
            call: Any = (completion.choices[0].message.tool_calls or [])[0]
            assert completion.choices[0].finish_reason == "tool_calls"
            assert (call.function.name, json.loads(call.function.arguments)) == ("look", arguments)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    told = await azure.chat.completions.create(messages=[plain.choices[0].message, result], **asked)
    assert told.choices[0].message.content == "The tool answered: rain"

    asked = {"model": "gpt-4o", "tools": [{"type": "function", **function}]}
    plain_response = await azure.responses.create(input="Look!", **asked)
    async with azure.responses.stream(input="Look!", **asked) as events:
        for response in (plain_response, await events.get_final_response()):
            call = response.output[0]
            assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "look", arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    told_response = await azure.responses.create(input=[result], **asked)
    assert told_response.output_text == "The tool answered: rain"


class Step(BaseModel):
    explanation: str
    number: int | None
    follows: "list[Step]"


async def test_structured_output_fits_its_schema(azure: AsyncAzureOpenAI) -> None:
    completion = await azure.chat.completions.parse(
        model="gpt-4o", messages=said("Solve it."), response_format=Step
    )
    response = await azure.responses.parse(model="gpt-4o", input="Solve it.", text_format=Step)
    for parsed in (completion.choices[0].message.parsed, response.output_parsed):
        assert parsed
        assert parsed.explanation == "Oslo"


async def test_a_chat_stream_looks_like_azures_on_the_wire(http: aiohttp.ClientSession) -> None:
    async with http.post("v1/chat/completions", json=STREAMED) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        events = (await response.text()).split("\n\n")
    first = json.loads(events[0].removeprefix("data: "))
    safe = first["prompt_filter_results"][0]["content_filter_results"]["hate"]
    assert (first["choices"], safe) == ([], {"filtered": False, "severity": "safe"})
    assert events[-2:] == ["data: [DONE]", ""]


async def test_a_response_streams_the_events_sdks_expect(azure: AsyncAzureOpenAI) -> None:
    stream = await azure.responses.create(model="gpt-4o", input="hello there", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_response_remembers_the_one_before(client: Any) -> None:
    first = await client.responses.create(model="gpt-4o", input="my name is Kari")
    second = await client.responses.create(model="gpt-4o", input="who am I?", previous_response_id=first.id)
    assert second.output_text == "You said: who am I? Before that you said: my name is Kari"
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text
    assert len([item async for item in client.responses.input_items.list(first.id)]) == 1
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_background_responses_finish_later_or_are_cancelled(azure: AsyncAzureOpenAI) -> None:
    queued = await azure.responses.create(model="gpt-4o", input="take your time", background=True)
    assert (queued.status, queued.output) == ("queued", [])
    assert (await azure.responses.retrieve(queued.id)).output_text == "You said: take your time"
    queued = await azure.responses.create(model="gpt-4o", input="never mind", background=True)
    assert (await azure.responses.cancel(queued.id)).status == "cancelled"
    assert (await azure.responses.retrieve(queued.id)).status == "cancelled"
    at_once = await azure.responses.create(model="gpt-4o", input="now")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await azure.responses.cancel(at_once.id)


# What it charges


@pytest.mark.parametrize("model", ["gpt-4o", "o3-mini"])
@pytest.mark.parametrize("length", [100, 10_000])
async def test_chat_and_responses_tell_their_tokens_plain_and_streamed(
    model: str, length: int, azure: AsyncAzureOpenAI
) -> None:
    asked: Any = {"model": model, "messages": said("x" * length)}
    chat = (await azure.chat.completions.create(**asked)).usage
    streamed = await azure.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in streamed]
    assert [chunk.usage for chunk in chunks] == [None] * (len(chunks) - 1) + [chat]
    assert chunks[-1].choices == []
    assert chat
    assert chat.prompt_tokens_details
    assert chat.completion_tokens_details
    assert chat.total_tokens == chat.prompt_tokens + chat.completion_tokens
    cached = chat.prompt_tokens_details.cached_tokens or 0
    assert cached % 128 == 0
    assert (cached > 0, cached <= chat.prompt_tokens) == (length == 10_000, True)
    assert chat.completion_tokens_details.reasoning_tokens == (64 if model == "o3-mini" else 0)

    response = (await azure.responses.create(model=model, input="x" * length)).usage
    stream = await azure.responses.create(model=model, input="x" * length, stream=True)
    events: list[Any] = [event async for event in stream]
    assert (events[0].response.usage, events[-1].response.usage) == (None, response)
    assert response
    assert response.total_tokens == response.input_tokens + response.output_tokens
    assert (response.input_tokens_details.cached_tokens > 0) == (length == 10_000)
    assert response.output_tokens_details.reasoning_tokens == (64 if model == "o3-mini" else 0)
    assert response.output_tokens == chat.completion_tokens


async def test_completions_embeddings_and_images_tell_their_tokens(azure: AsyncAzureOpenAI) -> None:
    whole = (await azure.completions.create(model="gpt-4o", prompt="a b")).usage
    stream = await azure.completions.create(
        model="gpt-4o", prompt="a b", stream=True, stream_options={"include_usage": True}
    )
    assert whole
    assert [chunk.usage async for chunk in stream if chunk.usage] == [whole]
    embedded = await azure.embeddings.create(model="text-embedding-3-small", input=["abcd", "efghijkl"])
    assert (embedded.usage.prompt_tokens, embedded.usage.total_tokens) == (5, 5)
    drawn = await azure.images.generate(model="gpt-image-1", prompt="A fjord", n=2, quality="low")
    edited = await azure.images.edit(model="gpt-image-1", prompt="A fjord", image=("a.png", b"png"))
    assert drawn.usage
    assert edited.usage
    assert (drawn.usage.input_tokens_details.image_tokens, drawn.usage.output_tokens) == (0, 2 * 272)
    assert edited.usage.input_tokens_details.image_tokens > 0
    for usage in (drawn.usage, edited.usage):
        details = usage.input_tokens_details
        assert usage.input_tokens == details.text_tokens + details.image_tokens
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens


# Text, audio, images


async def test_completions_come_whole_and_streamed(client: Any) -> None:
    whole = await client.completions.create(model="gpt-4o", prompt=["a", "b"])
    assert [choice.text for choice in whole.choices] == ["You said: a", "You said: b"]
    stream = await client.completions.create(model="gpt-4o", prompt="a b", stream=True)
    text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
    assert text == "You said: a b"


async def test_embeddings_are_the_same_unit_vector_in_both_encodings(
    azure: AsyncAzureOpenAI, http: aiohttp.ClientSession
) -> None:
    # The SDK asks for base64 and decodes it; asked for floats, it takes what comes.
    asked: Any = {"model": "text-embedding-3-small", "dimensions": 64}
    decoded = await azure.embeddings.create(input=["a", "b"], **asked)
    floats = await azure.embeddings.create(input="a", encoding_format="float", **asked)
    assert decoded.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert decoded.data[0].embedding != decoded.data[1].embedding
    assert math.hypot(*floats.data[0].embedding) == pytest.approx(1)
    body = {"model": "text-embedding-3-small", "input": "a", "encoding_format": "base64"}
    async with http.post("v1/embeddings", json=body) as response:
        encoded = (await response.json())["data"][0]["embedding"]
    assert len(struct.unpack("<1536f", base64.b64decode(encoded))) == 1536


@pytest.mark.filterwarnings(DEPRECATIONS)
async def test_transcriptions_name_the_file_and_its_size(client: Any) -> None:
    asked: Any = {"model": "whisper-1", "file": ("talk.wav", b"x" * 300_000)}
    text = "Heard talk.wav, 300000 bytes."
    assert (await client.audio.transcriptions.create(**asked)).text == text
    assert await client.audio.transcriptions.create(**asked, response_format="text") == f"{text}\n"
    verbose = await client.audio.transcriptions.create(**asked, response_format="verbose_json")
    assert verbose.segments[0].text == verbose.text == text
    assert (await client.audio.translations.create(**asked)).text == text.replace("Heard", "Translated")


async def test_form_parts_may_come_in_any_order(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"abc", filename="a.wav")
    form.add_field("model", "whisper")
    async with http.post("v1/audio/transcriptions", data=form) as response:
        assert await response.json() == {"text": "Heard a.wav, 3 bytes."}


@pytest.mark.parametrize("boundary", ["", "; boundary=b"])
async def test_a_form_that_breaks_off_is_a_400(boundary: str, http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    async with http.post("v1/files", data=b"--b\r\nContent-Disposition", headers=headers) as response:
        assert response.status == 400


@pytest.mark.parametrize("model", ["dall-e-3", "gpt-image-1"])
async def test_images_are_pngs(model: str, client: Any) -> None:
    generated = await client.images.generate(model=model, prompt="a fjord", n=2)
    edited = await client.images.edit(model=model, prompt="bluer", image=("fjord.png", b"png"))
    assert (len(generated.data), len(edited.data)) == (2, 1)
    png = base64.b64decode(edited.data[0].b64_json)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data = png.index(b"IDAT") + 4
    assert len(zlib.decompress(png[data:-16])) == 4
    if model == "dall-e-3":
        assert edited.data[0].revised_prompt == "bluer (fjord.png, 3 bytes)"


# Stored objects

# By a create's path: its body, the prefix of its ids, what else the API does with an object, and the status that each
# action leads to. A name in braces is the id of an object of PARENTS.
COLLECTIONS: dict[str, tuple[object, str, str, dict[str, str]]] = {
    "files": ({"purpose": "batch"}, "file-", "list get delete", {}),
    "uploads": ({"filename": "a"}, "upload_", "", {"complete": "completed", "cancel": "cancelled"}),
    "uploads/{uploads}/parts": ({}, "part_", "", {}),
    "batches": ({"input_file_id": "{files}"}, "batch_", "list get", {"cancel": "cancelling"}),
    "assistants": ({"model": "gpt-4o", "name": "Kari"}, "asst_", "list get update delete", {}),
    "threads": ({}, "thread_", "get update delete", {}),
    "threads/{threads}/messages": ({"role": "user", "content": "x"}, "msg_", "list get update delete", {}),
    "threads/{threads}/runs": ({"assistant_id": "{assistants}"}, "run_", "list get update",
        {"cancel": "cancelled", "submit_tool_outputs": "completed"}),
    "vector_stores": ({"name": "papers"}, "vs_", "list get update delete", {}),
    "vector_stores/{vector_stores}/files": ({"file_id": "{files}"}, "file-", "list get update delete", {}),
    "vector_stores/{vector_stores}/file_batches": ({"file_ids": ["{files}"]}, "vsfb_", "get", {"cancel": "cancelled"}),
    "fine_tuning/jobs": ({"model": "gpt-4o", "training_file": "{files}"}, "ftjob-", "list get",
        {"pause": "paused", "resume": "running", "cancel": "cancelled"}),
    "evals": ({"name": "e"}, "eval_", "list get update delete", {}),
    "evals/{evals}/runs": ({"name": "r"}, "evalrun_", "list get delete", {"cancel": "cancelled"}),
    "conversations": ({}, "conv_", "get update delete", {}),
    "conversations/{conversations}/items": ({"role": "user"}, "msg_", "list get delete", {}),
    "containers": ({"name": "c"}, "cntr_", "list get delete", {}),
    "containers/{containers}/files": ({"file_id": "{files}"}, "cfile_", "list get delete", {}),
    "videos": ({"model": "sora-2", "prompt": "A fjord"}, "video_", "list get content delete", {}),
}  # fmt: skip
PARENTS = (
    "files",
    "uploads",
    "assistants",
    "threads",
    "vector_stores",
    "evals",
    "conversations",
    "containers",
)


class Api:
    """The stand-in's API by method and path, each call with a JSON body; a status of 400 or more fails."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def __call__(self, method: str, path: str, body: object = None) -> Any:
        url, query = f"{self._base}{path}", {"api-version": API_VERSION}
        async with self._session.request(method, url, json=body, params=query) as response:
            response.raise_for_status()
            return await (response.json if response.content_type == "application/json" else response.read)()


@pytest.fixture(params=["", "v1/"], ids=["dated", "v1"])
def api(request: pytest.FixtureRequest, http: aiohttp.ClientSession) -> Api:
    return Api(http, request.param)


@pytest.mark.parametrize("path", COLLECTIONS)
async def test_objects_come_and_go(path: str, api: Api) -> None:
    body, prefix, methods, actions = COLLECTIONS[path]
    ids = {name: (await api("POST", name, COLLECTIONS[name][0]))["id"] for name in PARENTS}
    path = path.format_map(ids)
    made = await api(
        "POST", path, json.loads(re.sub(r"{(\w+)}", lambda name: ids[name[1]], json.dumps(body)))
    )
    one = f"{path}/{made['id']}"
    assert made["id"].startswith(prefix)
    if "list" in methods:
        assert made["id"] in [each["id"] for each in (await api("GET", path))["data"]]
    if "get" in methods:
        assert (await api("GET", one))["id"] == made["id"]
    if "update" in methods:
        await api("POST", one, {"metadata": {"a": "b"}})
        assert (await api("GET", one))["metadata"] == {"a": "b"}
    for action, status in actions.items():
        assert (await api("POST", f"{one}/{action}"))["status"] == status
    if "content" in methods:
        assert (await api("GET", f"{one}/content"))[4:8] == b"ftyp"
    if "delete" in methods:
        assert (await api("DELETE", one))["deleted"]
        with pytest.raises(aiohttp.ClientResponseError, match="404"):
            await api("GET", one)


async def test_what_is_below_an_object_comes_and_goes_with_it(api: Api) -> None:
    thread = f"threads/{(await api('POST', 'threads', {'messages': said('hello')}))['id']}"
    assert [each["role"] for each in (await api("GET", f"{thread}/messages"))["data"]] == ["user"]
    conversation = f"conversations/{(await api('POST', 'conversations', {'items': said('one')}))['id']}"
    added = await api("POST", f"{conversation}/items", {"items": [*said("two"), *said("three")]})
    assert [each["content"] for each in added["data"]] == ["two", "three"]
    listed = (await api("GET", f"{conversation}/items"))["data"]
    assert [each["content"] for each in listed] == ["three", "two", "one"]
    for parent, below in ((thread, "messages"), (conversation, "items")):
        await api("DELETE", parent)
        with pytest.raises(aiohttp.ClientResponseError, match="404"):
            await api("GET", f"{parent}/{below}")


async def test_what_was_queued_is_done_when_asked_for(api: Api) -> None:
    video = await api("POST", "videos", {"model": "sora-2", "prompt": "A fjord"})
    assert video["status"] == "queued"
    assert (await api("GET", f"videos/{video['id']}"))["status"] == "completed"


async def test_only_the_newest_thousand_of_a_collection_are_kept(http: aiohttp.ClientSession) -> None:
    api = Api(http, "v1/")
    first = await api("POST", "containers", {})
    for _ in range(1_000):
        await api("POST", "containers", {})
    with pytest.raises(aiohttp.ClientResponseError, match="404"):
        await api("GET", f"containers/{first['id']}")
    assert len((await api("GET", "containers"))["data"]) == 1_000


async def test_a_file_comes_back_as_it_went(client: Any) -> None:
    content = bytes(range(256)) * 1000
    made = await client.files.create(file=("data.jsonl", content), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (len(content), "data.jsonl", "batch")
    assert (await client.files.content(made.id)).content == content
    assert made.id in [file.id async for file in client.files.list(purpose="batch")]
    assert made.id not in [file.id async for file in client.files.list(purpose="assistants")]
    store = await client.vector_stores.create(file_ids=[made.id])
    assert store.file_counts.total == 1
    await client.vector_stores.files.create(store.id, file_id=made.id)
    await client.vector_stores.files.delete(made.id, vector_store_id=store.id)
    assert (await client.files.content(made.id)).content == content
    assert (await client.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(made.id)


async def test_models_are_the_deployments(client: Any) -> None:
    names = {model.id async for model in client.models.list()}
    assert {"gpt-4o", "gpt-image-1", "whisper-1", "tts-1"} < names
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"


@pytest.mark.filterwarnings(DEPRECATIONS)
async def test_an_assistant_answers_in_its_thread(client: Any) -> None:
    assistant = await client.beta.assistants.create(model="gpt-4o", instructions="Be brief.")
    thread = await client.beta.threads.create(messages=said("hello"))
    run = await client.beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    assert (run.status, run.model, run.instructions) == ("completed", "gpt-4o", "Be brief.")
    newest = (await client.beta.threads.messages.list(thread.id)).data[0]
    assert (newest.role, newest.content[0].text.value) == ("assistant", "You said: hello")


# What was received


async def test_a_request_is_recorded_as_it_came_over_the_wire(standin: Standin) -> None:
    body = b"x" * 100_000
    head = (
        f"POST /openai/a%2Fb//c?q=1%20+%2B&q HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\nX-Request-Id: wire\r\n"
        f'X-Twice: 1\r\nx-twice: 2\r\nx-standin: {{"reflect": true}}\r\nContent-Length: {len(body)}\r\n\r\n'
    )
    host, port = standin.base_url.removeprefix("http://").removesuffix("/openai").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    received = await standin.ended("wire")
    writer.close()
    await writer.wait_closed()

    assert received is standin.latest is standin.received["wire"]
    assert (received.method, received.target) == ("POST", "/openai/a%2Fb//c?q=1%20+%2B&q")
    assert received.headers_named("X-Twice") == ["1", "2"]
    assert received.header("x-twice") == "1"
    assert received.header("x-absent") is None
    assert received.headers[0] == ("host", "h")
    assert received.body_length == 100_000
    assert received.body_sha256 == hashlib.sha256(body).hexdigest()
    assert received.body == body[: 64 * 1024]
    assert received.ended == "complete"
    assert received.ended_at
    assert received.ended_at >= received.arrived_at


async def test_only_the_newest_thousand_requests_are_kept(
    http: aiohttp.ClientSession, standin: Standin
) -> None:
    for number in range(1_001):
        async with http.get("v1/models/gpt-4o", headers={"x-request-id": f"many-{number}"}):
            pass
    assert len(standin.received) == 1_000
    assert "many-0" not in standin.received


async def test_waiting_for_a_request_that_never_comes_says_so(standin: Standin) -> None:
    with pytest.raises(TimeoutError, match="request absent did not arrive"):
        await standin.arrived("absent", timeout=0.01)


async def test_stopping_cuts_off_what_is_in_flight() -> None:
    standin = await Standin.start(keys=("k",))
    headers = {"api-key": "k", "x-request-id": "in flight", **script(hang=True)}
    async with aiohttp.ClientSession(headers=headers) as session:
        asked = asyncio.create_task(session.get(f"{standin.base_url}/models").__aenter__())
        await standin.arrived("in flight")
        await standin.stop()
        assert standin.received["in flight"].ended == "error"
        with pytest.raises(aiohttp.ClientConnectionError):
            await asked


# What is scripted


async def test_a_tests_own_response_comes_after_the_key_check(
    standin: Standin, http: aiohttp.ClientSession
) -> None:
    async def teapot(request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=418)

    standin.answers["own"] = teapot
    for key, status in ((KEY, 418), ("wrong", 401)):
        headers = {"x-request-id": "own", "api-key": key}
        async with http.get("v1/models", headers=headers) as response:
            assert response.status == status


async def test_a_status_with_its_body_and_headers(http: aiohttp.ClientSession) -> None:
    cookies = [["set-cookie", "a=1"], ["set-cookie", "b=2"]]
    headers = script(status=429, body={"a": 1}, headers=[["retry-after", 7], *cookies])
    async with http.get("v1/models", headers=headers) as response:
        assert (response.status, await response.json()) == (429, {"a": 1})
        assert response.headers["retry-after"] == "7"
        assert response.headers.getall("set-cookie") == ["a=1", "b=2"]
    headers = script(status=503, body="<p>down</p>", headers=[["content-type", "text/html"]])
    async with http.get("v1/models", headers=headers) as response:
        assert (response.status, await response.text()) == (503, "<p>down</p>")
        assert response.headers.getall("content-type") == ["text/html"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_have_the_shape_of_whoever_refuses(http: aiohttp.ClientSession, fault: str) -> None:
    async with http.get("v1/models", headers=script(fault=fault)) as response:
        body = await response.json()
        assert ("WWW-Authenticate" in response.headers) == fault.startswith("apim_key")
        assert ("Retry-After" in response.headers) == (response.status == 429)
    if fault.startswith("apim"):
        assert (list(body), body["statusCode"]) == (["statusCode", "message"], response.status)
    else:
        assert list(body) == ["error"]
        assert body["error"]["code"] in (str(response.status), "DeploymentNotFound")


@pytest.mark.parametrize(
    "header",
    ["{", "[]", '{"fault": "unheard of"}', '{"hangs": true}', '{"delay": "long"}', '{"status": null}'],
)
async def test_a_script_that_makes_no_sense_is_a_400(http: aiohttp.ClientSession, header: str) -> None:
    async with http.get("v1/models", headers={"x-standin": header}) as response:
        assert response.status == 400
        assert "x-standin" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_a_cut_stream_ends_visibly(
    path: str, count: int, standin: Standin, http: aiohttp.ClientSession
) -> None:
    headers = {"x-request-id": f"cut {path} {count}", **script(cut_after=count)}
    async with http.post(f"v1/{path}", json=STREAMED, headers=headers) as response:
        assert response.status == 200
        events = [await response.content.readuntil(b"\n\n") for _ in range(count)]
        assert all(b"data: " in event for event in events)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert (await standin.ended(f"cut {path} {count}")).ended == "error"


async def test_delays_and_cors_headers_go_with_the_operations_response(http: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with http.get("v1/models", headers=script(delay=0.05, cors=True)) as response:
        assert loop.time() - began >= 0.05
        assert response.headers.getall("Access-Control-Allow-Origin") == ["*"]
        assert (await response.json())["object"] == "list"
    began = loop.time()
    async with http.post("v1/chat/completions", json=STREAMED, headers=script(chunk_delay=0.02)) as response:
        events = (await response.text()).count("\n\n") - 1
    assert loop.time() - began >= 0.02 * (events - 1)
