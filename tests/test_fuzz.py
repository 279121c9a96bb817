"""A few seconds of the fuzz that `make fuzz` runs for minutes, from one seed: the same calls each time.

It sends what nobody thought of; here it notices a regression before the long run does.
"""

from random import Random

import pytest

from devhost.spawning import Loop
from tests.fuzz.calls import base_call, tag, tags_in
from tests.fuzz.campaign import started
from tests.fuzz.mutations import MUTATIONS, mutate_bytes
from tests.fuzz.scenarios import SCENARIOS
from tests.fuzz.upstream import HOSTILE, SOUND, UNASKED, Asked

SEED = 20


@pytest.mark.parametrize("name", ["callers", "both-tls"])
async def test_random_callers_and_upstreams_meet_no_defect(name: str, loop: Loop) -> None:
    async with started(SCENARIOS[name], SEED, loop) as one:
        await one.run(seconds=2.5, first=1, most=250)
        assert one.tally.failures == []
        assert one.tally.mixed == 0
        assert one.tally.calls >= 20


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_makes_bytes_of_every_call(name: str) -> None:
    for number in range(1, 60):
        rng = Random(number)
        call = base_call(rng, number)
        before = call.render(), call.cuts, call.leaves, call.half_closes
        MUTATIONS[name][1](rng, call)
        assert isinstance(call.render(), bytes)
        if name in ("path", "parameter", "broken line", "credential", "cuts", "leaves", "half-closes"):
            assert (call.render(), call.cuts, call.leaves, call.half_closes) != before


@pytest.mark.parametrize("name", SOUND | HOSTILE | UNASKED)
def test_the_same_seed_gives_the_same_response(name: str) -> None:
    script = (SOUND | HOSTILE | UNASKED)[name]
    first, second = (script(Random(7), Asked(tag(1), to_head=False)) for _ in range(2))
    assert first == second != []


def test_a_tag_is_found_and_a_mutated_one_is_none() -> None:
    assert tags_in(b"a" + tag(3) + b"b" + tag(12)) == {3, 12}
    altered = [mutate_bytes(Random(seed), tag(3)) for seed in range(300)]
    assert all(tags_in(content) <= {3} for content in altered)
