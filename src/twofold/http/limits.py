"""The limits of the wire (sizes, times, counts), and what enforces them: quotas and deadlines."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from twofold.errors import TwofoldError, Unavailable
from twofold.world import World

T = TypeVar("T")
AnyTask = asyncio.Task[object]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes are bytes, times seconds, the rest counts."""

    body_bytes: int = 1_048_576
    header_bytes: int = 32_768
    query_bytes: int = 16_384
    query_fields: int = 200
    key_length: int = 128
    header_seconds: float = 5.0
    body_seconds: float = 30.0
    request_seconds: float = 30.0
    write_seconds: float = 30.0
    bodies_bytes: int = 16_777_216
    answers_bytes: int = 33_554_432
    events_bytes: int = 1_048_576
    connections: int = 4_096
    requests: int = 1_000
    reserved_for_commands: int = 250
    streams: int = 1_000
    streams_per_client: int = 100
    heartbeat_seconds: float = 15.0


class Quota:
    """Counts the requests of one kind that are in progress, and refuses those beyond its limit. Use it in `with`."""

    def __init__(self, quotas: "Quotas", limit: int) -> None:
        self._quotas = quotas
        self._limit = limit
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= self._limit or self._quotas.count >= self._quotas.limit:
            raise Unavailable("Too many requests are in progress. Send this one again in a moment.", retry_after=1.0)
        self._count += 1
        self._quotas.count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        self._quotas.count -= 1


class Quotas:
    """Requests in progress at once: commands may take all places, other requests leave some places free for them."""

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.requests
        self.count = 0
        self.commands = Quota(self, self.limit)
        self.reads = Quota(self, max(1, self.limit - limits.reserved_for_commands))


class Deadlines:
    """Cancels requests that take too long.

    One task checks all requests together: a timer for each would cost every command more than its JSON does. So a
    request may exceed its deadline by up to `step` seconds.
    """

    def __init__(self, world: World, step: float) -> None:
        self._world = world
        self._step = step
        self._due: dict[AnyTask, float] = {}
        self._late: set[AnyTask] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def within(self, seconds: float, work: Awaitable[T], late: Callable[[], TwofoldError]) -> T:
        """The result of `work`; it is cancelled after `seconds`, and what `late` makes is raised instead."""
        task = asyncio.current_task()
        if task is None:
            return await work
        self._due[task] = self._world.monotonic() + seconds
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="deadlines")
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._late or task.uncancel() > 0:
                raise
            raise late() from None
        finally:
            self._due.pop(task, None)
            self._late.discard(task)

    async def _sweep(self) -> None:
        while self._due:
            await self._world.sleep(self._step)
            now = self._world.monotonic()
            for task, due in list(self._due.items()):
                if due <= now and task not in self._late:
                    self._late.add(task)
                    task.cancel()


def took_too_long() -> Unavailable:
    """The error for a request that was cancelled: whether it took effect is not known."""
    return Unavailable(
        "The request took too long and was cancelled. Send it again: a command takes effect once under one "
        "Idempotency-Key."
    )
