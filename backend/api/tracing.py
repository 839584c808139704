"""Traces by OpenTelemetry, where `OTEL_EXPORTER_OTLP_ENDPOINT` says who collects them: a span for each request.

FastAPI makes the spans. Nothing of what a client wrote stays in one but the host that it asked for: of the path the
words of the API's own addresses, of the query the names of its own parameters.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi.telemetry import TelemetryConfig
from starlette.routing import BaseRoute

from backend import __version__
from backend.config import Settings

EXPORT_TIMEOUT = 3.0
"""Seconds for one export, its new attempts included."""
LAST_EXPORT = 1.0
"""Seconds that the end of the process waits for the last export."""
LEFT_OUT = "*"

OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
"""FastAPI's own logs would record validation errors, which hold what users wrote; metrics are Prometheus's."""


def telemetry(settings: Settings, routes: Sequence[BaseRoute]) -> TelemetryConfig:
    """Return what FastAPI records of requests: nothing, or spans. Where it is nothing, nothing is imported."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return OFF
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagate import set_global_textmap
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import Span, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    paths = [getattr(route, "path_format", "") for route in routes]
    words = {word for path in paths for word in path.split("/") if not word.startswith("{")}
    names = {name for route in routes for name in getattr(route, "parameters", ())}

    class WithoutValues(BatchSpanProcessor):
        """Exports spans in a thread, without what a client has chosen."""

        def on_start(self, span: Span, parent_context: Any = None) -> None:
            attributes = span.attributes or {}
            path, query = str(attributes.get("url.path", "")), str(attributes.get("url.query", ""))
            span.set_attribute("url.path", "/".join(word if word in words else LEFT_OUT for word in path.split("/")))
            if query:
                sent = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
                span.set_attribute("url.query", "&".join(f"{name}={LEFT_OUT}" for name in sent if name in names))
            if "http.request.method_original" in attributes:
                span.set_attribute("http.request.method_original", LEFT_OUT)
            super().on_start(span, parent_context)

    class TraceparentAlone(TraceContextTextMapPropagator):
        """Reads no `tracestate`, which a span would hold, and no `baggage`: what is wrong in either, the SDK logs."""

        def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
            return super().extract({"traceparent": carrier.get("traceparent", "")}, context)  # by the default getter

    set_global_textmap(TraceparentAlone())
    resource = Resource({"service.name": "todo-backend", "service.version": __version__})
    provider = TracerProvider(resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(WithoutValues(OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=EXPORT_TIMEOUT)))
    return {**OFF, "tracing": True, "tracer_provider": provider}


async def send_the_last(config: TelemetryConfig) -> None:
    """Export the spans that are left. A collector that does not respond holds the end up for `LAST_EXPORT` at most."""
    provider: Any = config.get("tracer_provider")
    if provider is not None:
        thread = threading.Thread(target=provider.shutdown, daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, LAST_EXPORT)
