"""In the frozen world time passes when a test says so."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.sample_domains.counters import Count, Counted, Ended, Ignore, Ignored, count, ignore
from twofold import App, Later, Module, Policy
from twofold.testing import FrozenWorld
from twofold.world import RealWorld, World, microseconds


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


async def test_a_clock_that_jumps_stops_where_a_task_sleeps_and_not_where_one_polls() -> None:
    world = FrozenWorld()
    seen: list[tuple[str, float]] = []

    async def poll() -> None:
        while True:
            await world.poll(asyncio.Event(), 0.5)
            seen.append(("polled", world.monotonic()))

    async def wait(seconds: float) -> None:
        await world.poll(asyncio.Event(), math.inf, until=microseconds(world.now() + timedelta(seconds=seconds)))
        seen.append(("woken", world.monotonic()))

    tasks = [asyncio.create_task(task) for task in (poll(), wait(3600), wait(86_400 * 400))]
    await world.advance(86_400 * 365)
    assert seen == [("woken", 3600), ("polled", 3600), ("polled", 86_400 * 365)]
    assert await world.jump() == 86_400 * 35
    assert seen[3:] == [("woken", 86_400 * 400), ("polled", 86_400 * 400)]
    assert await world.jump() == 0
    for task in tasks:
        task.cancel()


async def test_a_change_ends_a_poll_and_a_wait_for_a_moment() -> None:
    world = FrozenWorld()
    change = asyncio.Event()
    tasks = [
        asyncio.create_task(world.poll(change, 5)),
        asyncio.create_task(world.poll(change, 5, until=microseconds(world.now()) + 5)),
    ]
    await world.settle()
    assert not any(task.done() for task in tasks)
    change.set()
    await asyncio.gather(*tasks)
    assert (world.monotonic(), world.sleeping) == (0, 0)
    await world.poll(asyncio.Event(), 5, until=microseconds(world.now()))


async def test_in_the_real_world_a_poll_ends_when_it_is_time_or_something_changes() -> None:
    world, never = RealWorld(), asyncio.Event()
    now = microseconds(world.now())
    await world.poll(never, math.inf, until=now + 1_000)
    assert microseconds(world.now()) >= now + 1_000
    await world.poll(never, 0.001, until=now + 10**15)
    change = asyncio.Event()
    change.set()
    await world.poll(change, math.inf)


async def test_a_year_of_a_quiet_app_has_few_moments_and_its_timers_are_on_time(tmp_path: Path) -> None:
    world = FrozenWorld(datetime(2024, 1, 1, tzinfo=UTC))
    polls = 0
    poll = world.poll

    async def counted(change: asyncio.Event, seconds: float, *, until: int | None = None) -> None:
        nonlocal polls
        polls += 1
        await poll(change, seconds, until=until)

    world.poll = counted  # type: ignore[method-assign]

    async def remind(event: Counted) -> Later:
        return Later(Ignore(event.counters), after=timedelta(days=100))

    module = Module(
        "counters", events=[Counted, Ended, Ignored], decisions=[count, ignore], policies=[Policy("remind", remind)]
    )
    async with App(module, write_store=f"sqlite:///{tmp_path}/log.db", read_store="memory:", world=world) as app:
        await app.send(Count(["a"]))
        await world.advance(86_400 * 366)
        recorded = (await app.log()).events
    assert [(event.type, event.metadata.time) for event in recorded] == [
        ("counted", microseconds(datetime(2024, 1, 1, tzinfo=UTC))),
        ("ignored", microseconds(datetime(2024, 4, 10, tzinfo=UTC))),
    ]
    assert polls < 200


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
