"""A deadline cancels its own request only, says so, and never hides a cancellation from elsewhere."""

import asyncio

import pytest

from twofold import Unavailable
from twofold.http.limits import Deadlines, took_too_long
from twofold.testing.frozen_world import FrozenWorld


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_request_that_takes_too_long_is_cancelled_and_the_others_go_on() -> None:
    world = FrozenWorld()
    deadlines = Deadlines(world, 1.0)
    short = asyncio.create_task(deadlines.within(5.0, forever(), took_too_long))
    long = asyncio.create_task(deadlines.within(60.0, forever(), took_too_long))
    await world.advance(4.0)
    assert not short.done()
    await world.advance(2.0)
    with pytest.raises(Unavailable, match="took too long"):
        await short
    assert not long.done()
    long.cancel()


async def test_a_result_in_time_is_the_result() -> None:
    world = FrozenWorld()
    deadlines = Deadlines(world, 1.0)

    async def soon() -> int:
        await world.sleep(3.0)
        return 7

    asked = asyncio.create_task(deadlines.within(5.0, soon(), took_too_long))
    await world.advance(4.0)
    assert await asked == 7


async def test_a_task_may_go_on_after_one_of_its_deadlines_has_passed() -> None:
    world = FrozenWorld()
    deadlines = Deadlines(world, 1.0)

    async def twice() -> str:
        with pytest.raises(Unavailable):
            await deadlines.within(2.0, forever(), took_too_long)
        await world.sleep(10.0)
        return "went on"

    asked = asyncio.create_task(twice())
    await world.advance(20.0)
    assert await asked == "went on"


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    deadlines = Deadlines(FrozenWorld(), 1.0)
    asked = asyncio.create_task(deadlines.within(5.0, forever(), took_too_long))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_no_check_runs_while_no_request_is_in_progress() -> None:
    world = FrozenWorld()
    deadlines = Deadlines(world, 1.0)
    asked = asyncio.create_task(deadlines.within(2.0, forever(), took_too_long))
    await world.advance(5.0)
    with pytest.raises(Unavailable):
        await asked
    assert world.sleeping == 0
