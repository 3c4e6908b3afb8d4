"""In charge of what a follower is: something with a checkpoint that takes the log page by page."""

from typing import Literal, Protocol

from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.read_store.partition import Partition
from twofold.read_store.port import Parked
from twofold.write_store.port import Slice

Skips = frozenset[tuple[str, Position]]
"""Events to be passed over, each for one key."""

State = Literal["stopped", "retrying", "waiting", "catching-up", "on-another-node", "up-to-date"]
"""How a follower is doing, the worst state first. `waiting` is for a node that takes its lease."""


class Follower(Protocol):
    """Reads the log in order. Each `apply` saves its effect together with the checkpoint, or makes repeats harmless."""

    name: str
    kind: Literal["projection", "policy"]
    generation: int
    partition: Partition
    query: EventQuery

    async def open(self) -> Position:
        """The checkpoint. Called at start, and again whenever another process may have moved it."""
        ...

    async def apply(self, page: Slice, before: Position) -> None:
        """Take all events of a page and move the checkpoint from `before` to `page.upto`, all or nothing."""
        ...

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        """Take a page of the one event that keeps failing: park what fails, do the rest, move the checkpoint.

        Raises where nothing may pass that event: the follower then stands still before it.
        """
        ...

    async def retry_pending(self, at: Position) -> float | None:
        """Between two pages, at the checkpoint: do one thing of those that are to be tried again, or made good.

        In how many seconds there is more of that; None: nothing is left.
        """
        ...

    async def close(self) -> None:
        """End whatever the follower runs beside the reading."""
        ...


class Mending(Protocol):
    """What operators can do about what a follower has set aside."""

    async def retry(self, key: str, at: Position) -> str:
        """Try again what is parked as `key`, while the checkpoint is `at`. A sentence that says what was done.

        InvalidMessage where it is not parked.
        """
        ...

    async def repair(self, key: str, at: Position) -> str:
        """Fold a key from its first event, while the checkpoint is `at`. A sentence that says what was done.

        InvalidMessage where that is not possible.
        """
        ...

    def add_skips(self, skips: Skips) -> None:
        """Leave these events out from now on. What follows for rows and parked keys `tend` does."""
        ...

    def parked_at(self, key: str) -> Position | None:
        """The position of the event that a skip of this key would pass over; None where it waits behind none."""
        ...

    async def parked(self) -> tuple[Parked, ...]:
        """What is set aside now."""
        ...


class WholeFollower(Follower, Mending, Protocol):
    """Both: what a node runs."""


def error_text(error: BaseException) -> str:
    """An error for people, as any store can keep it: not too long, and no half of a character."""
    return f"{type(error).__name__}: {error}"[:500].encode("utf-8", "backslashreplace").decode()
