"""Whether a stream's events arrive as the model makes them, from APIM and through the shim."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from shim.cli.doctor.api import chat_url
from shim.cli.doctor.client import Client, NoResponseError
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target

_PROMPT = "Count from 1 to 40 in words, one per line."
# A stream that took at least this many seconds, and whose chunks all arrived within the last part of it, was
# buffered on its way.
_LONG_ENOUGH = 0.3
_BURST = 0.1


@dataclass(frozen=True, slots=True)
class _StreamTiming:
    """When each chunk of a stream arrived, in seconds since the request."""

    status: int
    arrivals: list[float]
    events: int
    text: str


async def check(target: Target, client: Client) -> AsyncIterator[Finding]:
    settings = target.settings
    model = target.model or next(iter(settings.model_deployments), None)
    if target.key is None or model is None:
        yield warning(
            "streaming",
            "not tried",
            "pass a key (--key-stdin) and a model that it may use (--model gpt-4o); a few tokens are billed",
        )
        return
    # By the shim's own mapping, which a call to APIM does without: in the path, or in the body of a v1 API.
    deployment = settings.model_deployments.get(model, model)
    upstream = chat_url(target, settings.apim_api, deployment)
    yield await _through(
        target, client, "from APIM", upstream, {settings.apim_key_header: target.key}, deployment
    )
    if target.shim_url is not None:
        url = f"{target.shim_url}/openai/v1/chat/completions"
        bearer = {"authorization": f"Bearer {target.key}"}
        yield await _through(target, client, "through the shim", url, bearer, model)


async def _through(
    target: Target, client: Client, path: str, url: str, headers: Mapping[str, str], model: str
) -> Finding:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": _PROMPT}]}
    try:
        timing = await _time(client, url, headers, body)
    except NoResponseError as error:
        return failed("streaming", f"{path}: {error}", "fix the failures above first")
    if timing.status != 200 or not timing.arrivals:
        return failed(
            "streaming",
            f"{path}: answered {timing.status}: {target.excerpt(timing.text)}",
            "check --model and its deployment",
        )
    return _judge(path, timing)


async def _time(client: Client, url: str, headers: Mapping[str, str], body: object) -> _StreamTiming:
    chunks = [chunk async for chunk in client.stream(url, headers=headers, body=body)]
    (_, status), *rest = chunks
    text = b"".join(chunk for _, chunk in rest).decode("utf-8", "replace")
    return _StreamTiming(int(status), [at for at, _ in rest], text.count("data:"), text)


def _judge(path: str, timing: _StreamTiming) -> Finding:
    first, last = timing.arrivals[0], timing.arrivals[-1]
    gap = max((after - before for before, after in pairwise(timing.arrivals)), default=0.0)
    message = (
        f"{path}: first byte after {first * 1000:.0f} ms, {timing.events} events in {len(timing.arrivals)} chunks"
        f" over {(last - first) * 1000:.0f} ms, longest gap {gap * 1000:.0f} ms"
    )
    if timing.events > 2 and last > _LONG_ENOUGH and last - first < last * _BURST:
        return warning(
            "streaming",
            f"{message}: all at once, so something buffers",
            "in APIM, set buffer-response to false on forward-request and log no bodies; then look at proxies",
        )
    return ok("streaming", message)
