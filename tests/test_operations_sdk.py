"""The same calls through the real SDKs, to the stand-in itself and through the shim: the same parsed results.

What users see is what their SDK makes of the bytes.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from openai._legacy_response import HttpxBinaryResponseContent
from openai.types.audio import Transcription
from pydantic import BaseModel

from devhost.host import Host
from devhost.standin import Standin
from tests.conftest import API_VERSION, KEY, StartHost

MIB = 1024 * 1024
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200).decode()


class City(BaseModel):
    name: str
    inhabitants: int


class Blocking:
    """A synchronous client, or a part of one, whose calls can be awaited: they run in a thread."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> "Blocking":
        return Blocking(getattr(self._part, name))

    async def __call__(self, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._part, *args, **options)


async def all_of(stream: Any) -> list[Any]:
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return await asyncio.to_thread(list, stream)


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hei, åpne døren! 👋"}]
WEATHER = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


async def chat(client: Any) -> object:
    plain = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, n=2, temperature=0)
    streamed = await client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    return plain, await all_of(streamed)


async def tools(client: Any) -> object:
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    first = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, tools=[tool])
    call = first.choices[0].message.tool_calls[0]
    answered = [
        *MESSAGES,
        first.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    second = await client.chat.completions.create(model="gpt-4o", messages=answered, tools=[tool])
    streamed = await client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=[tool], stream=True
    )
    return first, second, await all_of(streamed)


async def structured_output(client: Any) -> object:
    parsed = await client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=City)
    response = await client.responses.parse(model="gpt-4o", input="Which city?", text_format=City)
    return parsed, parsed.choices[0].message.parsed, response.output_parsed


async def vision(client: Any) -> object:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    question = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    return await client.chat.completions.create(model="gpt-4o", messages=[question])


async def embeddings(client: Any) -> object:
    floats = await client.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"], encoding_format="float"
    )
    return floats, await client.embeddings.create(model="text-embedding-3-small", input="a", dimensions=8)


async def completions(client: Any) -> object:
    plain = await client.completions.create(model="gpt-4o", prompt="Once")
    return plain, await all_of(await client.completions.create(model="gpt-4o", prompt="Once", stream=True))


async def responses(client: Any) -> object:
    created = await client.responses.create(model="gpt-4o", input="Hello")
    chained = await client.responses.create(model="gpt-4o", input="And?", previous_response_id=created.id)
    streamed = await all_of(await client.responses.create(model="gpt-4o", input="Hello", stream=True))
    queued = await client.responses.create(model="gpt-4o", input="Hello", background=True)
    return (
        created, chained, streamed, queued,
        await client.responses.cancel(queued.id),
        await client.responses.retrieve(created.id),
        (await client.responses.input_items.list(chained.id)).data,
        await client.responses.delete(created.id),
    )  # fmt: skip


async def files_and_batches(client: Any) -> object:
    content = b'{"custom_id": "1"}\r\n\x00\xff' * 5000
    uploaded = await client.files.create(file=("å.jsonl", content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"a": "b"},
    )
    batches = (await client.batches.list()).data
    return (
        uploaded, batch,
        [each for each in batches if each.id == batch.id],
        await client.batches.retrieve(batch.id),
        await client.batches.cancel(batch.id),
        [each for each in (await client.files.list(purpose="batch")).data if each.id == uploaded.id],
        (await client.files.content(uploaded.id)).content == content,
        await client.files.delete(uploaded.id),
    )  # fmt: skip


async def transcription_with_the_model_last(client: Any) -> object:
    recording = bytes(range(256)) * (20 * MIB // 256)
    in_azure = isinstance(getattr(client, "_part", client), AzureOpenAI | AsyncAzureOpenAI)
    return await client.post(
        f"{'/deployments/whisper' if in_azure else ''}/audio/transcriptions",
        body={},
        files=[("file", ("talk.wav", recording, "audio/wav")), ("model", (None, b"whisper"))],
        options={"headers": {"Content-Type": "multipart/form-data"}},
        cast_to=Transcription,
    )


async def audio(client: Any) -> object:
    file = ("talk.mp3", b"ID3" * 1000)
    heard = await client.audio.transcriptions.create(
        model="whisper", file=file, response_format="verbose_json"
    )
    translated = await client.audio.translations.create(model="whisper", file=file)
    spoken = await client.audio.speech.create(
        model="tts", voice="alloy", input="One two three", response_format="wav"
    )
    return heard, translated, spoken


async def images(client: Any) -> object:
    made = await client.images.generate(model="dall-e-3", prompt="A fjord")
    return made, await client.images.edit(
        model="dall-e-3", image=("a.png", b"\x89PNG" * 500), prompt="With a boat"
    )


async def vector_stores(client: Any) -> object:
    made = await client.vector_stores.create(name="papers")
    return (
        made,
        await client.vector_stores.retrieve(made.id),
        [each for each in (await client.vector_stores.list()).data if each.id == made.id],
        await client.vector_stores.delete(made.id),
    )


async def assistants(client: Any) -> object:
    made = await client.beta.assistants.create(model="gpt-4o", name="Kari", instructions="Be brief.")
    thread = await client.beta.threads.create()
    message = await client.beta.threads.messages.create(thread.id, role="user", content="Hello")
    run = await client.beta.threads.runs.create(thread.id, assistant_id=made.id)
    done = await client.beta.threads.runs.retrieve(run.id, thread_id=thread.id)
    said = (await client.beta.threads.messages.list(thread.id)).data
    return made, thread, message, run, done, said, await client.beta.assistants.delete(made.id)


async def stored_completions(client: Any) -> object:
    made = await client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, store=True, metadata={"a": "b"}
    )
    listed = (await client.chat.completions.list()).data
    return [each for each in listed if each.id == made.id], await client.chat.completions.retrieve(made.id)


async def models(client: Any) -> object:
    return (await client.models.list()).data, await client.models.retrieve("gpt-4o")


SCENARIOS: list[Callable[[Any], Awaitable[object]]] = [
    chat, tools, structured_output, vision, embeddings, completions, responses, files_and_batches,
    transcription_with_the_model_last, audio, images, vector_stores, assistants, stored_completions, models,
]  # fmt: skip
# The client, and the API behind the shim.
WAYS = [
    ("OpenAI", "legacy"),
    ("AsyncOpenAI", "legacy"),
    ("AzureOpenAI", "legacy"),
    ("AsyncAzureOpenAI", "legacy"),
    ("AsyncOpenAI", "v1"),
    ("AsyncAzureOpenAI", "v1"),
]


def clients(host: str, v1_url: str) -> dict[str, Any]:
    """The clients of one API: at `host` for AzureOpenAI, at `v1_url` for OpenAI."""
    options: dict[str, Any] = {"api_key": KEY, "max_retries": 0}
    # APIM takes the key in `api-key` alone; the shim from either.
    v1: dict[str, Any] = {"base_url": v1_url, "default_headers": {"api-key": KEY}, **options}
    azure: dict[str, Any] = {"azure_endpoint": host, "api_version": API_VERSION, **options}
    return {
        "OpenAI": OpenAI(**v1),
        "AsyncOpenAI": AsyncOpenAI(**v1),
        "AzureOpenAI": AzureOpenAI(**azure),
        "AsyncAzureOpenAI": AsyncAzureOpenAI(**azure),
    }


async def close(clients: dict[str, Any]) -> None:
    for client in clients.values():
        if isinstance(client, OpenAI):
            client.close()
        else:
            await client.close()


@pytest.fixture(scope="session")
async def straight(standin: Standin) -> AsyncIterator[dict[str, Any]]:
    """Clients of the stand-in itself."""
    made = clients(standin.base_url.removesuffix("/openai"), standin.v1_base_url)
    yield made
    await close(made)


@pytest.fixture(scope="session")
async def through(host: Host, start_host: StartHost) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """Clients of two shims, by the API behind them."""
    hosts = {"legacy": host, "v1": await start_host(APIM_API="v1")}
    made = {api: clients(host.url, f"{host.url}/openai/v1") for api, host in hosts.items()}
    yield made
    for each in made.values():
        await close(each)


def plain(result: object) -> Any:
    """The result as plain data, without what differs from one call to the next: ids and times."""
    if isinstance(result, BaseModel):
        return plain(result.model_dump(warnings=False))
    if isinstance(result, HttpxBinaryResponseContent):
        return result.content
    if isinstance(result, dict):
        return {
            name: 0 if re.search(r"(created|_at)$", name) else plain(value) for name, value in result.items()
        }
    if isinstance(result, list | tuple):
        return [plain(item) for item in result]
    if isinstance(result, str):
        return re.sub(r"(?<=[a-z][-_])[0-9a-f]{24}", "…", result)
    return result


# Assistants are: the SDK says so on each of their calls.
@pytest.mark.filterwarnings("ignore:(deprecated|The Assistants API):DeprecationWarning")
@pytest.mark.parametrize(("kind", "api"), WAYS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_through_the_shim_as_to_the_service_itself(
    scenario: Callable[[Any], Awaitable[object]],
    kind: str,
    api: str,
    straight: dict[str, Any],
    through: dict[str, dict[str, Any]],
    standin: Standin,
) -> None:
    expected, got = [
        plain(await scenario(Blocking(client) if isinstance(client, OpenAI) else client))
        for client in (straight[kind], through[api][kind])
    ]
    assert expected
    assert got == expected
    assert standin.latest is not None
    assert standin.latest.target.startswith("/openai/v1/") == (api == "v1")
    if scenario is transcription_with_the_model_last:
        assert standin.latest.body_length > 20 * MIB
        assert b'name="model"' not in standin.latest.body
