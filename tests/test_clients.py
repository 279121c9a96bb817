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
