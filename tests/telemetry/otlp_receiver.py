"""A collector for tests: takes OTLP over HTTP, decodes it with the protocol's own classes, and keeps it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Received:
    """What has arrived: the spans with the process that sent them, and the metrics by name. `answer` is the status."""

    def __init__(self) -> None:
        self.url = ""
        self.answer = 200
        self.spans: list[tuple[str, Span]] = []
        self.metrics: dict[str, Metric] = {}
        self.refused = 0

    def take(self, path: str, body: bytes) -> int:
        if self.answer != 200:
            self.refused += 1
            return self.answer
        if path == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in of_resource.resource.attributes}
                for scope in of_resource.scope_spans:
                    self.spans += [(names["service.instance.id"], span) for span in scope.spans]
        elif path == "/v1/metrics":
            for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in of_resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}
        else:
            return 404
        return 200

    def of_trace(self, trace_id: str) -> list[tuple[str, Span]]:
        """The spans of one trace."""
        return [(place, span) for place, span in self.spans if span.trace_id.hex() == trace_id]


@contextmanager
def receiving() -> Iterator[Received]:
    """A collector that runs."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(received.take(self.path, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
