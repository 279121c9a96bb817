"""Raw sockets, for what client libraries never send and for seeing how an answer ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from devhost.process import Function, Worker

_PATIENCE_SECONDS = 20


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    # False where the connection ended before the body did, by its own framing.
    whole: bool = False
    chunks: list[bytes] = field(default_factory=list)

    def named(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other == name]


class Wire:
    """One connection: bytes go out as they are given, answers are parsed by h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = h11.Connection(h11.CLIENT)

    async def send(self, content: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError("the server has closed")  # uvloop raises RuntimeError
        self.writer.write(content)
        await self.writer.drain()

    async def head(self, *, to_head: bool = False) -> Answer:
        """The answer's head; `chunk` then gives its body. An answer `to_head` has none."""
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(
            h11.Request(method="HEAD" if to_head else "GET", target="/", headers=[("host", "any")])
        )
        self._parser.send(h11.EndOfMessage())
        event = await self._event()
        assert isinstance(event, h11.Response), event
        headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        return Answer(event.status_code, headers)

    async def chunk(self) -> bytes | None:
        """The next bytes of the body, None at its end. Raises EOFError if the connection ends before."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return None

    async def answer(self, *, to_head: bool = False) -> Answer:
        answer = await self.head(to_head=to_head)
        try:
            while (chunk := await self.chunk()) is not None:
                answer.chunks.append(chunk)
            answer.whole = True
        except EOFError:
            """The answer stays marked as not whole."""
        answer.body = b"".join(answer.chunks)
        return answer

    def abort(self) -> None:
        """Leaves without a goodbye, as a killed process does."""
        self.writer.transport.abort()

    async def _event(self) -> object:
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                raise EOFError("the connection ended in the middle of the answer") from None
            if event is not h11.NEED_DATA:
                if isinstance(event, h11.InformationalResponse):
                    continue
                return event
            async with asyncio.timeout(_PATIENCE_SECONDS):
                try:
                    self._parser.receive_data(await self.reader.read(65536))
                except ConnectionError:
                    raise EOFError("the connection was reset in the middle of the answer") from None


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Wire]:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def exchange(url: str, request: bytes) -> Answer:
    """Sends one request on a connection of its own."""
    async with connect(url) as wire:
        await wire.send(request)
        return await wire.answer(to_head=request.startswith(b"HEAD "))


def function(worker: Worker, name: str = "openai") -> Function:
    return next(function for function in worker.functions if function.name == name)


async def invoke(worker: Worker, request: bytes, name: str = "openai") -> tuple[Answer, str | None]:
    """Sends to the worker's own server, with the invocation beside it: the answer, and how the invocation ended.

    `{id}` in the request stands for the invocation's id.
    """
    invocation_id, ended = worker.invoke(function(worker, name), {})
    answer = await exchange(worker.http_uri, request.replace(b"{id}", invocation_id.encode()))
    return answer, await asyncio.wait_for(ended, _PATIENCE_SECONDS)


def request(method: str, target: str, *headers: str, body: bytes = b"", key: str | None = None) -> bytes:
    """A request's bytes. With a key, it is the caller's; a body brings its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", "host: shim.example.com", "x-ms-invocation-id: {id}", *headers]
    if key:
        lines.append(f"authorization: Bearer {key}")
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
