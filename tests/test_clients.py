"""Who calls, by the client's own words: bounded, and what `usage --retire` knows pages by."""

import pytest

from shim.headers import Headers
from shim.monitoring.clients import NAMES, client_of

NODE: Headers = [(b"x-stainless-lang", b"js"), (b"x-stainless-package-version", b"6.1.0")]
CLIENTS: dict[str, tuple[Headers, str]] = {
    "OpenAI's SDK for Python": (
        [(b"x-stainless-lang", b"python"), (b"x-stainless-package-version", b"3.52.0")],
        "openai-python/3",
    ),
    "OpenAI's SDK in Node": ([*NODE, (b"x-stainless-runtime", b"node")], "openai-node/6"),
    "OpenAI's SDK in a page": ([*NODE, (b"x-stainless-runtime", b"browser:chrome")], "openai-browser/6"),
    "a page's own fetch": ([(b"user-agent", b"Mozilla/5.0 (X11) Chrome/156.0")], "browser/5"),
    "what nobody knows": ([(b"user-agent", b"my-tool/1")], "other"),
    "a version that is made up": (
        [(b"x-stainless-lang", b"js"), (b"x-stainless-package-version", b"999")],
        "openai-node",
    ),
    "nothing at all": ([], "other"),
}


@pytest.mark.parametrize(("headers", "name"), CLIENTS.values(), ids=CLIENTS)
def test_a_client_is_known_by_its_name_and_major_version(headers: Headers, name: str) -> None:
    assert client_of(headers) == name
    assert name.partition("/")[0] in NAMES
