"""A whole log moves from one store to another: compared before it counts, and the app goes on as it was."""

import asyncio
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from tests.operations.moving_rooms_helpers import (
    Book,
    Count,
    CountOf,
    Tomorrow,
    events_of,
    filled,
    moved,
    opened,
    rooms,
    until,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import (
    App,
    Settings,
    Unavailable,
    WiringError,
)
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.log_moving import movable
from twofold.stores import open_write_store, place_of
from twofold.testing.write_store_model import HISTORIES
from twofold.world import RealWorld
from twofold.write_store.port import Append, Appended


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


async def test_the_old_log_says_where_it_went_and_can_only_be_read(postgres_newest: Postgres, tmp_path: Path) -> None:
    urls = [await filled(tmp_path), await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/b.db"]
    for before, after in pairwise(urls):
        await moved(before, after)
        place = re.escape(place_of(after))
        with pytest.raises(WiringError, match=f"was moved to {place}. Name that place"):
            await opened(before)
        with pytest.raises(WiringError, match=f"was moved to {place}"):
            await moved(before, f"sqlite:///{tmp_path}/elsewhere.db")
    assert [await events_of(url) for url in urls] == [await events_of(urls[0])] * 3


async def test_a_process_that_has_the_old_log_open_is_refused(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, target = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/target.db"
    await moved(await filled(tmp_path), source)
    append = Append(Metadata(0, "late", "late"), command_id="late")
    stores = [await opened(source) for _ in range(2)]
    await stores[0].read(ALL_EVENTS)
    await moved(source, target)
    with pytest.raises(Unavailable, match=f"was moved to {place_of(target)}"):
        await stores[0].read(ALL_EVENTS)
    for store in stores:
        with pytest.raises(Unavailable, match=f"was moved to {place_of(target)}"):
            await store.append([append])
        assert store.problem is not None
        await store.close()


async def test_a_log_moves_back_to_where_it_was_and_only_what_is_new_is_copied(
    postgres_newest: Postgres, tmp_path: Path
) -> None:
    here, there = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    await moved(here, there)
    async with App(rooms([]), write_store=there, read_store="memory:") as app:
        await app.send(Book("new"), command_id="new")
    back = await moved(there, here)
    assert (back.head, back.events, back.epoch) == (6, 1, 3)
    async with App(rooms([]), write_store=here, read_store="memory:") as app:
        assert (await app.send(Book("new"), command_id="new")).repeated
        assert (await app.send(Book("r0"))).position == 7
    with pytest.raises(WiringError, match="was moved to"):
        await opened(there)


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
        # The first log has the epoch that began when it ended.
        assert (last.identity.log, last.identity.epoch, origin.identity.epoch) == (origin.identity.log, 4, 2)
        await origin.close()
        await last.close()
        assert len(outcomes) == len(history)


async def test_a_log_that_holds_anything_is_not_moved_into(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, other = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    (tmp_path / "other").mkdir()
    await moved(await filled(tmp_path / "other"), other)
    with pytest.raises(WiringError, match=r"is not empty\. Move into a new schema.*twofold migrate"):
        await moved(source, other)
    with pytest.raises(WiringError, match=r"is not empty\. Move into a new file"):
        await moved(other, source)
    for url in (source, other):
        await (await opened(url)).close()


async def test_a_log_that_has_begun_another_epoch_is_not_moved_into(postgres_newest: Postgres, tmp_path: Path) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    postgres_newest.sql(f"select {target.rpartition('=')[2]}.raise_epoch(1, 'by hand')")
    with pytest.raises(WiringError, match="is not empty"):
        await moved(source, target)


async def test_a_log_in_memory_is_not_moved(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match="MemoryWriteStore cannot be moved"):
        await moved("memory:", f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(WiringError, match="not copied into memory"):
        await moved(await filled(tmp_path), "memory:")


async def test_a_command_id_is_remembered_as_long_as_before_after_two_moves(
    postgres_newest: Postgres, tmp_path: Path
) -> None:
    first, second = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/a.db"
    store = await opened(first)
    # The last one by its id is an old one.
    await store.append([Append(Metadata(0, "z", "z"), command_id="z")])
    schema = first.rpartition("=")[2]
    checksum = (
        f"{schema}.command_checksum(command_id, request_hash, position, count, recorded_at - 500000000000, nonce)"
    )
    postgres_newest.sql(f"update {schema}.commands set checksum = {checksum}, recorded_at = recorded_at - 500000000000")
    await store.append([Append(Metadata(0, "a", "a"), command_id="a")])
    await store.close()
    await moved(first, second)
    store = await opened(second)
    await store.append([Append(Metadata(0, "b", "b"), command_id="b")])
    async with movable(store).snapshot() as snapshot:
        ages = {command.command_id: command.recorded_at for command in await snapshot.commands("", 10)}
    await store.close()
    assert ages["b"] >= ages["a"] > ages["z"]
