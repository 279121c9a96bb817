"""Spans that have ended, in OpenTelemetry's data model."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shim.monitoring.operation import OTHER
from shim.monitoring.tracing import SpanRecord

_SCOPE = InstrumentationScope("apim_shim")
_PORTS = {"http": 80, "https": 443}


def readable(records: Iterable[SpanRecord], resource: Resource, *, with_url: bool) -> list[ReadableSpan]:
    """`with_url` adds an address with the operation's path, which holds no id, name or query of the call's."""
    return [_span(record, resource, with_url) for record in records]


def _span(record: SpanRecord, resource: Resource, with_url: bool) -> ReadableSpan:
    _, _, template = record.operation.partition(" ")
    trace_id = int(record.trace_id, 16)
    return ReadableSpan(
        record.method if record.operation == OTHER else record.operation,
        SpanContext(trace_id, int(record.span_id, 16), is_remote=False, trace_flags=TraceFlags(record.flags)),
        SpanContext(trace_id, int(record.parent_id, 16), is_remote=True, trace_flags=TraceFlags(record.flags))
        if record.parent_id
        else None,
        resource,
        attributes=_attributes(record, template, with_url=with_url),
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR if record.error else StatusCode.UNSET),
        start_time=record.start,
        end_time=record.end,
        instrumentation_scope=_SCOPE,
    )


def _attributes(record: SpanRecord, template: str, *, with_url: bool) -> dict[str, str | int]:
    """Those of HTTP's and of generative AI's conventions, and of the shim's metrics, that have a value.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span
    https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
    """
    server = urlsplit(record.origin)
    values: dict[str, str | int | None] = {
        "http.request.method": record.method,
        "server.address": server.hostname,
        "server.port": server.port or _PORTS[server.scheme],
        "url.template": template,
        "url.full": f"{record.origin}{template or '/…'}" if with_url else None,
        "http.response.status_code": record.status or None,
        "error.type": record.error,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "apim_shim.subscription": record.label,
        "apim_shim.operation": record.operation,
    }
    return {name: value for name, value in values.items() if value not in ("", None)}
