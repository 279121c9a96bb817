"""The official `openai` package in a page of another origin, in a real browser.

Only a browser enforces CORS, so only a browser can show that a page gets its response, and that a stranger's page
does not.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI
from playwright.async_api import Browser, BrowserContext, Page

from devhost.host import Host
from devhost.platform import CORE_TOOLS
from devhost.playground import Playground
from devhost.standin import Received, Standin
from tests.conftest import KEY, StartHost
from tests.support import chromium, npm
from tests.support.naive_tier import naive_tier
from tests.test_retirement import present_brownout

PAGES = Path(__file__).parent / "browser"
# Chromium finds every name under localhost at the loopback address.
ALLOWED = "http://localhost:*,http://*.contoso.localhost:*"

type Json = dict[str, Any]
type PageAt = Callable[[str], Awaitable[Page]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if chromium.executable() is None:
        npm.cannot_run(chromium.MISSING)
    npm.require(PAGES)
    async with chromium.launched() as browser:
        yield browser


@pytest.fixture(scope="session")
async def port_of_pages() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture(scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context()
    yield context
    await context.close()


@pytest.fixture(scope="session")
def page_at(context: BrowserContext, port_of_pages: int) -> PageAt:
    """The page as served from a host name, hence from an origin; opened once for each."""
    pages: dict[str, Page] = {}

    async def open_page(host: str) -> Page:
        if host not in pages:
            page = pages[host] = await context.new_page()
            await page.goto(f"http://{host}:{port_of_pages}/index.html")
            await page.wait_for_function("window.calls")
        return pages[host]

    return open_page


@pytest.fixture(scope="session")
async def page(page_at: PageAt) -> Page:
    """The page at an allowed origin."""
    return await page_at("localhost")


@pytest.fixture(scope="session")
async def shim(browser: Browser, start_host: StartHost) -> Host:
    return await start_host(platform=CORE_TOOLS, CORS_ORIGINS=ALLOWED)


async def call(page: Page, name: str, url: str, *more: object, key: str = KEY, **where: Any) -> Json:
    """What a function of tests/browser/calls.mjs gives."""
    where |= {"baseURL": f"{url}/openai/v1", "apiKey": key}
    outcome: Json = await page.evaluate("([name, ...given]) => calls[name](...given)", [name, where, *more])
    return outcome


async def why_blocked(page: Page, url: str, **where: Any) -> str:
    """The browser's reason, which it gives to the console alone; the page sees a connection error."""
    async with page.expect_console_message(lambda message: "CORS policy" in message.text) as message:
        outcome = await call(page, "chat", url, **where)
    assert outcome["error"] == "APIConnectionError", outcome
    assert outcome.get("status") is None
    return (await message.value).text


async def test_two_tiers_that_both_answer_cors_fail_in_the_browser_and_the_shim_does_not(
    page: Page, shim: Host, standin: Standin
) -> None:
    origin = standin.base_url.removesuffix("/openai")
    headers = {"x-standin": '{"cors": true}'}

    # Straight to the API: it asks for a key even of preflights, which never carry one.
    assert "Response to preflight request doesn't pass" in await why_blocked(page, origin, headers=headers)

    async with naive_tier(origin) as tier:
        reason = await why_blocked(page, tier, headers=headers)
    assert "The 'Access-Control-Allow-Origin' header contains multiple values '*, *'" in reason

    assert (await call(page, "chat", shim.url, headers=headers))["text"] == "You said: Hello, browser!"


async def test_a_chat_completion_arrives_with_the_headers_that_browsers_hide(page: Page, shim: Host) -> None:
    answer = await call(page, "chat", shim.url)
    assert answer["text"] == "You said: Hello, browser!"
    for name in ("x-request-id", "apim-request-id", "x-ratelimit-remaining-tokens", "x-ms-region"):
        assert answer["headers"][name]


async def test_a_streamed_chat_arrives_while_upstream_still_speaks(
    page: Page, shim: Host, standin: Standin, context: BrowserContext
) -> None:
    seen = asyncio.Event()
    await page.expose_function("sawFirstPiece", lambda piece: seen.set())

    async def answer(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"delta": {"content": "Hello, "}}]}\n\n')
        await asyncio.wait_for(seen.wait(), 10)
        await response.write(b'data: {"choices": [{"delta": {"content": "page!"}}]}\n\ndata: [DONE]\n\n')
        return response

    standin.answers["a-stream-to-a-page"] = answer
    outcome = await call(page, "streamedChat", shim.url, headers={"x-request-id": "a-stream-to-a-page"})
    assert outcome == {"pieces": ["Hello, ", "page!"]}


async def test_a_file_is_uploaded(page: Page, shim: Host) -> None:
    outcome = await call(page, "upload", shim.url, 10_000)
    assert outcome == {"bytes": 190_000, "filename": "batch.jsonl"}


async def test_a_rate_limit_is_read_with_its_wait_and_its_request_id(page: Page, shim: Host) -> None:
    outcome = await call(page, "chat", shim.url, headers={"x-standin": '{"fault": "apim_rate_limit"}'})
    assert (outcome["error"], outcome["status"]) == ("RateLimitError", 429)
    assert outcome["retryAfter"] == "57"
    assert outcome["requestId"]


async def test_the_body_of_a_401_is_read(page: Page, shim: Host) -> None:
    outcome = await call(page, "chat", shim.url, key="not-a-key")
    assert (outcome["error"], outcome["status"]) == ("AuthenticationError", 401)
    assert outcome["code"] == "invalid_api_key"
    assert "subscription key is not known here" in outcome["message"]
    assert outcome["requestId"]


@pytest.mark.parametrize("host", ["127.0.0.1", "evilcontoso.localhost"])
async def test_a_page_of_an_origin_not_allowed_fails_in_the_browser(
    host: str, page_at: PageAt, shim: Host
) -> None:
    reason = await why_blocked(await page_at(host), shim.url)
    assert "No 'Access-Control-Allow-Origin' header is present" in reason


async def test_a_page_of_an_allowed_subdomain_works(page_at: PageAt, shim: Host) -> None:
    answer = await call(await page_at("team.contoso.localhost"), "chat", shim.url)
    assert answer["text"] == "You said: Hello, browser!"


async def test_credentials_are_sent_only_where_the_settings_allow_them(
    page: Page, shim: Host, start_host: StartHost
) -> None:
    reason = await why_blocked(page, shim.url, credentials="include")
    assert "'Access-Control-Allow-Credentials' header" in reason

    allowing = await start_host(platform=CORE_TOOLS, CORS_ORIGINS=ALLOWED, CORS_CREDENTIALS="true")
    answer = await call(page, "chat", allowing.url, credentials="include")
    assert answer["text"] == "You said: Hello, browser!"
    assert answer["headers"]["x-request-id"]
    limited = await call(
        page,
        "chat",
        allowing.url,
        credentials="include",
        headers={"x-standin": '{"fault": "apim_rate_limit"}'},
    )
    assert limited["retryAfter"] == "57"


async def test_behind_the_platforms_own_cors_it_works_as_well(
    page: Page, page_at: PageAt, port_of_pages: int, start_host: StartHost
) -> None:
    listed = json.dumps([f"http://localhost:{port_of_pages}"])
    host = await start_host(CORS_ALLOWED_ORIGINS=listed)
    answer = await call(page, "chat", host.url)
    assert answer["headers"]["x-request-id"]
    assert "No 'Access-Control-Allow-Origin'" in await why_blocked(await page_at("127.0.0.1"), host.url)


async def test_a_page_reads_the_announced_end_and_after_it_the_way_on(
    page: Page, start_host: StartHost
) -> None:
    link = "https://wiki.example.com/shim"
    settings = {"CORS_ORIGINS": ALLOWED, "SHIM_SUNSET_LINK": link}
    host = await start_host(
        platform=CORE_TOOLS, **settings, SHIM_DEPRECATED="2026-01-31", SHIM_SUNSET="2099-12-31"
    )
    headers = (await call(page, "chat", host.url))["headers"]
    assert headers["deprecation"] == "@1769817600"
    assert headers["sunset"] == "Thu, 31 Dec 2099 00:00:00 GMT"
    assert headers["link"] == f'<{link}>; rel="sunset"'

    over = await start_host(
        platform=CORE_TOOLS, **settings, SHIM_SUNSET="2026-01-31", SHIM_AFTER_SUNSET="refuse"
    )
    outcome = await call(page, "chat", over.url)
    assert (outcome["error"], outcome["status"], outcome["code"]) == ("APIError", 410, "shim_retired")
    assert f"What to use in its place: {link}" in outcome["message"]
    assert outcome["link"] == f'<{link}>; rel="sunset"'

    rehearsing = await start_host(
        platform=CORE_TOOLS, **settings, SHIM_SUNSET="2099-12-31", SHIM_BROWNOUT=present_brownout()
    )
    outcome = await call(page, "chat", rehearsing.url)
    assert (outcome["error"], outcome["status"], outcome["code"]) == ("APIError", 410, "shim_brownout")
    assert outcome["link"] == f'<{link}>; rel="sunset"'
    assert 0 < int(outcome["retryAfter"]) <= 1800


@pytest.fixture(scope="session")
async def playground(shim: Host) -> AsyncIterator[Playground]:
    playground = await Playground.start(shim.url)
    yield playground
    await playground.stop()


@pytest.fixture
async def form(context: BrowserContext, playground: Playground) -> AsyncIterator[Page]:
    """The playground, opened anew, with a key filled in."""
    page = await context.new_page()
    await page.goto(playground.url)
    await page.fill("#key", KEY)
    yield page
    await page.close()


async def test_the_playground_shows_a_streamed_answer_the_headers_and_the_verdict(
    form: Page, openai: AsyncOpenAI
) -> None:
    await form.fill("#message", "Hello, playground!")
    await form.click("button")
    await form.wait_for_selector("#status.good")
    assert await form.inner_text("#answer") == "You said: Hello, playground!"
    status = re.fullmatch(r"200, 4 pieces in ([\d.]+) s", await form.inner_text("#status"))
    figures = re.fullmatch(
        r"First event after ([\d.]+) s; (\d+) tokens in, (\d+) out", await form.inner_text("#figures")
    )
    assert status
    assert figures
    assert float(figures[1]) <= float(status[1])
    messages: Any = [{"role": "user", "content": "Hello, playground!"}]
    usage = (await openai.chat.completions.create(model="gpt-4o", messages=messages)).usage
    assert usage
    assert [int(figures[2]), int(figures[3])] == [usage.prompt_tokens, usage.completion_tokens]
    await form.wait_for_selector("#verdict.good")
    assert await form.inner_text("#verdict") == "204: this origin may call"
    assert "access-control-allow-headers\tauthorization, content-type" in await form.inner_text("#preflight")
    readable = await form.inner_text("#headers")
    assert {"x-request-id", "apim-request-id"} <= {line.split("\t")[0] for line in readable.splitlines()}


async def test_the_playground_shows_why_a_preflight_was_refused(form: Page, core_tools: Host) -> None:
    await form.fill("#base-url", f"{core_tools.url}/openai/v1")
    await form.click("button")
    await form.wait_for_selector("#verdict.bad")
    assert await form.inner_text("#verdict") == "403: this origin may not call"
    assert "Add it to the shim's setting CORS_ORIGINS" in await form.inner_text("#reason")
    await form.wait_for_selector("#status.bad")
    assert "kept the answer from this page" in await form.inner_text("#answer")


# What the answer says when the status turns bad: whoever waits for the status may read the answer at once.
WATCH_STATUS = """() => {
  const [status, answer] = ["status", "answer"].map((id) => document.getElementById(id));
  const look = () => { if (status.className === "bad") window.answerThen ??= answer.textContent; };
  new MutationObserver(look).observe(status, { attributes: true, childList: true });
}"""


async def test_the_playground_shows_a_refusal_by_code_and_message(form: Page) -> None:
    await form.fill("#key", "not-a-key")
    await form.evaluate(WATCH_STATUS)
    await form.click("button")
    await form.wait_for_selector("#status.bad")
    assert (await form.inner_text("#answer")).startswith("invalid_api_key: ")
    assert (await form.evaluate("window.answerThen")).startswith("invalid_api_key: ")


async def test_the_playground_keeps_the_key_in_memory_alone(
    form: Page, context: BrowserContext, playground: Playground, shim: Host
) -> None:
    told: list[str] = []
    form.on(
        "request", lambda sent: told.append(sent.url) if KEY in str((sent.headers, sent.post_data)) else None
    )
    await form.click("button")
    await form.wait_for_selector("#status.good")
    await form.wait_for_selector("#verdict.good")
    assert told == [f"{shim.url}/openai/v1/chat/completions"]
    stored = await form.evaluate("[{...localStorage}, {...sessionStorage}, document.cookie, location.href]")
    assert stored == [{}, {}, "", f"{playground.url}/"]
    await form.reload()
    assert await form.input_value("#key") == ""


async def test_another_page_cannot_have_the_playground_ask_for_it(page: Page, playground: Playground) -> None:
    status = await page.evaluate(
        "url => fetch(url, {method: 'POST', body: '{}'}).then(answer => answer.status, () => 'blocked')",
        f"{playground.url}/preflight",
    )
    assert status == "blocked"
