"""A request and its response as the app sees them.

A request is ASGI's (https://asgi.readthedocs.io/en/latest/specs/www.html). A response is not: ASGI's `send` must be
awaited for each piece of a body, which costs as much as what it does (bench/NOTES.md).
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from shim.headers import Headers

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]


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


class Outlet(Protocol):
    """Where a response goes: once begun, its body in pieces, and then its end.

    To a caller who has left nothing is sent, and nobody need ask.
    """

    @property
    def is_writable(self) -> bool:
        """Whether more can be taken at once."""
        ...

    def begin(self, status: int, headers: Headers) -> None:
        """Raises ValueError for what HTTP cannot say."""

    def write(self, body: bytes) -> bool:
        """Whether `is_writable` still holds; else `drain` waits for it. Raises ValueError as `begin` does."""
        ...

    async def drain(self) -> None:
        """Waits until the caller has taken enough of what was written."""

    def end(self) -> None:
        """Raises ValueError as `begin` does."""


class Response:
    """What an HTTP function returns: sent with exactly these headers."""

    def __init__(self, status_code: int, raw_headers: Headers, body: bytes = b"") -> None:
        self.status_code = status_code
        self.raw_headers = raw_headers
        self.body = body

    @property
    def headers(self) -> HeaderMap:
        return HeaderMap(self.raw_headers)

    async def send(self, outlet: Outlet) -> None:
        outlet.begin(self.status_code, self.raw_headers)
        outlet.write(self.body)
        outlet.end()
