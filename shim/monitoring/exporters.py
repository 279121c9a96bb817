"""OpenTelemetry's real exporters, over OTLP and to Azure Monitor, and the resource that all they send is of.

Only threads that export call these: importing the libraries takes more than a second.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from shim.settings import Settings

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

# Azure Monitor's exporter tells Microsoft about itself, asks for remote configuration, and adds a metric of the
# resource to every export of spans, unless these say no.
_QUIET = (
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
)


def azure_monitor_metrics(settings: Settings) -> MetricExporter:
    options = _azure_monitor(settings)
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter

    return AzureMonitorMetricExporter(**options)


def azure_monitor_spans(settings: Settings) -> SpanExporter:
    options = _azure_monitor(settings)
    from azure.monitor.opentelemetry.exporter import AzureMonitorTraceExporter

    return AzureMonitorTraceExporter(**options)


def otlp_metrics() -> MetricExporter:
    """The exporter reads OTEL_EXPORTER_OTLP_* itself: endpoint, headers, compression, certificates, timeout."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def otlp_spans() -> SpanExporter:
    """As `otlp_metrics`."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def resource() -> Resource:
    """The site and the instance, as the host names them in its own telemetry, unless OTEL_RESOURCE_ATTRIBUTES does."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    site = os.environ.get("WEBSITE_SITE_NAME", "apim-openai-shim")
    instance = os.environ.get("WEBSITE_POD_NAME") or os.environ.get("WEBSITE_INSTANCE_ID") or platform.node()
    named = Resource({"service.name": site, "service.instance.id": instance})
    return named.merge(OTELResourceDetector().detect())


def _azure_monitor(settings: Settings) -> dict[str, Any]:
    for name in _QUIET:
        os.environ.setdefault(name, "true")
    return {
        "connection_string": settings.applicationinsights_connection_string,
        "credential": _credential(settings),
        # What could not be sent is kept in memory, in one form for all destinations, and not on the disk as well.
        "disable_offline_storage": True,
        "max_envelopes_per_second": 0,
    }


def _credential(settings: Settings) -> TokenCredential:
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

    if settings.in_azure:
        return ManagedIdentityCredential(client_id=settings.azure_client_id)
    return DefaultAzureCredential(managed_identity_client_id=settings.azure_client_id)
