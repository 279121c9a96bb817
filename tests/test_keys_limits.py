"""How often a key store may be called: the budget for unknown keys, and the pause while it fails. No store runs."""

from devhost.azure.vault import Clock
from shim.keys.limits import Budget, Outage


def taken(budget: Budget, attempts: int) -> int:
    return sum(budget.take() for _ in range(attempts))


def test_a_budget_begins_with_its_burst_and_refills_at_its_rate() -> None:
    clock = Clock()
    budget = Budget(burst=3, per_second=0.5, clock=clock)
    assert taken(budget, 5) == 3
    clock.advance(1.9)
    assert taken(budget, 5) == 0
    clock.advance(0.1)
    assert taken(budget, 5) == 1
    clock.advance(4)
    assert taken(budget, 5) == 2


def test_a_budget_that_is_not_spent_grows_no_further_than_its_burst() -> None:
    clock = Clock()
    budget = Budget(burst=3, per_second=1, clock=clock)
    clock.advance(3600)
    assert taken(budget, 10) == 3


def test_what_is_given_back_can_be_taken_again_up_to_the_burst() -> None:
    budget = Budget(burst=2, per_second=1, clock=Clock())
    assert taken(budget, 2) == 2
    budget.give_back()
    assert taken(budget, 2) == 1
    for _ in range(5):
        budget.give_back()
    assert taken(budget, 5) == 2


def test_there_is_no_outage_at_first() -> None:
    outage = Outage(Clock())
    assert (outage.lasts, outage.pause) == (False, 0)


def test_a_store_that_fails_is_left_alone_for_as_long_as_it_asks() -> None:
    clock = Clock()
    outage = Outage(clock)
    outage.begin(10)
    assert outage.pause == 10
    clock.advance(0.5)
    assert outage.pause == 10  # whole seconds, rounded up: less would be too early
    clock.advance(9.5)
    assert outage.pause == 0
    clock.advance(60)
    assert outage.pause == 0


def test_no_store_is_left_alone_for_longer_than_a_minute() -> None:
    outage = Outage(Clock())
    outage.begin(60)
    assert outage.pause == 60
    outage.begin(3600)
    assert outage.pause == 60


def test_an_outage_is_remembered_for_half_a_minute_and_never_shorter_than_its_pause() -> None:
    clock = Clock()
    outage = Outage(clock)
    for retry_after, remembered in ((1, 30), (30, 30), (45, 45), (3600, 60)):
        outage.begin(retry_after)
        clock.advance(remembered - 0.25)
        assert outage.lasts, retry_after
        clock.advance(0.25)
        assert not outage.lasts, retry_after


def test_a_call_that_succeeds_ends_the_outage_at_once() -> None:
    outage = Outage(Clock())
    outage.begin(60)
    outage.end()
    assert (outage.lasts, outage.pause) == (False, 0)
