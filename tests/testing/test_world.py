"""In the frozen world time passes when a test says so."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from twofold.testing import FrozenWorld
from twofold.world import World


def test_time_stands_still_and_ids_follow_from_the_seed() -> None:
    world: World = FrozenWorld(datetime(2024, 1, 1, tzinfo=UTC), seed=7)
    assert (world.now(), world.monotonic()) == (datetime(2024, 1, 1, tzinfo=UTC), 0.0)
    again = FrozenWorld(seed=7)
    ids = [world.new_id() for _ in range(3)]
    assert ids == [again.new_id() for _ in range(3)]
    assert len(set(ids)) == 3
    assert FrozenWorld(seed=8).new_id() not in ids


async def test_sleepers_wake_in_order_each_at_its_own_moment() -> None:
    world = FrozenWorld()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await world.sleep(seconds)
        woken.append((name, world.monotonic()))

    tasks = [asyncio.create_task(sleep(name, s)) for name, s in (("late", 9), ("b", 2), ("a", 1), ("never", 99))]
    await world.advance(0.5)
    assert woken == []
    await world.advance(9)
    assert woken == [("a", 1), ("b", 2), ("late", 9)]
    assert world.now() - FrozenWorld().now() == timedelta(seconds=9.5)
    assert world.sleeping == 1
    tasks[-1].cancel()


async def test_who_sleeps_again_is_woken_again_on_the_way() -> None:
    world = FrozenWorld()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await world.sleep(1)
            ticks.append(world.monotonic())

    task = asyncio.create_task(tick())
    await world.advance(3)
    assert ticks == [1, 2, 3]
    task.cancel()


async def test_no_sleep_lets_others_run_without_time() -> None:
    world = FrozenWorld()
    ran: list[str] = []
    task = asyncio.create_task(_note(ran))
    await world.sleep(0)
    assert (ran, world.monotonic()) == (["other"], 0.0)
    await task


async def test_what_comes_within_its_time_is_returned_and_leaves_no_sleeper() -> None:
    world = FrozenWorld()
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(world.within(5, answer))
    await world.advance(4)
    assert not waiting.done()
    answer.set_result(42)
    assert await waiting == 42
    assert world.sleeping == 0


async def test_what_does_not_come_in_time_is_cancelled() -> None:
    world = FrozenWorld()
    never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(world.within(5, never))
    await world.advance(5)
    with pytest.raises(TimeoutError):
        await waiting
    assert never.cancelled()


async def test_an_error_of_what_is_waited_for_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await FrozenWorld().within(5, _fail())


async def test_cancelling_who_waits_cancels_what_it_waits_for() -> None:
    world = FrozenWorld()
    never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(world.within(5, never))
    await world.settle()
    waiting.cancel()
    await world.settle()
    assert (waiting.cancelled(), never.cancelled(), world.sleeping) == (True, True, 0)


async def _note(ran: list[str]) -> None:
    ran.append("other")


async def _fail() -> int:
    return 1 // 0
