"""`python -m tests.fuzz.duplicates`: how often a second response that nobody asked for becomes another caller's.

Every response comes twice. The second arrives with the first, or a moment later: then it may meet the next request on
that connection, and bytes that arrive in the instant of a request cannot be told from its response.
"""

import argparse
import asyncio
import itertools
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import uvloop

from tests.fuzz.calls import KEYS, Call, tag, tags_in
from tests.fuzz.campaign import Round, started
from tests.fuzz.scenarios import SCENARIOS
from tests.fuzz.upstream import Asked, Script, Steps
from tests.support.wire import Wire, connect


@dataclass
class Counted:
    calls: int = 0
    seconds: float = 0
    mixed: int = 0
    #: The number of calls made before the first and after the last mix-up.
    mixed_at: list[int] = field(default_factory=list)
    statuses: Counter[int | str] = field(default_factory=Counter)


def _twice(rng: Random, asked: Asked) -> Steps:
    whole = asked.sized(asked.mark)
    return [whole, rng.choice([0.0, 0.0005, 0.002, 0.005]), whole]


async def measure(calls: int, connections: int, seed: int) -> Counted:
    """Through the host, on as many connections of callers as there are calls at once."""

    def draw(number: int) -> tuple[Random, str, Script]:
        return Random(f"{seed}/{number}"), "twice", _twice

    counted, began = Counted(), time.monotonic()
    async with started(SCENARIOS["unasked"], seed, "uvloop", draw) as one:
        numbers = itertools.count(1)

        async def caller() -> None:
            async with connect(one.host.url) as wire:
                while (number := next(numbers)) <= calls:
                    await _call(wire, one, number, counted)

        async with asyncio.TaskGroup() as callers:
            for _ in range(connections):
                callers.create_task(caller())
    counted.seconds = time.monotonic() - began
    return counted


async def _call(wire: Wire, one: Round, number: int, counted: Counted) -> None:
    mark = tag(number)
    body = b'{"model":"gpt-4o","user":"%b"}' % mark
    lines = [b"authorization: Bearer " + KEYS[0].encode(), b"x-fuzz-tag: " + mark]
    call = Call(mark, b"POST", b"/v1/chat/completions", lines, body)
    await wire.send(call.render())
    answer = await wire.answer()
    counted.calls += 1
    counted.statuses[answer.status] += 1
    if tags_in(answer.body) - {number}:
        counted.mixed += 1
        counted.mixed_at.append(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3200)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(measure(given.calls, given.connections, given.seed))
    statuses = ", ".join(f"{status}: {count}" for status, count in counted.statuses.most_common())
    print(
        f"{counted.calls} calls, {given.connections} connections, {counted.seconds:.1f} s: {counted.mixed} mixed up"
    )
    print(f"of the calls numbered {counted.mixed_at}; statuses {statuses}")


if __name__ == "__main__":
    main()
