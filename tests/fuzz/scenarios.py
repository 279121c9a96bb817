"""Scenarios: who misbehaves, how, and how much of the time."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from tests.fuzz.calls import KEYS, Call, base_call
from tests.fuzz.mutations import mutate
from tests.fuzz.upstream import HOSTILE, SOUND, UNASKED, Script

SETTINGS = {
    "LOCAL_SUBSCRIPTION_KEYS": ",".join(f"team-{index}={key}" for index, key in enumerate(KEYS)),
    "CORS_ORIGINS": "https://app.example.com",
    "MODEL_DEPLOYMENTS": "gpt-4o=prod,vendor/m=plain",
    "MODEL_APIS": "gpt-5=v1,old=legacy",
    "UPSTREAM_IDLE_TIMEOUT": "1.5",
    "SSE_HEARTBEAT": "0.5",
    "MAX_BODY_BYTES": "200000",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who misbehaves, and how often: `bytes_mutated` and `through_host` are shares of the calls."""

    name: str
    scripts: Mapping[str, Script]
    mutations: int
    bytes_mutated: float
    through_host: float = 0.35
    secure: bool = False
    #: Seconds. An upstream that never stalls may take its time on a busy machine.
    first_byte_timeout: float = 1.5
    #: Of the campaign's time.
    share: float = 1
    #: Mix-ups are counted and not failures: see docs/robustness.md.
    answers_unasked: bool = False

    def rng(self, seed: int, number: int) -> Random:
        return Random(f"{seed}/{self.name}/{number}")

    def call(self, seed: int, number: int) -> Call:
        call = base_call(rng := self.rng(seed, number), number)
        mutate(rng, call, self.mutations)
        return call

    def script(self, seed: int, number: int) -> tuple[Random, str, Script]:
        rng = Random(f"{seed}/{self.name}/{number}/upstream")
        name = rng.choice(list(self.scripts)) if number else "sized"
        return rng, name, self.scripts[name] if number else SOUND["sized"]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("callers", SOUND, mutations=4, bytes_mutated=0.15, first_byte_timeout=10, share=5),
        Scenario("upstreams", SOUND | HOSTILE, mutations=1, bytes_mutated=0, share=2.5),
        Scenario("both-tls", SOUND | HOSTILE, mutations=3, bytes_mutated=0.1, secure=True, share=1.5),
        Scenario("unasked", SOUND | UNASKED, mutations=1, bytes_mutated=0, share=1, answers_unasked=True),
    )
}
