"""`python -m tests.fuzz`: every scenario, for a time and from a seed; exit status 1 with the first failure."""

import argparse
import asyncio
import logging
import os
import sys
import time

import uvloop

from tests.fuzz.campaign import Failure, Round, Tally, started
from tests.fuzz.scenarios import SCENARIOS


async def campaign(
    seed: int, seconds: float, names: list[str], most: int = 10**6, first: int = 1
) -> dict[str, Tally]:
    """Each scenario in its share of the time; stops at the first that fails."""
    total = sum(SCENARIOS[name].share for name in names)
    tallies: dict[str, Tally] = {}
    for name in names:
        scenario = SCENARIOS[name]
        async with started(scenario, seed, "uvloop") as one:
            await one.run(seconds * scenario.share / total, first, most)
            tallies[name] = one.tally
            if one.tally.failures:
                one.tally.failures = await _smallest(one)
                break
    return tallies


async def _smallest(one: Round) -> list[Failure]:
    found = {failure.kind: failure for failure in one.tally.failures}
    return [await one.reproduce(failure) for failure in found.values()]


def report(seed: int, tallies: dict[str, Tally]) -> None:
    print(f"{'scenario':12}{'calls':>9}{'seconds':>9}{'mixed up':>10}{'failures':>10}{'ended by sweep':>16}")
    for name, tally in tallies.items():
        row = (tally.calls, round(tally.seconds), tally.mixed, len(tally.failures), tally.swept)
        print("{:12}{:>9}{:>9}{:>10}{:>10}{:>16}".format(name, *row))
        print("   ", ", ".join(f"{status}: {count}" for status, count in tally.statuses.most_common()))
    print(f"{sum(tally.calls for tally in tallies.values())} calls, seed {seed}")
    for failure in (failure for tally in tallies.values() for failure in tally.failures):
        print(f"\nFAILED: {failure.kind}: {failure.detail}\n  seed {seed}, scenario {failure.scenario}")
        if failure.number is not None:
            print(
                f"  again: python -m tests.fuzz --seed {seed} --scenario {failure.scenario} --only {failure.number}"
            )
            print(f"  request: {failure.request!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS") or 300))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FUZZ_SEED") or time.time()))
    parser.add_argument("--scenario", choices=SCENARIOS, help="this one only")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="one call, by the number that a failure names"
    )
    given = parser.parse_args()
    names = [given.scenario] if given.scenario else list(SCENARIOS)
    print(f"seed {given.seed}", flush=True)
    logging.disable()  # the host's own lines: the worker's are read from its records
    only = {"most": 1, "first": given.only} if given.only else {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tallies = runner.run(campaign(given.seed, given.seconds, names, **only))
    report(given.seed, tallies)
    sys.exit(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    main()
