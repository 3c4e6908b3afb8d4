"""The progress of one follower in a worker: its position, its state, and when it is tried again."""

from twofold.domain.events import Position, RecordedEvent
from twofold.synchronization.follower import GoesOnByItself, State, WholeFollower
from twofold.synchronization.outage import Outage
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import Slice


class FollowerRun:
    """One follower of a worker: the work unit it follows, the position it has reached, and its state.

    A follower that fails rests for a while, longer each time. The others of its worker go on.
    """

    def __init__(self, unit: WorkUnit, follower: WholeFollower) -> None:
        self.unit = unit
        self.follower = follower
        self.position: Position = 0
        # None: the types alone do not say what the follower takes.
        items = follower.query.items
        only_types = all(item.types and not item.tags for item in items)
        self._types = frozenset(name for item in items for name in item.types) if only_types else None
        self.reopen = False
        self.failures = 0
        self.own = follower if isinstance(follower, GoesOnByItself) else None
        """The follower, if it works beside the reading of pages."""
        self.rests_until = 0.0
        self._state: State = "catching-up"
        self._error: str | None = None

    @property
    def state(self) -> State:
        """How it is doing."""
        trouble = self._own_error is not None and self._state in ("catching-up", "up-to-date")
        return "retrying" if trouble else self._state

    @property
    def error(self) -> str | None:
        """What does not work; None if all works."""
        return self._own_error if self._error is None else self._error

    @property
    def outage(self) -> Outage | None:
        """What the follower waits for because it is away; None if it does not."""
        return None if self.own is None else self.own.outage

    @property
    def _own_error(self) -> str | None:
        if self.own is None:
            return None
        return self.own.error or (None if self.own.outage is None else self.own.outage.sentence)

    def ready(self, now: float) -> bool:
        """Whether it may go on."""
        return self.rests_until <= now and not self.reopen

    @property
    def full(self) -> bool:
        """Whether it takes no more events now."""
        return self.own is not None and self.own.full

    def failed(self, state: State, error: Exception, until: float) -> None:
        """Note a failure. The follower is tried again at `until`, by the monotonic clock."""
        self._state = state
        self._error = f"{type(error).__name__}: {error}"
        self.rests_until = until

    def went_on(self, *, live: bool) -> None:
        """Note that it has taken a page, or that there is nothing to take."""
        # Only here: a follower that fails again and again must not look healthy at each new try.
        self._state, self._error = "up-to-date" if live else "catching-up", None
        self.failures, self.rests_until = 0, 0.0

    def part(self, page: Slice, whole: bool) -> Slice:
        """The events of a page that this follower takes and has not taken. `whole`: its query selected all of them."""
        if whole and page.events and page.events[0].position > self.position:
            return page
        new = [event for event in page.events if event.position > self.position]
        return Slice(new if whole else [event for event in new if self._takes(event)], page.upto, page.head, page.chain)

    def _takes(self, event: RecordedEvent) -> bool:
        if self._types is not None:
            return event.type in self._types
        return self.follower.query.matches(event.type, frozenset(event.tags))
