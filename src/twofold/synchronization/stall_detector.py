"""Detects followers that stall, from the checkpoints in the stores rather than from what followers report."""

from collections import deque
from collections.abc import Mapping

from twofold.domain.events import Position
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World

_RATE_SECONDS = 10.0


class _Observations:
    """What was observed of one work unit: since when it is behind and does not move, and its positions lately."""

    def __init__(self, position: Position, now: float) -> None:
        self.behind = False
        self.since = now
        self.lately: deque[tuple[float, Position]] = deque([(now, position)])


class StallDetector:
    """Notes since when each work unit is behind and does not move.

    The time counts from the first observation of that: before it, the log may have had no new events.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[WorkUnit, _Observations] = {}

    def observe(self, head: Position, positions: Mapping[WorkUnit, Position]) -> None:
        """Note the head of the log, and the position of each unit."""
        now = self._world.monotonic()
        for unit, position in positions.items():
            seen = self._seen.setdefault(unit, _Observations(position, now))
            if position >= head or position != seen.lately[-1][1] or not seen.behind:
                seen.since = now
            seen.behind = position < head
            seen.lately.append((now, position))
            while now - seen.lately[0][0] > _RATE_SECONDS and len(seen.lately) > 2:
                seen.lately.popleft()
        for unit in self._seen.keys() - positions.keys():
            del self._seen[unit]

    def stalled(self, unit: WorkUnit) -> float:
        """The seconds for which a unit has not moved although it was behind. 0 if it was never observed."""
        seen = self._seen.get(unit)
        return 0.0 if seen is None else self._world.monotonic() - seen.since

    def rate(self, unit: WorkUnit) -> float:
        """How many positions a unit moves in a second, over the last seconds."""
        seen = self._seen.get(unit)
        if seen is None:
            return 0.0
        (began, first), (now, last) = seen.lately[0], seen.lately[-1]
        return max(0.0, (last - first) / (now - began)) if now > began else 0.0
