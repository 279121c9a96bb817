"""What metrics cost in memory, whatever callers send; and token counts, however their bytes are cut.

Labels and models are the callers' choice: without bounds they would fill the memory of an instance.
"""

import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import KeyStoreUnavailable
from shim.keys.cache import CachedKeyStore
from shim.keys.subscription import Subscription
from shim.monitoring.counts import Process
from shim.monitoring.record import CallRecord, Meter
from shim.monitoring.tally import MAX_LABELS, MAX_MODELS, MAX_SERIES, OTHER, Key, Series, Tally
from shim.monitoring.usage import Usage, UsageReader
from tests.support.memory import traced

CLIENTS = [f"openai-python/{major}" for major in range(20)]


def record(meter: Meter, **values: Any) -> CallRecord:
    made = meter.begin([], b"id")
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_a_million_calls_take_no_more_memory_than_the_first_of_them() -> None:
    """500 labels, 50 models, 20 clients: half a million combinations."""
    tally, chance = Tally(), random.Random(1)
    labels, models = [f"team-{number}" for number in range(500)], [f"model-{number}" for number in range(50)]
    # The same record for all: what is measured is what the tally keeps of them.
    call = record(Meter(), operation="POST /chat/completions", scheme="bearer", status=200, dialect="v1")

    def add(calls: int) -> None:
        chosen = (chance.choices(among, k=calls) for among in (labels, models, CLIENTS))
        for call.label, call.model, call.client in zip(*chosen, strict=True):
            tally.add(call)
        assert len(tally.series) == MAX_SERIES + 500  # what is over is counted by label and status class

    def calls_in(series: dict[Key, Series]) -> int:
        return sum(one.duration.count for one in series.values())

    with traced() as size:
        add(100_000)
        first = size()
        assert calls_in(tally.take()) == 100_000
        add(100_000)
        second = size()
    add(700_000)
    with traced() as size:  # which makes each call take three times as long
        add(100_000)
        growth = size()
    assert first < 6_000_000
    assert abs(second - first) < 200_000
    assert growth < 200_000
    assert calls_in(tally.series) == 900_000


def test_labels_and_models_that_never_end_become_other() -> None:
    tally = Tally()
    meter = Meter([tally.add])
    for number in range(5_000):
        record(meter, label=f"label-{number}", model=f"model-{number}", status=200).end()
    assert len({key.label for key in tally.series}) == MAX_LABELS + 1
    assert len({key.model for key in tally.series}) == MAX_MODELS + 1
    assert OTHER in {key.label for key in tally.series} & {key.model for key in tally.series}
    # Those that were known before are, and no name is no other name.
    record(meter, label="label-999", model="model-199", status=200).end()
    record(meter, status=200).end()
    assert {("label-999", "model-199"), ("", "")} <= {(key.label, key.model) for key in tally.series}
    for number in range(5_000):
        record(meter, label="label-0", model=f"refused-{number}", status=404).end()
    assert {key.model for key in tally.series if key.status == "4xx"} == {OTHER}
    # An export begins nothing anew: the bounds are those of the process.
    tally.take()
    record(meter, label="label-4999", model="model-4999", status=200).end()
    record(meter, label="label-999", model="model-199", status=200).end()
    assert {(key.label, key.model) for key in tally.series} == {(OTHER, OTHER), ("label-999", "model-199")}


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_stream_is_in_flight_from_its_first_piece_to_its_end_and_not_below_zero(pieces: int) -> None:
    """One that breaks off before a first piece was never in flight."""
    meter = Meter()
    call = meter.begin([], b"id")
    call.answered(200, [(b"content-type", b"text/event-stream")])
    for _ in range(pieces):
        call.passed(b"data: {}\n\n")
    assert meter.process.streams == min(pieces, 1)
    call.end()
    assert meter.process.streams == 0


def test_over_two_exports_counts_add_up_and_the_level_of_streams_is_the_last() -> None:
    total = Process()
    for streams, heartbeats in ((5, 2), (3, 4)):
        since = Process()
        since.streams, since.heartbeats, since.lookups["cached"] = streams, heartbeats, 1
        total.merge(since)
    assert (total.streams, total.heartbeats, total.lookups) == (3, 6, {"cached": 2})


CHAT = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 19,
}
TRAP = 'they said "usage": {"prompt_tokens": 99}, "usage'
BODIES = {
    "chat": json.dumps({"choices": [{"content": TRAP}], "usage": CHAT}).encode(),
    "indented": json.dumps({"choices": [{"content": "usage"}], "usage": CHAT}, indent=4).encode(),
    "responses": json.dumps({"tools": [{"properties": {"usage": {"type": "string"}}}], "usage": RESPONSE}).encode(),
    "chat stream": b"".join(
        b"data: %s\n\n" % json.dumps(event).encode()
        for event in [{"delta": TRAP, "usage": None}] * 5 + [{"choices": [], "usage": CHAT}]
    )
    + b"data: [DONE]\n\n",
    "responses stream": b'event: response.created\ndata: {"response":{"usage":null}}\n\n'
    + b'event: response.completed\ndata: {"response":{"usage":%s,"user":null}}\n\n' % json.dumps(RESPONSE).encode(),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@given(st.data())
def test_usage_is_found_however_the_body_is_cut(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)))))
    reader = UsageReader()
    for start, end in itertools.pairwise([0, *cuts, len(body)]):
        reader.feed(body[start:end])
    assert reader.usage == Usage(input=12, output=7, cached=3, reasoning=2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage":{"type":"duration","seconds":3}}',
        b'{"usage":null}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":true}}',
        b'{"usage":{"prompt_tokens":"12"}}',
        b'{"usage":[1]}',
        b'{"usage":{' + b'"a":{' * 5000,
        b'"usage"' * 5000,
        b"",
    ],
)
def test_what_is_no_usage_is_none_and_is_not_kept(body: bytes) -> None:
    with traced() as size:
        reader = UsageReader()
        for at in range(0, len(body), 100):
            reader.feed(body[at : at + 100])
        assert size() < 6 * 1024
    assert reader.usage is None


A, B, C = "aa" * 32, "bb" * 32, "cc" * 32  # digests


async def test_key_lookups_are_counted_by_where_the_answer_came_from() -> None:
    process, now = Process(), [0.0]
    good = Subscription(digest=A, key="k" * 32, label="team-a")
    store = Answers({A: good})
    cache = CachedKeyStore(store, ttl=10, stale=100, clock=lambda: now[0], process=process)
    await cache.find(A)
    await cache.find(A)
    await cache.find(B)
    store.fails = True
    now[0] = 50
    await cache.find(A)
    with pytest.raises(KeyStoreUnavailable):
        await cache.find(C)
    assert process.lookups == {"vault": 1, "cached": 1, "refused": 1, "stale": 1, "unavailable": 1}
    assert {fault: seconds.count for fault, seconds in process.vault.items()} == {
        "": 2,
        "key_store_unavailable": 1,
    }
    await cache.close()


class Answers:
    """A key store whose answers are given."""

    def __init__(self, known: dict[str, Subscription]) -> None:
        self._known = known
        self.fails = False

    async def find(self, digest: str) -> Subscription | None:
        if self.fails:
            raise KeyStoreUnavailable("not now")
        return self._known.get(digest)

    async def digest_pages(self) -> AsyncIterator[Sequence[str]]:
        yield list(self._known)

    async def warm(self) -> None: ...
    async def check(self) -> None: ...
    async def close(self) -> None: ...


def test_every_instrument_is_documented() -> None:
    from shim.monitoring.points import ATTRIBUTES, INSTRUMENTS

    text = (Path(__file__).parent.parent / "docs/observability.md").read_text()
    assert [one.name for one in INSTRUMENTS if f"`{one.name}`" not in text] == []
    assert [name for name in ATTRIBUTES if f"`{name}`" not in text] == []
