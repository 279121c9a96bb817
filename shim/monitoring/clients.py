"""Which client library calls: its name and major version, out of a fixed list. Pure."""

import re
from functools import lru_cache

from shim.headers import Headers

OTHER = "other"
# Of OpenAI's own SDKs, which Stainless generates: `x-stainless-lang` and `x-stainless-package-version`.
_LANGUAGES = {
    "python": "openai-python",
    "js": "openai-node",
    "java": "openai-java",
    "kotlin": "openai-java",
    "go": "openai-go",
    "ruby": "openai-ruby",
    "csharp": "openai-dotnet",
}
# OpenAI's JavaScript SDK in a page says so in `x-stainless-runtime` (its src/internal/detect-platform.ts).
IN_PAGE = "openai-browser"
# Of all others, by what their User-Agent begins with, or has in it; the first that is found.
_AGENTS = (
    ("azsdk-net-ai.openai/", "azure-openai-dotnet"),
    ("azsdk-java-azure-ai-openai/", "azure-openai-java"),
    ("azsdk-python-ai-inference/", "azure-ai-inference-python"),
    ("litellm/", "litellm"),
    ("ai-sdk/", "vercel-ai-sdk"),
    ("openai/python ", "openai-python"),
    ("openai/js ", "openai-node"),
    ("openai/", "openai-dotnet"),
    ("postmanruntime/", "postman"),
    ("python-requests/", "python-requests"),
    ("python-httpx/", "python-httpx"),
    ("aiohttp/", "python-aiohttp"),
    ("go-http-client/", "go-http"),
    ("okhttp/", "okhttp"),
    ("axios/", "axios"),
    ("curl/", "curl"),
    ("mozilla/", "browser"),
)
NAMES = frozenset([*_LANGUAGES.values(), IN_PAGE, *(name for _, name in _AGENTS), OTHER])
# Above it the name stands alone, so that a caller who makes versions up makes no series.
MAX_MAJOR = 20
_VERSION = re.compile(r"\D*(\d{1,3})")


def client_of(headers: Headers) -> str:
    """`openai-python/3`, say; `other` for what is not in the list."""
    language = version = agent = runtime = b""
    for name, value in headers:
        if name == b"user-agent":
            agent = value[:256]
        elif name == b"x-stainless-lang":
            language = value[:32]
        elif name == b"x-stainless-package-version":
            version = value[:32]
        elif name == b"x-stainless-runtime":
            runtime = value[:32]
    return _client(language, version, agent, runtime.startswith(b"browser"))


@lru_cache(maxsize=512)
def _client(language: bytes, version: bytes, agent: bytes, in_page: bool) -> str:
    if name := _LANGUAGES.get(language.decode("latin-1").lower()):
        return _with_major(IN_PAGE if in_page else name, version.decode("latin-1"))
    text = agent.decode("latin-1").lower()
    for mark, name in _AGENTS:
        before, found, after = text.partition(mark)
        if found and (not before or before.endswith(" ")):
            return _with_major(name, after)
    return OTHER


def _with_major(name: str, version: str) -> str:
    match = _VERSION.match(version)
    return f"{name}/{match[1]}" if match and int(match[1]) <= MAX_MAJOR else name
