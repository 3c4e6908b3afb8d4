"""In charge of folded decision models: cached, brought up to date, trusted no further than a condition checks."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twofold.codec import EventCodec
from twofold.domain.decision import Fold
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.write_store.port import Appended, WriteStore

PAGE = 5_000
"""Events read at once, so that folding a long past needs little memory."""


class Folded(NamedTuple):
    """A state and the position up to which it has seen everything of its boundary."""

    state: Any
    upto: Position


class Folds:
    """A bounded cache of folded states, least recently used first out.

    A cached state may be old. That is safe because every decision made on it carries an append condition "nothing newer
    than what I saw", and answers that append nothing are given only after `refresh`.
    """

    def __init__(self, store: WriteStore, codec: EventCodec, size: int) -> None:
        self._store = store
        self._codec = codec
        self._size = size
        self._cached: OrderedDict[Fold, Folded] = OrderedDict()

    async def load(self, folds: Sequence[Fold]) -> dict[Fold, Folded]:
        """Each fold, as old as it may be; what was never folded is read from the log now."""
        cached = self._cached
        known = {fold: cached[fold] for fold in folds if fold in cached}
        for fold in known:
            cached.move_to_end(fold)
        if len(known) < len(folds):
            fresh = {fold: Folded(fold.model.initial(fold.tags), 0) for fold in folds if fold not in known}
            refreshed, _ = await self.refresh(fresh)
            known |= refreshed
        return known

    async def refresh(
        self, folded: Mapping[Fold, Folded], command_id: str | None = None
    ) -> tuple[dict[Fold, Folded], Appended | None]:
        """The folds as of one moment of the log, and what is remembered of a command id by then."""
        states = dict(folded)
        while True:
            found, outcome = await self._store.newer(conditions(states), command_id, PAGE)
            # One fold asked alone: whatever came back is its own. Reading tags costs as much as folding.
            alone = len(states) == 1
            for recorded in found.events:
                _apply(states, self._codec.decode(recorded), recorded, alone=alone)
            for fold, (state, upto) in states.items():
                states[fold] = Folded(state, max(upto, found.upto))
            if found.upto == found.head:
                self._keep(states)
                return states, outcome

    def advance(
        self, folded: Mapping[Fold, Folded], events: Iterable[tuple[object, RecordedEvent]], upto: Position
    ) -> None:
        """Keep folds that an append has just proved current, moved on by the events it wrote."""
        states = dict(folded)
        for event, recorded in events:
            _apply(states, event, recorded, alone=False)
        self._keep({fold: Folded(state, upto) for fold, (state, _) in states.items()})

    def _keep(self, states: Mapping[Fold, Folded]) -> None:
        cached = self._cached
        for fold, folded in states.items():
            known = cached.get(fold)
            if known is None or known.upto <= folded.upto:
                cached[fold] = folded
                cached.move_to_end(fold)
        while len(cached) > self._size:
            cached.popitem(last=False)


def _apply(states: dict[Fold, Folded], event: object, recorded: RecordedEvent, *, alone: bool) -> None:
    kind, position = type(event), recorded.position
    for fold, (state, upto) in states.items():
        if position > upto and kind in fold.model.events and (alone or all(tag in recorded.tags for tag in fold.tags)):
            states[fold] = Folded(fold.model.evolve(state, event, recorded), upto)


def conditions(states: Mapping[Fold, Folded]) -> tuple[AppendCondition, ...]:
    """What must not have happened, for a decision on these states to hold: one condition for each fold."""
    return tuple(AppendCondition(EventQuery((fold.item,)), upto) for fold, (_, upto) in states.items())
