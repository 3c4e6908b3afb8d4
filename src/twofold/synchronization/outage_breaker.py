"""Detection of an outage: what a policy calls is away, so the events that call it wait, and are not parked."""

from collections.abc import Collection

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


class _Wait(msgspec.Struct):
    """Why the events of one type wait, and when the next probe may begin, by the monotonic clock."""

    outage: Outage
    outside: bool
    probe_at: float


class OutageBreaker:
    """Holds the events of a type of which those of `keys` different keys fail in a row. One at a time is a probe.

    Events of one type are compared with one another, and only they wait: an event of another type may not call
    anything. `keys` 0: it never holds any.
    """

    def __init__(self, keys: int, world: World) -> None:
        self._keys = keys
        self._world = world
        self._failing: dict[str, dict[str, None]] = {}
        self._worked: dict[str, int] = {}
        self._waits: dict[str, _Wait] = {}
        """By type; the one that failed last comes last."""

    @property
    def outage(self) -> Outage | None:
        """The outages of all types as one. None if there is none."""
        outages = [wait.outage for wait in self._waits.values()]
        if not outages:
            return None
        return Outage(
            since=min(outage.since for outage in outages),
            error=outages[-1].error,
            failures=sum(outage.failures for outage in outages),
            keys=len({key for kind in self._waits for key in self._failing[kind]}),
            probe_seconds=min(outage.probe_seconds for outage in outages),
            types=tuple(sorted(self._waits)),
        )

    @property
    def open(self) -> bool:
        """Whether it holds any events."""
        return bool(self._waits)

    def holds(self, kind: str | None) -> bool:
        """Whether the events of a type wait, but for a probe."""
        return kind in self._waits

    def may_begin(self, kind: str | None) -> bool:
        """Whether an event of a type may be answered now, if only as a probe. True if its type is not known yet."""
        at = self.probe_at(kind)
        return at is None or at <= self._world.monotonic()

    def probe_at(self, kind: str | None) -> float | None:
        """When the next probe of a type may begin, by the monotonic clock. None if its events do not wait."""
        wait = None if kind is None else self._waits.get(kind)
        return None if wait is None else wait.probe_at

    def begin(self, kind: str | None) -> None:
        """Note that an event of a type is about to be answered. If its type waits, it is the probe."""
        wait = None if kind is None else self._waits.get(kind)
        if wait is not None:
            # A probe that takes longer than this may never end: then there is another one beside it.
            wait.probe_at = self._world.monotonic() + LONGEST_PROBE

    def worked(self, kind: str) -> frozenset[str]:
        """Note that an event of a type was answered. If that ends an outage, the keys that failed in it."""
        self._worked[kind] = self.count(kind) + 1
        if kind in self._waits:
            return self._close(kind)
        self._failing.pop(kind, None)
        return frozenset()

    def failed(self, kind: str, key: str, failure: ReactionFailure) -> frozenset[str]:
        """Note that an event of a type and key failed. If that ends an outage, the keys that failed in it.

        An outage that began because something was away ends also with another error: it answers again.
        """
        before = self._waits.get(kind)
        if before is not None and before.outside and not failure.outside:
            ended = self._close(kind)
            self._failing[kind] = {key: None}
            return ended
        failing = self._failing.setdefault(kind, {})
        failing[key] = None
        if before is not None or (self._keys and len(failing) >= self._keys):
            failures = len(failing) if before is None else before.outage.failures + 1
            since = None if before is None else before.outage.since
            outage = self.outage_of(failing, failure, failures, since)
            probe_at = self._world.monotonic() + outage.probe_seconds
            self._waits.pop(kind, None)
            self._waits[kind] = _Wait(outage, failure.outside, probe_at)
        return frozenset()

    def outage_of(
        self, keys: Collection[str], failure: ReactionFailure, failures: int, since: int | None = None
    ) -> Outage:
        """A record of an outage for these keys."""
        # The attempts of several keys at the same time are one.
        attempts = max(1, failures - len(keys) + 1)
        pause = delay(attempts, first=FIRST_PROBE, longest=LONGEST_PROBE)
        now = microseconds(self._world.now()) if since is None else since
        return Outage(now, failure.text, failures, len(keys), pause)

    def count(self, kind: str) -> int:
        """How many events of a type were answered."""
        return self._worked.get(kind, 0)

    def _close(self, kind: str) -> frozenset[str]:
        """End the outage of a type. The keys that failed in it, and those that failed meanwhile for another type.

        These may have called the same, but were too few to wait.
        """
        del self._waits[kind]
        ended = [other for other in self._failing if other not in self._waits]
        return frozenset(key for other in ended for key in self._failing.pop(other))
