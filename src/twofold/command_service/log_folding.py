"""Folding the log: page by page, in steps between which the other tasks of the loop have a turn."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from twofold.codec import EventCodec
from twofold.command_service.fold_reads import FoldedState, IsLong, conditions
from twofold.command_service.pending import concerns
from twofold.domain.decision import Fold
from twofold.domain.events import Position, RecordedEvent
from twofold.world import World
from twofold.write_store.port import Appended, WriteStore

PAGE = 1_000
"""Events read at once: a few milliseconds, and little memory."""
STEP = 500
"""Events folded at once: about a millisecond, unless `evolve` is slow."""
NO_TAG = ""


async def not_shared() -> bool:
    """Nothing waits for this read, however long it is."""
    return False


class NewestStates(NamedTuple):
    """Folds at one moment of the log, and the outcome of a command id at that moment.

    `folded`: how many events were folded, by fold. `position` is that moment, `digest` that of the chain there.
    """

    states: dict[Fold, FoldedState]
    outcome: Appended | None
    folded: Mapping[Fold, int]
    position: Position
    digest: str


class LogFolding:
    """Reads what is newer than some states, and folds it. A long boundary does not keep other tasks from their turn."""

    def __init__(self, write_store: WriteStore, codec: EventCodec, world: World) -> None:
        self._write_store = write_store
        self._codec = codec
        self._world = world

    async def newest(
        self,
        folded: Mapping[Fold, FoldedState],
        command_id: str | None = None,
        is_long: IsLong = not_shared,
    ) -> NewestStates:
        """The same folds as they are now. It awaits `is_long` where there is more than a page to read.

        Nothing is awaited after the last read has been answered: what this process has written by the time of that
        answer is all that it has written when this returns.
        """
        states = dict(folded)
        counts = dict.fromkeys(states, 0)
        first = True
        while True:
            page, outcome = await self._write_store.newer(conditions(states), command_id, PAGE)
            complete = page.upto == page.head
            if not complete and first:
                first = False
                if await is_long():
                    continue
            if complete and len(page.events) <= STEP:
                self._fold(states, counts, page.events)
                _reached(states, page.upto)
                return NewestStates(states, outcome, counts, page.upto, page.digest)
            events = iter(page.events)
            while step := list(islice(events, STEP)):
                # Before each step: the read of the page has taken as long as one.
                await self._world.sleep(0)
                self._fold(states, counts, step)
            _reached(states, page.upto)
            await self._world.sleep(0)

    def _fold(self, states: dict[Fold, FoldedState], counts: dict[Fold, int], events: Sequence[RecordedEvent]) -> None:
        if len(states) > 1:
            self._fold_many(states, counts, events)
            return
        # All events belong to the one fold. Comparing the tags of each event costs as much as folding it.
        for fold, (state, upto) in states.items():
            decode = self._codec.decode
            past = [(decode(recorded), recorded) for recorded in events]
            states[fold] = FoldedState(fold.model.fold(state, past), upto)
            counts[fold] += len(past)

    def _fold_many(
        self, states: dict[Fold, FoldedState], counts: dict[Fold, int], events: Sequence[RecordedEvent]
    ) -> None:
        by_tag: dict[str, list[Fold]] = {}
        for fold in states:
            by_tag.setdefault(tag_of_fold(fold), []).append(fold)
        for recorded in events:
            event = self._codec.decode(recorded)
            for tag in (NO_TAG, *recorded.tags):
                for fold in by_tag.get(tag, ()):
                    state, upto = states[fold]
                    if recorded.position > upto and concerns(fold, event, recorded.tags):
                        states[fold] = FoldedState(fold.model.evolve(state, event, recorded), upto)
                        counts[fold] += 1


def tag_of_fold(fold: Fold) -> str:
    """The tag by which a fold gets new events: its first. Folds without tags get all events."""
    return fold.tags[0] if fold.tags else NO_TAG


def _reached(states: dict[Fold, FoldedState], position: Position) -> None:
    for fold, (state, upto) in states.items():
        states[fold] = FoldedState(state, max(upto, position))
