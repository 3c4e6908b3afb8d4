"""Given/when/then: tests of decisions and projections as pure functions, without a store."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Concatenate, Generic, NoReturn, TypeVar, cast, overload

import msgspec

from twofold.codec.event_codec import EventCodec
from twofold.domain.actor import Actor, actor_of, name_of
from twofold.domain.decision import Boundary, Context, Decision, DecisionModel, returned_events
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import EventQuery
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import BoundProjection, Projection
from twofold.domain.type_hints import hints_of, union_members
from twofold.errors import Rejected
from twofold.world import microseconds

C = TypeVar("C")

NOON = datetime(2000, 1, 1, 12, tzinfo=UTC)
"""The time of everything in a test that does not call `at`."""

_COMMAND_ID = "the-command"


@overload
def spec(function: Projection) -> "ProjectionSpec": ...
@overload
def spec(function: Callable[Concatenate[C, ...], object], *models: DecisionModel) -> "DecisionSpec[C]": ...
def spec(function: Any, *models: DecisionModel) -> "ProjectionSpec | DecisionSpec[Any]":
    """The specification of one decision (`spec(place_order, *orders.models)`) or one projection.

    Event types are read from the hints. WiringError where function and models do not fit, as at the start of an app.
    """
    if isinstance(function, Projection):
        wiring = _wired(events=_hint_of_parameter(function.fold, 1), projections=[function])
        return ProjectionSpec(wiring.projections[function.name], EventCodec(wiring.events.values()))
    read = [event for model in models for event in _hint_of_parameter(getattr(model.state, "evolve", None), 1)]
    decided = returned_events(hints_of(function, _name(function)).get("return"))
    wiring = _wired(events=[*read, *decided], models=models, decisions=[function])
    (decision,) = wiring.decisions.values()
    return DecisionSpec(decision, EventCodec(wiring.events.values()))


class _Past(msgspec.Struct, frozen=True):
    """The events a test has given so far, with the time and the actor of each."""

    events: tuple[tuple[object, datetime, Actor | None], ...] = ()
    time: datetime = NOON
    actor: Actor | None = None

    def but(self, **changes: Any) -> "_Past":
        return msgspec.structs.replace(self, **changes)

    def and_then(self, events: Iterable[object]) -> "_Past":
        more = tuple((event, self.time, self.actor) for event in events)
        return self.but(events=self.events + more)

    def recorded(self, codec: EventCodec) -> list[tuple[Any, RecordedEvent]]:
        """The events as a log returns them: encoded, tagged, decoded."""
        past: list[tuple[Any, RecordedEvent]] = []
        for position, (event, time, actor) in enumerate(self.events, 1):
            command_id = f"given-{position}"
            metadata = Metadata(microseconds(time), command_id, command_id, None, name_of(actor))
            new = codec.encode(event, command_id, 0)
            envelope = Envelope(new.id, new.tags, metadata)
            recorded = RecordedEvent(position, new.type, new.version, new.payload, envelope)
            past.append((codec.decode(recorded), recorded))
        return past


class DecisionSpec(Generic[C]):
    """Builds the past of a decision. Immutable: every call returns a new one, so tests can share a beginning."""

    def __init__(self, decision: Decision, codec: EventCodec, past: _Past | None = None) -> None:
        self._decision = decision
        self._codec = codec
        self._past = past or _Past()

    def given(self, *events: object) -> "DecisionSpec[C]":
        """These events have happened, after those given before."""
        return self._but(self._past.and_then(events))

    def at(self, time: datetime) -> "DecisionSpec[C]":
        """The events and the command from here on have this time. ValueError where it has no zone."""
        return self._but(self._past.but(time=_zoned(time)))

    def by(self, actor: Actor | str) -> "DecisionSpec[C]":
        """The events and the command from here on have this actor."""
        return self._but(self._past.but(actor=actor_of(actor)))

    def when(self, command: C) -> "Decided":
        """Decide `command` on the past, twice. AssertionError where the two results differ: a decision is pure.

        AssertionError, too, where an event that was given is outside the consistency boundary of this command: no model
        would see it.
        """
        decision = self._decision
        if type(command) is not decision.command:
            raise AssertionError(f"{decision.name} decides {decision.command.__name__}, not {command!r}.")
        boundary = decision.boundary(command)
        read = {kind for fold in boundary.folds for kind in fold.model.events}
        for event, _, _ in self._past.events:
            if type(event) not in read:
                raise AssertionError(
                    f"{event!r} is outside the boundary of {decision.name}: none of its models reads it."
                )
        past = self._past.recorded(self._codec)
        _check_inside(decision, command, boundary, past)
        first = self._decide(command, boundary, past)
        again = self._decide(command, boundary, past)
        if first != again:
            raise AssertionError(
                f"{decision.name} returned {first.shown()}, and {again.shown()} the second time. A decision is pure: "
                "take time and new ids from a parameter annotated Context."
            )
        for index, event in enumerate(first.events):
            self._codec.encode(event, _COMMAND_ID, index)
        return first

    def _decide(self, command: C, boundary: Boundary, past: Sequence[tuple[Any, RecordedEvent]]) -> "Decided":
        states = {fold: fold.model.initial(fold.tags) for fold in boundary.folds}
        for event, recorded in past:
            for fold in boundary.folds:
                if fold.item.matches(recorded.type, frozenset(recorded.tags)):
                    states[fold] = fold.model.evolve(states[fold], event, recorded)
        context = Context(_COMMAND_ID, self._past.time, self._past.actor)
        try:
            return Decided(self._decision.decide(command, boundary, states, context))
        except Rejected as rejected:
            return Decided((), rejected.code, rejected.reason)

    def _but(self, past: _Past) -> "DecisionSpec[C]":
        return DecisionSpec(self._decision, self._codec, past)


class Decided(msgspec.Struct, frozen=True):
    """The result of a decision, to be compared with what a test expects."""

    events: tuple[object, ...] = ()
    code: str | None = None
    reason: str = ""

    def then(self, *events: object) -> None:
        """AssertionError, showing the difference, unless exactly these events follow, in this order."""
        if self.code is not None or self.events != events or not events:
            _fail("other events were expected", _lines(events), [self.shown()] if self.code else _lines(self.events))

    def then_nothing(self) -> None:
        """AssertionError unless nothing changes: no event, and no rejection."""
        if self.code is not None or self.events:
            _fail("nothing was expected", [], [self.shown()] if self.code else _lines(self.events))

    def then_rejected(self, code: str, reason: str | None = None) -> None:
        """AssertionError unless the command is rejected with this code (and this reason, where one is given)."""
        if self.code != code or reason not in (None, self.reason):
            expected = Decided((), code, self.reason if reason is None else reason)
            _fail(
                "a rejection was expected", [expected.shown()], _lines(self.events) if self.events else [self.shown()]
            )

    def shown(self) -> str:
        """The result in one line."""
        if self.code is not None:
            return f"Rejected({self.code!r}, {self.reason!r})" if self.reason else f"Rejected({self.code!r})"
        return ", ".join(_lines(self.events)) or "nothing"


class ProjectionSpec:
    """Builds the past of a projection. Immutable: every call returns a new one."""

    def __init__(self, bound: BoundProjection, codec: EventCodec, past: _Past | None = None) -> None:
        self._bound = bound
        self._codec = codec
        self._past = past or _Past()

    def given(self, *events: object) -> "ProjectionSpec":
        """These events have happened, after those given before."""
        return self._but(self._past.and_then(events))

    def at(self, time: datetime) -> "ProjectionSpec":
        """The events from here on have this time. ValueError where it has no zone."""
        return self._but(self._past.but(time=_zoned(time)))

    def by(self, actor: Actor | str) -> "ProjectionSpec":
        """The events from here on have this actor."""
        return self._but(self._past.but(actor=actor_of(actor)))

    def then_rows(self, rows: Mapping[str, object]) -> None:
        """AssertionError, showing the difference, unless the read model has exactly these rows by key."""
        for event, _, _ in self._past.events:
            if type(event) not in self._bound.events:
                raise AssertionError(f"{self._bound.label} does not read {event!r}. Add its type to the fold's hints.")
        folded: dict[str, object] = {}
        for event, recorded in self._past.recorded(self._codec):
            for key in self._bound.keys(event):
                row = self._bound.fold(folded.get(key), event, key, recorded)
                if row is None:
                    folded.pop(key, None)
                else:
                    folded[key] = row
        if folded != dict(rows):
            _fail("other rows were expected", _row_lines(rows), _row_lines(folded))

    def _but(self, past: _Past) -> "ProjectionSpec":
        return ProjectionSpec(self._bound, self._codec, past)


def _check_inside(
    decision: Decision, command: object, boundary: Boundary, past: Sequence[tuple[Any, RecordedEvent]]
) -> None:
    query = EventQuery(tuple(fold.item for fold in boundary.folds))
    for event, recorded in past:
        if not query.matches(recorded.type, frozenset(recorded.tags)):
            models = "\n".join(
                f"  {fold.model.state.__name__}: {' or '.join(fold.item.types)}, tagged {_tags(fold.tags)}"
                for fold in boundary.folds
            )
            raise AssertionError(
                f"{event!r}, tagged {_tags(recorded.tags)}, is outside the boundary of {decision.name} for "
                f"{command!r}, so no model would see it:\n{models or '  (no model at all)'}\nDoes a field lack its "
                "tag type? If not, leave the event out: the decision does not depend on it."
            )


def _tags(tags: Sequence[str]) -> str:
    return " + ".join(tags) or "with anything"


def _wired(*, events: Iterable[Any], **lists: Any) -> Wiring:
    types = [event for event in dict.fromkeys(events) if isinstance(event, type)]
    return Wiring([Module("spec", events=types, **lists)])


def _hint_of_parameter(function: Callable[..., object] | None, index: int) -> tuple[Any, ...]:
    """The types in the hint of one parameter. The wiring reports what is missing or wrong there."""
    if function is None:
        return ()
    hints = hints_of(function, _name(function))
    names = list(inspect.signature(function).parameters)
    return union_members(hints[names[index]]) if len(names) > index and names[index] in hints else ()


def _zoned(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("Give `at` a time with a zone, e.g. datetime(2000, 1, 1, tzinfo=UTC).")
    return time.astimezone(UTC)


def _name(function: object) -> str:
    return cast("str", getattr(function, "__qualname__", repr(function)))


def _lines(events: Iterable[object]) -> list[str]:
    return [repr(event) for event in events]


def _row_lines(rows: Mapping[str, object]) -> list[str]:
    return [f"{key!r}: {row!r}" for key, row in sorted(rows.items())]


def _fail(what: str, expected: list[str], found: list[str]) -> NoReturn:
    shown = difflib.ndiff(expected or ["nothing"], found or ["nothing"])
    text = "\n".join(f"  {line.rstrip()}" for line in shown)
    raise AssertionError(f"{what} (- expected, + found):\n{text}")
