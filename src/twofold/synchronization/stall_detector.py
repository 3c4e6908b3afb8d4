"""In charge of the proof that followers move: measured from the checkpoints that stores keep, whatever anyone says."""

from collections import deque
from collections.abc import Mapping

from twofold.domain.events import Position
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World

_RATE_SECONDS = 10.0


class _Seen:
    """What was seen of one share: since when it is behind and has not moved, and where it was lately."""

    def __init__(self, position: Position, now: float) -> None:
        self.behind = False
        self.since = now
        self.lately: deque[tuple[float, Position]] = deque([(now, position)])


class StallDetector:
    """Notes since when each share is seen to be behind and not to move.

    It counts from the first look that saw it so: between two looks that lie far apart the log may have been quiet.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[WorkUnit, _Seen] = {}

    def observe(self, head: Position, positions: Mapping[WorkUnit, Position]) -> None:
        """Take note of a look at log and checkpoints."""
        now = self._world.monotonic()
        for share, position in positions.items():
            seen = self._seen.setdefault(share, _Seen(position, now))
            if position >= head or position != seen.lately[-1][1] or not seen.behind:
                seen.since = now
            seen.behind = position < head
            seen.lately.append((now, position))
            while now - seen.lately[0][0] > _RATE_SECONDS and len(seen.lately) > 2:
                seen.lately.popleft()
        for share in self._seen.keys() - positions.keys():
            del self._seen[share]

    def still(self, share: WorkUnit) -> float:
        """For how many seconds a share has not moved although it was behind; 0 for one that was never looked at."""
        seen = self._seen.get(share)
        return 0.0 if seen is None else self._world.monotonic() - seen.since

    def rate(self, share: WorkUnit) -> float:
        """Positions a second that a share has passed lately."""
        seen = self._seen.get(share)
        if seen is None:
            return 0.0
        (began, first), (now, last) = seen.lately[0], seen.lately[-1]
        return max(0.0, (last - first) / (now - began)) if now > began else 0.0
