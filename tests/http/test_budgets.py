"""A budget of memory: what is held is counted, and the one that has held longest is cut off for others."""

import asyncio

import pytest

from twofold import Unavailable
from twofold.http.budgets import GRACE, Budget, CutOff, Holding
from twofold.testing.frozen_world import FrozenWorld


@pytest.fixture
def world() -> FrozenWorld:
    return FrozenWorld()


@pytest.fixture
def budget(world: FrozenWorld) -> Budget:
    return Budget(world, 100)


async def holds(budget: Budget, size: int, ended: list[str], name: str) -> None:
    """Hold bytes until cut off."""
    holding = budget.begin()
    try:
        with holding.cut_off_here():
            holding.resize(size)
            await asyncio.Event().wait()
    except CutOff:
        ended.append(name)


async def test_what_is_held_is_counted_and_released(budget: Budget) -> None:
    one, other = budget.begin(), budget.begin()
    one.resize(60)
    other.resize(40)
    with pytest.raises(Unavailable, match="other clients"):
        other.resize(41)
    assert (one.size, other.size, budget.used) == (60, 40, 100)
    one.resize(10)
    other.resize(90)
    one.release()
    other.release()
    assert budget.used == 0


async def test_what_is_larger_than_the_budget_has_all_of_it(budget: Budget) -> None:
    holding = budget.begin()
    holding.resize(1_000)
    assert budget.used == 100
    holding.release()
    assert budget.used == 0


async def test_the_one_that_has_held_longest_is_cut_off_but_not_within_its_first_second(
    world: FrozenWorld, budget: Budget
) -> None:
    ended: list[str] = []
    tasks = [asyncio.create_task(holds(budget, 50, ended, "first"))]
    await world.settle()
    await world.advance(GRACE / 2)
    tasks.append(asyncio.create_task(holds(budget, 50, ended, "second")))
    await world.settle()
    third = budget.begin()
    with pytest.raises(Unavailable):
        third.resize(50)
    await world.advance(GRACE / 2)
    third.resize(50)
    await world.settle()
    assert (ended, budget.used) == (["first"], 100)
    with pytest.raises(Unavailable):
        budget.begin().resize(1)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert budget.used == 50


async def test_who_waits_in_turn_gets_room_once_another_may_be_cut_off(world: FrozenWorld, budget: Budget) -> None:
    ended: list[str] = []
    slow = asyncio.create_task(holds(budget, 100, ended, "slow"))
    await world.settle()
    holding = budget.begin()
    waiting = asyncio.create_task(holding.resize_in_turn(80))
    await world.advance(GRACE * 0.9)
    assert not waiting.done()
    await world.advance(GRACE * 0.5)
    assert (waiting.done(), ended, holding.size) == (True, ["slow"], 80)
    await slow


async def test_who_waits_in_turn_gets_room_when_another_is_done(world: FrozenWorld, budget: Budget) -> None:
    other, holding = budget.begin(), budget.begin()
    other.resize(100)
    waiting = asyncio.create_task(holding.resize_in_turn(80))
    await world.settle()
    other.release()
    await world.settle()
    assert waiting.done()


async def test_a_request_that_is_worked_on_is_not_cut_off(world: FrozenWorld, budget: Budget) -> None:
    holding = budget.begin()
    holding.resize(100)
    await world.advance(60)
    with pytest.raises(Unavailable):
        budget.begin().resize(1)


async def test_a_cancellation_from_outside_stays_one(budget: Budget) -> None:
    holding: Holding = budget.begin()

    async def work() -> None:
        with holding.cut_off_here():
            holding.resize(10)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.used == 0
