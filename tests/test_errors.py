"""The exception tree and OpenAI's error JSON.

Every SDK reads this one shape; an error in another is shown to users as "Connection error" or not at all.
"""

import json
import re
from collections.abc import Iterator

import pytest

from shim import errors
from shim.errors import (
    BrownedOut,
    CallerGone,
    KeyStoreUnavailable,
    MethodNotAllowed,
    ShimError,
    TooBusy,
    describe_defect,
)


def below(of: type[ShimError] = ShimError) -> Iterator[type[ShimError]]:
    for error in of.__subclasses__():
        yield error
        yield from below(error)


TREE = list(below())
# Those that stand for several have no code of their own.
KINDS = [kind for kind in TREE if hasattr(kind, "code")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_refusal_is_openai_shaped(kind: type[ShimError]) -> None:
    if kind is CallerGone:
        error: ShimError = CallerGone()
    elif kind in (TooBusy, BrownedOut):
        error = kind("What to do next.", retry_after=1)
    else:
        error = kind("What to do next.")
    status, headers, content = errors.render(error)
    assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    assert json.loads(content)["error"]["message"] == error.message
    assert dict(headers)[b"content-length"] == b"%d" % len(content)
    assert dict(headers)[b"x-shim-error-source"] == b"shim"
    assert 400 <= status < 600


def test_codes_are_stable_names_and_each_means_one_thing() -> None:
    codes = [kind.code for kind in KINDS]
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)
    leaves = [kind for kind in KINDS if not kind.__subclasses__()]
    assert len({kind.code for kind in leaves}) == len(leaves)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"[├└]── (\w+) *(\d+)?", errors.__doc__)
    statuses = dict(drawn)
    assert set(statuses) == {kind.__name__ for kind in TREE}
    for kind in TREE:
        if statuses[kind.__name__]:
            assert statuses[kind.__name__] == str(kind.status), kind


def test_messages_survive_any_text() -> None:
    content = errors.body('a "quoted" \u00e9 \U0001f600 text', "t", None)
    assert json.loads(content)["error"]["message"].startswith('a "quoted" \u00e9')


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b", "\ud83d\ude00 as two halves"])
def test_a_lone_surrogate_becomes_a_question_mark(text: str) -> None:
    content = errors.body(text, "t", None)
    assert json.loads(content)["error"]["message"] == re.sub("[\ud800-\udfff]", "?", text)


def test_what_http_wants_beside_a_status_is_there() -> None:
    # RFC 9110, sections 15.5.6 and 10.2.3.
    assert dict(MethodNotAllowed("m").headers)[b"allow"].startswith(b"GET, POST")
    assert dict(TooBusy("m", retry_after=3).headers)[b"retry-after"] == b"3"


@pytest.mark.parametrize(("asked", "told"), [(-3, 1), (0, 1), (1, 1), (2, 2), (60, 60)])
def test_a_key_store_is_left_alone_for_a_second_at_least(asked: int, told: int) -> None:
    unavailable = KeyStoreUnavailable("m", retry_after=asked)
    assert unavailable.retry_after == told
    assert dict(unavailable.headers)[b"retry-after"] == b"%d" % told


def test_a_key_store_that_names_no_time_is_tried_again_after_five_seconds() -> None:
    assert KeyStoreUnavailable("m").retry_after == 5


def test_of_several_defects_at_once_the_first_is_described() -> None:
    group = ExceptionGroup("m", [ValueError("secret"), TypeError("secret"), KeyError("secret")])
    assert describe_defect(group) == "ValueError"
