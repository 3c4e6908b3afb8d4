"""Command ids are remembered for the retention, and forgotten after it, a few at a time."""

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import broken_log, fresh_log
from twofold import Metadata
from twofold.domain.events import NewEvent
from twofold.world import RealWorld
from twofold.write_store.port import Append, Appended
from twofold.write_store.postgres import DAY, PostgresWriteStore


class QuickWorld(RealWorld):
    """A minute passes each time somebody looks at the clock."""

    def __init__(self) -> None:
        self._minutes = 0

    def monotonic(self) -> float:
        self._minutes += 1
        return super().monotonic() + 60.0 * self._minutes


def sent(number: int, at: int) -> Append:
    event = NewEvent(f"c-{number}.0", "sent", 1, (), b"{}")
    return Append(Metadata(at, f"c-{number}", f"c-{number}"), (event,), (), f"c-{number}", b"one")


async def test_a_command_id_is_remembered_for_the_retention_and_not_much_longer(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    store = await PostgresWriteStore.open(url, retention_days=7, world=QuickWorld(), patience=3_600)
    for number in range(4):
        await store.append([sent(number, at=number * DAY)])
    assert await store.append([sent(0, at=6 * DAY)]) == [Appended(1, 1, repeated=True)], "six days later"
    # Each append forgets twice as many as it has brought, of those that are older than seven days.
    for number in range(4, 8):
        await store.append([sent(number, at=9 * DAY)])
    left = postgres.sql(f"select command_id from {url.rpartition('=')[2]}.commands order by 1").split()
    assert left == ["c-2", "c-3", "c-4", "c-5", "c-6", "c-7"]
    assert await store.append([sent(3, at=9 * DAY)]) == [Appended(4, 1, repeated=True)]
    assert await store.append([sent(1, at=9 * DAY)]) == [Appended(9, 1)], "forgotten, as the retention says"
    await store.close()


async def test_what_was_written_is_acknowledged_though_old_ids_cannot_be_forgotten(postgres: Postgres) -> None:
    refusal = ("get diagnostics forgotten = row_count;", "raise exception 'not now';")
    store = await PostgresWriteStore.open(await broken_log(postgres.dsn, refusal), world=QuickWorld(), patience=3_600)
    assert await store.append([sent(1, at=DAY)]) == [Appended(1, 1)]
    await store.close()


async def test_an_empty_batch_is_nothing_also_when_old_ids_are_to_be_forgotten(postgres: Postgres) -> None:
    store = await PostgresWriteStore.open(await fresh_log(postgres.dsn), world=QuickWorld(), patience=3_600)
    assert await store.append([]) == []
    await store.close()
