"""What must hold in every scenario: no defect, no hang, no secret in a log, nobody else's bytes."""

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from devhost.azure.tls import server_tls, write_authority
from devhost.host import Host
from devhost.logs import Record
from devhost.spawning import Loop
from tests.conftest import ROOT
from tests.fuzz.calls import CANARY, Call, tags_in
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.scenarios import SETTINGS, Scenario
from tests.fuzz.upstream import HOSTILE, SOUND, Script, Upstream, running
from tests.support.wire import Answer, Wire, connect, function

CALLERS_AT_ONCE = 48
# Within which a well-formed call has its response, and an invocation its end. Two sweeps of the shim's are 30 s.
_RESPONSE_SECONDS = 15.0
_END_SECONDS = 45.0
# For which a caller waits whose request may have no end.
_DOUBTFUL_SECONDS = 0.3
# For which a failure is made again, with less and less of its request.
_REPRODUCING_SECONDS = 15.0
# Lines at WARNING or above that hostile upstreams and callers are meant to cause.
_EXPECTED_LINES = (
    "WARNING: call {", "refused: 50",
    "response cut:", "sent a response that nobody asked for", "half arrived for too long", "setting:",
    "Invalid HTTP request received", "headers dropped", "returned without completing response",
    "No supported WebSocket library", "Unsupported upgrade request", "calls with errors got no line",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """`number` is the call's, None where only the round is known."""

    kind: str
    detail: str
    scenario: str
    number: int | None = None
    request: bytes = b""


@dataclass
class Tally:
    calls: int = 0
    seconds: float = 0
    mixed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    swept: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sent:
    """A call as it went out."""

    call: Call
    content: bytes
    through_host: bool
    number: int
    doubtful: bool


class Round:
    """Calls of one scenario, on a worker of their own."""

    def __init__(self, scenario: Scenario, seed: int, host: Host, upstream: Upstream) -> None:
        self.scenario = scenario
        self.seed = seed
        self.host = host
        self.tally = Tally()
        self._upstream = upstream
        self._give_up_at = 0.0
        self._recent: deque[int] = deque(maxlen=300)
        self._ends: dict[asyncio.Future[str | None], int] = {}

    async def run(self, seconds: float, first: int, most: int) -> None:
        """Calls numbered from `first`, until the time is up or `most` were made."""
        began = time.monotonic()
        numbers = iter(range(first, first + most))

        async def caller() -> None:
            for number in numbers:
                if time.monotonic() - began > seconds or self.tally.failures:
                    return
                self._recent.append(number)
                await self.make(number)

        watching = asyncio.create_task(self._watch_logs())
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS_AT_ONCE):
                callers.create_task(caller())
        watching.cancel()
        await self._settle()
        self._read_logs()
        self.tally.scripts = self._upstream.served
        self.tally.failures += [
            Failure("bad request upstream", fault, self.scenario.name) for fault in self._upstream.faults
        ]
        self.tally.seconds = time.monotonic() - began

    def prepare(self, number: int) -> Sent:
        call = self.scenario.call(self.seed, number)
        rng = Random(f"{self.seed}/{number}/sending")
        content, doubtful = call.render(), not call.framed
        if rng.random() < self.scenario.bytes_mutated:
            content, doubtful = mutate_bytes(rng, content) + b"\r\n\r\n", True
            call.mutations.append("bytes")
        content = _without_secrets_in_its_path(content)
        return Sent(call, content, rng.random() < self.scenario.through_host, number, doubtful)

    async def make(self, number: int) -> None:
        sent = self.prepare(number)
        self.tally.mutations.update(sent.call.mutations or ["none"])
        self.tally.calls += 1
        self.tally.failures += [failure for failure in [await self.attempt(sent)] if failure]

    async def attempt(self, sent: Sent) -> Failure | None:
        """What was wrong with the response, if anything was."""
        content, url = sent.content, self.host.url
        if not sent.through_host:
            invocation_id, ended = self.host.worker.invoke(function(self.host.worker), {})
            content = _with_id(content, invocation_id)
            url = self.host.worker.http_uri
            self._ends[ended] = sent.number
            ended.add_done_callback(lambda ended: self._ends.pop(ended, None))
        try:
            answer = await self._exchange(url, content, sent)
        except TimeoutError:
            answer = None
            if not sent.doubtful:
                return self._failure("hang", f"no response within {_RESPONSE_SECONDS:g} s", sent)
        except (EOFError, ConnectionError):
            self.tally.statuses["cut"] += 1
            return None
        if answer is None:
            self.tally.statuses["left"] += 1
            return None
        self.tally.statuses[str(answer.status)] += 1
        return self._judge(answer, sent)

    async def _exchange(self, url: str, content: bytes, sent: Sent) -> Answer | None:
        call = sent.call
        async with connect(url) as wire:
            if call.leaves is not None:
                keep = 0 if sent.through_host else content.find(b"\r\n\r\n") + 4
                await wire.send(content[: max(keep, int(len(content) * call.sends))])
                await asyncio.sleep(call.leaves)
                if sent.through_host or call.leaves >= 0.03:
                    wire.abort()  # which may take back what was sent: then the invocation ends by the sweep
                return None
            await _send_in_pieces(wire, content, call.cuts)
            if call.half_closes and not wire.writer.is_closing():
                wire.writer.write_eof()
            async with asyncio.timeout(_DOUBTFUL_SECONDS if sent.doubtful else _RESPONSE_SECONDS):
                return await wire.answer(to_head=content.startswith(b"HEAD "))

    def _judge(self, answer: Answer, sent: Sent) -> Failure | None:
        head = "".join(f"{name}: {value}\n" for name, value in answer.headers)
        everything = head.encode("latin-1") + answer.body
        if foreign := tags_in(everything) - {sent.number}:
            self.tally.mixed += 1
            if not self.scenario.answers_unasked:
                return self._failure("another caller's bytes", f"of calls {sorted(foreign)}", sent)
        if CANARY.encode() in everything:
            return self._failure("a secret in a response", repr(everything[:500]), sent)
        if answer.status == 500 and b"internal_error" in answer.body:
            return self._failure("internal_error", answer.body.decode(errors="replace"), sent)
        # The host's client sends no header that is not ASCII (HttpConnection.cs, WriteString of dotnet/runtime).
        # Nor has a response begun there before its body has.
        hostile = self.scenario.script(self.seed, sent.number)[1] in HOSTILE
        fine = not hostile and not sent.doubtful and sent.content.partition(b"\r\n\r\n")[0].isascii()
        own = answer.status == 500 and not answer.body and not answer.named("x-request-id")
        if own and fine and sent.call.method != b"HEAD":
            return self._failure("an empty 500 of the host's", head, sent)
        if self.scenario.scripts is SOUND and not sent.call.mutations and sent.call.method != b"OPTIONS":
            # The list of models is the shim's own where upstream has none.
            own = sent.call.target.startswith(b"/v1/models")
            if not own and sent.number not in tags_in(everything):
                return self._failure(
                    "upstream's response did not arrive", f"{answer.status} {answer.body[:300]!r}", sent
                )
        return None

    async def _settle(self) -> None:
        """Every invocation ends, at the latest with the second sweep of the shim's."""
        began = time.monotonic()
        # An invocation leaves the worker's list a turn of the loop before the callback of its future runs.
        while (self.host.worker.under_way or self._ends) and time.monotonic() - began < _END_SECONDS:
            await asyncio.sleep(0.05)
            if time.monotonic() - began > 5 and not self.tally.swept:
                self.tally.swept = len(self.host.worker.under_way)
        for number in list(self._ends.values()):
            self.tally.failures.append(
                self._failure("a hung invocation", "it did not end", self.prepare(number))
            )
        if len(self.host.worker.under_way) > len(self._ends):
            self.tally.failures.append(Failure("a hung invocation", "through the host", self.scenario.name))

    async def _watch_logs(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._read_logs()

    def _read_logs(self) -> None:
        records = self.host.logs.records
        while records:
            if fault := _fault_of(records.popleft()):
                self.tally.failures.append(Failure(*fault, self.scenario.name))

    def _failure(self, kind: str, detail: str, sent: Sent) -> Failure:
        return Failure(kind, detail, self.scenario.name, sent.number, sent.content)

    async def reproduce(self, failure: Failure) -> Failure:
        """The same failure of one call alone, with as little of it as still fails; as it is if it never fails again."""
        self._give_up_at = time.monotonic() + _REPRODUCING_SECONDS
        numbers = [failure.number] if failure.number is not None else list(self._recent)
        for number in numbers:
            sent = self.prepare(number)
            if await self._fails(sent, failure.kind):
                smallest = await self._shrink(sent, failure.kind)
                return Failure(failure.kind, failure.detail, failure.scenario, number, smallest)
        return failure

    async def _fails(self, sent: Sent, kind: str) -> bool:
        if time.monotonic() > self._give_up_at:
            return False
        self.tally.failures.clear()
        failure = await self.attempt(sent)
        await asyncio.sleep(0.05)
        self._read_logs()
        found = [*self.tally.failures, *([failure] if failure else [])]
        return any(one.kind == kind for one in found)

    async def _shrink(self, sent: Sent, kind: str) -> bytes:
        """Leaves out line after line, then pieces of the longest."""
        best = sent.content
        for separator, most in ((b"\r\n", 60), (b"&", 10), (b"", 20)):
            parts = (
                best.split(separator) if separator else [best[i : i + 200] for i in range(0, len(best), 200)]
            )
            for index in reversed(range(min(len(parts), most))):
                fewer = separator.join(parts[:index] + parts[index + 1 :])
                one = Sent(sent.call, fewer, sent.through_host, sent.number, sent.doubtful)
                if await self._fails(one, kind):
                    best, parts = fewer, parts[:index] + parts[index + 1 :]
        return best


def _without_secrets_in_its_path(content: bytes) -> bytes:
    """Paths are logged: a key is no secret any more once a caller has made it one."""
    line, end, rest = content.partition(b"\n")
    path, mark, query = line.partition(b"?")
    return path.replace(CANARY.encode(), b"public") + mark + query + end + rest


def _with_id(content: bytes, invocation_id: str) -> bytes:
    """With the header that the host adds, after the first line."""
    line, end, rest = content.partition(b"\n")
    return line + end + b"x-ms-invocation-id: %b\r\n" % invocation_id.encode() + rest


async def _send_in_pieces(wire: Wire, content: bytes, cuts: list[float]) -> None:
    at = [0, *(int(cut * len(content)) for cut in cuts), len(content)]
    for begin, end in itertools.pairwise(at):
        await wire.send(content[begin:end])
        if cuts:
            await asyncio.sleep(0.002)


def _fault_of(record: Record) -> tuple[str, str] | None:
    if CANARY in record.message:
        return "a logged secret", record.message
    if record.level >= 30 and not any(line in record.message for line in _EXPECTED_LINES):
        return "an unexpected line in the log", record.message
    return None


@asynccontextmanager
async def started(
    scenario: Scenario,
    seed: int,
    loop: Loop,
    script: Callable[[int], tuple[Random, str, Script]] | None = None,
) -> AsyncIterator[Round]:
    """A worker and the scenario's two upstreams, which are one server: legacy and v1 calls have a pool each."""
    upstream = Upstream(script or (lambda number: scenario.script(seed, number)))
    with contextlib.ExitStack() as files:
        authority = Path(files.enter_context(tempfile.TemporaryDirectory())) / "authority.pem"
        write_authority(authority)
        async with running(upstream, server_tls() if scenario.secure else None):
            settings = {
                **SETTINGS,
                "SSL_CERT_FILE": str(authority),
                "APIM_BASE_URL": f"{upstream.url}/api/openai",
                "UPSTREAM_FIRST_BYTE_TIMEOUT": f"{scenario.first_byte_timeout}",
            }
            settings |= {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            host = await Host.start(ROOT, settings, loop=loop)
            try:
                yield Round(scenario, seed, host, upstream)
            finally:
                await host.stop()
