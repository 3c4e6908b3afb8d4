"""What a follower is: it has a checkpoint, and takes the log page by page. And how its state is reported."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.read_store.port import Parked
from twofold.signal import Signal
from twofold.synchronization.outage import Outage
from twofold.write_store.port import Slice

_NAMED = 5
"""So many keys are named where one is not known."""

Skips = frozenset[tuple[str, Position]]
"""Events to skip, each for one key."""

State = Literal["stopped", "paused", "retrying", "waiting", "catching-up", "on-another-node", "up-to-date"]
"""How a follower is doing, the worst state first. `waiting` is for a node that takes its lease."""


class FollowerPaused(Exception):
    """A follower has paused itself, and stored that. It takes nothing more until an operator resumes it."""


class Follower(Protocol):
    """Takes the log in order. Each `apply` saves its effect together with the checkpoint, or makes repeats harmless."""

    name: str
    query: EventQuery

    async def open(self) -> Position:
        """The checkpoint. Called at the start, and again whenever another process may have moved it."""
        ...

    async def apply(self, page: Slice, before: Position) -> None:
        """Take all events of a page and move the checkpoint from `before` to `page.upto`, all or nothing.

        FollowerPaused where the follower has paused itself, with its checkpoint before one of these events.
        """
        ...

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        """Take a page of one event that keeps failing: park what fails, do the rest, move the checkpoint.

        Raises where the follower may not pass the event. Then it stops before it.
        """
        ...

    async def retry_pending(self, at: Position) -> float | None:
        """Between two pages, at the checkpoint: do one of the pending retries, or apply one of the new skips.

        The number of seconds until the next one is due. None if none is left.
        """
        ...

    async def close(self) -> None:
        """End what the follower runs beside the reading."""
        ...


class ParkedWork(Protocol):
    """What operators can do about the parked keys or events of a follower."""

    async def retry(self, key: str, at: Position) -> str | asyncio.Task[str]:
        """Retry what is parked as `key`, while the checkpoint is `at`. A sentence that says what was done.

        Or a task that gives it later: then pages are read meanwhile. The task ends when the follower is closed.
        InvalidMessage if it is not parked.
        """
        ...

    async def repair(self, key: str, at: Position) -> str:
        """Fold a key from its first event, while the checkpoint is `at`. A sentence that says what was done.

        InvalidMessage if that is not possible.
        """
        ...

    def add_skips(self, skips: Skips) -> None:
        """Skip these events from now on. `retry_pending` applies this to rows and parked keys."""
        ...

    def parked_at(self, key: str) -> Position | None:
        """The position of the event that a skip of this key skips. None if the key is not parked."""
        ...

    async def parked(self) -> tuple[Parked, ...]:
        """What is parked now."""
        ...


class WholeFollower(Follower, ParkedWork, Protocol):
    """What a node runs: a follower, and what operators can do about it."""


@runtime_checkable
class GoesOnByItself(Protocol):
    """A follower that works on what it was given while the next pages are read."""

    held: Callable[[], bool]
    """Whether this node may still believe that it holds its leases. Without them it begins nothing new."""
    changed: Signal
    """Fires when it takes more events again, or cannot go on: the next call of `apply` or `retry_pending` says why."""

    @property
    def full(self) -> bool:
        """Whether it takes no more events now."""
        ...

    @property
    def stopped(self) -> Exception | None:
        """The error for which it does nothing more until it is opened again; None if there is none."""
        ...

    @property
    def error(self) -> str | None:
        """Why what it has done cannot be saved, or what is due not sent, at the moment; None if all works."""
        ...

    @property
    def outage(self) -> Outage | None:
        """What it waits for because it is away; None if it does not."""
        ...


def not_parked(name: str, key: str, parked: Sequence[Parked]) -> str:
    """The sentence for an operator who names a key that a follower has not parked, with the first keys that it has."""
    if not parked:
        return f"'{key}' of '{name}' is not parked. No key of it is."
    more = f" and {len(parked) - _NAMED:,} more" if len(parked) > _NAMED else ""
    return f"'{key}' of '{name}' is not parked. Parked are: {', '.join(each.key for each in parked[:_NAMED])}{more}."


def error_text(error: BaseException) -> str:
    """An error as text that every store can hold: at most 500 characters, without half of a surrogate pair."""
    return f"{type(error).__name__}: {error}"[:500].encode("utf-8", "backslashreplace").decode()
