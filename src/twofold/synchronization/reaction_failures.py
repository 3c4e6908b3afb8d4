"""What follows when an event of a policy cannot be answered: it is tried again, or parked with its key, or waits."""

import logging
from typing import NamedTuple

from twofold.domain.events import RecordedEvent
from twofold.retrying import delay
from twofold.synchronization.key_lanes import KeyLane, KeyLanes
from twofold.synchronization.outage import Outage
from twofold.synchronization.outage_breaker import OutageBreaker, ReactionFailure
from twofold.world import World

log = logging.getLogger(__name__)

_FIRST_REST = 0.05
_FIRST_REST_OUTSIDE = 0.25
_LONGEST_REST = 10.0
_LONGEST_REST_OUTSIDE = 30.0
"""Seconds between two attempts for one event, at first and at most."""


class RunnerLimits(NamedTuple):
    """How many keys run at the same time, how often an event fails before its key is parked, and `keys` of the breaker.

    The names are those of the settings.
    """

    policy_concurrency: int = 64
    fold_retries: int = 3
    policy_breaker_keys: int = 5
    window_events: int = 1_000
    """So many events beyond the checkpoint are read, but for those of one page. In an outage ten times as many."""


class ReactionFailures:
    """Counts what fails for each key, and decides what follows."""

    def __init__(self, policy: str, lanes: KeyLanes, world: World, limits: RunnerLimits) -> None:
        self._policy = policy
        self._lanes = lanes
        self._world = world
        self._limits = limits
        self._failing: dict[str, Outage] = {}
        self.breaker = OutageBreaker(limits.policy_breaker_keys, world)

    @property
    def outage(self) -> Outage | None:
        """What the policy calls is away, for all keys or for one; None if it is not."""
        return self.breaker.outage or next(iter(self._failing.values()), None)

    def clear(self) -> None:
        """Forget all failures."""
        self._failing.clear()
        self.breaker = OutageBreaker(self._limits.policy_breaker_keys, self._world)

    def _failed(self, lane: KeyLane, recorded: RecordedEvent, failure: ReactionFailure) -> bool:
        """Note a failure. Whether it counts against the event, and not only against what the policy calls."""
        if not lane.failures:
            lane.worked_before = self.breaker.count(recorded.type)
        lane.failures += 1
        held = self.breaker.holds(recorded.type)
        self._ended(self.breaker.failed(recorded.type, lane.key, failure))
        if self.breaker.holds(recorded.type):
            if not held:
                log.warning("%s: %s", self._policy, self.breaker.outage and self.breaker.outage.sentence)
            return False
        if not failure.outside:
            self._failing.pop(lane.key, None)
            return True
        # Something outside is away, or it is this event alone: it is, if others of its type work meanwhile.
        if self.breaker.count(recorded.type) > lane.worked_before:
            self._failing.pop(lane.key, None)
            return True
        before = self._failing.get(lane.key)
        since = None if before is None else before.since
        self._failing[lane.key] = self.breaker.outage_of([lane.key], failure, lane.failures, since)
        return False

    def is_parked_for(self, lane: KeyLane, recorded: RecordedEvent, failure: ReactionFailure) -> bool:
        """Note that an event failed. Whether its key is to be parked; if not, it is tried again."""
        counts = self._failed(lane, recorded, failure)
        if counts and lane.failures > self._limits.fold_retries:
            return True
        if not self.breaker.holds(recorded.type):
            self.rest(lane, failure)
        return False

    def rest(self, lane: KeyLane, failure: ReactionFailure) -> None:
        """Let a key rest before its first event is tried again."""
        first, longest = (
            (_FIRST_REST_OUTSIDE, _LONGEST_REST_OUTSIDE) if failure.outside else (_FIRST_REST, _LONGEST_REST)
        )
        seconds = delay(lane.failures, first=first, longest=longest)
        self._lanes.rest(lane, self._world.monotonic() + seconds)

    def parked_failed(self, lane: KeyLane, recorded: RecordedEvent, failure: ReactionFailure) -> None:
        """Note that the event that a key is parked at failed again."""
        lane.failures += 1
        # An event that only waited has its own retries. One that was parked itself is retried once.
        lane.retries = failure.outside or (lane.fresh and lane.failures <= self._limits.fold_retries)
        if self.breaker.holds(recorded.type):
            # It was a probe. Otherwise what is parked says nothing about what the policy calls.
            lane.retries = True
            self._ended(self.breaker.failed(recorded.type, lane.key, failure))
        elif lane.retries:
            self.rest(lane, failure)

    def forget(self, lane: KeyLane) -> None:
        """The key is parked: it does not wait for anything outside any more."""
        self._failing.pop(lane.key, None)

    def worked(self, lane: KeyLane, recorded: RecordedEvent) -> None:
        """Note that an event was answered."""
        lane.went_on()
        self._failing.pop(lane.key, None)
        self._ended(self.breaker.worked(recorded.type))

    def _ended(self, keys: frozenset[str]) -> None:
        """After an outage all keys go on that rest, and those that failed in it are as if they had not."""
        if not keys:
            return
        log.info("%s: what it calls answers again", self._policy)
        self._failing.clear()
        for key in keys:
            lane = self._lanes.find(key)
            if lane is not None:
                lane.failures = 0
                lane.retries = lane.reaction is not None
                self._lanes.make_ready(lane)
        self._lanes.wake_all()
