"""Who still needs the shim and what for, from rows of usage.

The shim is deleted on the strength of this list.
"""

from typing import Any

import pytest

from shim.cli.retire.left import Caller, UsageRow, callers, summary, table
from shim.cli.retire.query import left_query, rows_of
from shim.settings import Settings
from tests.conftest import KEY


def settings(**given: str) -> Settings:
    least = {"APIM_BASE_URL": "https://a.example/openai", "LOCAL_SUBSCRIPTION_KEYS": f"a={KEY}"}
    return Settings.from_environment({**least, **given})


def row(label: str = "team-a", **more: Any) -> UsageRow:
    usual = {
        "scheme": "api-key", "dialect": "legacy", "client": "openai-python/2", "model": "gpt-4o", "is_page": False,
        "calls": 100,
    }  # fmt: skip
    return UsageRow(label, **{**usual, **more})


@pytest.mark.parametrize(
    ("more", "given", "needs"),
    [
        ({}, {}, ()),
        ({"scheme": "bearer"}, {}, ("the key as Bearer",)),
        ({"scheme": "bearer"}, {"APIM_KEY_HEADER": "Authorization"}, ()),
        ({"dialect": "v1"}, {}, ("v1 paths onto a dated API",)),
        ({"dialect": "v1"}, {"APIM_API": "v1"}, ()),
        ({"dialect": "v1"}, {"MODEL_APIS": "gpt-4o=v1"}, ()),
        ({}, {"APIM_API": "v1"}, ("dated paths onto a v1 API",)),
        ({"is_page": True}, {}, ("browsers (CORS)",)),
        (
            {"dialect": "v1"},
            {"APIM_API": "v1", "MODEL_DEPLOYMENTS": "gpt-4o=mine"},
            ("a model's other name",),
        ),
        ({"dialect": "v1"}, {"APIM_API": "v1", "MODEL_DEPLOYMENTS": "gpt-4o=gpt-4o"}, ()),
        # Which API a model is on may be said of its deployment, or of the model itself, which counts more.
        (
            {"dialect": "v1"},
            {"MODEL_APIS": "mine=v1", "MODEL_DEPLOYMENTS": "gpt-4o=mine"},
            ("a model's other name",),
        ),
        (
            {"dialect": "v1"},
            {"MODEL_APIS": "mine=v1,gpt-4o=legacy", "MODEL_DEPLOYMENTS": "gpt-4o=mine"},
            ("v1 paths onto a dated API", "a model's other name"),
        ),
        ({}, {"MODEL_APIS": "gpt-4o=v1"}, ("dated paths onto a v1 API",)),
        ({"scheme": "ocp-apim-subscription-key"}, {}, ()),
        # Names of deployments are not mapped.
        ({}, {"MODEL_DEPLOYMENTS": "gpt-4o=mine"}, ()),
        (
            {"dialect": "v1", "scheme": "bearer", "is_page": True},
            {},
            ("the key as Bearer", "v1 paths onto a dated API", "browsers (CORS)"),
        ),
    ],
)
def test_a_caller_needs_the_shim_for_what_the_api_does_not_do(
    more: dict[str, Any], given: dict[str, str], needs: tuple[str, ...]
) -> None:
    [caller] = callers([row(**more)], settings(**given))
    assert (caller.needs, caller.can_move) == (needs, not needs)


def test_one_call_of_a_label_that_needs_the_shim_is_enough() -> None:
    rows = [row(calls=1000), row(scheme="bearer", client="curl/8", calls=1)]
    assert callers(rows, settings()) == [
        Caller("team-a", 1001, ("curl/8", "openai-python/2"), ("the key as Bearer",))
    ]


def test_those_with_needs_come_first_and_the_busiest_of_them() -> None:
    rows = [row("quiet", scheme="bearer", calls=1), row("moves", calls=999), row("busy", is_page=True)]
    rows += [row("z"), row("a")]
    assert [caller.label for caller in callers(rows, settings())] == ["busy", "quiet", "moves", "a", "z"]


def test_the_whole_is_one_line() -> None:
    rows = [row(f"free-{n}", calls=96) for n in range(7)]
    rows += [row(f"bound-{n}", scheme="bearer", calls=7) for n in range(4)]
    found = callers(rows, settings())
    assert summary(found) == "7 of 11 callers can move; 96 % of the calls are theirs."
    assert summary(callers(rows[:7], settings())) == "All 7 callers can move."
    assert summary([]) == "Nobody has called: the shim can be deleted."


def test_the_last_caller_is_not_rounded_away() -> None:
    found = callers([row("free", calls=99_999), row("bound", scheme="bearer", calls=1)], settings())
    assert summary(found) == "1 of 2 callers can move; 99 % of the calls are theirs."


def test_a_change_over_time_shows_who_has_gone_and_who_came() -> None:
    before = [row("gone", calls=50), row("less", calls=80)]
    found = callers([row("less", calls=30), row("new", calls=5)], settings(), before=before)
    assert {caller.label: caller.change for caller in found} == {"less": -50, "new": 5, "gone": -50}
    assert summary(found) == "All 2 callers can move."
    columns, lines = table(found)
    assert columns == ["label", "calls", "change", "clients", "still needs the shim for"]
    assert lines == [
        ["less", "30", "-50", "openai-python/2", "nothing"],
        ["new", "5", "+5", "openai-python/2", "nothing"],
        ["gone", "0", "-50", "", "nothing: gone"],
    ]


def test_the_table_says_what_for() -> None:
    columns, lines = table(callers([row(scheme="bearer", is_page=True, calls=12345)], settings()))
    assert len(columns) == len(lines[0])
    assert lines == [["team-a", "12,345", "", "openai-python/2", "the key as Bearer; browsers (CORS)"]]


def test_rows_of_log_analytics_are_divided_into_now_and_before() -> None:
    found = {
        "label": "team-a", "key_header": "bearer", "dialect": "v1", "client": "browser/5", "model": "gpt-4o",
        "calls": 12.0, "is_before": False,
    }  # fmt: skip
    pages = [{**found, "client": client, "calls": None} for client in ("openai-browser/5", "openai-js/5")]
    assert [(each.is_page, each.calls) for each in rows_of(pages)[0]] == [(True, 0), (False, 0)]
    now, before = rows_of([found, {**found, "client": "openai-python/2", "calls": 3.0, "is_before": True}])
    assert now == [row(scheme="bearer", dialect="v1", client="browser/5", is_page=True, calls=12)]
    assert before == [row(scheme="bearer", dialect="v1", calls=3)]
    [caller] = callers(now, settings(), before=before)
    assert (caller.calls, caller.change) == (12, 9)


def test_the_query_asks_for_both_periods_and_all_that_a_row_has() -> None:
    query = left_query(30)
    assert "ago(60d)" in query
    assert "is_before = TimeGenerated <= ago(30d)" in query
    assert "by label, key_header, dialect, client, model, is_before" in query
