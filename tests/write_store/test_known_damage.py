"""Damage of a log that is known is never served, and what does not touch it goes on."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.servers.postgres import Postgres
from tests.write_store.disk_helpers import command
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.errors import Unavailable
from twofold.operations.verify import verify
from twofold.world import RealWorld
from twofold.write_store.damage import KnownDamage
from twofold.write_store.log_check import LogRange, checked_pages
from twofold.write_store.port import Append, Appended, RowWrite, Verifiable, WriteStore
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.sqlite import SqliteWriteStore
from twofold.write_store.verification import Damage


class Log:
    """A store, and SQL that changes what it has stored behind its back."""

    def __init__(self, store: SqliteWriteStore | PostgresWriteStore, place: str) -> None:
        self.store = store
        self._place = place

    async def change(self, sql: str) -> None:
        if isinstance(self.store, SqliteWriteStore):
            with sqlite3.connect(self._place) as connection:
                assert connection.execute(sql).rowcount
            return
        url, _, schema = self._place.partition("?schema=")
        connection = await asyncpg.connect(url)
        await connection.execute(f"set session_replication_role = replica; set search_path = {schema}; {sql}")
        await connection.close()

    async def find_damage(self) -> None:
        """Do what the background check does, once."""
        head = (await self.store.raw_log().head()).position
        async for page in checked_pages(self.store, LogRange(1, head, head), page=3, now=lambda: 0, files=False):
            self.store.damage.add(page.damages)


@pytest.fixture(params=["sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """Nine events, those at 1, 4 and 7 of thing:1, those at 2, 5 and 8 of thing:2, the others of thing:3."""
    if request.param == "sqlite":
        place = str(tmp_path / "log.db")
        found = Log(SqliteWriteStore(place), place)
    else:
        postgres: Postgres = request.getfixturevalue("postgres_newest")
        place = await fresh_log(postgres.dsn)
        found = Log(await PostgresWriteStore.open(place), place)
    for number in range(9):
        await found.store.append([command(number, tag=f"thing:{number % 3 + 1}")])
    yield found
    await found.store.close()


def of(tag: str) -> EventQuery:
    return EventQuery((QueryItem(("thing-happened",), (tag,)),))


FLIPPED = "update events set payload = envelope where position = 5"
DELETED = "delete from events where position = 5"


async def test_a_read_that_touches_a_changed_event_is_refused_and_others_go_on(log: Log) -> None:
    await log.change(FLIPPED)
    await log.find_damage()
    assert log.store.damage.problem is not None
    for query, after in ((ALL_EVENTS, 0), (ALL_EVENTS, 4), (of("thing:2"), 3)):
        with pytest.raises(Unavailable, match="damaged at position 5"):
            await log.store.read(query, after)
    assert [event.position for event in (await log.store.read(ALL_EVENTS, 0, 4)).events] == [1, 2, 3, 4]
    assert [event.position for event in (await log.store.read(ALL_EVENTS, 5)).events] == [6, 7, 8, 9]
    assert [event.position for event in (await log.store.read(of("thing:1"))).events] == [1, 4, 7]
    with pytest.raises(Unavailable, match="damaged at position 5"):
        await log.store.newer([AppendCondition(of("thing:2"), 0)])


async def test_an_append_that_depends_on_a_damaged_event_is_refused_and_others_are_written(log: Log) -> None:
    await log.change("delete from event_tags where position = 5 and tag = 'thing:2'")
    await log.find_damage()
    touching = command(50, tag="thing:2")
    with pytest.raises(Unavailable, match="damaged at position 5"):
        await log.store.append(
            [type(touching)(touching.metadata, touching.events, (AppendCondition(of("thing:2"), 4),), "a")]
        )
    (written,) = await log.store.append(
        [type(touching)(touching.metadata, touching.events, (AppendCondition(of("thing:1"), 7),), "b")]
    )
    assert isinstance(written, Appended)


async def test_a_repeat_of_a_command_whose_outcome_is_damaged_is_refused(log: Log) -> None:
    await log.change("update commands set position = position + 1 where command_id = 'command-4'")
    await log.find_damage()
    with pytest.raises(Unavailable, match="command-4"):
        await log.store.append([command(4)])
    (repeated,) = await log.store.append([command(3, tag="thing:1")])
    assert repeated == Appended(4, 1, repeated=True)


async def test_a_damaged_outcome_is_refused_before_anybody_has_looked_for_damage(log: Log) -> None:
    await log.change("update commands set recorded_at = recorded_at + 1 where command_id = 'command-4'")
    with pytest.raises(Unavailable, match="command-4"):
        await log.store.append([command(4)])
    with pytest.raises(Unavailable, match="command-4"):
        await log.store.newer([], "command-4")


async def test_a_damaged_row_is_refused_before_anybody_has_looked_for_damage(log: Log) -> None:
    rows = tuple(RowWrite("space", key, b"[]", 0) for key in ("sound", "damaged"))
    await log.store.append([Append(Metadata(0, "rows", "rows"), rows=rows)])
    await log.change("update rows set version = version + 1 where key = 'damaged'")
    with pytest.raises(Unavailable, match="The row 'damaged' of 'space'"):
        await log.store.rows("space")
    assert (await log.store.rows("space", ["sound"])).keys() == {"sound"}
    await log.find_damage()
    assert "The row 'damaged' of 'space' is not what was written" in (log.store.damage.problem or "")


async def test_a_page_that_lacks_an_event_is_refused_before_anybody_has_looked_for_damage(log: Log) -> None:
    await log.change(DELETED)
    with pytest.raises(Unavailable, match="damaged at position 5: the event there is missing"):
        await log.store.read(ALL_EVENTS)
    assert len((await log.store.read(ALL_EVENTS, 5)).events) == 4


async def test_with_check_reads_a_changed_event_is_never_served(log: Log) -> None:
    log.store._check_reads = True
    assert len((await log.store.read(ALL_EVENTS)).events) == 9
    assert [event.position for event in (await log.store.read(of("thing:2"))).events] == [2, 5, 8]
    await log.change(FLIPPED)
    for query in (ALL_EVENTS, of("thing:2")):
        with pytest.raises(Unavailable, match="damaged at position 5"):
            await log.store.read(query)
    assert len((await log.store.read(of("thing:3"))).events) == 3


async def test_a_postgresql_log_checks_its_end_when_it_is_opened(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    store = await PostgresWriteStore.open(url)
    await store.append([command(1), command(2)])
    await Log(store, url).change("update events set payload = envelope where position = 2")
    await store.close()
    again = await PostgresWriteStore.open(url)
    assert again.damage.problem is not None
    with pytest.raises(Unavailable, match="damaged at position 2"):
        await again.read(ALL_EVENTS)
    await again.close()


async def test_stores_that_can_be_verified_say_so(log: Log) -> None:
    store: WriteStore = log.store
    assert isinstance(store, Verifiable)
    result = await verify(store, RealWorld())
    assert (result.events, result.commands, result.all_right) == (9, 9, True)


def test_damage_without_end_is_kept_as_one_range() -> None:
    known = KnownDamage()
    known.add(Damage(position, "It is wrong.", frozenset({"a:b"})) for position in range(1, 3_000))
    assert known.count == 2_999
    with pytest.raises(Unavailable, match="position 1"):
        known.refuse([AppendCondition(of("x:y"), 0)], 5_000)
    known.refuse([AppendCondition(of("x:y"), 3_000)], 5_000)
