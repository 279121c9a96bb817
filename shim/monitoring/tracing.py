"""A span for each request upstream: its ids, its `traceparent`, and what is exported of it. Pure.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from shim.headers import Headers, values_of
from shim.settings import Sampler

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"
# The version, the trace, its parent, and the flags. What follows in versions to come is theirs (section 3.2.4).
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 1
# Level 2 of the recommendation: the trace's id was drawn at random. It stays as the caller says.
_RANDOM = 2

type BeginSpan = Callable[[Headers], Span | None]


class Parent(NamedTuple):
    """The caller's span, out of its `traceparent`."""

    trace_id: str
    span_id: str
    flags: int


class Span:
    """A request upstream while it runs. `began` is in nanoseconds since 1970, `started` by the meter's clock.

    `replaced` are the caller's headers in whose place `traceparent` goes upstream; `status` is upstream's own, 0 until
    it has responded.
    """

    __slots__ = (
        "began",
        "flags",
        "method",
        "origin",
        "parent_id",
        "span_id",
        "started",
        "status",
        "trace_id",
    )

    def __init__(self, parent: Parent | None) -> None:
        self.trace_id = parent.trace_id if parent else _new_id(128)
        self.parent_id = parent.span_id if parent else ""
        self.span_id = _new_id(64)
        self.flags = (parent.flags & _RANDOM if parent else 0) | _SAMPLED
        self.method = self.origin = ""
        self.began = self.status = 0
        self.started = 0.0

    @property
    def traceparent(self) -> bytes:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()

    @property
    def replaced(self) -> tuple[bytes, ...]:
        """A new trace begins without the state of one that nobody could make out (section 3.3.1)."""
        return (TRACEPARENT,) if self.parent_id else (TRACEPARENT, TRACESTATE)


class SpanRecord(NamedTuple):
    """A span that has ended, as it waits for its export. Times are in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    start: int
    end: int
    method: str
    origin: str
    operation: str
    label: str
    model: str
    status: int
    error: str
    input_tokens: int | None
    output_tokens: int | None


def parent_of(headers: Headers) -> Parent | None:
    """The caller's span; None where there is none, or none that can be made out."""
    values = values_of(headers, TRACEPARENT)
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5]):
        return None
    trace_id, span_id = match[2].decode(), match[3].decode()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Parent(trace_id, span_id, int(match[4], 16))


def sampler(name: Sampler) -> BeginSpan:
    """What begins a span below the caller's, or at the root of a new trace, and gives None for a call not sampled.

    With `parentbased_always_on` the caller decides, if there is one that traces.
    """

    def begin(headers: Headers) -> Span | None:
        parent = parent_of(headers)
        sampled = parent is None or always or parent.flags & _SAMPLED
        return Span(parent) if sampled else None

    always = name == "always_on"
    return begin


def _new_id(bits: int) -> str:
    while not (drawn := random.getrandbits(bits)):
        """Ids that are all zeros mean none."""
    return f"{drawn:0{bits // 4}x}"
