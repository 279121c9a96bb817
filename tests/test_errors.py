"""The exception tree and OpenAI's error JSON.

Every SDK reads this one shape; an error in another is shown to users as "Connection error" or not at all.
"""

import json
import re
from collections.abc import Iterator

import pytest

from shim import errors
from shim.errors import BrownedOut, CallerGone, KeyStoreUnavailable, ShimError, TooBusy, describe_defect


def below(of: type[ShimError] = ShimError) -> Iterator[type[ShimError]]:
    for error in of.__subclasses__():
        yield error
        yield from below(error)


TREE = list(below())
# Those that stand for several have no code of their own.
KINDS = [kind for kind in TREE if hasattr(kind, "code")]


# Status, type, code and parameter of each: SDKs choose their exceptions by these, and programs what to do.
REFUSALS = {
    errors.InvalidRequest: (400, "invalid_request_error", "invalid_request", None),
    errors.InvalidPath: (400, "invalid_request_error", "invalid_path", None),
    errors.ModelRequired: (400, "invalid_request_error", "model_required", "model"),
    errors.IncompleteBody: (400, "invalid_request_error", "incomplete_body", None),
    errors.BodyTooLarge: (413, "invalid_request_error", "body_too_large", None),
    errors.MissingKey: (401, "authentication_error", "missing_api_key", None),
    errors.MalformedKey: (401, "authentication_error", "malformed_api_key", None),
    errors.UnknownKey: (401, "authentication_error", "invalid_api_key", None),
    errors.OriginNotAllowed: (403, "invalid_request_error", "cors_origin_not_allowed", None),
    errors.NotFound: (404, "invalid_request_error", "not_found", None),
    errors.MethodNotAllowed: (405, "invalid_request_error", "method_not_allowed", None),
    errors.Retired: (410, "invalid_request_error", "shim_retired", None),
    errors.BrownedOut: (410, "invalid_request_error", "shim_brownout", None),
    errors.CallerGone: (499, "api_error", "caller_gone", None),
    errors.InternalError: (500, "api_error", "internal_error", None),
    errors.RealtimeNotSupported: (501, "invalid_request_error", "realtime_not_supported", None),
    errors.ResponseLost: (502, "api_error", "response_lost", None),
    errors.Misconfigured: (503, "api_error", "shim_misconfigured", None),
    errors.TooBusy: (503, "api_error", "too_busy", None),
    errors.KeyStoreUnavailable: (503, "api_error", "key_store_unavailable", None),
    errors.UpstreamFailed: (502, "api_error", "upstream_failed", None),
    errors.UpstreamUnreachable: (502, "api_error", "upstream_unreachable", None),
    errors.UpstreamBroken: (502, "api_error", "upstream_broken", None),
    errors.UpstreamHeadTooLarge: (502, "api_error", "upstream_head_too_large", None),
    errors.UpstreamTimeout: (504, "api_error", "upstream_timeout", None),
}
# What HTTP wants beside a status (RFC 9110, sections 11.6.1, 15.5.6 and 10.2.3), or SDKs go by.
HEADERS = {
    errors.MissingKey: (b"www-authenticate", b"Bearer"),
    errors.MalformedKey: (b"www-authenticate", b"Bearer"),
    errors.UnknownKey: (b"www-authenticate", b"Bearer"),
    errors.MethodNotAllowed: (b"allow", b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    errors.BrownedOut: (b"retry-after", b"3"),
    errors.TooBusy: (b"retry-after", b"3"),
    errors.KeyStoreUnavailable: (b"retry-after", b"5"),
    errors.ResponseLost: (b"x-should-retry", b"false"),
}


def made(kind: type[ShimError]) -> ShimError:
    if kind is CallerGone:
        return CallerGone()
    if kind in (TooBusy, BrownedOut):
        return kind("What to do next.", retry_after=3)
    return kind("What to do next.")


def test_each_refusal_is_in_the_table() -> None:
    assert set(REFUSALS) == set(KINDS)


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
def test_every_refusal_is_openai_shaped(kind: type[ShimError]) -> None:
    error = made(kind)
    status, headers, content = errors.render(error)
    wanted_status, wanted_type, code, param = REFUSALS[kind]
    assert status == wanted_status
    assert json.loads(content) == {
        "error": {"message": error.message, "type": wanted_type, "param": param, "code": code}
    }
    assert headers == [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"x-shim-error-source", b"shim"),
        *([HEADERS[kind]] if kind in HEADERS else []),
    ]


def test_a_refusal_takes_headers_along() -> None:
    headers = dict(errors.render(errors.UpstreamTimeout("m", headers=[errors.NO_RETRY]))[1])
    assert headers[b"x-should-retry"] == b"false"


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
    # Legible for who looks at the bytes, too.
    assert "\u00e9 \U0001f600".encode() in content


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b", "\ud83d\ude00 as two halves"])
def test_a_lone_surrogate_becomes_a_question_mark(text: str) -> None:
    content = errors.body(text, "t", None)
    assert json.loads(content)["error"]["message"] == re.sub("[\ud800-\udfff]", "?", text)


@pytest.mark.parametrize(("asked", "told"), [(-3, 1), (0, 1), (1, 1), (2, 2), (60, 60)])
def test_a_key_store_is_left_alone_for_a_second_at_least(asked: int, told: int) -> None:
    unavailable = KeyStoreUnavailable("m", retry_after=asked)
    assert unavailable.retry_after == told
    assert dict(unavailable.headers)[b"retry-after"] == b"%d" % told


def test_a_key_store_that_names_no_time_is_tried_again_after_five_seconds() -> None:
    assert KeyStoreUnavailable("m").retry_after == 5


def test_a_defect_is_described_by_its_type_and_the_place_that_raised_it() -> None:
    """Not the place that called that one, and not its message, which may quote a secret."""

    class Innermost:
        def fail(self) -> None:
            raise ValueError("secret")

    def caller() -> None:
        Innermost().fail()

    with pytest.raises(ValueError, match="secret") as raised:
        caller()
    assert re.fullmatch(r"ValueError in \S+\.Innermost\.fail, line \d+", describe_defect(raised.value))


def test_of_several_defects_at_once_the_first_is_described() -> None:
    group = ExceptionGroup("m", [ValueError("secret"), TypeError("secret"), KeyError("secret")])
    assert describe_defect(group) == "ValueError"
