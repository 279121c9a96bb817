"""The host's rules that need no socket: minimum data rates, the order of routes, and what it tells the worker.

Over sockets they would take minutes, or never differ.
"""

import json

import pytest

from devhost.data_rates import ReadRate, WriteRate
from devhost.process import Function
from devhost.routing import choose, routes_of
from devhost.trigger_metadata import trigger_metadata
from tests.conftest import ROOT

GRACE = 5.0
RATE = 240.0


def test_a_body_has_the_grace_whatever_its_size() -> None:
    assert ReadRate(RATE, GRACE).patience == GRACE


def test_of_a_body_only_the_waiting_counts_and_what_came_fast_buys_time() -> None:
    rate = ReadRate(RATE, GRACE)
    rate.read(waited=1, received=100)
    assert rate.patience == GRACE - 1
    rate.read(waited=1, received=2300)
    assert rate.patience == 2400 / RATE - 2


def test_a_small_write_has_the_grace_from_when_it_is_made() -> None:
    rate = WriteRate(RATE, GRACE)
    rate.wrote(now=100, size=24)
    assert rate.deadline == 105
    rate.wrote(now=200, size=24)
    assert rate.deadline == 205


def test_large_writes_have_time_by_their_size_and_leave_it_to_those_after_them() -> None:
    rate = WriteRate(RATE, GRACE)
    rate.wrote(now=0, size=2400)
    assert rate.deadline == 10
    rate.wrote(now=1, size=2400)
    assert rate.deadline == 20
    rate.wrote(now=2, size=0)
    assert rate.deadline == 20


def test_a_reader_who_stands_still_behind_a_full_buffer_has_longer_than_yarp() -> None:
    rate = WriteRate(RATE, GRACE)
    rate.wrote(now=0, size=65_536)
    assert rate.deadline > 240


BODIES = {
    "no JSON": (b"model=gpt-4o", {}),
    "broken JSON": (b'{"model": }', {}),
    "a list": (b'[{"model": "gpt-4o"}]', {}),
    "JSON with a byte order mark": (b'\xef\xbb\xbf{"a": "b"}', {"a": ("string", "b")}),
    "spaces around": (b' {"a": "b"}\n', {"a": ("string", "b")}),
    "the same name twice": (b'{"a": 1, "a": 2}', {"a": ("string", "2")}),
    "the same name in another case": (b'{"a": 1, "A": 2}', {"a": ("string", "2")}),
    "brackets without end": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", {}),
}


@pytest.mark.parametrize(("content", "expected"), BODIES.values(), ids=BODIES.keys())
def test_of_a_body_its_top_level_is_told(content: bytes, expected: dict[str, tuple[str, str]]) -> None:
    told = trigger_metadata(content, "", {}, [])
    assert told.pop("Query") == ("json", "{}")
    assert told.pop("Headers") == ("json", "{}")
    assert told == expected


def test_route_parameters_win_over_the_query_and_that_over_the_body() -> None:
    told = trigger_metadata(b'{"a": 1, "b": 1, "c": 1}', "b=2&c=2&Code=secret", {"c": "3"}, [])
    assert {name: told[name][1] for name in "abc"} == {"a": "1", "b": "2", "c": "3"}
    assert "Code" not in told


def test_a_body_can_take_the_headers_place() -> None:
    told = trigger_metadata(b'{"headers": "mine"}', "", {}, [("x-a", "1")])
    assert told["headers"] == ("string", "mine")
    assert "Headers" not in told


def test_headers_are_told_as_they_came() -> None:
    told = trigger_metadata(b"", "", {}, [("authorization", "Bearer key"), ("x-a", "1"), ("x-a", "2")])
    assert json.loads(told["Headers"][1]) == {"authorization": "Bearer key", "x-a": "1,2"}


def test_routes_are_tried_in_the_order_of_the_functions_names_and_not_of_their_declaration() -> None:
    def function(name: str, route: str) -> Function:
        return Function(name, name, "request", "httpTrigger", route, ("GET",))

    routes = routes_of([function("Wrong_path", "{root}/{*path}"), function("v1", "v1/{*path}")], ROOT)
    chosen = [choose(routes, "GET", path) for path in ("/v1/models", "/other/models")]
    assert [found[0].name for found in chosen if found] == ["v1", "Wrong_path"]
