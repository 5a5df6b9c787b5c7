"""OpenTelemetry's SDK with exporters in memory, and a receiver of its protocol."""

# What it imports is needed by tests/peers/ only.

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qsessions.integrations.opentelemetry import OpenTelemetry


class _Counting(SimpleSpanProcessor):  # type: ignore[misc]
    """Exports spans as they end, and counts those that don't."""

    unended = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.unended += 1
        super().on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        self.unended -= 1
        super().on_end(span)


class Telemetry:
    """The SDK, and what arrived in it."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._processor = _Counting(self._exporter)
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(self._processor)
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("the caller")

    def observer(self, **options: Any) -> OpenTelemetry:
        """Return an observer for a client."""
        return OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    @property
    def unended(self) -> int:
        """How many spans have begun and not ended."""
        return self._processor.unended

    @property
    def spans(self) -> list[Any]:
        """The spans that have ended, in the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)

    def tree(self) -> list[str]:
        """Return a line for each span: its name within its parents, and its status."""
        spans = {span.context.span_id: span for span in self.spans}

        def depth(span: Any) -> int:
            return 1 + depth(spans[span.parent.span_id]) if span.parent else 0

        return [
            f"{'  ' * depth(span)}{span.name} {_outcome(span)}".rstrip() for span in spans.values()
        ]

    def values(self, name: str) -> dict[tuple[object, ...], Any]:
        """Return a metric: its value, or how often and how much in all, by its attributes."""
        data = self._reader.get_metrics_data()
        return {
            tuple(point.attributes.values()): point.value
            if hasattr(point, "value")
            else (point.count, point.sum)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


def _outcome(span: Any) -> object:
    attributes = span.attributes
    return attributes.get("http.response.status_code", attributes.get("error.type", ""))


@contextmanager
def otlp_receiver() -> Iterator[tuple[str, list[Any]]]:
    """Serve OTLP over HTTP; yield the address, and the requests as they come, decoded."""
    received: list[Any] = []
    kinds: dict[str, Any] = {
        "/v1/traces": ExportTraceServiceRequest,
        "/v1/metrics": ExportMetricsServiceRequest,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(kinds[self.path].FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()
