"""Who calls, in the client's own words: a name and a major version from a fixed list.

Callers choose these headers, so anything but a fixed list would let them fill the metrics with series of their own;
and `usage --retire` tells pages by these names.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.headers import Headers
from shim.monitoring.clients import MAX_MAJOR, NAMES, client_of

NODE: Headers = [(b"x-stainless-lang", b"js"), (b"x-stainless-package-version", b"6.1.0")]


def agent(text: str) -> Headers:
    return [(b"user-agent", text.encode())]


def sdk(language: str, version: str = "2.1.0") -> Headers:
    """What all of OpenAI's own SDKs send."""
    return [(b"x-stainless-lang", language.encode()), (b"x-stainless-package-version", version.encode())]


CLIENTS: dict[str, tuple[Headers, str]] = {
    "OpenAI's SDK for Python": (
        [(b"x-stainless-lang", b"python"), (b"x-stainless-package-version", b"3.52.0")],
        "openai-python/3",
    ),
    "OpenAI's SDK in Node": ([*NODE, (b"x-stainless-runtime", b"node")], "openai-node/6"),
    "OpenAI's SDK in a page": ([*NODE, (b"x-stainless-runtime", b"browser:chrome")], "openai-browser/6"),
    "OpenAI's SDK for .NET": (agent("OpenAI/2.1.0 (.NET 8.0.1; Linux)"), "openai-dotnet/2"),
    "Azure's SDK for .NET": (agent("azsdk-net-AI.OpenAI/2.1.0 (.NET 8)"), "azure-openai-dotnet/2"),
    "OpenAI's SDK for Python by its agent": (agent("OpenAI/Python 1.2.3"), "openai-python/1"),
    "an agent that goes on before a known name": (agent("AsyncOpenAI/Python 1.2.3"), "other"),
    "curl": (agent("curl/8.5.0"), "curl/8"),
    "two names, of which the list has one first": (agent("Mozilla/5.0 (X11; Linux x86_64) curl/8"), "curl/8"),
    "a page's own fetch": (agent("Mozilla/5.0 (X11) Chrome/156.0"), "browser/5"),
    "what nobody knows": (agent("my-tool/1"), "other"),
    "a key": (agent("sk-my-secret-key"), "other"),
    "a version that is made up": (
        [(b"x-stainless-lang", b"js"), (b"x-stainless-package-version", b"999.1")],
        "openai-node",
    ),
    "nothing at all": ([], "other"),
    "OpenAI's SDK for JavaScript": (sdk("js"), "openai-node/2"),
    "OpenAI's SDK for Java": (sdk("java"), "openai-java/2"),
    "OpenAI's SDK for Java, used from Kotlin": (sdk("kotlin"), "openai-java/2"),
    "OpenAI's SDK for Go": (sdk("go"), "openai-go/2"),
    "OpenAI's SDK for Ruby": (sdk("ruby"), "openai-ruby/2"),
    "OpenAI's SDK for C#": (sdk("csharp"), "openai-dotnet/2"),
    "a language in letters of another case": (sdk("Python"), "openai-python/2"),
    "an SDK that says no version": ([(b"x-stainless-lang", b"python")], "openai-python"),
    "an SDK whose user replaced its agent": ([*sdk("go"), *agent("curl/8.5.0")], "openai-go/2"),
    "an SDK in a language that is new": ([*sdk("rust"), *agent("curl/8.5.0")], "curl/8"),
    "OpenAI's SDK in Node by its agent": (agent("OpenAI/JS 4.104.0"), "openai-node/4"),
    "Azure's SDK for .NET, which names OpenAI's too": (
        agent("azsdk-net-AI.OpenAI/1.3.0 (.NET 8) OpenAI/2.1.0"),
        "azure-openai-dotnet/1",
    ),
    "Azure's SDK for Java": (agent("azsdk-java-azure-ai-openai/1.0.0-beta.16"), "azure-openai-java/1"),
    "Azure's SDK for inference": (agent("azsdk-python-ai-inference/1.0.0b9"), "azure-ai-inference-python/1"),
    "LiteLLM": (agent("litellm/1.72.6"), "litellm/1"),
    "Vercel's AI SDK": (agent("ai/5.0.1 ai-sdk/provider-utils/3.0.9 runtime/node.js/22"), "vercel-ai-sdk/3"),
    "Postman": (agent("PostmanRuntime/7.43.0"), "postman/7"),
    "requests": (agent("python-requests/2.32.3"), "python-requests/2"),
    "httpx": (agent("python-httpx/0.28.1"), "python-httpx/0"),
    "aiohttp": (agent("Python/3.13 aiohttp/3.11.11"), "python-aiohttp/3"),
    "Go's own client": (agent("Go-http-client/2.0"), "go-http/2"),
    "OkHttp": (agent("okhttp/4.12.0"), "okhttp/4"),
    "axios": (agent("axios/1.7.9"), "axios/1"),
    "the last major version that is told": (agent("curl/20.1"), "curl/20"),
    "the first that is not": (agent("curl/21.1"), "curl"),
    "a name without a version": (agent("curl/"), "curl"),
    "a name beyond what is looked at": (agent("x" * 255 + " curl/8"), "other"),
}


@pytest.mark.parametrize(("headers", "name"), CLIENTS.values(), ids=CLIENTS)
def test_a_client_is_known_by_its_name_and_major_version(headers: Headers, name: str) -> None:
    assert client_of(headers) == name
    assert name.partition("/")[0] in NAMES


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=80))
def test_no_header_makes_a_client_that_is_not_in_the_list(lang: bytes, version: bytes, agent: bytes) -> None:
    found = client_of(
        [(b"x-stainless-lang", lang), (b"x-stainless-package-version", version), (b"user-agent", agent)]
    )
    name, _, major = found.partition("/")
    assert name in NAMES
    assert not major or int(major) <= MAX_MAJOR
