"""Folded decision models: a cache of states, and how they are brought up to date."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twofold.codec import EventCodec
from twofold.domain.decision import Fold
from twofold.domain.envelope import Envelope
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.write_store.port import Append, Appended, WriteStore

log = logging.getLogger(__name__)

PAGE = 5_000
"""Events read at once, so that folding a long history needs little memory."""

_ANY = ""


class FoldedState(NamedTuple):
    """A state, and the position up to which it has seen all events of its boundary."""

    state: Any
    upto: Position


class _Era:
    """A part of the log that only this process wrote, up to and including `upto`."""

    __slots__ = ("upto",)

    def __init__(self, upto: Position) -> None:
        self.upto = upto


class _CachedState:
    """A cached state. As long as its era lasts, it sees every event and is as new as the era."""

    __slots__ = ("era", "state", "upto")

    def __init__(self, state: Any, upto: Position, era: _Era | None) -> None:
        self.state = state
        self.upto = upto
        self.era = era

    def folded(self) -> FoldedState:
        return FoldedState(self.state, self.upto if self.era is None else max(self.upto, self.era.upto))


class Folds:
    """A bounded cache of folded states: the least recently used one is removed first.

    What this process writes is folded into the cached states. If the positions it gets are not contiguous, another
    process has written: the era ends, and the cached states stay as they are. So a cached state may be old. That is
    safe: every decision made on it carries an append condition "nothing newer than this state has seen", and answers
    that append nothing are given only after `refresh`.
    """

    def __init__(self, write_store: WriteStore, codec: EventCodec, size: int) -> None:
        self._write_store = write_store
        self._codec = codec
        self._size = size
        self._cached: OrderedDict[Fold, _CachedState] = OrderedDict()
        self._current: dict[str, dict[Fold, _CachedState]] = {}
        self._era = _Era(0)

    async def load(self, folds: Sequence[Fold]) -> dict[Fold, FoldedState]:
        """The state of each fold, perhaps an old one. Folds that are not cached are read from the log."""
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
        """The folds at one moment of the log, and the outcome of a command id at that moment."""
        states = dict(folded)
        while True:
            page, outcome = await self._write_store.newer(conditions(states), command_id, PAGE)
            if len(states) == 1:
                # All events belong to this fold. Comparing the tags of each event costs as much as folding it.
                ((fold, (state, upto)),) = states.items()
                decode = self._codec.decode
                past = [(decode(recorded), recorded) for recorded in page.events]
                states[fold] = FoldedState(fold.model.fold(state, past), upto)
            else:
                self._apply(states, page.events)
            for fold, (state, upto) in states.items():
                states[fold] = FoldedState(state, max(upto, page.upto))
            if page.upto == page.head:
                self._keep(states)
                return states, outcome

    def wrote(self, append: Append, events: Sequence[object], outcome: Appended) -> None:
        """Fold what this process has just written into the cached states. Called in order of position."""
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
                        # The event is written. The next command that needs this fold reads the log and gets the error.
                        log.exception("%s failed on an event just written", fold.model.name)
                        self._forget(fold)

    def _keep(self, states: Mapping[Fold, FoldedState]) -> None:
        for fold, (state, upto) in states.items():
            known = self._cached.get(fold)
            if known is not None and known.folded().upto > upto:
                continue
            self._forget(fold)
            # A state that has not seen the events written meanwhile must not be updated by later events.
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
    """The append conditions of a decision on these states: one for each fold."""
    return tuple([AppendCondition(EventQuery((fold.item,)), upto) for fold, (_, upto) in states.items()])


def _concerns(fold: Fold, event: object, recorded: RecordedEvent) -> bool:
    return type(event) in fold.model.events and all(tag in recorded.tags for tag in fold.tags)


def _index(fold: Fold) -> str:
    """The tag by which a fold gets new events: its first. Folds without tags get all events."""
    return fold.tags[0] if fold.tags else _ANY
