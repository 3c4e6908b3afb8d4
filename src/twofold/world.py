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

_CLOCK_MAY_BE_SET = 30.0
"""Seconds after which a wait for a moment compares with the wall clock again, in case that was set meanwhile."""


class World(Protocol):
    """What the runtime needs from its environment."""

    def now(self) -> datetime:
        """The wall clock, in UTC. For records and people, never for ordering."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back. For deadlines and rates."""
        ...

    def new_id(self) -> str:
        """A new unique id (a UUID as text)."""
        ...

    def place(self) -> str:
        """Where this process runs, for people: host and process id."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...

    async def within(self, seconds: float, waiting: Awaitable[T]) -> T:
        """The result of `waiting`, or TimeoutError (and `waiting` cancelled) after `seconds`."""
        ...

    async def poll(self, change: asyncio.Event, seconds: float) -> None:
        """Return when `change` is set, and after about `seconds`, to look for changes that set nothing.

        Unlike `sleep` and `within`, nothing has to happen at that moment: a clock that jumps need not stop there.
        """
        ...

    async def until(self, moment: int, change: asyncio.Event) -> None:
        """Return when `change` is set, or the wall clock has reached a moment, also where that clock is set meanwhile.

        The moment is in microseconds since 1970 in UTC.
        """
        ...


class RealWorld:
    """The real clock, ids and waiting."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        return str(uuid.uuid4())

    def place(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, waiting: Awaitable[T]) -> T:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes in the turn in which `waiting` is done.
        async with asyncio.timeout(seconds):
            return await waiting

    async def poll(self, change: asyncio.Event, seconds: float) -> None:
        try:
            await self.within(seconds, change.wait())
        except TimeoutError:
            return

    async def until(self, moment: int, change: asyncio.Event) -> None:
        while not change.is_set() and (left := moment - microseconds(self.now())) > 0:
            await self.poll(change, min(left / 1_000_000, _CLOCK_MAY_BE_SET))


def microseconds(moment: datetime) -> int:
    """A moment as whole microseconds since 1970 in UTC, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
