"""Command ids are remembered for the retention, and forgotten after it, a few at a time."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import broken_log, fresh_log
from twofold import Metadata
from twofold.domain.events import NewEvent
from twofold.world import RealWorld
from twofold.write_store.port import Append, Appended
from twofold.write_store.postgres import PostgresWriteStore


class QuickWorld(RealWorld):
    """A world whose clocks a test moves."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.jump = timedelta()

    def monotonic(self) -> float:
        return super().monotonic() + self.passed

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.passed) + self.jump


def sent(number: int) -> Append:
    event = NewEvent(f"c-{number}.0", "sent", 1, (), b"{}")
    return Append(Metadata(1, f"c-{number}", f"c-{number}"), (event,), (), f"c-{number}", b"one")


async def pass_days(store: PostgresWriteStore, world: QuickWorld, days: float) -> None:
    """Let time pass in which the log is in use: the clock of command ids counts a minute of a pause at most."""
    for _ in range(round(days * 1_440)):
        world.passed += 60
        await store._retention.set_clock()


async def remembered(store: PostgresWriteStore, numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if (await store.newer([], f"c-{number}"))[1] is not None]


async def test_a_command_id_is_remembered_for_the_retention_and_not_much_longer(postgres: Postgres) -> None:
    url, world = await fresh_log(postgres.dsn), QuickWorld()
    store = await PostgresWriteStore.open(url, retention_days=0.7, world=world, patience=3_600)
    for number in range(4):
        await store.append([sent(number)])
        await pass_days(store, world, 0.1)
    await pass_days(store, world, 0.2)
    assert await store.append([sent(0)]) == [Appended(1, 1, repeated=True)], "six tenths of a day later"
    await pass_days(store, world, 0.25)
    # Each append forgets twice as many as it has brought, of those that are older.
    for number in range(4, 8):
        await store.append([sent(number)])
        world.passed += 11
    assert await remembered(store, range(8)) == [2, 3, 4, 5, 6, 7]
    assert await store.append([sent(3)]) == [Appended(4, 1, repeated=True)]
    assert await store.append([sent(1)]) == [Appended(9, 1)], "forgotten, as the retention says"
    await store.close()


async def test_wall_clocks_that_are_wrong_make_no_process_forget_a_command_id(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    worlds = [QuickWorld() for _ in range(3)]
    number = 0
    for jump in (0, 9, 400, -30, 0):
        stores = []
        for node, world in enumerate(worlds):
            # Only one of the nodes has the wrong clock.
            world.jump = timedelta(days=jump if node == 1 else 0)
            stores.append(await PostgresWriteStore.open(url, retention_days=7, world=world, patience=3_600))
        for _ in range(3):
            for store, world in zip(stores, worlds, strict=True):
                await store.append([sent(number)])
                number += 1
                world.passed += 60
        for store in stores:
            await store.close()
    store = await PostgresWriteStore.open(url, world=RealWorld())
    assert await remembered(store, range(number)) == list(range(number))
    await store.close()


async def test_a_process_that_was_paused_for_days_records_no_command_id_as_an_old_one(postgres: Postgres) -> None:
    url, paused_world, world = await fresh_log(postgres.dsn), QuickWorld(), QuickWorld()
    paused = await PostgresWriteStore.open(url, retention_days=0.5, world=paused_world, patience=3_600)
    store = await PostgresWriteStore.open(url, retention_days=0.5, world=world, patience=3_600)
    await store.append([sent(0)])
    await pass_days(store, world, 0.6)
    # The monotonic clock of a machine that sleeps stands still.
    paused_world.passed += 11
    await paused.append([sent(1)])
    world.passed += 60
    await store.append([sent(2)])
    assert await remembered(store, range(3)) == [1, 2]
    await paused.close()
    await store.close()


async def test_what_was_written_is_acknowledged_though_old_ids_cannot_be_forgotten(postgres: Postgres) -> None:
    refusal = ("get diagnostics forgotten = row_count;", "raise exception 'not now';")
    world = QuickWorld()
    store = await PostgresWriteStore.open(await broken_log(postgres.dsn, refusal), world=world, patience=3_600)
    world.passed += 60
    assert await store.append([sent(1)]) == [Appended(1, 1)]
    await store.close()


async def test_an_empty_batch_is_nothing_also_when_old_ids_are_to_be_forgotten(postgres: Postgres) -> None:
    store = await PostgresWriteStore.open(await fresh_log(postgres.dsn), world=QuickWorld(), patience=3_600)
    assert await store.append([]) == []
    await store.close()
