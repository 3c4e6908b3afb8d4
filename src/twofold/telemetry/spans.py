"""What is traced, whatever traces it: the names of the spans, and the interface to OpenTelemetry, which is optional."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from twofold.domain.events import RecordedEvent
from twofold.synchronization.work_unit import WorkUnit

Attributes = Mapping[str, str | int | float | bool]

COMMAND = "command"
DECIDE = "decide"
APPEND = "append"
QUERY = "query"
PROCESS = "process"
"""Spans are called `command place-order`, `decide place_order`, `append` and `query orders-of-customer`. Those of a
page of a projection, and of the reaction of a policy: `process order-summaries`. Those of requests:
`POST /commands/place-order`."""


class ActiveSpan(Protocol):
    """A span in progress, which is the parent of what is begun within its context."""

    def __enter__(self) -> "ActiveSpan": ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End it. With an error that is no answer of the domain it has the status `error`."""
        ...

    @property
    def traceparent(self) -> str | None:
        """The span in the form of W3C Trace Context. None unless the trace is sampled."""
        ...

    def add(self, attributes: Attributes) -> None:
        """Set more attributes."""
        ...

    def rename(self, name: str, attributes: Attributes) -> None:
        """Give it another name, and set attributes."""
        ...


class Tracing(Protocol):
    """Begins spans. None where there is nothing to trace: the trace is not sampled, or was never begun."""

    def request(self, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> ActiveSpan:
        """The span of an HTTP request, in the trace that the headers name."""
        ...

    def operation(self, kind: str, name: str, traceparent: str | None) -> ActiveSpan | None:
        """The span of a command or query: in the current trace, else in the one of `traceparent`, else in a new one."""
        ...

    def took(self, name: str, seconds: float, attributes: Attributes, traceparent: str | None = None) -> None:
        """A span of something that has just ended, below the current one, or below the one of `traceparent`."""
        ...

    def page(self, unit: WorkUnit, upto: int, events: Sequence[RecordedEvent]) -> AbstractContextManager[object]:
        """The span of a page, with a link to each span that these events were written in."""
        ...

    def reaction(self, policy: str, recorded: RecordedEvent) -> AbstractContextManager[object]:
        """The span in which a policy answers an event, in the trace of the event."""
        ...
