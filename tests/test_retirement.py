"""The end of the shim: announced on every response, rehearsed in brownouts, and enforced with a way on.

A date that is off by a day, or a refusal too early, breaks callers who did everything right.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from openai import APIStatusError, AsyncOpenAI

from devhost.host import Host
from shim.answer.retirement import announce, days_left, refusal, report
from shim.errors import BrownedOut, Retired
from shim.settings import Settings, SettingsError
from shim.settings.retirement import Brownout, Retirement
from tests.conftest import APP_ORIGIN, KEY, StartHost
from tests.test_sdk import HELLO

LINK = "https://wiki.example.com/shim?then=v1#move"
MIDNIGHT = int(datetime(2027, 3, 31, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86400
ANNOUNCED = {
    "SHIM_DEPRECATED": "2026-01-31",
    "SHIM_SUNSET": "2099-12-31T18:00:00+01:00",
    "SHIM_SUNSET_LINK": LINK,
}
HEADERS = {
    "deprecation": f"@{int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())}",
    "sunset": "Thu, 31 Dec 2099 17:00:00 GMT",
    "link": f'<{LINK}>; rel="sunset"',
}
OVER = {
    "SHIM_SUNSET": "2026-02-01",
    "SHIM_SUNSET_LINK": LINK,
    "SHIM_AFTER_SUNSET": "refuse",
    "CORS_ORIGINS": APP_ORIGIN,
}


def present_brownout() -> str:
    """The setting of a window that began five minutes ago and has 25 to go."""
    return f"30m/day@{datetime.now(UTC) - timedelta(minutes=5):%H:%M}"


def read(**given: str) -> Retirement:
    least = {"APIM_BASE_URL": "https://a.example/openai", "KEY_VAULT_URL": "https://v.vault.azure.net"}
    return Settings.from_environment({**least, **given}).retirement


def announced(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in HEADERS if name in headers}


def test_nothing_is_announced_by_default() -> None:
    assert read() == Retirement()
    assert announce([(b"sunset", b"upstream's own")], Retirement()) == [(b"sunset", b"upstream's own")]
    assert refusal(Retirement(), MIDNIGHT) is None
    assert report(Retirement(), MIDNIGHT) == {}
    assert days_left(Retirement(), MIDNIGHT) is None


def test_a_day_is_its_first_moment_in_utc_and_a_time_has_a_zone() -> None:
    assert read(SHIM_SUNSET="2027-03-31").sunset == MIDNIGHT
    assert read(SHIM_SUNSET="2027-03-31T02:00:00+02:00").sunset == MIDNIGHT
    assert read(SHIM_SUNSET="2027-03-31T00:00Z").sunset == MIDNIGHT


@pytest.mark.parametrize(
    ("text", "brownout"),
    [
        ("10m/day", Brownout(600, DAY, 12 * HOUR)),
        ("10m/day@14:30", Brownout(600, DAY, 14 * HOUR + 1800)),
        ("5m/hour", Brownout(300, HOUR, 0)),
        ("59m/hour", Brownout(3540, HOUR, 0)),
        ("1439m/day@23:59", Brownout(86340, DAY, 23 * HOUR + 59 * 60)),
        ("1m/day@00:00", Brownout(60, DAY, 0)),
    ],
)
def test_a_brownout_is_a_length_in_a_period(text: str, brownout: Brownout) -> None:
    assert read(SHIM_SUNSET="2027-03-31", SHIM_BROWNOUT=text).brownout == brownout


def test_a_deprecation_may_come_long_before_a_sunset_is_known() -> None:
    assert read(SHIM_DEPRECATED="2027-03-31") == Retirement(deprecated=MIDNIGHT)
    assert read(SHIM_SUNSET="2027-03-31") == Retirement(sunset=MIDNIGHT)


@pytest.mark.parametrize("link", [LINK, "http://wiki/shim", "https://a.example/~b/%20?c=d;e&f=[g]#h"])
def test_a_link_is_kept_as_it_is_given(link: str) -> None:
    assert read(SHIM_SUNSET="2027-03-31", SHIM_SUNSET_LINK=link).link == link


def test_the_sunset_may_be_the_moment_of_the_deprecation() -> None:
    both = read(SHIM_DEPRECATED="2027-03-31", SHIM_SUNSET="2027-03-31")
    assert both.deprecated == both.sunset == MIDNIGHT


FAULTS = {
    "a sunset before the deprecation": (
        {"SHIM_DEPRECATED": "2027-04-01", "SHIM_SUNSET": "2027-03-31"},
        "SHIM_SUNSET must not be before SHIM_DEPRECATED",
    ),
    "a date of another order": (
        {"SHIM_SUNSET": "31.03.2027"},
        "SHIM_SUNSET must be a date like 2027-03-31, or a time like 2027-03-31T18:00:00Z",
    ),
    "a date of another order, and a link": (
        {"SHIM_SUNSET": "31.03.2027", "SHIM_SUNSET_LINK": LINK},
        "SHIM_SUNSET must be a date like",
    ),
    "no such day": ({"SHIM_DEPRECATED": "2027-02-30"}, "SHIM_DEPRECATED must be a date like"),
    "a time without a zone": ({"SHIM_SUNSET": "2027-03-31T18:00:00"}, "SHIM_SUNSET must be a date like"),
    "a link that is no URL": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_SUNSET_LINK": "the wiki"},
        "SHIM_SUNSET_LINK must be a URL",
    ),
    "a link that would end its own brackets": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_SUNSET_LINK": "https://a.example/>;rel=x"},
        "SHIM_SUNSET_LINK must be a URL",
    ),
    "a link without a sunset": ({"SHIM_SUNSET_LINK": LINK}, "SHIM_SUNSET_LINK needs SHIM_SUNSET"),
    "a refusal without a sunset": (
        {"SHIM_AFTER_SUNSET": "refuse"},
        "SHIM_AFTER_SUNSET=refuse needs SHIM_SUNSET",
    ),
    "something else after the sunset": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_AFTER_SUNSET": "panic"},
        "SHIM_AFTER_SUNSET must be one of serve, refuse",
    ),
    "a brownout without a sunset": ({"SHIM_BROWNOUT": "10m/day"}, "SHIM_BROWNOUT needs SHIM_SUNSET"),
    "a brownout in other words": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "often"},
        "SHIM_BROWNOUT must be like",
    ),
    "a time of day for an hourly brownout": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "5m/hour@14:30"},
        "SHIM_BROWNOUT must be like",
    ),
    "a time of day that is none": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "10m/day@24:00"},
        "SHIM_BROWNOUT must be like 10m/day, 10m/day@14:30 (UTC) or 5m/hour",
    ),
    "a minute that is none": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "10m/day@12:60"},
        "SHIM_BROWNOUT must be like",
    ),
    "a brownout that never ends": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "60m/hour"},
        "shorter than its period",
    ),
    "a brownout of nothing": (
        {"SHIM_SUNSET": "2027-03-31", "SHIM_BROWNOUT": "0m/day"},
        "longer than nothing",
    ),
}


@pytest.mark.parametrize(("given", "words"), FAULTS.values(), ids=FAULTS)
def test_what_does_not_make_sense_is_a_fault_of_the_settings(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**given)
    (problem,) = raised.value.problems
    assert words in problem


def test_upstreams_own_dates_are_replaced_and_its_links_kept() -> None:
    retirement = read(**ANNOUNCED)
    links = [(b"link", b'</docs>; rel="help"')]
    sent = announce([(b"sunset", b"x"), (b"deprecation", b"@1"), *links], retirement)
    assert sent == links + [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def test_after_the_sunset_calls_are_refused_only_where_that_is_set() -> None:
    refusing = Retirement(sunset=MIDNIGHT, refuse_after_sunset=True, link=LINK)
    assert refusal(refusing, MIDNIGHT - 1) is None
    assert isinstance(refusal(refusing, MIDNIGHT), Retired)
    assert refusal(Retirement(sunset=MIDNIGHT), MIDNIGHT + DAY) is None


def test_a_brownout_refuses_in_its_window_between_deprecation_and_sunset() -> None:
    retirement = Retirement(
        deprecated=MIDNIGHT, sunset=MIDNIGHT + 30 * DAY, brownout=Brownout(600, DAY, 12 * HOUR)
    )
    noon = MIDNIGHT + 12 * HOUR
    refused = refusal(retirement, noon + 60)
    assert isinstance(refused, BrownedOut)
    assert (refused.status, refused.code) == (410, "shim_brownout")
    assert dict(refused.headers)[b"retry-after"] == b"540"
    within_a_second = refusal(retirement, noon + 60.5)
    assert within_a_second is not None
    # Rounded up: a caller who comes back sooner would be refused again.
    assert dict(within_a_second.headers)[b"retry-after"] == b"540"
    for served in (noon - 1, noon + 600, noon - DAY + 60, noon + 30 * DAY + 60):
        assert refusal(retirement, served) is None


WAYS_ON = {"": "Ask whoever runs it what to use in its place.", LINK: f"What to use in its place: {LINK}"}


@pytest.mark.parametrize(("link", "way_on"), WAYS_ON.items(), ids=["no link", "a link"])
def test_who_is_refused_is_told_since_when_or_from_when_on_and_where_to_go(link: str, way_on: str) -> None:
    date = "Wed, 31 Mar 2027 00:00:00 GMT"
    over = refusal(Retirement(sunset=MIDNIGHT, refuse_after_sunset=True, link=link), MIDNIGHT)
    rehearsed = refusal(
        Retirement(sunset=MIDNIGHT, brownout=Brownout(600, DAY, 0), link=link), MIDNIGHT - DAY
    )
    assert over is not None
    assert rehearsed is not None
    assert over.message == f"This endpoint was retired on {date}. {way_on}"
    assert rehearsed.message == (
        f"This endpoint will be retired on {date}, and refuses calls for announced periods until then. {way_on}"
    )


def test_who_waits_out_a_brownout_is_not_told_a_second_too_little() -> None:
    refused = refusal(Retirement(sunset=MIDNIGHT, brownout=Brownout(600, DAY, 0)), MIDNIGHT - DAY + 59.5)
    assert refused is not None
    assert dict(refused.headers)[b"retry-after"] == b"541"


def test_one_announcement_does_not_grow_by_the_next() -> None:
    retirement = read(**ANNOUNCED)
    first = announce([(b"a", b"1")], retirement)
    first.append((b"b", b"2"))
    assert announce([], retirement) == [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def test_a_window_goes_on_past_midnight() -> None:
    late = Brownout(3600, DAY, 23 * HOUR + 1800)
    assert late.ends_in(MIDNIGHT + 60) == 1740
    assert late.ends_in(MIDNIGHT + 1800) is None


def test_a_brownout_begins_with_the_deprecation_or_without_one_at_once() -> None:
    always = Brownout(600, DAY, 0)
    announced_later = Retirement(deprecated=MIDNIGHT, sunset=MIDNIGHT + 30 * DAY, brownout=always)
    assert refusal(announced_later, MIDNIGHT - DAY) is None
    assert isinstance(refusal(announced_later, MIDNIGHT), BrownedOut)
    undeprecated = Retirement(sunset=MIDNIGHT + 30 * DAY, brownout=always)
    assert isinstance(refusal(undeprecated, MIDNIGHT - DAY), BrownedOut)


def test_health_tells_each_date_that_is_set_and_no_other() -> None:
    date = "Wed, 31 Mar 2027 00:00:00 GMT"
    assert report(Retirement(deprecated=MIDNIGHT), MIDNIGHT) == {"retirement": {"deprecated": date}}
    sunset = {"sunset": date, "days_left": 1, "after_sunset": "serve"}
    assert report(Retirement(sunset=MIDNIGHT), MIDNIGHT - 60) == {"retirement": sunset}
    refusing = Retirement(deprecated=MIDNIGHT, sunset=MIDNIGHT, refuse_after_sunset=True)
    assert report(refusing, MIDNIGHT - 60) == {
        "retirement": {"deprecated": date, **sunset, "after_sunset": "refuse"}
    }


@pytest.mark.parametrize(("ago", "left"), [(DAY, 1), (DAY + 1, 2), (1, 1), (0, 0), (-DAY, -1)])
def test_days_left_counts_begun_ones(ago: int, left: int) -> None:
    assert days_left(Retirement(sunset=MIDNIGHT), MIDNIGHT - ago) == left


@pytest.fixture(scope="session")
async def announcing(start_host: StartHost) -> Host:
    return await start_host(**ANNOUNCED, CORS_ORIGINS=APP_ORIGIN)


@pytest.fixture(scope="session")
async def over(start_host: StartHost) -> Host:
    return await start_host(**OVER)


def client_of(host: Host, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key=key, max_retries=2)


async def test_a_response_a_stream_and_an_error_carry_the_announcement(announcing: Host) -> None:
    async with client_of(announcing) as client:
        chat = client.chat.completions.with_raw_response
        plain = await chat.create(model="gpt-4o", messages=HELLO)
        assert announced(plain.headers) == HEADERS
        streamed = await chat.create(model="gpt-4o", messages=HELLO, stream=True)
        assert announced(streamed.headers) == HEADERS
        pieces = [c.choices[0].delta.content or "" async for c in streamed.parse() if c.choices]
        assert "".join(pieces) == "You said: Hello, shim!"
        with pytest.raises(APIStatusError) as of_upstream:
            await client.models.retrieve("gpt-99")
    assert announced(of_upstream.value.response.headers) == HEADERS
    async with client_of(announcing, key="not-a-key") as stranger:
        with pytest.raises(APIStatusError) as of_the_shim:
            await stranger.models.list()
    assert (of_the_shim.value.status_code, announced(of_the_shim.value.response.headers)) == (401, HEADERS)


async def test_a_page_may_read_the_announcement(announcing: Host, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{announcing.url}/openai/v1/models", headers={"origin": APP_ORIGIN}) as response:
        exposed = response.headers["access-control-expose-headers"].split(", ")
    assert set(HEADERS) <= set(exposed)


async def test_health_says_how_many_days_are_left(announcing: Host, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{announcing.url}/readyz") as response:
        assert announced(response.headers) == HEADERS
        stated = (await response.json())["retirement"]
    left = datetime(2099, 12, 31, 17, tzinfo=UTC) - datetime.now(UTC)
    assert stated["days_left"] in (left.days, left.days + 1)
    assert parsedate_to_datetime(stated["sunset"]) == datetime(2099, 12, 31, 17, tzinfo=UTC)
    assert stated["after_sunset"] == "serve"
    async with http.get(f"{announcing.url}/healthz") as response:
        assert announced(response.headers) == HEADERS


async def test_a_shim_with_refused_settings_announces_its_end_all_the_same(
    start_host: StartHost, http: aiohttp.ClientSession
) -> None:
    host = await start_host(**ANNOUNCED, KEY_CACHE_TTL="soon")
    async with http.get(f"{host.url}/openai/v1/models") as response:
        assert (response.status, announced(response.headers)) == (503, HEADERS)
    async with http.get(f"{host.url}/readyz") as response:
        assert "days_left" in (await response.json())["retirement"]


async def test_after_the_sunset_the_sdk_raises_its_own_exception_with_the_link(over: Host) -> None:
    async with client_of(over) as client:
        for stream in (False, True):
            with pytest.raises(APIStatusError) as raised:
                await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
            error = raised.value
            assert (error.status_code, error.code) == (410, "shim_retired")
            assert f"What to use in its place: {LINK}" in error.message
            assert error.response.headers["link"] == f'<{LINK}>; rel="sunset"'
            assert error.request_id


async def test_after_the_sunset_health_is_still_told(over: Host, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{over.url}/readyz") as response:
        content: dict[str, Any] = await response.json()
    assert (response.status, content["retirement"]["after_sunset"]) == (200, "refuse")
    assert content["retirement"]["days_left"] < 0
    async with http.get(f"{over.url}/healthz") as response:
        assert response.status == 200


async def test_after_the_sunset_a_page_may_read_why(over: Host, http: aiohttp.ClientSession) -> None:
    url, origin = f"{over.url}/openai/v1/models", {"origin": APP_ORIGIN}
    async with http.get(url, headers=origin) as response:
        assert response.headers["access-control-allow-origin"] == APP_ORIGIN
        assert json.loads(await response.read())["error"]["code"] == "shim_retired"


async def test_a_brownout_is_refused_with_the_time_until_it_is_over(start_host: StartHost) -> None:
    host = await start_host(**ANNOUNCED, SHIM_BROWNOUT=present_brownout())
    async with client_of(host) as client:
        with pytest.raises(APIStatusError) as raised:
            await client.models.list()
    assert (raised.value.status_code, raised.value.code) == (410, "shim_brownout")
    assert LINK in raised.value.message
    assert 1000 < int(raised.value.response.headers["retry-after"]) <= 1500


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_day_begins_in_utc_wherever_the_machine_is(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.setenv("TZ", zone)
        time.tzset()
        sunset = read(SHIM_SUNSET="2027-03-31").sunset
    time.tzset()
    assert sunset == MIDNIGHT
