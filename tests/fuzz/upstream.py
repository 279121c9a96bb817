"""An upstream that answers as a call's tag has it draw: soundly in many forms, or as nothing sound ever would."""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from tests.fuzz.calls import KEYS, tag, tags_in
from tests.fuzz.mutations import mutate_bytes


class Do(Enum):
    RESET = "aborts the connection"
    CLOSE = "closes it as it should be"
    STALL = "says nothing more until the shim gives up"


#: Bytes go out as they are; a number is a pause in seconds.
type Step = bytes | float | Do
type Steps = list[Step]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a script may know of the request it answers."""

    mark: bytes
    to_head: bool

    def body(self, rng: Random, most: int = 200) -> bytes:
        return self.mark * rng.randint(1, most)

    def head(self, *lines: bytes, status: bytes = b"200 OK") -> bytes:
        return b"\r\n".join([b"HTTP/1.1 " + status, b"x-fuzz-tag: " + self.mark, *lines, b"", b""])

    def sized(self, body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
        return self.head(b"content-length: %d" % len(body), *lines, status=status) + (
            b"" if self.to_head else body
        )


type Script = Callable[[Random, Asked], Steps]


def in_pieces(rng: Random, content: bytes, most: int = 6) -> Steps:
    """Cut anywhere, sometimes with time between."""
    cuts = sorted(rng.randint(0, len(content)) for _ in range(rng.randint(0, most)))
    steps: Steps = []
    for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        steps += [content[begin:end], rng.choice([0.0, 0.0, 0.001, 0.01])]
    return steps


def chunks(rng: Random, content: bytes) -> bytes:
    coded = b""
    while content:
        size = rng.randint(1, len(content))
        coded += rng.choice([b"%x\r\n", b"%X\r\n", b"%04x\r\n", b"%x;ext=1\r\n", b"%x  \r\n"]) % size
        coded, content = coded + content[:size] + b"\r\n", content[size:]
    return coded + rng.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nx-trailer: a\r\n\r\n"])


def _sized(rng: Random, asked: Asked) -> Steps:
    return in_pieces(rng, asked.sized(asked.body(rng)))


def _chunked(rng: Random, asked: Asked) -> Steps:
    coded = b"" if asked.to_head else chunks(rng, asked.body(rng))
    return in_pieces(rng, asked.head(b"Transfer-Encoding: chunked") + coded)


def _until_closed(rng: Random, asked: Asked) -> Steps:
    return [*in_pieces(rng, asked.head(b"connection: close") + asked.body(rng)), Do.CLOSE]


def _events(rng: Random, asked: Asked) -> Steps:
    event = b'data: {"tag": "%b"}%b'
    breaks = rng.choice([b"\n\n", b"\r\n\r\n", b"\n"])
    content = b"".join(event % (asked.mark, breaks) for _ in range(rng.randint(1, 20))) + b"data: [DONE]\n\n"
    head = asked.head(b"content-type: text/event-stream; charset=utf-8", b"transfer-encoding: chunked")
    return in_pieces(rng, head + (b"" if asked.to_head else chunks(rng, content)), 12)


def _interim(rng: Random, asked: Asked) -> Steps:
    interim = rng.choice([b"100 Continue", b"102 Processing", b"103 Early Hints\r\nlink: </a>"])
    return [b"HTTP/1.1 %b\r\n\r\n" % interim * rng.choice([1, 3]), *_sized(rng, asked)]


def _bodiless(rng: Random, asked: Asked) -> Steps:
    return [asked.head(status=rng.choice([b"204 No Content", b"304 Not Modified"]))]


def _error(rng: Random, asked: Asked) -> Steps:
    status = rng.choice(
        [b"400 Bad", b"401 Access Denied", b"403 No", b"404 Not Found", b"429 Too Many", b"500 E", b"503 B"]
    )
    message = rng.choice(
        [b"missing subscription key", b"Operation failed", b"\\ud800", b"\xff", b"", asked.mark]
    )
    body = rng.choice([b'{"statusCode": 401, "message": "%b"}', b'{"error": {"message": "%b", "code": 1}}',
    b"<h1>%b</h1>",
                       b'{"error": "%b"}', b'["%b"', b'{"error": {"code": "%b"}}',
                       b"%b" * 1]) % message  # fmt: skip
    kind = rng.choice(
        [b"content-type: application/json", b"content-type: text/html", b"content-encoding: gzip"]
    )
    return in_pieces(
        rng, asked.sized(body, kind, b"retry-after: " + rng.choice([b"1", b"soon", b"-1"]), status=status)
    )


def _large(rng: Random, asked: Asked) -> Steps:
    return [asked.sized(asked.mark * 5_000)]


def _odd_headers(rng: Random, asked: Asked) -> Steps:
    odd = (b"x-utf8: \xc3\xa5", b"x-latin: \xe5", b"content-disposition: attachment; filename=\"\xc3\xa5.txt\"",
    b"x-tab: a\tb",
           b"set-cookie: a=b", b"server: s", b"date: never", b"access-control-allow-origin: *", b"x-empty:",
           b"connection: keep-alive, x-fuzz", b"keep-alive: timeout=5", b"x-ms-region: a", b"vary: *",
           b"x-many: 1\r\n" * 200 + b"x: 1",
           b"x-request-id: \xff", b"content-encoding: br", b"content-type: \xe5",
           b"x-long: " + b"l" * 9_000)  # fmt: skip
    return [asked.sized(asked.body(rng), *rng.choices(odd, k=rng.randint(1, 4)))]


SOUND: dict[str, Script] = {
    "sized": _sized,
    "chunked": _chunked,
    "until closed": _until_closed,
    "events": _events,
    "interim responses first": _interim,
    "no body": _bodiless,
    "an error": _error,
    "large": _large,
    "odd headers": _odd_headers,
}


def _cut_off(rng: Random, asked: Asked) -> Steps:
    whole = asked.sized(asked.body(rng)) if rng.random() < 0.5 else b"".join(
        step for step in _chunked(rng, asked) if isinstance(step, bytes)
    )  # fmt: skip
    return [*in_pieces(rng, whole[: rng.randint(0, len(whole) - 1)]), rng.choice([Do.RESET, Do.CLOSE])]


def _stalls(rng: Random, asked: Asked) -> Steps:
    whole = asked.sized(asked.body(rng))
    return [whole[: rng.randint(0, len(whole) - 1)], Do.STALL]


def _mutated(rng: Random, asked: Asked) -> Steps:
    whole = b"".join(step for step in rng.choice(list(SOUND.values()))(rng, asked) if isinstance(step, bytes))
    return [
        *in_pieces(rng, mutate_bytes(rng, whole[:2000])),
        rng.choice([Do.CLOSE, Do.RESET, Do.CLOSE, Do.STALL]),
    ]


def _no_response(rng: Random, asked: Asked) -> Steps:
    responses = (
        b"garbage\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200", b"HTTP/0.9 200 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n",
        b"\x00" * 100, b"SSH-2.0-x\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 000 Z\r\n\r\n", b"HTTP/1.1 099 Z\r\n\r\n",
        b"HTTP/1.1 600 Z\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 1000 Z\r\n\r\n", b"HTTP/1.1 -200 Z\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n\0\0",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 200 \xff\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", b"HTTP/1.1 100 C\r\n\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 30_000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, b"HTTP/1.0 200 OK\r\n\r\nold", b"ICY 200 OK\r\n\r\n",
    )  # fmt: skip
    return [*in_pieces(rng, rng.choice(responses), 2), rng.choice([Do.CLOSE, Do.RESET])]


def _misframed(rng: Random, asked: Asked) -> Steps:
    lines = (
        (b"content-length: 3", b"content-length: 4"), (b"content-length: 3", b"transfer-encoding: chunked"),
        (b"content-length: +3",),
        (b"content-length: -1",), (b"content-length: 0x3",), (b"content-length: 99999999999999999999",),
        (b"content-length: 3, 3",),
        (b"transfer-encoding: gzip, chunked",), (b"transfer-encoding: chunked, gzip",),
        (b"transfer-encoding: xchunked",),
        (b"transfer-encoding: chunked", b"transfer-encoding: chunked"), (b"transfer-encoding:\x0bchunked",),
        (b"content-length:",),
        (b"x-folded: a", b" b"), (b"no colon",), (b"x-nul: a\0b",), (b"x y: z",), (b": z",), (b"x-cr: a\rb",),
        (b"\xff: a",),
    )  # fmt: skip
    bodies = (b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"zz\r\nabc\r\n", b"-1\r\na\r\n", b"ffffffffffffffffff\r\na",
    b"3\r\nabcd\r\n0\r\n\r\n",
              b"3\nabc\n0\n\n", b"1;" + b"e" * 200_000, b"0\r\n" + b"x: y\r\n" * 30_000, b"")  # fmt: skip
    return [asked.head(*rng.choice(lines)) + rng.choice(bodies), rng.choice([Do.CLOSE, Do.RESET, Do.STALL])]


def _too_large_head(rng: Random, asked: Asked) -> Steps:
    return [asked.sized(asked.body(rng), b"x-long: " + b"l" * rng.choice([59_000, 62_000, 66_000, 120_000]))]


def _nothing(rng: Random, asked: Asked) -> Steps:
    return [rng.choice([Do.CLOSE, Do.RESET])]


HOSTILE: dict[str, Script] = {
    "cut off": _cut_off,
    "stalls": _stalls,
    "mutated": _mutated,
    "no response": _no_response,
    "misframed": _misframed,
    "a head too large for the host": _too_large_head,
    "nothing": _nothing,
}


def _twice(rng: Random, asked: Asked) -> Steps:
    whole = asked.sized(asked.body(rng))
    return [whole, rng.choice([0.0, 0.0, 0.001, 0.02]), whole]


def _too_long(rng: Random, asked: Asked) -> Steps:
    body = asked.body(rng)
    return [asked.head(b"content-length: %d" % rng.randint(0, len(body) - 1)), rng.choice([0.0, 0.005]), body]


def _late_408(rng: Random, asked: Asked) -> Steps:
    gone = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    return [asked.sized(asked.body(rng)), rng.choice([0.0, 0.001, 0.02]), gone, Do.CLOSE]


#: What arrives when nothing was asked. Bytes that come in the instant of the next request cannot be told from its own.
UNASKED: dict[str, Script] = {
    "twice": _twice,
    "longer than it says": _too_long,
    "a 408 on an idle connection": _late_408,
}


@dataclass
class Upstream:
    """`draw` gives a call's number the script for it. `faults` are requests that no shim in order would send."""

    draw: Callable[[int], tuple[Random, str, Script]]
    early: float = 0.1
    url: str = ""
    served: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    faults: list[str] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def abort(self) -> None:
        """Breaks every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while await self._serve(reader, writer):
                """One after another."""
        self._writers.discard(writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        number = min(tags_in(head), default=0)
        rng, name, script = self.draw(number)
        asked = Asked(tag(number) if number else b"untagged", head.startswith(b"HEAD "))
        self._examine(head)
        if not (is_early := rng.random() < self.early):
            self._compare(head, await _body(head, reader))
        self.served[name] += 1
        for step in script(rng, asked):
            if writer.is_closing():
                return False
            match step:
                case bytes():
                    writer.write(step)
                case float():
                    await writer.drain()
                    await asyncio.sleep(step)
                case Do.STALL:
                    await writer.drain()
                    await reader.read()
                    return False
                case Do.RESET:
                    writer.transport.abort()
                    return False
                case Do.CLOSE:
                    return False
        await writer.drain()
        if is_early:
            self._compare(head, await _body(head, reader))
        return True

    def _examine(self, head: bytes) -> None:
        """Each request that arrives is one of the shim's own making."""
        line, *lines = head.lower().split(b"\r\n")
        keys = [value for value in lines if value.startswith(b"api-key:")]
        hosts = [value for value in lines if value.startswith(b"host:")]
        if len(line.split(b" ")) != 3 or not line.endswith(b" http/1.1"):
            self.faults.append(f"a request line of no form: {line[:200]!r}")
        elif [key.removeprefix(b"api-key: ").decode() for key in keys] not in ([key] for key in KEYS) or len(
            hosts
        ) != 1:
            self.faults.append(f"a request with {len(keys)} good keys and {len(hosts)} hosts: {line[:200]!r}")

    def _compare(self, head: bytes, body: bytes) -> None:
        if len(tags_in(head + body)) > 1:
            self.faults.append(f"requests mixed: {sorted(tags_in(head + body))}")


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lines = head.lower().split(b"\r\n")
    lengths = [
        int(line.removeprefix(b"content-length:")) for line in lines if line.startswith(b"content-length:")
    ]
    if lengths:
        return await reader.readexactly(lengths[0])
    if b"transfer-encoding: chunked" not in lines:
        return b""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def running(upstream: Upstream, secure: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    server = await asyncio.start_server(upstream.accept, "127.0.0.1", 0, ssl=secure, limit=2**20)
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
    try:
        yield upstream
    finally:
        server.close()
