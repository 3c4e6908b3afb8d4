"""The time in which a coroutine runs is counted, and the time in which it waits is not."""

import asyncio

import pytest

from twofold.loop_time import LoopTime
from twofold.testing.frozen_world import FrozenWorld


class BusyLoop(FrozenWorld):
    def work(self, seconds: float) -> None:
        self._passed += seconds


async def test_only_the_time_in_which_a_coroutine_runs_is_counted() -> None:
    world = BusyLoop()

    async def work() -> str:
        world.work(1.0)
        await world.sleep(60.0)
        world.work(2.0)
        return "done"

    counted = LoopTime(work(), world)
    task = asyncio.create_task(_result(counted))
    await world.advance(100.0)
    assert (await task, counted.seconds) == ("done", 3.0)


async def test_an_error_is_raised_and_what_came_before_it_is_counted() -> None:
    world = BusyLoop()

    async def work() -> None:
        await asyncio.sleep(0)
        world.work(1.0)
        raise KeyError("no")

    counted = LoopTime(work(), world)
    with pytest.raises(KeyError):
        await counted
    assert counted.seconds == 1.0


async def test_a_cancellation_reaches_the_coroutine() -> None:
    world = BusyLoop()
    ends: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")
            world.work(1.0)

    counted = LoopTime(work(), world)
    task = asyncio.create_task(_result(counted))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), ends, counted.seconds) == (True, ["cancelled"], 1.0)


async def _result(counted: "LoopTime[object]") -> object:
    return await counted
