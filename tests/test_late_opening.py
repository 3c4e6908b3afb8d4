"""What is away at first is opened when it is there, by one attempt at a time, and callers do not wait for it."""

import asyncio

import pytest

from tests.sample_domains.counter_app_helpers import until
from twofold.errors import Unavailable, WiringError
from twofold.late_opening import LateOpening
from twofold.world import RealWorld


class Door:
    """Something that is opened, or fails with `error`, or does not answer before `answers` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.attempts = 0
        self.closed = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def open(self) -> "Door":
        self.attempts += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return self

    async def close(self) -> None:
        self.closed = True


async def test_it_is_opened_once_and_closed_with_its_owner() -> None:
    door = Door()
    late = LateOpening(door.open, RealWorld())
    assert await asyncio.gather(late.get(), late.get()) == [door, door]
    assert (await late.get(), door.attempts) == (door, 1)
    await late.close(Door.close)
    assert door.closed
    with pytest.raises(Unavailable, match="closed"):
        await late.get()


async def test_it_is_tried_again_until_it_is_there_and_meanwhile_callers_get_the_reason() -> None:
    door = Door()
    door.error = Unavailable("nobody there")
    late = LateOpening(door.open, RealWorld())
    await late.try_first()
    with pytest.raises(Unavailable, match="nobody there"):
        await late.get()
    assert door.attempts == 1, "not tried again at once"
    door.error = None

    async def opened() -> bool:
        try:
            return await late.get() is door
        except Unavailable:
            return False

    await until(opened, "opened")


async def test_an_attempt_that_hangs_holds_up_no_second_caller() -> None:
    door = Door()
    door.answers.clear()
    late = LateOpening(door.open, RealWorld())
    with pytest.raises(Unavailable, match="has not answered"):
        await late.get()
    with pytest.raises(Unavailable, match="has not answered"):
        await asyncio.wait_for(late.get(), 60)
    assert door.attempts == 1
    await late.close(Door.close)


async def test_what_can_never_be_opened_is_an_error_at_start_only() -> None:
    door = Door()
    door.error = WiringError("no such scheme")
    late = LateOpening(door.open, RealWorld())
    with pytest.raises(WiringError, match="no such scheme"):
        await late.try_first()
    with pytest.raises(Unavailable, match="no such scheme"):
        await late.get()
