"""In charge of one follower on its way through a worker: where it is, how it fares, when it is tried again."""

from twofold.domain.events import Position
from twofold.synchronization.follower import State, WholeFollower
from twofold.write_store.port import Slice


class FollowerRun:
    """A follower on its way: the position it has reached, and how it fares.

    One that fails rests for a while, longer each time, and the others of its worker go on.
    """

    def __init__(self, follower: WholeFollower) -> None:
        self.follower = follower
        self.position: Position = 0
        self.types = frozenset(kind for item in follower.query.items for kind in item.types)
        self.reopen = False
        self.failures = 0
        self.state: State = "catching-up"
        self.error: str | None = None
        self.rests_until = 0.0

    def keeps(self, generation: int, key: str) -> bool:
        """Whether it folds a key of a generation, or is a policy."""
        return self.follower.generation == generation and self.follower.partition.holds(key)

    def ready(self, now: float) -> bool:
        """Whether it may go on."""
        return self.rests_until <= now and not self.reopen

    def failed(self, state: State, error: Exception, until: float) -> None:
        """It could not go on, and is tried again at a moment of the monotonic clock."""
        self.state = state
        self.error = f"{type(error).__name__}: {error}"
        self.rests_until = until

    def went_on(self, *, live: bool) -> None:
        """What it could not do it has done, or there is nothing to do."""
        # Only here: a follower that stands still may not look alive each time it tries again.
        self.state, self.error = "up-to-date" if live else "catching-up", None
        self.failures, self.rests_until = 0, 0.0

    def part(self, page: Slice, whole: bool) -> Slice:
        """What of a page is news to this follower; `whole` says that all of it is of its types."""
        if whole and page.events and page.events[0].position > self.position:
            return page
        events = [e for e in page.events if e.position > self.position and (whole or e.type in self.types)]
        return Slice(events, page.upto, page.head)
