"""What is known of one call, gathered while it runs, and handed over once when it is over."""

import re
import time
from collections.abc import Callable, Sequence

from shim.headers import Headers, values_of
from shim.monitoring.clients import client_of
from shim.monitoring.counts import Process
from shim.monitoring.tracing import BeginSpan, Span
from shim.monitoring.usage import Usage, UsageReader

# `"model": "…"` as a key of JSON, for bodies that go through unread; within a string its quotes would be escaped.
_MODEL = re.compile(rb'"model"\s*:\s*"([!#-\[\]-~]{1,256})"')

type Sink = Callable[[CallRecord], None]


class CallRecord:
    """One call. Everything is set where it becomes known; `end` must be called in any case, and counts once.

    Times are in seconds, of time.perf_counter; sizes are bodies' bytes. `code` is the error's, empty if all went well.
    """

    __slots__ = (
        "_meter", "_usage", "began", "client", "code", "dialect", "first_event", "has_model", "has_usage", "head",
        "is_stream", "label", "model", "operation", "over", "reason", "received", "request_id", "scheme",
        "sent", "span", "status",
    )  # fmt: skip

    def __init__(self, meter: "Meter", headers: Headers, request_id: bytes) -> None:
        self._meter = meter
        self.began = meter.clock()
        self.request_id = request_id
        self.client = client_of(headers)
        self.operation = self.dialect = self.scheme = self.label = self.model = self.code = self.reason = ""
        self.has_model = self.has_usage = self.is_stream = False
        self.received = self.sent = self.status = 0
        self.head: float | None = None
        self.first_event: float | None = None
        self.over: float | None = None
        self.span: Span | None = None
        self._usage: UsageReader | None = None

    @property
    def usage(self) -> Usage | None:
        return self._usage.usage if self._usage else None

    def begin_span(self, received: Headers, method: str, origin: str) -> Span | None:
        """The span of the request that goes upstream now, to `origin`; None where this call is not traced."""
        if self._meter.begin_span is not None and (span := self._meter.begin_span(received)) is not None:
            span.method, span.origin = method, origin
            span.began, span.started = time.time_ns(), self._meter.clock()
            self.span = span
        return self.span

    def arrived(self, chunk: bytes) -> None:
        """A piece of the request's body has come; `model` is looked for in it if nobody else reads that."""
        self.received += len(chunk)
        if self.has_model and not self.model and (found := _MODEL.search(chunk)):
            self.model = found[1].decode("ascii")

    def answered(self, status: int, headers: Headers) -> None:
        """The head of upstream's response has come."""
        self.status = status
        self.head = self._meter.clock()
        kind = next(iter(values_of(headers, b"content-type")), b"").lower()
        self.is_stream = kind.startswith(b"text/event-stream")
        textual = self.is_stream or kind.startswith(b"application/json")
        if self.has_usage and textual and status < 300 and not values_of(headers, b"content-encoding"):
            self._usage = UsageReader()

    def passed(self, chunk: bytes) -> None:
        """A piece of the response's body has gone to the caller."""
        self.sent += len(chunk)
        if self.first_event is None and self.is_stream:
            self.first_event = self._meter.clock()
            self._meter.process.streams += 1
        if self._usage is not None:
            self._usage.feed(chunk)

    def heartbeats(self, count: int) -> None:
        self._meter.process.heartbeats += count

    def refused(self, status: int, code: str) -> None:
        """The shim itself has answered."""
        self.status = status
        self.end(code)

    def end(self, code: str = "", reason: str = "") -> None:
        """The call is over; `reason` is for operators, and holds no secret."""
        if self.over is not None:
            return
        self.over = self._meter.clock()
        self.code = code or (str(self.status) if self.status >= 400 else "")
        self.reason = reason
        if self.first_event is not None:
            self._meter.process.streams -= 1
        self._meter.finish(self)


class Meter:
    """Begins records, and hands those that are over to `sinks`; `process` is what concerns no one call.

    Where calls are traced, `begin_span` begins the spans of their requests upstream.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        *,
        clock: Callable[[], float] = time.perf_counter,
        begin_span: BeginSpan | None = None,
    ) -> None:
        self.process = Process()
        self.begin_span = begin_span
        self.clock = clock
        self._sinks = tuple(sinks)

    def begin(self, headers: Headers, request_id: bytes) -> CallRecord:
        return CallRecord(self, headers, request_id)

    def finish(self, record: CallRecord) -> None:
        for sink in self._sinks:
            sink(record)
