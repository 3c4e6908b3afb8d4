"""Spans by the API of OpenTelemetry. Loaded only where a program has configured it: see `telemetry.recorder`."""

from collections.abc import Sequence

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from twofold.domain.events import RecordedEvent
from twofold.errors import Rejected
from twofold.synchronization.work_unit import WorkUnit
from twofold.telemetry.spans import APPEND, COMMAND, PROCESS, ActiveSpan, Attributes
from twofold.world import World

LINKS = 128
"""Links of one span at most, which is what the SDK keeps."""

_CARRIED = (b"traceparent", b"tracestate")
_SYSTEM = "twofold"
_GOLDEN = 0.6180339887498949
"""Multiples of this, modulo 1, spread evenly, and so do every second, third, … of them."""
_UNSAMPLED = trace.set_span_in_context(NonRecordingSpan(SpanContext(1, 1, is_remote=False)), Context())
"""What is begun in this context is not sampled."""


class CurrentSpan:
    """A span that is current within its context, in the task that enters it."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, parent: Context | None = None) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, parent)

    def __enter__(self) -> "CurrentSpan":
        self._token = contexts.attach(self._context)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        contexts.detach(self._token)
        span = self._span
        if span.is_recording():
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
                if not isinstance(error, Rejected):
                    # The text of an error may hold data of the domain. It is in the log.
                    span.set_status(Status(StatusCode.ERROR))
            span.end()

    @property
    def traceparent(self) -> str | None:
        return traceparent_of(self._span.get_span_context()) if self._span.is_recording() else None

    def add(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str, attributes: Attributes) -> None:
        self._span.update_name(name)
        self._span.set_attributes(attributes)


class Untraced:
    """In place of the first span of a trace that is not begun. Within its context nothing else begins one either."""

    __slots__ = ("_token",)

    traceparent = None

    def __enter__(self) -> "Untraced":
        self._token = contexts.attach(_UNSAMPLED)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        contexts.detach(self._token)

    def add(self, attributes: Attributes) -> None:
        return None

    def rename(self, name: str, attributes: Attributes) -> None:
        return None


class OpenTelemetryTracing:
    """Spans of a tracer provider: the one that the program has configured. Its sampler decides which are sampled.

    Before it is asked, only `share` of the requests, commands and queries that belong to no trace begin one: to ask the
    sampler of the SDK for each takes a tenth of the time of a command.
    """

    def __init__(self, world: World, database: str, share: float = 1.0, provider: TracerProvider | None = None) -> None:
        self._world = world
        self._share = share
        self._place = 0.0
        self._database = database
        self._tracer = trace.get_tracer("twofold", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()

    def request(self, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> ActiveSpan:
        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIED}
        if not carried and not self._begins():
            return Untraced()
        parent = self._propagator.extract(carried) if carried else None
        attributes = {"http.request.method": method, "http.route": route, "url.scheme": "http"}
        span = self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes)
        return CurrentSpan(span, parent)

    def operation(self, kind: str, name: str, traceparent: str | None) -> ActiveSpan | None:
        parent = None
        current = trace.get_current_span()
        if not current.is_recording():
            if traceparent is not None:
                parent = self._context_of(traceparent)
            elif current.get_span_context().is_valid:
                # The trace is not sampled.
                return None
            elif not self._begins():
                # A decision calls nothing that could begin a trace, and commands are many.
                return None if kind == COMMAND else Untraced()
        return CurrentSpan(self._tracer.start_span(f"{kind} {name}", parent, attributes={f"twofold.{kind}": name}))

    def took(self, name: str, seconds: float, attributes: Attributes, traceparent: str | None = None) -> None:
        if traceparent is None and not trace.get_current_span().is_recording():
            return
        end = int(self._world.now().timestamp() * 1e9)
        parent = None if traceparent is None else self._context_of(traceparent)
        kind = SpanKind.INTERNAL
        if name == APPEND:
            kind, attributes = SpanKind.CLIENT, {**attributes, "db.system.name": self._database}
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=end - int(seconds * 1e9))
        span.end(end)

    def page(self, unit: WorkUnit, upto: int, events: Sequence[RecordedEvent]) -> CurrentSpan:
        links = [Link(span) for event in events[:LINKS] if (span := self._span_of(event.traceparent)).is_valid]
        # A sampler follows the parent: without one this span would be sampled apart from the traces that it is part of.
        parent = self._context_of(events[0].traceparent)
        attributes: Attributes = {
            "messaging.system": _SYSTEM,
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": unit.name,
            "messaging.batch.message_count": len(events),
            "twofold.position": upto,
            "twofold.follower.kind": unit.kind,
            "twofold.partition": unit.partition_name,
        }
        name = f"{PROCESS} {unit.name}"
        return CurrentSpan(self._tracer.start_span(name, parent, SpanKind.CONSUMER, attributes, links), parent)

    def reaction(self, policy: str, recorded: RecordedEvent) -> CurrentSpan:
        parent = self._context_of(recorded.traceparent)
        attributes: Attributes = {
            "messaging.system": _SYSTEM,
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": policy,
            "messaging.message.id": recorded.id,
            "messaging.message.conversation_id": recorded.metadata.correlation_id,
            "twofold.position": recorded.position,
            "twofold.event": recorded.type,
        }
        span = self._tracer.start_span(f"{PROCESS} {policy}", parent, SpanKind.CONSUMER, attributes)
        return CurrentSpan(span, parent)

    def _begins(self) -> bool:
        """Whether the next one without a trace begins one. Of every second, or every tenth, the same share does."""
        self._place = (self._place + _GOLDEN) % 1.0
        return self._place < self._share

    def _context_of(self, traceparent: str | None) -> Context:
        """A context in which the span of `traceparent` is the current one; an empty one where it is not valid."""
        return self._propagator.extract({"traceparent": traceparent or ""}, Context())

    def _span_of(self, traceparent: str | None) -> SpanContext:
        return trace.get_current_span(self._context_of(traceparent)).get_span_context()


def traceparent_of(span: SpanContext) -> str:
    """A sampled span in the form of W3C Trace Context."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-01"


def is_configured() -> bool:
    """Whether the program has configured a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
