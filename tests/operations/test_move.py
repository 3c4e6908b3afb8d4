"""A whole log moves from one store to another: compared before it counts, and the app goes on as it was."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec import Struct

from tests.servers.postgres import Postgres
from tests.servers.server import ServerError
from tests.write_store.postgres_helpers import fresh_log
from twofold import (
    App,
    DecisionModel,
    InvalidMessage,
    Later,
    Module,
    Policy,
    Projection,
    Settings,
    Tag,
    Unavailable,
    View,
    WiringError,
)
from twofold.app import Status
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.operations.move import MoveResult, move
from twofold.stores import open_write_store
from twofold.testing.write_store_model import HISTORIES
from twofold.world import RealWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Appended, WriteStore
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.postgres.moving import PostgresEmptyLog

Room = Annotated[str, Tag("room")]


class Book(Struct, frozen=True):
    room: Room


class Free(Struct, frozen=True):
    room: Room


class Booked(Struct, frozen=True):
    room: Room


class Freed(Struct, frozen=True):
    room: Room


class Bookings(Struct, frozen=True):
    count: int = 0

    def evolve(self, event: Booked | Freed) -> "Bookings":
        return Bookings(self.count + 1)


def book(command: Book, bookings: Bookings) -> Booked:
    return Booked(command.room)


def free(command: Free, bookings: Bookings) -> Freed:
    return Freed(command.room)


class Count(Struct, frozen=True):
    room: str
    events: int


def count(row: Count | None, event: Booked | Freed) -> Count:
    return Count(event.room, (row.events if row else 0) + 1)


class CountOf(Struct, frozen=True):
    room: str


async def count_of(query: CountOf, counts: View[Count]) -> Count | None:
    return await counts.get(query.room)


class Tomorrow(RealWorld):
    def now(self) -> datetime:
        return super().now() + timedelta(days=1)


def rooms(reacted: list[str]) -> Module:
    async def free_later(event: Booked) -> Later:
        reacted.append(event.room)
        return Later(Free(event.room), timedelta(hours=1))

    return Module(
        "rooms",
        events=[Booked, Freed],
        models=[DecisionModel(Bookings, by=Room)],
        decisions=[book, free],
        projections=[Projection("counts", count, key=Room)],
        policies=[Policy("free-later", free_later)],
        queries=[count_of],
    )


async def opened(url: str) -> WriteStore:
    return await open_write_store(url, Settings(), RealWorld())


async def until(app: App, reached: Callable[[Status], bool]) -> None:
    """Look at the app's status until it is as wanted: followers work on their own time."""
    async with asyncio.timeout(30):
        while not reached(await app.status()):
            await app.world.sleep(0.01)


async def moved(source: str, target: str) -> MoveResult:
    old, new = await opened(source), await opened(target)
    try:
        return await move(old, new)
    finally:
        await old.close()
        await new.close()


async def events_of(url: str) -> Sequence[RecordedEvent]:
    write_store = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    found = await write_store.read(ALL_EVENTS)
    await write_store.close()
    return found.events


async def test_an_app_goes_on_in_postgresql_where_it_was_in_sqlite(postgres: Postgres, tmp_path: Path) -> None:
    before, read_store = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/views.db"
    reacted: list[str] = []
    async with App(rooms(reacted), write_store=before, read_store=read_store) as app:
        for n in range(20):
            await app.send(Book(f"r{n % 4}"), command_id=f"b-{n}")
        last = await app.send(Book("r9"), command_id="b-last")
        assert (await app.ask(CountOf("r9"), position=last.token)).value == Count("r9", 1)
        await until(app, lambda status: not status.followers[1].lag)

    after = await fresh_log(postgres.dsn)
    done = await moved(before, after)
    assert (done.head, done.epoch, done.commands) == (21, 2, 21)
    assert await events_of(after) == await events_of(before)

    async with App(rooms(reacted), write_store=after, read_store=read_store) as app:
        status = await app.status()
        assert [(each.name, each.position) for each in status.followers] == [("counts", 21), ("free-later", 21)]
        assert (await app.ask(CountOf("r9"), position=last.token)).value == Count("r9", 1)
        again = await app.send(Book("r9"), command_id="b-last")
        assert (again.repeated, again.position) == (True, 21)
        new = await app.send(Book("r9"), command_id="b-new")
        assert (new.position, (await app.ask(CountOf("r9"), position=new.token)).value) == (22, Count("r9", 2))
        await until(app, lambda status: not status.followers[1].lag)
    assert len(reacted) == 22, "what was reacted to before is not reacted to again"

    async with App(rooms(reacted), write_store=after, read_store=read_store, world=Tomorrow()) as app:
        await until(app, lambda status: status.head == 44)
    assert [each.type for each in await events_of(after)].count("freed") == 22, "what was due later still comes"


async def test_a_command_id_that_begins_like_the_stores_own_goes_along(
    postgres_newest: Postgres, tmp_path: Path
) -> None:
    before, between, after = (
        f"sqlite:///{tmp_path}/log.db",
        await fresh_log(postgres_newest.dsn),
        f"sqlite:///{tmp_path}/b.db",
    )
    odd = Append(Metadata(0, "~odd", "~odd"), command_id="~odd")
    nobodys = msgspec.structs.replace(odd, command_id=None)
    write_store = await opened(before)
    await write_store.append([odd])
    await write_store.close()
    assert (await moved(before, between)).commands == 1
    write_store = await opened(between)
    await write_store.append([nobodys, nobodys])
    await write_store.close()
    assert (await moved(between, after)).commands == 1, "what the store called itself stays behind"
    write_store = await opened(after)
    assert await write_store.append([odd]) == [Appended(0, 0, repeated=True)]
    await write_store.close()


async def test_who_goes_on_with_the_old_log_is_found_out(postgres_newest: Postgres, tmp_path: Path) -> None:
    before = f"sqlite:///{tmp_path}/log.db"
    async with App(rooms([]), write_store=before, read_store="memory:") as app:
        await app.send(Book("r1"))
    after = await fresh_log(postgres_newest.dsn)
    await moved(before, after)
    async with App(rooms([]), write_store=before, read_store="memory:") as forgotten:
        late = await forgotten.send(Book("r2"))
    async with App(rooms([]), write_store=after, read_store="memory:") as app:
        await app.send(Book("r3"))
        with pytest.raises(InvalidMessage, match="does not hold this position"):
            await app.ask(CountOf("r2"), position=late.token)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(history=HISTORIES)
def test_any_log_comes_back_as_it_went(postgres_newest: Postgres, history: list[list[Append]]) -> None:
    asyncio.run(_there_and_back(postgres_newest.dsn, history))


async def _there_and_back(dsn: str, history: list[list[Append]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/a.db", await fresh_log(dsn), await fresh_log(dsn), f"sqlite:///{folder}/b.db"]
        first = await opened(urls[0])
        outcomes = [await first.append(batch) for batch in history]
        spaces = {space: await first.rows(space) for space in ("checkpoints", "timers")}
        await first.close()
        for source, target in pairwise(urls):
            await moved(source, target)
        assert await events_of(urls[-1]) == await events_of(urls[0])
        last = await opened(urls[-1])
        assert {space: await last.rows(space) for space in spaces} == spaces
        known = {a.command_id for batch in history for a in batch if a.command_id}
        origin = await open_write_store(urls[0], Settings(), RealWorld(), read_only=True)
        for command_id in known:
            assert (await last.newer([], command_id))[1] == (await origin.newer([], command_id))[1]
        assert (last.identity.log, last.identity.epoch) == (origin.identity.log, 4)
        await origin.close()
        await last.close()
        assert len(outcomes) == len(history)


async def filled(folder: Path) -> str:
    url = f"sqlite:///{folder}/log.db"
    async with App(rooms([]), write_store=url, read_store="memory:") as app:
        for n in range(5):
            await app.send(Book(f"r{n}"))
    return url


async def test_a_log_that_holds_anything_is_not_moved_into(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    await moved(source, target)
    with pytest.raises(WiringError, match=r"is not empty\. Move into a new schema.*twofold migrate"):
        await moved(source, target)
    with pytest.raises(WiringError, match=r"is not empty\. Move into a new file"):
        await moved(target, source)


async def test_a_copy_that_differs_does_not_count(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    add = PostgresEmptyLog.add_events

    async def corrupt_row(self: PostgresEmptyLog, events: Sequence[RecordedEvent]) -> None:
        third = events[2]
        changed = RecordedEvent(3, third.type, third.version, third.payload.replace(b"r2", b"r9"), third.envelope)
        await add(self, [*events[:2], changed, *events[3:]])

    with monkeypatch.context() as broken:
        broken.setattr(PostgresEmptyLog, "add_events", corrupt_row)
        with pytest.raises(WiringError, match="the event at position 3 differs"):
            await moved(source, target)
    assert await events_of(target) == []
    assert (await moved(source, target)).head == 5


async def test_a_copy_broken_off_leaves_the_target_empty(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)

    async def cut(self: PostgresEmptyLog, commands: object) -> None:
        # What kill -9 looks like to the server: the connection is gone, in the middle of the transaction.
        self._connection.terminate()
        raise ConnectionError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(PostgresEmptyLog, "add_commands", cut)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await moved(source, target)
    assert await events_of(target) == []
    assert (await moved(source, target)).head == 5


async def test_nobody_writes_a_log_while_it_is_moved(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, target = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/target.db"
    await moved(await filled(tmp_path), source)
    schema = source.rpartition("=")[2]
    old, new = await opened(source), await opened(target)
    refused: list[str] = []

    def write(done: int, total: int) -> None:
        with pytest.raises(ServerError, match="lock timeout"):
            postgres_newest.sql(f"set lock_timeout = 100; update {schema}.log_head set position = position + 1")
        refused.append(f"{done} of {total}")

    await move(old, new, write)
    assert refused == ["5 of 10", "10 of 10"]
    for write_store in (old, new):
        await write_store.close()


async def test_a_log_that_was_written_just_before_is_not_moved(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/target.db"
    await moved(await filled(tmp_path), source)
    schema = source.rpartition("=")[2]
    old, new = await opened(source), await opened(target)
    content = PostgresWriteStore.content

    def written_first(self: PostgresWriteStore) -> object:
        postgres_newest.sql(f"update {schema}.log_head set position = position + 1")
        return content(self)

    monkeypatch.setattr(PostgresWriteStore, "content", written_first)
    with pytest.raises(WiringError, match="was written during the move, so nothing was moved"):
        await move(old, new)
    for write_store in (old, new):
        await write_store.close()
    assert await events_of(target) == []


async def test_a_log_that_has_begun_another_epoch_is_not_moved_into(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    postgres_newest.sql(f"select {target.rpartition('=')[2]}.raise_epoch(1, 'by hand')")
    with pytest.raises(WiringError, match="is not empty"):
        await moved(source, target)


async def test_a_log_in_memory_is_not_moved(tmp_path: Path) -> None:
    write_store = await opened(f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(WiringError, match="MemoryWriteStore cannot be moved"):
        await move(MemoryWriteStore(), write_store)
    await write_store.close()
