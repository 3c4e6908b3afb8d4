"""The keys of a policy that have something to do: the events of each in their order, and whose turn it is."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator

from msgspec.structs import replace

from twofold.domain.events import Position, RecordedEvent
from twofold.read_store.port import Parked
from twofold.synchronization.policy_rows import ParkedReaction


class KeyLane:
    """One key: its events that were read and wait for their turn, or where it is parked.

    While it is parked, its later events are only counted; `backlog` are the first of them, read from the log again.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.events: deque[RecordedEvent] = deque()
        self.reaction: ParkedReaction | None = None
        self.backlog: deque[RecordedEvent] = deque()
        self.retries = False
        """Whether it is to be retried without a request, while it is parked."""
        self.fresh = False
        """Whether the event that it is parked at waits only because of an earlier one."""
        self.running = False
        self.sending = False
        """Whether commands of its first event are being written."""
        self.leaving = False
        """Whether what runs is to end once they are."""
        self.ready = False
        self.rests_until: float | None = None
        """Until when it rests, by the monotonic clock; None if it does not."""
        self.failures = 0
        """How often its first event failed in a row."""
        self.worked_before = 0
        """How many events of the same type had been answered when its first event failed for the first time."""

    @property
    def parked(self) -> Parked | None:
        """Where it is parked; None if it is not."""
        return None if self.reaction is None else self.reaction.parked

    @property
    def first_type(self) -> str | None:
        """The type of its first event. None if it has none, or is parked at one that is not read yet."""
        if self.reaction is None:
            return self.events[0].type if self.events else None
        at = self.reaction.parked.position
        return self.backlog[0].type if self.backlog and self.backlog[0].position == at else None

    @property
    def rests(self) -> bool:
        """Whether it waits for a time to pass."""
        return self.rests_until is not None

    @property
    def has_work(self) -> bool:
        """Whether there is an event to answer now."""
        return self.retries if self.reaction is not None else bool(self.events)

    @property
    def is_idle(self) -> bool:
        """Whether nothing need be known about it."""
        return not (self.running or self.ready or self.rests or self.events or self.reaction is not None)

    def count(self, position: Position) -> bool:
        """Count an event that waits behind the parked one. False if it was counted before."""
        assert self.reaction is not None
        parked = self.reaction.parked
        if position <= max(parked.position, parked.upto):
            return False
        self.reaction = replace(self.reaction, parked=replace(parked, waiting=parked.waiting + 1, upto=position))
        return True

    def park(self, error: str, since: int, *, retries: bool) -> ParkedReaction:
        """Park it at its first event; the others that were read wait behind that. How it is parked."""
        positions = [recorded.position for recorded in self.events]
        parked = Parked(self.key, positions[0], error, since)
        if len(positions) > 1:
            parked = replace(parked, waiting=len(positions) - 1, upto=positions[-1])
        self.reaction = ParkedReaction(parked)
        self.events.clear()
        self.backlog.clear()
        self.went_on()
        self.fresh, self.retries = False, retries
        return self.reaction

    def go_on(self, reaction: ParkedReaction | None) -> None:
        """The event that it was parked at is answered, or skipped: now it is parked like this, or not any more."""
        self.reaction = reaction
        while self.backlog and (reaction is None or self.backlog[0].position < reaction.parked.position):
            self.backlog.popleft()
        self.went_on()
        self.fresh, self.retries = reaction is not None, reaction is not None

    def went_on(self) -> None:
        """Its first event is answered, or skipped."""
        self.failures = 0


class KeyLanes:
    """All keys that have something to do. Each has its turn; one that rests comes again after a time."""

    def __init__(self) -> None:
        self._lanes: dict[str, KeyLane] = {}
        self._ready: dict[str | None, deque[tuple[int, KeyLane]]] = {}
        """By the type of their first events. The numbers are the order of the turns."""
        self._resting: list[tuple[float, int, KeyLane]] = []
        self._order = itertools.count()

    def __iter__(self) -> Iterator[KeyLane]:
        return iter(list(self._lanes.values()))

    def clear(self) -> None:
        """Forget all keys."""
        self._lanes.clear()
        self._ready.clear()
        self._resting.clear()

    def lane(self, key: str) -> KeyLane:
        """The lane of a key; a new one if there was nothing to do for it."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = KeyLane(key)
        return lane

    def find(self, key: str) -> KeyLane | None:
        """The lane of a key, if there is one."""
        return self._lanes.get(key)

    @property
    def ready_types(self) -> Collection[str | None]:
        """The types of the first events of the keys that wait for their turn."""
        return self._ready.keys()

    @property
    def any_resting(self) -> bool:
        """Whether a key rests."""
        return bool(self._resting)

    def make_ready(self, lane: KeyLane) -> None:
        """Let a key have its turn, if it has something to do, and is not running or resting."""
        if lane.has_work and not (lane.running or lane.ready or lane.rests):
            lane.ready = True
            self._ready.setdefault(lane.first_type, deque()).append((next(self._order), lane))
        elif lane.is_idle:
            self._lanes.pop(lane.key, None)

    def next_ready(self, may_run: Callable[[str | None], bool]) -> KeyLane | None:
        """The key whose turn it is, of those with a first event of a type that may run. None if there is none."""
        types = [kind for kind in self._ready if may_run(kind)]
        if not types:
            return None
        kind = min(types, key=lambda kind: self._ready[kind][0][0])
        _, lane = self._ready[kind].popleft()
        if not self._ready[kind]:
            del self._ready[kind]
        lane.ready = False
        return lane

    def take_out(self, lane: KeyLane) -> None:
        """Let a key have no turn for now, because it runs without one. Then its first event may change."""
        if lane.ready:
            lane.ready = False
            others = {kind: [turn for turn in turns if turn[1] is not lane] for kind, turns in self._ready.items()}
            self._ready = {kind: deque(turns) for kind, turns in others.items() if turns}

    def rest(self, lane: KeyLane, until: float) -> None:
        """Let a key rest until a moment of the monotonic clock."""
        lane.rests_until = until
        heapq.heappush(self._resting, (until, next(self._order), lane))

    def wake(self, now: float) -> float | None:
        """Let the keys that have rested have their turn again. When the next one has rested; None if none rests."""
        while self._resting:
            until, _, lane = self._resting[0]
            # The entry of a rest that was ended early says nothing about a later rest of the same key.
            stands = lane.rests_until == until
            if stands and until > now:
                break
            heapq.heappop(self._resting)
            if stands:
                self.end_rest(lane)
        return self._resting[0][0] if self._resting else None

    def wake_all(self) -> None:
        """Let all keys have their turn again that rest."""
        for _, _, lane in self._resting:
            self.end_rest(lane)
        self._resting.clear()

    def end_rest(self, lane: KeyLane) -> None:
        """Let a key have its turn again before its rest is over."""
        if lane.rests:
            lane.rests_until = None
            self.make_ready(lane)
