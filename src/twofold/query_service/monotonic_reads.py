"""Monotonic reads across a switch: no answer is older than an earlier answer from the generation before."""

from collections.abc import Mapping
from typing import NamedTuple

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.read_store.port import Checkpoint, ReadModel, ReadStore
from twofold.write_store.port import WriteStore


class Lagging(NamedTuple):
    """A read model that is behind: its position, and the position it has to reach."""

    name: str
    position: Position
    required: Position


class MonotonicReads:
    """Which generation has answered last, and which position another one has to reach before it answers.

    The rows of an answer may be newer than its position: that is the position of the lowest partition, and a store
    without transactions may show newer rows. But they are never newer than the log. So a generation that is read for
    the first time after another one has to reach the head that the log has then.
    """

    def __init__(self, projections: Mapping[str, BoundProjection]) -> None:
        self._blocking = {name for name, projection in projections.items() if projection.parks == "partition"}
        self._answered: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._required: dict[str, tuple[int, Position]] = {}
        """By name the generation that is new, and the position it has to reach."""

    def forget(self) -> None:
        """Forget all answers."""
        self._answered.clear()
        self._required.clear()

    def answered(self, models: Mapping[str, ReadModel]) -> None:
        """Record that these generations have answered. The answer may have begun before a switch and ended after it."""
        for name, model in models.items():
            self._answered[name] = model.generation
            self._ended[name] = self._ended.get(name, 0) + 1
            self._required.pop(name, None)

    async def lagging(
        self, models: Mapping[str, ReadModel], read_store: ReadStore, log: WriteStore | None
    ) -> Lagging | None:
        """The read model that is furthest behind what was answered before a switch; None if none is.

        Call it before rows are read. Blocked partitions are left out: they make no progress.
        """
        required = await self._positions(models, log) if log is not None else {}
        if not required:
            return None
        checkpoints = await read_store.checkpoints()
        lagging = [
            Lagging(name, self._reached(models[name], checkpoints, position), position)
            for name, position in required.items()
        ]
        return min((model for model in lagging if model.position < model.required), key=_position, default=None)

    async def _positions(self, models: Mapping[str, ReadModel], log: WriteStore) -> dict[str, Position]:
        """The positions that generations have to reach which answer for the first time after another one."""
        while True:
            new = {
                name: model.generation
                for name, model in models.items()
                if self._answered.get(name, model.generation) != model.generation
            }
            if all(self._required.get(name, (0, 0))[0] == generation for name, generation in new.items()):
                return {name: self._required[name][1] for name in new}
            ended = [self._ended.get(name, 0) for name in new]
            head = (await log.read(NO_EVENTS)).head
            # An answer that was given meanwhile may be newer than this head.
            if ended == [self._ended.get(name, 0) for name in new]:
                for name, generation in new.items():
                    if self._required.get(name, (0, 0))[0] != generation:
                        self._required[name] = (generation, head)

    def _reached(self, model: ReadModel, checkpoints: list[Checkpoint], required: Position) -> Position:
        """The lowest position of the partitions that are not blocked."""
        own = [at for at in checkpoints if (at.name, at.generation) == (model.name, model.generation)]
        moving = [at.progress.position for at in own if not (model.name in self._blocking and _is_blocked(at))]
        return min(moving, default=required if own else 0)


def _position(model: Lagging) -> Position:
    return model.position


def _is_blocked(checkpoint: Checkpoint) -> bool:
    return any(parked.position > checkpoint.progress.position for parked in checkpoint.parked)
