"""Folding the log: page by page, in steps between which the other tasks of the loop have a turn."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from twofold.codec import EventCodec
from twofold.command_service.fold_reads import FoldedState, IsLong, conditions
from twofold.command_service.pending import concerns
from twofold.command_service.snapshots import Snapshots
from twofold.domain.decision import Fold
from twofold.domain.events import Position, RecordedEvent
from twofold.world import World
from twofold.write_store.port import Appended, Slice, WriteStore

PAGE = 1_000
"""Events read at once: a few milliseconds, and little memory."""
STEP = 500
"""Events folded at once: about a millisecond, unless `evolve` is slow."""
NO_TAG = ""


def not_shared() -> None:
    """Nothing waits for this read, however long it is, and it waits for nothing."""


class NewestStates(NamedTuple):
    """Folds at one moment of the log, and the outcome of a command id at that moment.

    `position` is that moment, `digest` that of the chain there.
    """

    states: dict[Fold, FoldedState]
    outcome: Appended | None
    position: Position
    digest: str


class LogFolding:
    """Reads what is newer than some states, and folds it. A long boundary does not keep other tasks from their turn."""

    def __init__(self, write_store: WriteStore, codec: EventCodec, world: World, snapshots: Snapshots) -> None:
        self._write_store = write_store
        self._codec = codec
        self._world = world
        self._snapshots = snapshots

    async def newest(
        self,
        folded: Mapping[Fold, FoldedState],
        command_id: str | None = None,
        is_long: IsLong = not_shared,
    ) -> NewestStates:
        """The same folds as they are now. It calls `is_long` where there is more than a page to read.

        Nothing is awaited after the last read has been answered: what this process has written by the time of that
        answer is all that it has written when this returns.
        """
        states = dict(folded)
        first = True
        while True:
            # No boundary that is shorter than that has a snapshot.
            limit = min(PAGE, self._snapshots.every or PAGE) if first else PAGE
            page, outcome = await self._write_store.newer(conditions(states), command_id, limit)
            complete = page.upto == page.head
            if not complete and first:
                first = False
                waiting = is_long()
                if waiting is not None:
                    # Many may wait here: none keeps its page in memory meanwhile.
                    del page
                    await waiting
                    states |= await self._snapshots.newer_than(states)
                    continue
                if stored := await self._snapshots.newer_than(states):
                    states |= stored
                    continue
            if complete and len(page.events) <= STEP:
                self._fold(states, page.events)
                _reached(states, page.upto)
                return NewestStates(states, outcome, page.upto, page.digest)
            await self._fold_in_steps(states, page)
            await self._world.sleep(0)

    async def newest_by(self, folded: Mapping[Fold, FoldedState], page: Slice) -> NewestStates:
        """The same folds at the end of a page of events newer than they are."""
        states = dict(folded)
        await self._fold_in_steps(states, page)
        return NewestStates(states, None, page.upto, page.digest)

    async def _fold_in_steps(self, states: dict[Fold, FoldedState], page: Slice) -> None:
        events = iter(page.events)
        while step := list(islice(events, STEP)):
            # Before each step: the read of the page has taken as long as one.
            await self._world.sleep(0)
            self._fold(states, step)
        _reached(states, page.upto)

    def _fold(self, states: dict[Fold, FoldedState], events: Sequence[RecordedEvent]) -> None:
        if len(states) > 1:
            self._fold_many(states, events)
            return
        # All events belong to the one fold. Comparing the tags of each event costs as much as folding it.
        for fold, (state, upto, before) in states.items():
            decode = self._codec.decode
            past = [(decode(recorded), recorded) for recorded in events]
            states[fold] = FoldedState(fold.model.fold(state, past), upto, before + len(past))

    def _fold_many(self, states: dict[Fold, FoldedState], events: Sequence[RecordedEvent]) -> None:
        by_tag: dict[str, list[Fold]] = {}
        for fold in states:
            by_tag.setdefault(tag_of_fold(fold), []).append(fold)
        for recorded in events:
            event = self._codec.decode(recorded)
            for tag in (NO_TAG, *recorded.tags):
                for fold in by_tag.get(tag, ()):
                    state, upto, before = states[fold]
                    if recorded.position > upto and concerns(fold, event, recorded.tags):
                        states[fold] = FoldedState(fold.model.evolve(state, event, recorded), upto, before + 1)


def tag_of_fold(fold: Fold) -> str:
    """The tag by which a fold gets new events: its first. Folds without tags get all events."""
    return fold.tags[0] if fold.tags else NO_TAG


def _reached(states: dict[Fold, FoldedState], position: Position) -> None:
    for fold, (state, upto, events) in states.items():
        states[fold] = FoldedState(state, max(upto, position), events)
