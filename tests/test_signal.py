import asyncio

from twofold.signal import Signal, wait_for
from twofold.world import RealWorld


async def test_a_signal_wakes_all_that_wait() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.next.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    signal.fire()
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_a_change_between_the_look_and_the_wait_is_not_missed() -> None:
    signal = Signal()
    change = signal.next
    signal.fire()
    await wait_for(change, 3600.0, RealWorld())


async def test_a_change_before_the_look_wakes_nobody() -> None:
    signal = Signal()
    signal.fire()
    change = signal.next
    await wait_for(change, 0.01, RealWorld())
    assert not change.is_set()
