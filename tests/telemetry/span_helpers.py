"""An app whose spans are kept in memory, and what tests ask about them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from tests.telemetry.traced_bank import BALANCES, GIVER, traced_bank
from twofold import App
from twofold.telemetry.tracing import OpenTelemetryTracing

ALL = TraceIdRatioBased(1.0)
NONE = TraceIdRatioBased(0.0)


class Traces:
    """The spans of an app that have ended."""

    def __init__(self, app: App, root: Sampler) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(sampler=ParentBased(root))
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        app.telemetry.tracing = OpenTelemetryTracing(app.world, "memory", app.settings.trace_share, self._provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def clear(self) -> None:
        self._exporter.clear()

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.all(name)
        assert len(found) == 1, (name, self.names)
        return found[0]

    def shutdown(self) -> None:
        self._provider.shutdown()


@asynccontextmanager
async def traced(root: Sampler = ALL, **options: Any) -> AsyncGenerator[tuple[App, Traces]]:
    """A bank that runs, and its spans. `root` decides on traces that begin here."""
    app = traced_bank(**options)
    traces = Traces(app, root)
    async with app:
        yield app, traces
    traces.shutdown()


async def send(app: App, command: object, **more: Any) -> None:
    """Send a command, and wait until the projection and the policy have taken its events."""
    receipt = await app.send(command, wait_for=[BALANCES, GIVER], **more)
    assert not receipt.late


def parent(span: ReadableSpan) -> int | None:
    """The id of the parent of a span."""
    return None if span.parent is None else span.parent.span_id


def identity(span: ReadableSpan) -> int:
    """The id of a span."""
    context = span.context
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    """The trace of a span."""
    context = span.context
    assert context is not None
    return context.trace_id


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}
