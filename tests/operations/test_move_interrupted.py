"""A move that is interrupted or refused: the old log goes on, or the copy, and never both."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from tests.operations.moving_rooms_helpers import Book, events_of, filled, moved, opened, rooms
from tests.servers.postgres import Postgres
from tests.servers.server import ServerError
from tests.write_store.postgres_helpers import fresh_log
from twofold import (
    App,
    Settings,
    Unavailable,
    WiringError,
)
from twofold.domain.events import RecordedEvent
from twofold.errors import ForkedHistory
from twofold.log_moving import CutOver, movable
from twofold.operations.progress import no_progress
from twofold.stores import open_log_copy, open_write_store, place_of
from twofold.world import RealWorld
from twofold.write_store.log_copier import LogCopier, Pace
from twofold.write_store.postgres.content import PostgresClosedLog
from twofold.write_store.postgres.copying import PostgresLogCopy
from twofold.write_store.sqlite.copying import SqliteLogCopy
from twofold.write_store.sqlite.snapshot import SqliteClosedLog


async def test_an_event_that_is_written_differently_is_not_in_the_copy(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    add = PostgresLogCopy.add_events

    async def corrupt_row(self: PostgresLogCopy, events: Sequence[RecordedEvent]) -> None:
        third = events[2]
        payload = third.payload.replace(b"r2", b"r9")
        changed = RecordedEvent(3, third.type, third.version, payload, third.envelope, third.chain)
        await add(self, [*events[:2], changed, *events[3:]])

    with monkeypatch.context() as broken:
        broken.setattr(PostgresLogCopy, "add_events", corrupt_row)
        with pytest.raises(WiringError, match="the event at position 3 differs"):
            await moved(source, target)
    await (await opened(source)).close()
    assert (await moved(source, target)).events == 5


async def test_a_copy_that_is_not_complete_is_not_opened_and_is_continued(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)

    async def cut(self: PostgresLogCopy, commands: object) -> None:
        # What kill -9 looks like to the server: the connection is gone.
        self._connection.terminate()
        raise ConnectionError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(PostgresLogCopy, "add_commands", cut)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await moved(source, target)
    for read_only in (False, True):
        with pytest.raises(WiringError, match=f"not complete: it follows the log at {place_of(source)}"):
            await open_write_store(target, Settings(), RealWorld(), read_only=read_only)
    async with App(rooms([]), write_store=source, read_store="memory:") as app:
        await app.send(Book("r6"))
    assert (await moved(source, target)).events == 1
    assert [event.position for event in await events_of(target)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("back", [False, True])
async def test_a_move_that_ended_between_its_last_two_steps_is_completed_when_it_is_repeated(
    back: bool, postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    if back:
        await moved(source, target)
        source, target = target, f"sqlite:///{tmp_path}/b.db"

    async def ended(self: object, identity: object) -> None:
        raise RuntimeError("ended")

    for kind in (PostgresLogCopy, SqliteLogCopy):
        monkeypatch.setattr(kind, "complete", ended)
    with pytest.raises(RuntimeError, match="ended"):
        await moved(source, target)
    monkeypatch.undo()
    with pytest.raises(WiringError, match="was moved to"):
        await opened(source)
    with pytest.raises(WiringError, match="is not complete"):
        await opened(target)
    done = await moved(source, target)
    assert (done.head, done.epoch, done.events) == (5, 3 if back else 2, 0)
    async with App(rooms([]), write_store=target, read_store="memory:") as app:
        assert (await app.send(Book("r9"))).position == 6


async def test_a_copy_of_another_history_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = await filled(tmp_path), f"sqlite:///{tmp_path}/target.db"
    shutil.copyfile(tmp_path / "log.db", tmp_path / "twin.db")
    for url in (source, f"sqlite:///{tmp_path}/twin.db"):
        async with App(rooms([]), write_store=url, read_store="memory:") as app:
            await app.send(Book("r6"))

    async def ended(self: object, place: str) -> None:
        raise RuntimeError("ended")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="ended"):
        broken.setattr(SqliteClosedLog, "seal", ended)
        await moved(source, target)
    with pytest.raises(ForkedHistory, match="has another history"):
        await moved(f"sqlite:///{tmp_path}/twin.db", target)
    assert (await moved(source, target)).head == 6


async def test_a_damaged_log_is_not_moved_and_goes_on(tmp_path: Path) -> None:
    source, target = await filled(tmp_path), f"sqlite:///{tmp_path}/target.db"
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute("update events set payload = cast(replace(payload, 'r1', 'r7') as blob) where position = 2")
    connection.close()
    log = await open_write_store(source, Settings(), RealWorld(), read_only=True)
    async with movable(log).snapshot() as snapshot, open_log_copy(target, log.identity, "", RealWorld()) as copy:
        with pytest.raises(WiringError, match="The event at position 2 is missing or damaged"):
            await LogCopier(copy, Pace(no_progress, RealWorld())).update(snapshot)
        assert copy.head == 0
    await log.close()
    with pytest.raises(WiringError, match="is not complete"):
        await opened(target)


async def test_nobody_writes_a_log_while_the_rest_is_copied(
    postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/target.db"
    await moved(await filled(tmp_path), source)
    schema = source.rpartition("=")[2]
    seal, refused = PostgresClosedLog.seal, 0

    async def watched(self: PostgresClosedLog, place: str) -> None:
        nonlocal refused
        with pytest.raises(ServerError, match="lock timeout"):
            postgres_newest.sql(f"set lock_timeout = 100; update {schema}.log_head set position = position + 1")
        refused += 1
        await seal(self, place)

    monkeypatch.setattr(PostgresClosedLog, "seal", watched)
    await moved(source, target)
    assert refused == 1


@pytest.mark.parametrize("back", [False, True])
async def test_a_log_that_an_earlier_attempt_has_sealed_is_completed_by_the_next_one(
    back: bool, postgres_newest: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), await fresh_log(postgres_newest.dsn)
    if back:
        await moved(source, target)
        source, target = target, f"sqlite:///{tmp_path}/b.db"

    async def ended(self: object, identity: object) -> None:
        raise RuntimeError("ended")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="ended"):
        for kind in (PostgresLogCopy, SqliteLogCopy):
            broken.setattr(kind, "complete", ended)
        await moved(source, target)
    world, place = RealWorld(), place_of(source)
    log = await open_write_store(source, Settings(), world, read_only=True)
    async with open_log_copy(target, log.identity, place, world) as copy:
        copier = LogCopier(copy, Pace(no_progress, world))
        elsewhere = CutOver(log, place, f"sqlite:///{tmp_path}/elsewhere.db", Settings(), world)
        with pytest.raises(WiringError, match=re.escape(f"The log {place} was moved to {place_of(target)}")):
            await elsewhere.run(copier)
        cut_over = CutOver(log, place, target, Settings(), world)
        await cut_over.run(copier)
    await log.close()
    store = await opened(target)
    assert store.identity == cut_over.sealed
    assert store.identity.epoch == (3 if back else 2)
    await store.close()


async def test_why_the_new_log_cannot_be_opened_is_not_hidden_by_the_attempt_to_complete_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = await filled(tmp_path), f"sqlite:///{tmp_path}/target.db"
    log = await opened(source)
    async with open_log_copy(target, log.identity, place_of(source), RealWorld()) as copy:
        cut_over = CutOver(log, place_of(source), target, Settings(), RealWorld())
        await cut_over.run(LogCopier(copy, Pace(no_progress, RealWorld())))
    await log.close()

    async def refuse(*_: object) -> None:
        raise WiringError("The file was made by a later version.")

    monkeypatch.setattr("twofold.log_moving.open_write_store", refuse)
    with pytest.raises(WiringError, match="made by a later version"):
        await cut_over.opened()
