"""Detection of an outage: what a policy calls is away, so it waits and probes instead of parking its events."""

from collections.abc import Iterable

import msgspec

from twofold.errors import TwofoldError, Unavailable
from twofold.retrying import delay
from twofold.synchronization.follower import error_text
from twofold.synchronization.outage import Outage
from twofold.world import World, microseconds

FIRST_PROBE = 0.25
LONGEST_PROBE = 30.0
"""Seconds before the first probe in an outage, and at most between any two."""

_LOCAL = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ProcessLookupError,
    ChildProcessError,
    InterruptedError,
)
"""Errors of the operating system that say something about this machine, not about another one."""


class ReactionFailure(msgspec.Struct, frozen=True):
    """Why an event could not be answered. `outside`: the error says that something outside is away."""

    error: Exception
    outside: bool

    @property
    def text(self) -> str:
        """The error, as it is stored and shown."""
        return error_text(self.error)


def is_outside(error: BaseException | None) -> bool:
    """Whether an error of a reaction, or one that caused it, says that something outside is away."""
    while error is not None:
        if isinstance(error, TwofoldError):
            return isinstance(error, Unavailable)
        if isinstance(error, OSError):
            return not isinstance(error, _LOCAL)
        error = error.__cause__
    return False


class OutageBreaker:
    """Opens when events of `keys` different keys fail in a row. While it is open, one event at a time is a probe.

    Events of one type are compared with one another: an event of another type may not call anything. `keys` 0: it
    never opens.
    """

    def __init__(self, keys: int, world: World) -> None:
        self._keys = keys
        self._world = world
        self._failing: dict[str, dict[str, None]] = {}
        self._worked: dict[str, int] = {}
        self._outage: Outage | None = None
        self._outside = False
        self._probe_at = 0.0

    @property
    def outage(self) -> Outage | None:
        """The outage for which it is open."""
        return self._outage

    @property
    def open(self) -> bool:
        """Whether all events wait, but for a probe."""
        return self._outage is not None

    @property
    def probe_at(self) -> float:
        """When the next probe may begin, by the monotonic clock."""
        return self._probe_at

    def worked(self, kind: str) -> frozenset[str]:
        """Note that an event of a type was answered. If that ends an outage, the keys that failed in it."""
        self._worked[kind] = self.count(kind) + 1
        failing = self._failing.pop(kind, None)
        # An event of a type that did not fail says nothing: it may call nothing. The next probe may begin.
        return self._close(failing) if self.open and failing is not None else frozenset()

    def failed(self, kind: str, key: str, failure: ReactionFailure) -> frozenset[str]:
        """Note that an event of a type and key failed. If that ends an outage, the keys that failed in it.

        An outage that began because something was away ends also with another error: it answers again.
        """
        failing = self._failing.setdefault(kind, {})
        if self.open and self._outside and not failure.outside:
            ended = self._close(failing)
            self._failing[kind] = {key: None}
            return ended
        failing[key] = None
        if self.open or (self._keys and len(failing) >= self._keys):
            before = self._outage
            self._outside = failure.outside
            failures = len(failing) if before is None else before.failures + 1
            self._outage = self.outage_of([key, *failing], failure, failures, None if before is None else before.since)
            self._probe_at = self._world.monotonic() + self._outage.probe_seconds
        return frozenset()

    def outage_of(
        self, keys: Iterable[str], failure: ReactionFailure, failures: int, since: int | None = None
    ) -> Outage:
        """A record of an outage."""
        count = len(set(keys))
        # The attempts of several keys at the same time are one.
        attempts = max(1, failures - count + 1)
        pause = delay(attempts, first=FIRST_PROBE, longest=LONGEST_PROBE)
        now = microseconds(self._world.now()) if since is None else since
        return Outage(now, failure.text, failures, count, pause)

    def count(self, kind: str) -> int:
        """How many events of a type were answered."""
        return self._worked.get(kind, 0)

    def _close(self, failing: Iterable[str]) -> frozenset[str]:
        keys = frozenset(key for streak in self._failing.values() for key in streak).union(failing)
        self._failing.clear()
        self._outage = None
        return keys
