"""Observes one app: counts its commands, queries and requests, and traces them where OpenTelemetry is configured."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, TypeVar

import msgspec

from twofold.domain.envelope import Origin, may_be_traced
from twofold.domain.events import RecordedEvent
from twofold.errors import Conflict, Refused, Rejected, Unavailable
from twofold.synchronization.follower_observer import NOTHING
from twofold.synchronization.work_unit import WorkUnit
from twofold.telemetry.instruments import COUNTS, OTHER, Counter, Family, Histogram
from twofold.telemetry.spans import APPEND, COMMAND, DECIDE, QUERY, ActiveSpan, Attributes, Tracing
from twofold.world import World
from twofold.write_store.port import Append, Appended, Outcome, RowWrite, Slice

T = TypeVar("T")

WRITTEN = "written"
REPEATED = "repeated"
ANSWERED = "answered"
OUTCOMES = (WRITTEN, REPEATED, "rejected", "refused", "conflict", "unavailable", "failed", "cancelled")
"""What became of a command: `repeated` is a command id that was used before, and what a decision returns None for is
`written`. What became of a query: `answered` instead of the first three."""
_QUERY_OUTCOMES = (ANSWERED, *OUTCOMES[3:])
TRACED_SECONDS = 3600.0
"""Pages with older events than this have no spans: a rebuild applies events whose traces ended long ago."""


class Handled(Protocol):
    """What is noted of the receipt of a command."""

    @property
    def position(self) -> int: ...

    @property
    def repeated(self) -> bool: ...


H = TypeVar("H", bound=Handled)
Handle = Callable[..., Awaitable[H]]


class Telemetry:
    """The counters and histograms of one app, and its spans. It is what the parts call their observer.

    `commands` has the stored name of each type of command, `queries` that of each type of query.
    """

    def __init__(self, commands: Mapping[type, str], queries: Mapping[type, str], world: World) -> None:
        self.tracing: Tracing | None = None
        self.sources: dict[str, Callable[[], Iterable[Family]]] = {}
        """More metrics, by what they are of: those of the server that serves the app."""
        self._world = world
        self._commands = commands
        self._queries = queries
        names, asked = sorted(commands.values()), sorted(queries.values())
        self.commands = Counter(
            "twofold_commands_total", "Commands handled by this process.", {"command": names, "outcome": OUTCOMES}
        )
        self.command_seconds = Histogram(
            "twofold_command_seconds", "Seconds to handle a command.", values={"command": names}
        )
        self.decision_seconds = Histogram("twofold_decision_seconds", "Seconds in a decision function.")
        self.append_seconds = Histogram("twofold_append_seconds", "Seconds to write one batch to the log.")
        self.batch_size = Histogram("twofold_append_batch_commands", "Appends that share one commit.", COUNTS)
        self.conflicts = Counter(
            "twofold_conflicts_total", "Decisions repeated since another process wrote first.", {"command": names}
        )
        self.queries = Counter(
            "twofold_queries_total", "Queries answered by this process.", {"query": asked, "outcome": _QUERY_OUTCOMES}
        )
        self.query_seconds = Histogram("twofold_query_seconds", "Seconds to answer a query.", values={"query": asked})

    def families(self) -> list[Family]:
        """All that is counted."""
        own = (
            self.commands,
            self.command_seconds,
            self.decision_seconds,
            self.append_seconds,
            self.batch_size,
            self.conflicts,
            self.queries,
            self.query_seconds,
        )
        more = [family for source in self.sources.values() for family in source()]
        return [*(each.family() for each in own), *more]

    def begin(self, database: str, share: float) -> None:
        """Trace from now on if the program has configured OpenTelemetry. `database` names the kind of write store.

        `share` of what belongs to no trace begins one.
        """
        # What nobody has imported, nobody has configured: then it need not be loaded.
        if "opentelemetry.trace" in sys.modules:
            tracing: Any = import_module("twofold.telemetry.tracing")
            if tracing.is_configured():
                self.tracing = tracing.OpenTelemetryTracing(self._world, database, share)

    # ------------------------------------------------------------------------------------------ commands and queries

    async def command(
        self, handle: Handle[H], command: object, command_id: str, origin: Origin, rows: Sequence[RowWrite] = ()
    ) -> H:
        """What `handle` returns for a command: a receipt."""
        name = self._commands.get(type(command), OTHER)
        began = self._world.monotonic()
        outcome = "cancelled"
        try:
            span = None if self.tracing is None else self.tracing.operation(COMMAND, name, origin.traceparent)
            if span is None:
                receipt = await handle(command, command_id, origin, rows)
            else:
                with span:
                    traceparent = span.traceparent
                    if traceparent != origin.traceparent:
                        origin = msgspec.structs.replace(origin, traceparent=traceparent)
                    if traceparent is None:
                        receipt = await handle(command, command_id, origin, rows)
                    else:
                        receipt = await self._traced(handle, span, command, command_id, origin, rows)
            outcome = REPEATED if receipt.repeated else WRITTEN
            return receipt
        except Exception as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.commands.add(name, outcome)
            self.command_seconds.observe(self._world.monotonic() - began, name)

    async def _traced(
        self,
        handle: Handle[H],
        span: ActiveSpan,
        command: object,
        command_id: str,
        origin: Origin,
        rows: Sequence[RowWrite],
    ) -> H:
        span.add({"twofold.command_id": command_id, "twofold.correlation_id": origin.correlation_id or command_id})
        try:
            receipt = await handle(command, command_id, origin, rows)
        except Rejected as error:
            span.add({"twofold.rejection": error.code})
            raise
        span.add({"twofold.position": receipt.position, "twofold.repeated": receipt.repeated})
        return receipt

    async def query(self, query: object, answering: Awaitable[T]) -> T:
        """What `answering` gives for a query."""
        name = self._queries.get(type(query), OTHER)
        began = self._world.monotonic()
        outcome = "cancelled"
        try:
            span = None if self.tracing is None else self.tracing.operation(QUERY, name, None)
            if span is None:
                answer = await answering
            else:
                with span:
                    answer = await answering
            outcome = ANSWERED
            return answer
        except Exception as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.queries.add(name, outcome)
            self.query_seconds.observe(self._world.monotonic() - began, name)

    # ------------------------------------------------------------------------------------------ the command observer

    def decided(self, decision: str, seconds: float) -> None:
        self.decision_seconds.observe(seconds)
        if self.tracing is not None:
            self.tracing.took(f"{DECIDE} {decision}", seconds, {"code.function.name": decision})

    def conflicted(self, command: type) -> None:
        self.conflicts.add(self._commands.get(command, OTHER))

    def appended(self, batch: Sequence[Append], outcomes: Sequence[Outcome], seconds: float) -> None:
        self.append_seconds.observe(seconds)
        self.batch_size.observe(len(batch))
        if self.tracing is None:
            return
        for append, outcome in zip(batch, outcomes, strict=True):
            traceparent = append.metadata.traceparent
            if traceparent is not None:
                self.tracing.took(APPEND, seconds, _append_attributes(append, outcome, len(batch)), traceparent)

    # ----------------------------------------------------------------------------------------- the follower observer

    def page(self, unit: WorkUnit, page: Slice) -> AbstractContextManager[object]:
        # A policy only takes a page over: its reactions have spans of their own. What a build applies is old.
        if self.tracing is None or unit.kind != "projection":
            return NOTHING
        traced = [event for event in page.events if may_be_traced(event.wrapped) and self._is_recent(event)]
        return self.tracing.page(unit, page.upto, traced) if traced else NOTHING

    def reaction(self, policy: str, recorded: RecordedEvent) -> AbstractContextManager[object]:
        if self.tracing is None or recorded.traceparent is None:
            return NOTHING
        return self.tracing.reaction(policy, recorded)

    def _is_recent(self, event: RecordedEvent) -> bool:
        age = self._world.now().timestamp() - event.metadata.time / 1_000_000
        return event.traceparent is not None and age < TRACED_SECONDS


def names_of(types: Mapping[str, type]) -> dict[type, str]:
    """The stored name of each type of message."""
    return {kind: name for name, kind in types.items()}


def outcome_of(error: Exception) -> str:
    """The label of what became of a command or query that raised this."""
    kinds: Iterable[tuple[type[Exception], str]] = (
        (Rejected, "rejected"),
        (Refused, "refused"),
        (Conflict, "conflict"),
        (Unavailable, "unavailable"),
    )
    return next((outcome for kind, outcome in kinds if isinstance(error, kind)), "failed")


def _append_attributes(append: Append, outcome: Outcome, batch: int) -> Attributes:
    attributes: dict[str, str | int] = {
        "db.operation.name": "append",
        "db.operation.batch.size": batch,
        "twofold.events": len(append.events),
    }
    if isinstance(outcome, Appended):
        attributes["twofold.position"] = outcome.position
    else:
        attributes["error.type"] = type(outcome).__name__
    return attributes
