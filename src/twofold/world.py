"""Clock, ids and waiting. No other module asks for them, so that a test can control them."""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

T = TypeVar("T")


class World(Protocol):
    """What the runtime needs from its environment."""

    place: str
    """Where this process runs, for people: host and process id."""

    def now(self) -> datetime:
        """The wall clock, in UTC. For records and people, never for ordering."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back. For deadlines and rates."""
        ...

    def new_id(self) -> str:
        """A new unique id (a UUID as text)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...

    async def within(self, seconds: float, waiting: Awaitable[T]) -> T:
        """The result of `waiting`, or TimeoutError (and `waiting` cancelled) after `seconds`."""
        ...

    async def poll(self, change: asyncio.Event, seconds: float, *, until: int | None = None) -> None:
        """Return when `change` is set, and after about `seconds`, to look for changes that set nothing.

        Also when the wall clock has reached `until`, in microseconds since 1970 in UTC. Unlike with `sleep` and
        `within`, nothing has to happen after `seconds`: a clock that jumps stops at `until` only.
        """
        ...


class RealWorld:
    """The real clock, ids and waiting."""

    def __init__(self) -> None:
        self.place = f"{socket.gethostname()}:{os.getpid()}"

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        return str(uuid.uuid4())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, waiting: Awaitable[T]) -> T:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes in the turn in which `waiting` is done.
        async with asyncio.timeout(seconds):
            return await waiting

    async def poll(self, change: asyncio.Event, seconds: float, *, until: int | None = None) -> None:
        left = seconds if until is None else min(seconds, (until - microseconds(self.now())) / 1_000_000)
        if left > 0:
            try:
                await self.within(left, change.wait())
            except TimeoutError:
                return


def microseconds(moment: datetime) -> int:
    """A moment as whole microseconds since 1970 in UTC, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
