"""The clock by which command ids age. It measures time in which the log is in use, and no wall clock can move it."""

from twofold.world import World, microseconds


class CommandClock:
    """Microseconds that only go up, as fast as real time or slower: not while no process has the log open.

    So an id that is younger than the retention is never taken for an older one. A new log begins at the wall clock, so
    that the numbers look like times; after that the wall clock is not asked again.
    """

    def __init__(self, world: World, at: int | None) -> None:
        self._world = world
        self.set(microseconds(world.now()) if at is None else at)

    def set(self, at: int) -> None:
        """Go on from `at`."""
        self._at = at
        self._since = self._world.monotonic()

    def now(self) -> int:
        """The present time of this clock."""
        return self._at + int((self._world.monotonic() - self._since) * 1_000_000)
