"""News of an append come quickly by notification, and a little later without: notifications are hints."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import Metadata
from twofold.domain.events import NewEvent
from twofold.write_store.port import Append
from twofold.write_store.postgres import PostgresWriteStore, news

LISTENERS = "select pid from pg_stat_activity where query like 'LISTEN%{channel}%'"
clock = asyncio.get_running_loop


def noted(n: int) -> Append:
    event = NewEvent(f"c-{n}.0", "noted", 1, ("k:1",), b"{}")
    return Append(Metadata(0, f"c-{n}", f"c-{n}"), (event,), (), f"c-{n}")


class Two:
    """A store that writes and one that waits, as in two processes: they share nothing but the log."""

    def __init__(self, url: str, writer: PostgresWriteStore, reader: PostgresWriteStore, other: asyncpg.Connection):
        self.writer, self.reader, self.other = writer, reader, other
        self.channel = f"twofold_{url.rpartition('=')[2]}"
        self._written = 0

    async def write(self) -> None:
        """Append, and see that the reader, who waits, hears of it."""
        self._written += 1
        waiting = asyncio.create_task(self.reader.wait(self._written - 1, 30))
        await self.writer.append([noted(self._written)])
        await waiting
        assert self.reader._news.head == self._written, "nobody reported the reader"

    async def listeners(self, count: int) -> list[int]:
        """The server processes that listen, once there are so many."""
        while True:
            found = await self.other.fetch(LISTENERS.format(channel=self.channel))
            if len(found) == count:
                return [row[0] for row in found]


@pytest.fixture
async def two(postgres: Postgres) -> AsyncGenerator[Two]:
    url = await fresh_log(postgres.dsn)
    other = await asyncpg.connect(postgres.dsn)
    async with asyncio.timeout(30):
        stores = [await PostgresWriteStore.open(url) for _ in range(2)]
        yield Two(url, *stores, other)
    for store in stores:
        await store.close()
    await other.close()


async def listening(two: Two) -> int:
    """The server process the reader listens on, after it has begun to."""
    await two.write()
    (pid,) = await two.listeners(1)
    return pid


async def test_another_process_hears_of_an_append_by_notification(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    await listening(two)
    for name in ("_SHORTEST_POLL", "_LONGEST_POLL"):
        monkeypatch.setattr(news, name, 3_600.0)
    for _ in range(7):
        await idle_while_waiting(two)
        await two.write()


async def idle_while_waiting(two: Two) -> None:
    # Long enough that a look is behind, and the next one by itself as far away as it ever is.
    await two.reader.wait(two.reader._news.head, 0.4)


async def test_a_listening_connection_that_is_cut_costs_a_look_and_comes_back(two: Two) -> None:
    pid = await listening(two)
    await two.other.execute(f"select pg_terminate_backend({pid})")
    await two.listeners(0)
    for _ in range(3):
        await two.write()
    (again,) = await two.listeners(1)
    assert again != pid


async def test_without_any_notification_news_come_by_looking(two: Two) -> None:
    await listening(two)
    two.writer._news.wrote = lambda notify: None  # type: ignore[method-assign]
    for _ in range(3):
        await idle_while_waiting(two)
        await two.write()


async def test_however_much_is_written_there_are_at_most_fifty_notifications_a_second(two: Two) -> None:
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    await two.other.add_listener(two.channel, hear)
    began, written = clock().time(), 0
    while heard < 20 or written < 100:
        await two.writer.append([noted(written)])
        written += 1
    await two.other.execute("select 1")
    assert heard <= 50 * (clock().time() - began) + 2
    assert heard < written
    await two.other.remove_listener(two.channel, hear)


async def test_a_store_that_closes_stops_listening(two: Two) -> None:
    await listening(two)
    await two.reader.close()
    await two.listeners(0)


async def test_who_waits_at_a_closed_store_opens_no_connection(postgres: Postgres) -> None:
    store = await PostgresWriteStore.open(await fresh_log(postgres.dsn))
    await store.close()
    before = asyncio.all_tasks()
    await store.wait(0, 0.01)
    left = {each for each in asyncio.all_tasks() - before if not each.done()}
    assert left == set(), "nobody would ever end it"
