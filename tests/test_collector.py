"""A real OpenTelemetry Collector takes the shim's metrics and spans, and hands on what was sent."""

from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.conftest import KEY, StartHost
from tests.support.collector import running_collector, what_is_missing
from tests.support.telemetry_doubles import receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CUMULATIVE = 2  # AGGREGATION_TEMPORALITY_CUMULATIVE


@pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")
async def test_a_real_collector_takes_metrics_and_spans_and_hands_them_on(
    start_host: StartHost, tmp_path: Path
) -> None:
    async with receiving(tmp_path) as (otlp, _, _), running_collector(tmp_path, otlp.url) as url:
        host = await start_host(
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_METRIC_EXPORT_INTERVAL="200",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_BSP_SCHEDULE_DELAY="200",
        )
        async with AsyncOpenAI(base_url=f"{host.url}/openai/v1", api_key=KEY) as client:
            done = await client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": "Hi"}],
                extra_headers={"traceparent": f"00-{TRACE}-{SPAN}-01"},
            )
        assert done.usage is not None
        span = await otlp.span(trace_id=TRACE)
        assert (span.name, span.parent_id, span.is_client) == ("POST /chat/completions", SPAN, True)
        assert span.attributes["apim_shim.subscription"] == "team-a"
        assert span.attributes["gen_ai.usage.input_tokens"] == done.usage.prompt_tokens
        [call, *_] = await otlp.until("gen_ai.server.request.duration", operation="POST /chat/completions")
        assert (call.count, call.temporality) == (1, CUMULATIVE)
        assert call.attributes["gen_ai.request.model"] == "gpt-4o"
        [tokens, *_] = await otlp.until("gen_ai.client.token.usage", type="output")
        assert tokens.value == done.usage.completion_tokens
        for name in ("apim_shim.starts", "apim_shim.io", "apim_shim.upstream.connections"):
            await otlp.until(name)
        assert "error" not in (tmp_path / "collector.log").read_text()
