"""Nothing that is not the operator's to see is in anything that is exported, with everything on and at DEBUG.

A key or a prompt that has reached a log or a metrics backend cannot be called back.
"""

import json
import uuid
from pathlib import Path

from aiohttp import web

from devhost.standin import Received, Standin
from shim.keys.subscription import digest_of
from tests.conftest import KEY, StartHost
from tests.support.telemetry_doubles import TOKEN, receiving
from tests.support.wire import exchange, request

CALLS = "gen_ai.server.request.duration"
PROMPT, COMPLETION, FILE, USER, WRONG_KEY, QUERY = (
    f"canary-{name}-{uuid.uuid4().hex}" for name in ("prompt", "completion", "file", "user", "key", "query")
)
LAST_TRACE = uuid.uuid4().hex


async def test_no_canary_is_in_anything_exported(
    start_host: StartHost, standin: Standin, tmp_path: Path
) -> None:
    async with receiving(tmp_path) as (otlp, insights, settings):
        host = await start_host(
            **settings,
            LOG_CALLS="all",
            OTEL_TRACES_EXPORTER="otlp,azure_monitor_opentelemetry_exporter",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_BSP_SCHEDULE_DELAY="200",
            PYTHON_ENABLE_DEBUG_LOGGING="1",
        )
        broken = str(uuid.uuid4())

        async def answer(upstream: web.Request, _: Received) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(upstream)
            await response.write(b'data: {"content": "%s"}\n\n' % COMPLETION.encode())
            assert upstream.transport is not None
            upstream.transport.close()
            return response

        standin.answers[broken] = answer
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}
        user = f"x-user-authorization: Bearer {USER}"
        agent = f"user-agent: {USER}"
        calls = [
            request("POST", "/v1/chat/completions", user, agent, body=json.dumps(body).encode(), key=KEY),
            request("POST", "/v1/chat/completions", body=json.dumps({**body, "stream": True}).encode(), key=KEY),
            request("POST", "/v1/chat/completions", f"x-request-id: {broken}", body=json.dumps(body).encode(), key=KEY),
            request("POST", f"/v1/chat/completions?x={QUERY}", body=PROMPT.encode(), key=KEY),
            request("POST", f"/openai/deployments/{FILE}/embeddings?api-version=2024-10-21", body=b"{}", key=KEY),
            request("GET", f"/v1/files/{FILE}", key=KEY),
            request("GET", f"/v1/{FILE}", key=KEY),
            request("GET", f"/elsewhere/{FILE}", key=KEY),
            request("GET", "/v1/models", key=WRONG_KEY),
            request("GET", "/v1/models", f"api-key: {WRONG_KEY} {WRONG_KEY}"),
            request("GET", "/v1/models", f"traceparent: 00-{LAST_TRACE}-{LAST_TRACE[:16]}-01", key=KEY),
        ]  # fmt: skip
        for call in calls:
            await exchange(host.url, call)
        for receiver in (otlp, insights):
            await receiver.until(CALLS, type="invalid_api_key")
            await receiver.until(CALLS, type="malformed_api_key")
            await receiver.span(trace_id=LAST_TRACE)
            spans = {span.name for span in receiver.spans}
            assert spans >= {"POST /chat/completions", "GET /files/…", "POST /embeddings"}
        await host.logs.first(lambda record: broken in record.message)
        exported = b"\n".join(
            [*otlp.raw, *insights.raw, *(each.message.encode() for each in host.logs.records)]
        )
    assert b"team-a" in exported
    # The name of a deployment is asked for, and told in a line on that call. Metrics and spans have none yet.
    metrics = b"\n".join([*otlp.raw, *insights.raw])
    assert FILE.encode() not in metrics
    for canary in (
        PROMPT,
        COMPLETION,
        USER,
        WRONG_KEY,
        QUERY,
        KEY,
        digest_of(KEY),
        digest_of(WRONG_KEY),
        TOKEN,
    ):
        assert canary.encode() not in exported, canary
