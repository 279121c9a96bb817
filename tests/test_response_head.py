"""Responses' heads as the Functions host takes them: it answers an empty 500 in their place, or hangs, otherwise."""

import logging
import re
import uuid

import pytest
from aiohttp import web

from devhost.host import Host
from devhost.standin import Received, Standin
from shim.answer.head import fit_for_host
from shim.errors import UpstreamHeadTooLarge
from shim.headers import Headers
from tests.conftest import KEY
from tests.support.wire import Answer, exchange, request

FILENAMES = {
    "ASCII stays": (b'attachment; filename="a b.txt"', b'attachment; filename="a b.txt"'),
    "UTF-8": ('attachment; filename="naïve.txt"'.encode(), b"attachment; filename*=UTF-8''na%C3%AFve.txt"),
    "Latin-1": (b'attachment; filename="na\xefve.txt"', b"attachment; filename*=UTF-8''na%C3%AFve.txt"),
    "without quotes": ("attachment; filename=é.txt".encode(), b"attachment; filename*=UTF-8''%C3%A9.txt"),
    "with quotes inside": (
        'attachment; filename="é\\"x.txt"'.encode(),
        b"attachment; filename*=UTF-8''%C3%A9%22x.txt",
    ),
    "with a slash": (
        'attachment; filename="é/x.txt"'.encode(),
        b"attachment; filename*=UTF-8''%C3%A9%2Fx.txt",
    ),
    "with a control character": (
        b'attachment; filename="a\x01b.txt"',
        b"attachment; filename*=UTF-8''a%01b.txt",
    ),
    "in capitals": ('attachment; FILENAME="é.txt"'.encode(), b"attachment; filename*=UTF-8''%C3%A9.txt"),
    "before another parameter": (
        "attachment; filename=é.txt ; size=1".encode(),
        b"attachment; filename*=UTF-8''%C3%A9.txt; size=1",
    ),
    "an encoded one in capitals goes before": (
        "attachment; filename=\"é.txt\"; FileName*=UTF-8''e.txt".encode(),
        b"attachment; FileName*=UTF-8''e.txt",
    ),
    "an encoded one goes before": (
        "attachment; filename=\"é.txt\"; filename*=UTF-8''e.txt".encode(),
        b"attachment; filename*=UTF-8''e.txt",
    ),
}


@pytest.mark.parametrize(("given", "sent"), FILENAMES.values(), ids=FILENAMES)
def test_a_file_name_becomes_ascii(given: bytes, sent: bytes) -> None:
    assert fit_for_host([(b"content-disposition", given)]) == ([(b"content-disposition", sent)], [])


@pytest.mark.parametrize("value", ["grüß".encode(), b"\xff", b"a\x01b", b"a\x7fb"])
def test_another_value_that_the_host_refuses_is_dropped_by_name(value: bytes) -> None:
    headers: Headers = [(b"x-a", b"1"), (b"x-region", value), (b"x-b", b"tab\there")]
    assert fit_for_host(headers) == ([(b"x-a", b"1"), (b"x-b", b"tab\there")], [b"x-region"])


def test_a_disposition_that_is_not_ascii_elsewhere_is_dropped_and_not_guessed_at() -> None:
    name = b"content-disposition"
    assert fit_for_host([(name, 'attachment; title="日本"; filename="é"'.encode())]) == ([], [name])


def test_a_head_larger_than_the_host_takes_is_refused() -> None:
    header = (b"x-long", b"a" * 1000)
    assert fit_for_host([header] * 50) == ([header] * 50, [])
    with pytest.raises(UpstreamHeadTooLarge, match=r"\(about 60 KB\): remove some in a policy of the API"):
        fit_for_host([header] * 61)


def test_the_limit_counts_names_twice_and_what_frames_a_line() -> None:
    """Names are told once more to browsers; `: ` and line ends, and `, ` between the names, take six bytes."""
    names = [b"x-%d" % number for number in range(10, 50)]
    lines = sum(2 * len(name) + 6 for name in names)
    fitting: Headers = [(name, b"") for name in names[1:]]
    longest = (names[0], b"a" * (60 * 1024 - lines))
    assert fit_for_host([*fitting, longest])[1] == []
    with pytest.raises(UpstreamHeadTooLarge):
        fit_for_host([*fitting, (longest[0], longest[1] + b"a")])


def test_a_file_name_that_is_ascii_stays_beside_a_value_that_goes() -> None:
    kept = (b"content-disposition", b'attachment; filename="a b.txt"')
    assert fit_for_host([kept, (b"x-region", b"\xff")]) == ([kept], [b"x-region"])


async def answered(host: Host, standin: Standin, method: str, headers: dict[str, str]) -> Answer:
    request_id = str(uuid.uuid4())

    async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
        return web.Response(text="ok", headers=headers)

    standin.answers[request_id] = answer
    body = b'{"model": "gpt-4o"}' if method == "POST" else b""
    path = "/openai/v1/chat/completions" if method == "POST" else "/openai/v1/files"
    return await exchange(host.url, request(method, path, f"x-request-id: {request_id}", body=body, key=KEY))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_head_that_the_host_would_not_take_is_a_502_that_says_so(
    host: Host, standin: Standin, method: str
) -> None:
    answer = await answered(host, standin, method, {f"x-{number}": "a" * 1000 for number in range(70)})
    assert answer.status == 502
    assert b"upstream_head_too_large" in answer.body


async def test_a_value_that_the_host_would_not_take_costs_its_header_alone(
    host: Host, standin: Standin
) -> None:
    odd = {"x-region": "Zürich", "x-place": "Genève", "x-kept": "1"}
    answer = await answered(host, standin, "GET", odd)
    assert (answer.status, answer.body) == (200, b"ok")
    assert (answer.named("x-kept"), answer.named("x-region")) == (["1"], [])
    told = await host.logs.first(lambda record: "x-region" in record.message)
    assert told.level == logging.WARNING
    dropped = "headers dropped, as the host takes ASCII only: x-region, x-place"
    assert re.search(f"{dropped} request_id=[0-9a-f-]{{36}}$", told.message)


async def test_the_largest_head_that_is_sent_is_one_that_the_host_takes(host: Host, standin: Standin) -> None:
    # With an allowed origin, each name is told once more in Access-Control-Expose-Headers.
    headers = {f"x-{'n' * 100}{number}": "a" * 100 for number in range(180)}
    answer = await answered(host, standin, "GET", headers)
    assert answer.status == 200
