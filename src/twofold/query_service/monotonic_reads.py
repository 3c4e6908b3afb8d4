"""In charge of what holds answers back after a switch, so that none is older than those of the generation before."""

from collections.abc import Mapping

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.read_store.port import Checkpoint, ReadModel, ReadStore
from twofold.write_store.port import WriteStore

Lagging = tuple[str, Position, Position]
"""A read model that is behind: its name, where it is, and where it has to be."""


class MonotonicReads:
    """Which generation has answered last, and how far another one has to come before it answers.

    How far the rows of an answer reached nobody knows: its position is that of its lowest partition, and a store
    without transactions may show rows ahead of it. But they reached no further than the log, whose head is noted when a
    generation is asked for the first time after another one.
    """

    def __init__(self, projections: Mapping[str, BoundProjection]) -> None:
        self._halting = {name for name, each in projections.items() if each.parks == "partition"}
        self._answered: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._wanted: dict[str, tuple[int, Position]] = {}
        """By name the generation that is new, and how far it has to come."""

    def forget(self) -> None:
        """What was answered before does not count any more."""
        self._answered.clear()
        self._wanted.clear()

    def answered(self, models: Mapping[str, ReadModel]) -> None:
        """Note that these generations have answered, which may have begun before a switch and have ended behind it."""
        for name, model in models.items():
            self._answered[name] = model.generation
            self._ended[name] = self._ended.get(name, 0) + 1
            self._wanted.pop(name, None)

    async def late(
        self, models: Mapping[str, ReadModel], read_store: ReadStore, log: WriteStore | None
    ) -> Lagging | None:
        """The one of these read models that is furthest behind what was answered before a switch; None if none is.

        To be asked before their rows are. A partition that is halted is not waited for: it has come to where it stays.
        """
        wanted = await self._noted(models, log) if log is not None else {}
        if not wanted:
            return None
        at = await read_store.checkpoints()
        reached = {name: self._reached(models[name], at, there) for name, there in wanted.items()}
        behind = [(name, reached[name], there) for name, there in wanted.items() if reached[name] < there]
        return min(behind, key=lambda each: each[1], default=None)

    async def _noted(self, models: Mapping[str, ReadModel], log: WriteStore) -> dict[str, Position]:
        """Where those have to be that answer for the first time after another generation."""
        while True:
            new = {
                name: model.generation
                for name, model in models.items()
                if self._answered.get(name, model.generation) != model.generation
            }
            if all(self._wanted.get(name, (0, 0))[0] == generation for name, generation in new.items()):
                return {name: self._wanted[name][1] for name in new}
            ended = [self._ended.get(name, 0) for name in new]
            head = (await log.read(NO_EVENTS)).head
            # What was answered meanwhile may reach beyond that.
            if ended == [self._ended.get(name, 0) for name in new]:
                for name, generation in new.items():
                    if self._wanted.get(name, (0, 0))[0] != generation:
                        self._wanted[name] = (generation, head)

    def _reached(self, model: ReadModel, at: list[Checkpoint], wanted: Position) -> Position:
        """How far all partitions have come that go on."""
        mine = [each for each in at if (each.name, each.generation) == (model.name, model.generation)]
        going = [each.progress.position for each in mine if not (model.name in self._halting and _halted(each))]
        return min(going, default=wanted if mine else 0)


def _halted(at: Checkpoint) -> bool:
    return any(each.position > at.progress.position for each in at.progress.parked)
