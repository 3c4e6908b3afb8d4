"""Clock, ids and waiting. No other module asks for them, so that a test can control them."""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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
        """A new unique id (a UUID as text). Ids of about the same time may begin alike."""
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
        return time_ordered_id(time.time_ns() // 1_000_000, os.urandom(10))

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
    return (moment - _EPOCH) // _MICROSECOND


def secret_bytes(world: World, count: int) -> bytes:
    """At most 64 bytes that nobody can predict: each id has 74 random bits."""
    ids = "".join(world.new_id() for _ in range(8))
    return hashlib.blake2b(ids.encode(), digest_size=count).digest()


def time_ordered_id(milliseconds: int, random: bytes) -> str:
    """A UUID of version 7 (RFC 9562) as text: milliseconds since 1970, then 74 of the 80 given random bits.

    Ids of about the same time stand side by side in an index, so that a store writes few of its pages.
    """
    bits = milliseconds << 80 | int.from_bytes(random)
    # Version 7 and variant 2, in place of six of the random bits.
    text = f"{bits & ~(0xF << 76 | 3 << 62) | 7 << 76 | 2 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
