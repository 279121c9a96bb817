"""The stand-in: it answers as APIM and Azure OpenAI do, and knows what it was sent and how that ended."""

import asyncio
import base64
import hashlib
import io
import json
import math
import signal
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import BaseModel

from devhost.standin import Received, Standin, raw_answer
from devhost.standin.script import FAULTS, download_chunk

KEY = "standin-upstream-key"
API_VERSION = "2024-10-21"
KEY_MISSING = (
    '{"statusCode":401,"message":"Access denied due to missing subscription key. '
    'Make sure to include subscription key when making requests to an API."}'
)
KEY_INVALID = (
    '{"statusCode":401,"message":"Access denied due to invalid subscription key. '
    'Make sure to provide a valid key for an active subscription."}'
)
# The SDK warns about operations that Azure still has, and callers still use.
SDK_DEPRECATIONS = "ignore:(deprecated|The Assistants API is deprecated):DeprecationWarning"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}


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


@pytest.fixture
async def http(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"{standin.base_url}/", headers={"api-key": KEY}) as session:
        yield session


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def script(**what: Any) -> dict[str, str]:
    return {"x-standin": json.dumps(what)}


# The key check


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({}, KEY_MISSING, id="no key"),
        pytest.param({"api-key": ""}, KEY_MISSING, id="empty key"),
        pytest.param({"Authorization": f"Bearer {KEY}"}, KEY_MISSING, id="the key as a bearer token"),
        pytest.param({"Ocp-Apim-Subscription-Key": KEY}, KEY_MISSING, id="the key in another header"),
        pytest.param({"api-key": "wrong"}, KEY_INVALID, id="wrong key"),
        pytest.param(
            {"api-key": "wrong", "Authorization": f"Bearer {KEY}"}, KEY_INVALID, id="wrong and bearer"
        ),
    ],
)
async def test_apim_looks_for_the_key_in_one_header_only(
    standin: Standin, headers: dict[str, str], body: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{standin.base_url}/models", headers=headers) as answer,
    ):
        assert (answer.status, await answer.text()) == (401, body)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["WWW-Authenticate"].startswith("AzureApiManagementKey realm=")
        assert answer.headers["WWW-Authenticate"].endswith('name="api-key",type="header"')


async def test_the_key_header_and_the_keys_are_parameters() -> None:
    standin = await Standin.start(keys=("one", "two"), key_header="Ocp-Apim-Subscription-Key")
    try:
        async with (
            aiohttp.ClientSession(headers={"ocp-apim-subscription-key": "two"}) as session,
            session.get(f"{standin.v1_base_url}/models") as answer,
        ):
            assert answer.status == 200
    finally:
        await standin.stop()


@pytest.mark.parametrize(
    "path", ["nothing/here", "deployments/gpt-4o/files", "realtime", "v1/deployments/x/y"]
)
async def test_an_unknown_operation_is_apims_404(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path, params={"api-version": API_VERSION}) as answer:
        assert answer.status == 404
        assert await answer.json() == {"statusCode": 404, "message": "Resource not found"}


async def test_a_dated_call_without_api_version_is_azures_404(http: aiohttp.ClientSession) -> None:
    async with http.post("deployments/gpt-4o/chat/completions", json={"messages": said("hi")}) as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": {"code": "404", "message": "Resource not found"}}


async def test_an_unknown_deployment_is_not_found(azure: AsyncAzureOpenAI, v1: AsyncOpenAI) -> None:
    for client in (azure, v1):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-9", messages=said("hi"))
        assert caught.value.code == "DeploymentNotFound"


async def test_a_v1_call_must_name_its_model(http: aiohttp.ClientSession) -> None:
    async with http.post("v1/chat/completions", json={"messages": said("hi")}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "model"


async def test_answers_carry_azures_own_ids(http: aiohttp.ClientSession) -> None:
    async with http.get("v1/models", headers={"x-request-id": "mine"}) as answer:
        assert answer.headers["x-request-id"] != "mine"
        assert answer.headers["apim-request-id"]
        assert answer.headers["x-ms-region"] == "Stand-in"
        assert int(answer.headers["x-ratelimit-remaining-requests"]) > 0
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 0


# Chat completions


async def test_chat_quotes_the_last_message(azure: AsyncAzureOpenAI, v1: AsyncOpenAI) -> None:
    for client in (azure, v1):
        completion = await client.chat.completions.create(model="gpt-4o", messages=said("hello there"), n=2)
        assert [choice.message.content for choice in completion.choices] == ["You said: hello there"] * 2
        assert completion.model == "gpt-4o"
        assert completion.usage
        assert completion.usage.total_tokens > 0


async def test_chat_counts_images(azure: AsyncAzureOpenAI) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content: Any = [{"type": "text", "text": "what is this?"}, image, image]
    completion = await azure.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": content}]
    )
    assert completion.choices[0].message.content == "You said: what is this? [2 images]"


async def test_chat_streams_what_it_would_have_said(azure: AsyncAzureOpenAI) -> None:
    stream = await azure.chat.completions.create(
        model="gpt-4o", messages=said("a  b\nc"), stream=True, stream_options={"include_usage": True}, n=2
    )
    chunks = [chunk async for chunk in stream]
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["You said: a  b\nc"] * 2
    assert chunks[0].choices == []
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_chat_stream_looks_like_azures_on_the_wire(http: aiohttp.ClientSession) -> None:
    body = {"messages": said("hi"), "stream": True, "model": "gpt-4o"}
    async with http.post("v1/chat/completions", json=body) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        events = (await answer.text()).split("\n\n")
    first = json.loads(events[0].removeprefix("data: "))
    assert first["choices"] == []
    assert first["prompt_filter_results"][0]["content_filter_results"]["hate"] == {
        "filtered": False,
        "severity": "safe",
    }
    assert events[-2:] == ["data: [DONE]", ""]


async def test_a_stream_waits_between_its_events(http: aiohttp.ClientSession) -> None:
    body = {"messages": said("one two"), "stream": True, "model": "gpt-4o"}
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with http.post(
        "v1/chat/completions", json=body, headers={"x-standin-chunk-delay": "0.02"}
    ) as answer:
        events = (await answer.text()).count("\n\n") - 1
    assert loop.time() - began >= 0.02 * (events - 1)


async def test_a_user_message_gets_a_tool_call_and_its_result_a_text(azure: AsyncAzureOpenAI) -> None:
    messages = said("What is the weather like?")
    completion = await azure.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
    assert completion.choices[0].finish_reason == "tool_calls"
    message = completion.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"location": "Oslo"})

    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    completion = await azure.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
    assert completion.choices[0].message.content == "The tool answered: rain"


async def test_tool_calls_stream(azure: AsyncAzureOpenAI) -> None:
    async with azure.chat.completions.stream(
        model="gpt-4o", messages=said("Weather?"), tools=[WEATHER]
    ) as stream:
        completion = await stream.get_final_completion()
    tool_calls = completion.choices[0].message.tool_calls
    assert tool_calls
    assert json.loads(tool_calls[0].function.arguments) == {"location": "Oslo"}


class Step(BaseModel):
    explanation: str
    number: int | None
    follows: "list[Step]"


async def test_structured_output_fits_its_schema(azure: AsyncAzureOpenAI) -> None:
    completion = await azure.chat.completions.parse(
        model="gpt-4o", messages=said("Solve it."), response_format=Step
    )
    assert completion.choices[0].message.parsed
    assert completion.choices[0].message.parsed.explanation == "Oslo"


async def test_stored_completions_are_read_without_a_deployment(azure: AsyncAzureOpenAI) -> None:
    made = await azure.chat.completions.create(model="gpt-4o", messages=said("keep me"), store=True)
    assert (await azure.chat.completions.retrieve(made.id)).choices == made.choices
    assert made.id in [each.id async for each in azure.chat.completions.list()]


# Text, audio, images


async def test_completions_come_whole_and_streamed(azure: AsyncAzureOpenAI) -> None:
    whole = await azure.completions.create(model="gpt-4o", prompt=["a", "b"])
    assert [choice.text for choice in whole.choices] == ["You said: a", "You said: b"]
    stream = await azure.completions.create(model="gpt-4o", prompt="a b", stream=True)
    text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
    assert text == "You said: a b"


async def test_embeddings_are_the_same_unit_vector_in_both_encodings(
    azure: AsyncAzureOpenAI, http: aiohttp.ClientSession
) -> None:
    # The SDK asks for base64 and decodes it; asked for floats, it takes what comes.
    decoded = await azure.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=64)
    floats = await azure.embeddings.create(
        model="text-embedding-3-small", input="a", dimensions=64, encoding_format="float"
    )
    assert decoded.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert decoded.data[0].embedding != decoded.data[1].embedding
    assert math.hypot(*floats.data[0].embedding) == pytest.approx(1)

    body = {"model": "text-embedding-3-small", "input": "a", "encoding_format": "base64"}
    async with http.post("v1/embeddings", json=body) as answer:
        encoded = (await answer.json())["data"][0]["embedding"]
    assert len(struct.unpack("<1536f", base64.b64decode(encoded))) == 1536


@pytest.mark.filterwarnings(SDK_DEPRECATIONS)
@pytest.mark.parametrize("client", ["azure", "v1"])
async def test_transcriptions_name_the_file_and_its_size(client: str, request: pytest.FixtureRequest) -> None:
    sdk: AsyncOpenAI = request.getfixturevalue(client)
    heard = await sdk.audio.transcriptions.create(model="whisper", file=("talk.wav", b"x" * 300_000))
    assert heard.text == "Heard talk.wav, 300000 bytes."
    text = await sdk.audio.transcriptions.create(
        model="whisper", file=("talk.wav", b"x"), response_format="text"
    )
    assert text == "Heard talk.wav, 1 bytes.\n"
    verbose = await sdk.audio.transcriptions.create(
        model="whisper", file=("talk.wav", b"x"), response_format="verbose_json"
    )
    assert verbose.segments
    assert verbose.segments[0].text == verbose.text
    translated = await sdk.audio.translations.create(model="whisper", file=("talk.wav", b"x"))
    assert translated.text == "Translated talk.wav, 1 bytes."


async def test_form_parts_may_come_in_any_order(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"abc", filename="a.wav")
    form.add_field("model", "whisper")
    async with http.post("v1/audio/transcriptions", data=form) as answer:
        assert await answer.json() == {"text": "Heard a.wav, 3 bytes."}


async def test_a_form_that_breaks_off_is_a_400(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with http.post("v1/files", data=b"--b\r\nContent-Disposition", headers=headers) as answer:
        assert answer.status == 400


async def test_speech_is_binary(azure: AsyncAzureOpenAI) -> None:
    speech = await azure.audio.speech.create(model="tts", voice="alloy", input="two words")
    assert speech.response.headers["content-type"] == "audio/mpeg"
    assert len(speech.content) == 2 * 4096


async def test_images_are_pngs(azure: AsyncAzureOpenAI) -> None:
    generated = await azure.images.generate(model="dall-e-3", prompt="a fjord", n=2)
    edited = await azure.images.edit(model="dall-e-3", prompt="bluer", image=("fjord.png", b"png"))
    assert generated.data
    assert edited.data
    for image in (*generated.data, *edited.data):
        assert base64.b64decode(image.b64_json or "").startswith(b"\x89PNG")
    assert edited.data[0].revised_prompt == "bluer (fjord.png, 3 bytes)"


# Responses


async def test_responses_stream_the_events_sdks_expect(azure: AsyncAzureOpenAI) -> None:
    stream = await azure.responses.create(model="gpt-4o", input="hello there", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "You said: hello there"


async def test_a_response_remembers_the_one_before(azure: AsyncAzureOpenAI, v1: AsyncOpenAI) -> None:
    for client in (azure, v1):
        first = await client.responses.create(model="gpt-4o", input="my name is Kari")
        second = await client.responses.create(
            model="gpt-4o", input="who am I?", previous_response_id=first.id
        )
        assert second.output_text == "You said: who am I? Before that you said: my name is Kari"
        assert (await client.responses.retrieve(first.id)).output_text == first.output_text
        items = [item async for item in client.responses.input_items.list(first.id)]
        assert len(items) == 1
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)


async def test_responses_call_tools_too(azure: AsyncAzureOpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": False}
    async with azure.responses.stream(model="gpt-4o", input="Weather?", tools=[tool]) as stream:
        response = await stream.get_final_response()
    call = response.output[0]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"location": "Oslo"})

    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    answer = await azure.responses.create(model="gpt-4o", input=result, tools=[tool])
    assert answer.output_text == "The tool answered: rain"


async def test_background_responses_finish_later_or_are_cancelled(azure: AsyncAzureOpenAI) -> None:
    queued = await azure.responses.create(model="gpt-4o", input="take your time", background=True)
    assert (queued.status, queued.output) == ("queued", [])
    assert (await azure.responses.retrieve(queued.id)).output_text == "You said: take your time"
    queued = await azure.responses.create(model="gpt-4o", input="never mind", background=True)
    assert (await azure.responses.cancel(queued.id)).status == "cancelled"
    assert (await azure.responses.retrieve(queued.id)).status == "cancelled"


# Stored objects


async def test_a_file_comes_back_as_it_went(azure: AsyncAzureOpenAI) -> None:
    content = bytes(range(256)) * 1000
    made = await azure.files.create(file=("data.jsonl", io.BytesIO(content)), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (len(content), "data.jsonl", "batch")
    assert (await azure.files.content(made.id)).content == content
    assert made.id in [file.id async for file in azure.files.list(purpose="batch")]
    assert (await azure.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await azure.files.retrieve(made.id)


async def test_a_batch_runs_until_cancelled(azure: AsyncAzureOpenAI) -> None:
    file = await azure.files.create(file=("data.jsonl", b"{}"), purpose="batch")
    batch = await azure.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert (await azure.batches.retrieve(batch.id)).status == "validating"
    assert (await azure.batches.cancel(batch.id)).status == "cancelling"
    assert batch.id in [each.id async for each in azure.batches.list()]


async def test_models_are_the_deployments(azure: AsyncAzureOpenAI) -> None:
    names = [model.id async for model in azure.models.list()]
    assert "gpt-4o" in names
    assert (await azure.models.retrieve("gpt-4o")).id == "gpt-4o"


async def test_vector_stores_come_and_go(azure: AsyncAzureOpenAI) -> None:
    made = await azure.vector_stores.create(name="papers")
    assert (await azure.vector_stores.retrieve(made.id)).name == "papers"
    assert made.id in [each.id async for each in azure.vector_stores.list()]
    assert (await azure.vector_stores.delete(made.id)).deleted


@pytest.mark.filterwarnings(SDK_DEPRECATIONS)
async def test_an_assistant_answers_in_its_thread(azure: AsyncAzureOpenAI) -> None:
    assistant = await azure.beta.assistants.create(model="gpt-4o", instructions="Be brief.")
    thread = await azure.beta.threads.create(messages=said("hello"))
    run = await azure.beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    assert (await azure.beta.threads.runs.retrieve(run.id, thread_id=thread.id)).status == "completed"
    newest = (await azure.beta.threads.messages.list(thread.id)).data[0]
    assert newest.content[0].type == "text"
    assert newest.content[0].text.value == "You said: hello"
    assert (await azure.beta.assistants.delete(assistant.id)).deleted


# What was received


async def test_a_request_is_recorded_as_it_came_over_the_wire(standin: Standin) -> None:
    body = b"x" * 100_000
    head = (
        f"POST /openai/a%2Fb//c?q=1%20+%2B&q HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\nX-Request-Id: wire\r\n"
        f'X-Twice: 1\r\nx-twice: 2\r\nx-standin: {{"upload": true}}\r\nContent-Length: {len(body)}\r\n\r\n'
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


async def test_a_caller_who_leaves_before_the_answer_is_recorded(standin: Standin, http: Any) -> None:
    headers = {"x-request-id": "hung up", **script(hang=True)}
    waiting = asyncio.create_task(http.get("v1/models", headers=headers).__aenter__())
    assert (await standin.arrived("hung up")).ended is None
    waiting.cancel()
    assert (await standin.ended("hung up")).ended == "caller gone"


async def test_a_caller_who_leaves_during_a_stream_is_recorded(
    standin: Standin, http: aiohttp.ClientSession
) -> None:
    body = {"messages": said("hi"), "stream": True, "model": "gpt-4o"}
    headers = {"x-request-id": "left", "x-standin-chunk-delay": "60"}
    async with http.post("v1/chat/completions", json=body, headers=headers) as answer:
        await answer.content.readuntil(b"\n\n")
    assert (await standin.ended("left")).ended == "caller gone"


async def test_a_caller_who_leaves_during_an_upload_is_recorded(standin: Standin) -> None:
    host, port = standin.base_url.removeprefix("http://").removesuffix("/openai").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /openai/v1/files HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\nx-request-id: half\r\n"
    writer.write(f"{head}{'x-standin: {"upload": true}'}\r\nContent-Length: 100\r\n\r\nhalf".encode())
    await standin.arrived("half")
    writer.close()
    received = await standin.ended("half")
    assert received.ended == "caller gone"
    await writer.wait_closed()


async def test_stopping_cuts_off_what_is_still_being_answered() -> None:
    standin = await Standin.start(keys=("k",))
    headers = {"api-key": "k", "x-request-id": "unanswered", **script(hang=True)}
    async with aiohttp.ClientSession(headers=headers) as session:
        asked = asyncio.create_task(session.get(f"{standin.base_url}/models").__aenter__())
        await standin.arrived("unanswered")
        await standin.stop()
        assert standin.received["unanswered"].ended == "error"
        with pytest.raises(aiohttp.ClientConnectionError):
            await asked


# A test's own answers


async def test_a_tests_own_answer_replaces_the_built_in_one(
    standin: Standin, http: aiohttp.ClientSession
) -> None:
    go_on = asyncio.Event()

    async def answer_when_told(request: web.Request, received: Received) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response({"body": (await request.read()).decode()})

    standin.answers["own"] = answer_when_told
    asked = asyncio.create_task(
        http.post("v1/responses", data=b"hello", headers={"x-request-id": "own"}).__aenter__()
    )
    await standin.arrived("own")
    go_on.set()
    async with await asked as answer:
        assert await answer.json() == {"body": "hello"}
    assert (await standin.ended("own")).body == b"hello"

    async with http.get("v1/models", headers={"x-request-id": "own", "api-key": "wrong"}) as answer:
        assert answer.status == 401


async def test_a_raw_answer_comes_before_the_key_check(standin: Standin) -> None:
    @raw_answer
    async def hang_up(request: web.Request, received: Received) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    standin.answers["raw"] = hang_up
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{standin.base_url}/models", headers={"x-request-id": "raw"})
    assert (await standin.ended("raw")).ended == "error"


# Scripted by the request itself


async def test_reflect_shows_what_was_received_on_any_path(http: aiohttp.ClientSession) -> None:
    headers = script(reflect=True, status=418)
    async with http.patch("no/such/path?a=b", data=b"body", headers=headers) as answer:
        assert answer.status == 418
        seen = await answer.json()
    assert (seen["method"], seen["target"]) == ("PATCH", "/openai/no/such/path?a=b")
    assert ["api-key", KEY] in seen["headers"]
    assert (seen["body_length"], seen["body_sha256"]) == (4, hashlib.sha256(b"body").hexdigest())


async def test_a_status_with_its_body_and_headers(http: aiohttp.ClientSession) -> None:
    headers = script(
        status=429,
        body={"a": 1},
        headers=[["retry-after", "7"], ["set-cookie", "a=1"], ["set-cookie", "b=2"]],
    )
    async with http.get("v1/models", headers=headers) as answer:
        assert (answer.status, await answer.json()) == (429, {"a": 1})
        assert answer.headers["retry-after"] == "7"
        assert answer.headers.getall("set-cookie") == ["a=1", "b=2"]
    headers = script(status=503, body="<p>down</p>", headers=[["content-type", "text/html"]])
    async with http.get("v1/models", headers=headers) as answer:
        assert (answer.status, await answer.text()) == (503, "<p>down</p>")
        assert answer.headers.getall("content-type") == ["text/html"]


@pytest.mark.parametrize(
    ("fault", "status", "message", "retry_after"),
    [
        (
            "apim_key_missing",
            401,
            "Access denied due to missing subscription key. Make sure to include",
            None,
        ),
        (
            "apim_key_invalid",
            401,
            "Access denied due to invalid subscription key. Make sure to provide",
            None,
        ),
        ("apim_quota", 403, "Out of call volume quota. Quota will be replenished in 00:06:46.", None),
        ("apim_not_found", 404, "Resource not found", None),
        ("apim_rate_limit", 429, "Rate limit is exceeded. Try again in 57 seconds.", "57"),
        ("apim_token_limit", 429, "Token limit is exceeded. Try again in 57 seconds.", "57"),
        ("aoai_401", 401, "Access denied due to invalid subscription key or wrong API endpoint.", None),
        ("aoai_404_deployment", 404, "The API deployment for this resource does not exist.", None),
        ("aoai_429", 429, "Requests to the ChatCompletions_Create Operation", "6"),
    ],
)
async def test_faults_are_worded_as_the_service_words_them(
    http: aiohttp.ClientSession, fault: str, status: int, message: str, retry_after: str | None
) -> None:
    assert fault in FAULTS
    async with http.get("v1/models", headers=script(fault=fault)) as answer:
        assert answer.status == status
        body = await answer.json()
        assert answer.headers.get("Retry-After") == retry_after
        assert ("WWW-Authenticate" in answer.headers) == fault.startswith("apim_key")
    if fault.startswith("apim"):
        assert list(body) == ["statusCode", "message"]
        assert body["statusCode"] == status
    else:
        assert list(body) == ["error"]
        body = body["error"]
    assert body["message"].startswith(message)


@pytest.mark.parametrize("header", ["{", "[]", '{"fault": "unheard of"}'])
async def test_a_script_that_makes_no_sense_is_a_400(http: aiohttp.ClientSession, header: str) -> None:
    async with http.get("v1/models", headers={"x-standin": header}) as answer:
        assert answer.status == 400
        assert "x-standin" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_download_has_the_bytes_asked_for(http: aiohttp.ClientSession, chunked: bool) -> None:
    size = 200_001
    async with http.get("v1/models", headers=script(download=size, chunked=chunked)) as answer:
        content = await answer.read()
        assert answer.headers.get("Content-Length") == (None if chunked else str(size))
    assert content == b"".join(
        download_chunk(start, min(65_536, size - start)) for start in range(0, size, 65_536)
    )


async def test_an_upload_of_any_size_is_counted_and_not_kept(
    standin: Standin, http: aiohttp.ClientSession
) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1024 * 1024)

    headers = {"x-request-id": "large", **script(upload=True)}
    async with http.post("v1/files", data=blocks(), headers=headers) as answer:
        digest = hashlib.sha256(bytes(64 * 1024 * 1024)).hexdigest()
        assert await answer.json() == {"length": 64 * 1024 * 1024, "sha256": digest}
    assert len(standin.received["large"].body) == 64 * 1024


async def test_a_cut_stream_ends_visibly(standin: Standin, http: aiohttp.ClientSession) -> None:
    headers = {"x-request-id": "cut", **script(cut_after=3)}
    async with http.post("v1/chat/completions", headers=headers) as answer:
        events = [await answer.content.readuntil(b"\n\n") for _ in range(3)]
        assert all(event.startswith(b"data: ") for event in events)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert (await standin.ended("cut")).ended == "error"


async def test_a_stream_can_be_cut_before_its_first_event(http: aiohttp.ClientSession) -> None:
    async with http.post("v1/chat/completions", headers=script(cut_after=0)) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


async def test_a_delay_and_cors_headers_go_with_the_built_in_answer(http: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with http.get("v1/models", headers=script(delay=0.05, cors=True)) as answer:
        assert loop.time() - began >= 0.05
        assert answer.headers.getall("Access-Control-Allow-Origin") == ["*"]
        assert (await answer.json())["object"] == "list"


# As a program


async def test_the_program_says_where_it_listens_and_stops_on_sigterm() -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devhost.standin", "--port", "0", "--key", "k"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout
    line = (await program.stdout.readline()).decode().strip()
    assert line.startswith("standin listening on http://127.0.0.1:")
    async with (
        aiohttp.ClientSession(headers={"api-key": "k"}) as session,
        session.get(f"{line.rpartition(' ')[2]}/v1/models") as answer,
    ):
        assert answer.status == 200
    program.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(program.wait(), 5) == 0
