"""In charge of folded decision models: cached, brought up to date, trusted no further than a condition checks."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twofold.codec import EventCodec
from twofold.domain.decision import Fold
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Envelope, Position, RecordedEvent
from twofold.write_store.port import Append, Appended, WriteStore

log = logging.getLogger(__name__)

PAGE = 5_000
"""Events read at once, so that folding a long past needs little memory."""

_ANY = ""


class FoldedState(NamedTuple):
    """A state and the position up to which it has seen everything of its boundary."""

    state: Any
    upto: Position


class _Era:
    """A stretch of the log that this process wrote alone, up to and including `upto`."""

    __slots__ = ("upto",)

    def __init__(self, upto: Position) -> None:
        self.upto = upto


class _CachedState:
    """A cached state. As long as its era lasts it sees every event, and is as new as the era."""

    __slots__ = ("era", "state", "upto")

    def __init__(self, state: Any, upto: Position, era: _Era | None) -> None:
        self.state = state
        self.upto = upto
        self.era = era

    def folded(self) -> FoldedState:
        return FoldedState(self.state, self.upto if self.era is None else max(self.upto, self.era.upto))


class Folds:
    """A bounded cache of folded states, least recently used first out.

    What this process writes is folded into the states it keeps. When the positions it is given are not contiguous,
    another process has written: an era ends, and what is cached stays as it was. A cached state may so be old. That is
    safe because every decision made on it carries an append condition "nothing newer than what I saw", and answers that
    append nothing are given only after `refresh`.
    """

    def __init__(self, write_store: WriteStore, codec: EventCodec, size: int) -> None:
        self._write_store = write_store
        self._codec = codec
        self._size = size
        self._cached: OrderedDict[Fold, _CachedState] = OrderedDict()
        self._current: dict[str, dict[Fold, _CachedState]] = {}
        self._era = _Era(0)

    async def load(self, folds: Sequence[Fold]) -> dict[Fold, FoldedState]:
        """Each fold, as old as it may be; what was never folded is read from the log now."""
        cached = self._cached
        known: dict[Fold, FoldedState] = {}
        for fold in folds:
            entry = cached.get(fold)
            if entry is not None:
                cached.move_to_end(fold)
                known[fold] = entry.folded()
        if len(known) < len(folds):
            fresh = {fold: FoldedState(fold.model.initial(fold.tags), 0) for fold in folds if fold not in known}
            refreshed, _ = await self.refresh(fresh)
            known |= refreshed
        return known

    async def refresh(
        self, folded: Mapping[Fold, FoldedState], command_id: str | None = None
    ) -> tuple[dict[Fold, FoldedState], Appended | None]:
        """The folds as of one moment of the log, and what is remembered of a command id by then."""
        states = dict(folded)
        while True:
            found, outcome = await self._write_store.newer(conditions(states), command_id, PAGE)
            if len(states) == 1:
                # Whatever came back is this fold's own; asking each event for its tags costs as much as folding it.
                ((fold, (state, upto)),) = states.items()
                decode = self._codec.decode
                past = [(decode(recorded), recorded) for recorded in found.events]
                states[fold] = FoldedState(fold.model.fold(state, past), upto)
            else:
                self._apply(states, found.events)
            for fold, (state, upto) in states.items():
                states[fold] = FoldedState(state, max(upto, found.upto))
            if found.upto == found.head:
                self._keep(states)
                return states, outcome

    def wrote(self, append: Append, events: Sequence[object], outcome: Appended) -> None:
        """Fold what this process has just written into the states it keeps. Called in order of position."""
        before = outcome.position - outcome.count
        if before != self._era.upto:
            self._era = _Era(before)
            self._current.clear()
        for i, (new, event) in enumerate(zip(append.events, events, strict=True), before + 1):
            envelope = Envelope(new.id, new.tags, append.metadata)
            self._advance(event, RecordedEvent(i, new.type, new.version, new.payload, envelope))
        self._era.upto = outcome.position

    def _apply(self, states: dict[Fold, FoldedState], events: Sequence[RecordedEvent]) -> None:
        for recorded in events:
            event = self._codec.decode(recorded)
            for fold, (state, upto) in states.items():
                if recorded.position > upto and _concerns(fold, event, recorded):
                    states[fold] = FoldedState(fold.model.evolve(state, event, recorded), upto)

    def _advance(self, event: object, recorded: RecordedEvent) -> None:
        for tag in (_ANY, *recorded.tags):
            for fold, entry in list(self._current.get(tag, {}).items()):
                if recorded.position > entry.upto and _concerns(fold, event, recorded):
                    try:
                        entry.state = fold.model.evolve(entry.state, event, recorded)
                    except Exception:
                        # The event is written; whoever needs this fold next folds it from the log and meets the error.
                        log.exception("%s failed on an event just written", fold.model.name)
                        self._forget(fold)

    def _keep(self, states: Mapping[Fold, FoldedState]) -> None:
        for fold, (state, upto) in states.items():
            known = self._cached.get(fold)
            if known is not None and known.folded().upto > upto:
                continue
            self._forget(fold)
            # A state that has not seen what was written meanwhile may not be moved on by what is written next.
            era = self._era if upto >= self._era.upto else None
            entry = self._cached[fold] = _CachedState(state, upto, era)
            if era is not None:
                self._current.setdefault(_index(fold), {})[fold] = entry
        while len(self._cached) > self._size:
            self._forget(next(iter(self._cached)))

    def _forget(self, fold: Fold) -> None:
        self._cached.pop(fold, None)
        tag = _index(fold)
        of_tag = self._current.get(tag)
        if of_tag is not None:
            of_tag.pop(fold, None)
            if not of_tag:
                del self._current[tag]


def conditions(states: Mapping[Fold, FoldedState]) -> tuple[AppendCondition, ...]:
    """What must not have happened, for a decision on these states to hold: one condition for each fold."""
    return tuple([AppendCondition(EventQuery((fold.item,)), upto) for fold, (_, upto) in states.items()])


def _concerns(fold: Fold, event: object, recorded: RecordedEvent) -> bool:
    return type(event) in fold.model.events and all(tag in recorded.tags for tag in fold.tags)


def _index(fold: Fold) -> str:
    """The tag under which a fold hears of new events: its first; folds without tags hear of all."""
    return fold.tags[0] if fold.tags else _ANY
