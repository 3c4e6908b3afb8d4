"""In charge of how much and how long: every limit of the wire, and what holds requests to them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from twofold.errors import TwofoldError, Unavailable
from twofold.world import World

T = TypeVar("T")
AnyTask = asyncio.Task[object]


class Limits(msgspec.Struct, frozen=True):
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
    requests: int = 1_000
    reserved_for_commands: int = 250
    streams: int = 1_000
    streams_per_client: int = 100
    heartbeat_seconds: float = 15.0


class Lane:
    """Counts the requests under way of one kind, and turns away those beyond its share. Use it in `with`."""

    def __init__(self, gate: "Gate", most: int) -> None:
        self._gate = gate
        self._most = most
        self._busy = 0

    def __enter__(self) -> None:
        if self._busy >= self._most or self._gate.busy >= self._gate.most:
            raise Unavailable("Too many requests are under way. Send this one again in a moment.", retry_after=1.0)
        self._busy += 1
        self._gate.busy += 1

    def __exit__(self, *_: object) -> None:
        self._busy -= 1
        self._gate.busy -= 1


class Gate:
    """Requests under way at once: commands may take all of the places, everything else leaves some of them free."""

    def __init__(self, limits: Limits) -> None:
        self.most = limits.requests
        self.busy = 0
        self.commands = Lane(self, self.most)
        self.reads = Lane(self, max(1, self.most - limits.reserved_for_commands))


class Deadlines:
    """Ends what takes too long.

    One look round every so often for all requests together: a timer for each would cost every command more than its
    JSON does. So a deadline may be passed by up to `step` seconds.
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
    """What a caller is told whose request was ended: what became of it is not known."""
    return Unavailable(
        "This took too long and was given up. Send it again: a command takes effect once under one Idempotency-Key."
    )
