"""In charge of what a follower is: something with a checkpoint that takes the log page by page."""

from typing import Literal, Protocol

import msgspec

from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.read_store.port import Parked
from twofold.write_store.port import Slice


class Follower(Protocol):
    """Reads the log in order. Each `apply` saves its effect together with the checkpoint, or makes repeats harmless."""

    name: str
    kind: Literal["projection", "policy"]
    query: EventQuery

    async def open(self) -> Position:
        """The checkpoint. Called at start, and again whenever another process may have moved it."""
        ...

    async def apply(self, page: Slice, before: Position) -> None:
        """Take all events of a page and move the checkpoint from `before` to `page.upto`, all or nothing."""
        ...

    async def set_aside(self, page: Slice, before: Position, error: Exception) -> None:
        """Take a page of the one event that keeps failing: park what fails, do the rest, move the checkpoint."""
        ...

    async def parked(self) -> tuple[Parked, ...]:
        """What is set aside now."""
        ...

    async def close(self) -> None:
        """End whatever the follower runs beside the reading."""
        ...


class FollowerStatus(msgspec.Struct, frozen=True):
    """How a follower is doing. `lag` counts events, `lag_seconds` is the age of the oldest event not yet taken,
    `rate` the events per second over the last seconds."""

    name: str
    kind: Literal["projection", "policy"]
    position: Position
    lag: int
    lag_seconds: float
    rate: float
    state: Literal["live", "catching-up", "retrying", "stopped"]
    error: str | None = None
    parked: tuple[Parked, ...] = ()
