"""Unmodified OpenAI SDKs through the shim, in the real worker, to a legacy API.

That is the promise of the whole product, in its users' own words.
"""

import asyncio
import json

import httpx2
import pytest
from openai import (
    APIStatusError,
    AsyncAzureOpenAI,
    AsyncOpenAI,
    AuthenticationError,
    AzureOpenAI,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from devhost.host import Host
from devhost.standin import Standin
from tests.conftest import API_VERSION, KEY, StartHost

type Client = AsyncOpenAI | AsyncAzureOpenAI

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, shim!"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}


@pytest.fixture(params=["OpenAI", "AzureOpenAI"])
def client(request: pytest.FixtureRequest, openai: AsyncOpenAI, azure: AsyncAzureOpenAI) -> Client:
    return openai if request.param == "OpenAI" else azure


async def test_a_chat_completion_comes_back(client: Client) -> None:
    completion = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert completion.choices[0].message.content == "You said: Hello, shim!"


async def test_a_chat_completion_is_streamed(client: Client) -> None:
    stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(pieces) == "You said: Hello, shim!"
    assert len(pieces) > 1


async def test_tools_are_called(client: Client) -> None:
    completion = await client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER])
    calls = completion.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert "location" in json.loads(calls[0].function.arguments)


async def test_embeddings_come_back_decoded(client: Client) -> None:
    answer = await client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [embedding.index for embedding in answer.data] == [0, 1]
    assert sum(number * number for number in answer.data[0].embedding) == pytest.approx(1, abs=1e-3)


async def test_a_response_is_created_streamed_and_retrieved(client: Client) -> None:
    created = await client.responses.create(model="gpt-4o", input="Hello")
    assert "Hello" in created.output_text
    assert (await client.responses.retrieve(created.id)).output_text == created.output_text
    stream = await client.responses.create(model="gpt-4o", input="Hello", stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


async def test_a_file_is_uploaded_listed_and_read(client: Client) -> None:
    content = b'{"custom_id": "1"}\n' * 1000
    uploaded = await client.files.create(file=("batch.jsonl", content), purpose="batch")
    assert uploaded.bytes == len(content)
    assert uploaded.id in [file.id for file in (await client.files.list()).data]
    assert (await client.files.content(uploaded.id)).content == content


async def test_audio_is_transcribed(client: Client) -> None:
    recording = b"RIFF" + bytes(2_000_000)
    transcription = await client.audio.transcriptions.create(model="whisper", file=("talk.wav", recording))
    assert "talk.wav" in transcription.text
    assert str(len(recording)) in transcription.text


async def test_speech_comes_back_as_bytes(client: Client) -> None:
    speech = await client.audio.speech.create(model="tts", voice="alloy", input="Hello")
    assert len(speech.content) > 100


async def test_models_are_listed(client: Client) -> None:
    assert "gpt-4o" in [model.id for model in (await client.models.list()).data]


@pytest.mark.parametrize("kind", ["OpenAI", "AzureOpenAI"])
async def test_the_synchronous_clients_work_as_well(host: Host, kind: str) -> None:
    def converse() -> tuple[str | None, str]:
        with (
            OpenAI(base_url=f"{host.url}/v1", api_key=KEY)
            if kind == "OpenAI"
            else AzureOpenAI(azure_endpoint=host.url, api_key=KEY, api_version=API_VERSION)
        ) as client:
            plain = client.chat.completions.create(model="gpt-4o", messages=HELLO)
            stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            return plain.choices[0].message.content, streamed

    assert await asyncio.to_thread(converse) == ("You said: Hello, shim!", "You said: Hello, shim!")


async def test_a_wrong_key_raises_authentication_error(host: Host) -> None:
    async with AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key="not-a-key") as client:
        with pytest.raises(AuthenticationError, match="subscription key is not known here") as raised:
            await client.models.list()
    assert raised.value.code == "invalid_api_key"
    assert "not-a-key" not in str(raised.value)


async def test_a_missing_model_raises_bad_request_error(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="Name a `model`") as raised:
        await openai.post("/chat/completions", body={"messages": []}, cast_to=httpx2.Response)
    assert (raised.value.code, raised.value.param) == ("model_required", "model")


async def test_an_unknown_deployment_raises_not_found_error(client: Client) -> None:
    with pytest.raises(NotFoundError, match="deployment") as raised:
        await client.chat.completions.create(model="gpt-99", messages=HELLO)
    assert raised.value.code == "DeploymentNotFound"


async def test_a_rate_limit_raises_rate_limit_error_with_its_wait(client: Client) -> None:
    with pytest.raises(RateLimitError) as raised:
        await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, extra_headers={"x-standin": '{"fault": "aoai_429"}'}
        )
    assert "retry after" in str(raised.value)


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ({"hang": True}, 504, "upstream_timeout"),
        ({"status": 503, "body": {"error": {"message": "busy"}}}, 503, None),
    ],
    ids=["a timeout of the shim", "an error of upstream"],
)
async def test_server_errors_raise_internal_server_error(
    start_host: StartHost, script: dict[str, object], status: int, code: str | None
) -> None:
    host = await start_host(UPSTREAM_FIRST_BYTE_TIMEOUT="0.3")
    async with AsyncOpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(InternalServerError) as raised:
            await client.models.list(extra_headers={"x-standin": json.dumps(script)})
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.message


async def test_a_timeout_is_not_repeated_by_the_sdk(start_host: StartHost, standin: Standin) -> None:
    """Each repetition would be run, and billed, again."""
    host = await start_host(UPSTREAM_FIRST_BYTE_TIMEOUT="0.3")
    async with AsyncOpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=2) as client:
        with pytest.raises(InternalServerError):
            await client.models.list(extra_headers={"x-standin": '{"hang": true}'})
    assert standin.latest is not None
    # With a repetition, the newest request would say 2.
    assert standin.latest.header("x-stainless-retry-count") == "0"


async def test_request_ids_lead_from_the_client_to_upstream(openai: AsyncOpenAI, standin: Standin) -> None:
    await openai.models.list(extra_headers={"x-request-id": "of-the-caller"})
    assert standin.received["of-the-caller"].method == "GET"


async def test_status_errors_carry_upstreams_request_id(openai: AsyncOpenAI) -> None:
    with pytest.raises(APIStatusError) as raised:
        await openai.models.retrieve("gpt-99")
    assert raised.value.request_id
