"""A request and its response as the app sees them: ASGI's, without a framework.

https://asgi.readthedocs.io/en/latest/specs/www.html. Starlette's own take 10 ms of a cold start (bench/NOTES.md).
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

from shim.headers import Headers

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]


class HeaderMap(Mapping[str, str]):
    """Headers by their lower-case names; of one that came several times, the first. `raw` has them as they came."""

    __slots__ = ("raw",)

    def __init__(self, raw: Headers) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode("latin-1")
        for each, value in self.raw:
            if each == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self.raw))

    def __len__(self) -> int:
        return len({name for name, _ in self.raw})


class Request:
    """What an HTTP function is given. `receive` gives the body as it arrives, and then the caller's disconnect."""

    __slots__ = ("headers", "method", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.headers = HeaderMap(scope["headers"])


class Response:
    """What an HTTP function returns: sent with exactly these headers."""

    def __init__(self, status_code: int, raw_headers: Headers, body: bytes = b"") -> None:
        self.status_code = status_code
        self.raw_headers = raw_headers
        self.body = body

    @property
    def headers(self) -> HeaderMap:
        return HeaderMap(self.raw_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
