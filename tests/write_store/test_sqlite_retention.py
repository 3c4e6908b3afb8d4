"""Command ids are remembered for the retention by real time, whatever the wall clock says, and forgotten after it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.write_store.disk_helpers import command, connection_of
from twofold.testing import FrozenWorld
from twofold.world import microseconds
from twofold.write_store.port import Appended
from twofold.write_store.sqlite import DAY, SqliteWriteStore

SECONDS_OF_DAY = 86_400.0


class JumpingWorld(FrozenWorld):
    """A world whose wall clock can be put forward or back."""

    jump = timedelta()

    def now(self) -> datetime:
        return super().now() + self.jump


async def send(store: SqliteWriteStore, world: FrozenWorld, numbers: Iterable[int]) -> None:
    """Write commands with the time that the wall clock shows."""
    await store.append([command(number, time=microseconds(world.now())) for number in numbers])


@pytest.mark.parametrize(("size", "a_day"), [(1, 60), (100, 400)])
async def test_command_ids_are_remembered_for_the_retention_and_forgotten_after_it(
    tmp_path: Path, size: int, a_day: int
) -> None:
    world = FrozenWorld()
    store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
    days = 12
    for day in range(days):
        for start in range(0, a_day, size):
            await send(store, world, range(day * 1_000 + start, day * 1_000 + start + size))
        await world.advance(SECONDS_OF_DAY)
    sql = "select (recorded_at - (select min(recorded_at) from commands)) / ?, count(*) from commands group by 1"
    kept = [count for _, count in connection_of(store).execute(sql, (DAY,))]
    assert kept[-8:] == [a_day] * 8, "a command id was forgotten too early"
    assert sum(kept) <= a_day * 9, "old command ids pile up"
    assert await is_remembered(store, (days - 7) * 1_000)
    assert not await is_remembered(store, 0)
    await store.close()


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "over restarts"])
async def test_a_wall_clock_that_is_wrong_for_a_while_makes_no_command_id_forgotten(
    tmp_path: Path, restarted: bool
) -> None:
    world = JumpingWorld()
    store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
    await send(store, world, [1])
    number = 2
    for jump in (9, 0, 400, -30, 0):
        world.jump = timedelta(days=jump)
        if restarted:
            await store.close()
            store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
        for _ in range(3):
            await send(store, world, range(number, number + 200))
            number += 200
        await world.advance(SECONDS_OF_DAY)
    assert [await is_remembered(store, n) for n in (1, 2, 700, number - 1)] == [True] * 4
    await store.close()


async def test_a_log_that_begins_while_the_clock_is_ahead_forgets_nothing_when_it_is_put_right(tmp_path: Path) -> None:
    world = JumpingWorld()
    world.jump = timedelta(days=3_650)
    store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
    await send(store, world, range(300))
    world.jump = timedelta()
    for start in range(300, 1_500, 300):
        await send(store, world, range(start, start + 300))
    assert await is_remembered(store, 0)
    await store.close()


async def test_old_command_ids_are_forgotten_also_after_the_clock_was_far_ahead(tmp_path: Path) -> None:
    world = JumpingWorld()
    world.jump = timedelta(days=3_650)
    store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
    await send(store, world, range(300))
    await store.close()
    world.jump = timedelta()
    store = SqliteWriteStore(tmp_path / "log.db", retention_days=7, world=world)
    await world.advance(8 * SECONDS_OF_DAY)
    await send(store, world, range(300, 600))
    assert not await is_remembered(store, 0)
    await store.close()


async def is_remembered(store: SqliteWriteStore, number: int) -> bool:
    _, outcome = await store.newer([], command(number).command_id)
    return isinstance(outcome, Appended)
