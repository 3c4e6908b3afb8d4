"""A world that a test controls: time passes when the test says so, and ids follow from a seed."""

import asyncio
import heapq
import itertools
import math
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from twofold.world import microseconds

T = TypeVar("T")

_SEEDS = uuid.UUID("c4b1c9f0-30a2-5d7e-8a64-0b3a6f4e2d51")
_TURNS = 32
"""Turns of the event loop that a woken task gets before the clock moves on."""


class FrozenWorld:
    """A `twofold.world.World` whose clock a test moves. The same seed gives the same ids."""

    def __init__(self, start: datetime = datetime(2000, 1, 1, tzinfo=UTC), *, seed: int = 0) -> None:
        self._start = start
        self._passed = 0.0
        self._seed = seed
        self.place = f"seed-{seed}"
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._polling: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    def new_id(self) -> str:
        return str(uuid.uuid5(_SEEDS, f"{self._seed}/{next(self._ids)}"))

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await _turn()
        else:
            await self._alarm(seconds)

    async def within(self, seconds: float, waiting: Awaitable[T]) -> T:
        task = asyncio.ensure_future(waiting)
        alarm = self._alarm(seconds)
        try:
            either: set[asyncio.Future[Any]] = {task, alarm}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise TimeoutError
        finally:
            alarm.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def poll(self, change: asyncio.Event, seconds: float, *, until: int | None = None) -> None:
        left = math.inf if until is None else (until - microseconds(self.now())) / 1_000_000
        if left <= 0:
            return
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = self._passed + seconds, alarm
        self._polling.append(entry)
        if left < math.inf:
            heapq.heappush(self._sleepers, (self._passed + left, next(self._order), alarm))
        changed = asyncio.ensure_future(change.wait())
        try:
            either: set[asyncio.Future[Any]] = {changed, alarm}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            alarm.cancel()
            self._polling.remove(entry)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Tasks that sleep until then are woken, in order, each at its own moment.

        Woken tasks run until they wait again. If they sleep again within these seconds, they are woken again. The clock
        jumps from one such moment to the next. Tasks that poll are woken after a jump only: so a year in which nothing
        happens takes no longer than a second.
        """
        until = self._passed + seconds
        await self.settle()
        while (moment := self._next()) is not None and moment <= until:
            await self._ring_next()
        await self._jump(until)

    async def jump(self) -> float:
        """Let time pass until the next task that sleeps is woken. How many seconds passed: 0 where none sleeps."""
        await self.settle()
        before, moment = self._passed, self._next()
        if moment is not None:
            await self._ring_next()
        return self._passed - before

    def _next(self) -> float | None:
        """When the next task that sleeps is to be woken."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def _ring_next(self) -> None:
        moment, _, alarm = heapq.heappop(self._sleepers)
        await self._jump(moment, alarm)

    async def _jump(self, moment: float, alarm: "asyncio.Future[None] | None" = None) -> None:
        jumped = moment > self._passed
        self._passed = max(self._passed, moment)
        if alarm is not None:
            _ring(alarm)
            await self.settle()
        if jumped:
            due = [polling for at, polling in self._polling if at <= self._passed]
            for polling in due:
                _ring(polling)
            if due:
                await self.settle()

    async def settle(self) -> None:
        """Let every task that can run do so, without time passing."""
        for _ in range(_TURNS):
            await _turn()

    @property
    def sleeping(self) -> int:
        """How many wait for time to pass."""
        return sum(not alarm.done() for _, _, alarm in self._sleepers)

    def _alarm(self, seconds: float) -> "asyncio.Future[None]":
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), alarm))
        return alarm


async def _turn() -> None:
    """One turn of the event loop: what was ready before has run when this returns."""
    loop = asyncio.get_running_loop()
    turned: asyncio.Future[None] = loop.create_future()
    loop.call_soon(_ring, turned)
    await turned


def _ring(alarm: "asyncio.Future[None]") -> None:
    if not alarm.done():
        alarm.set_result(None)
