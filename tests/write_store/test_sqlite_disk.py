"""What the SQLite log does when its disk fails, fills up, or has not been asked to sync."""

from pathlib import Path

import apsw
import pytest

from tests.write_store.disk_helpers import append_watched, command, connection_of, faulty_disk, positions_and_ids
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.domain.events import NewEvent
from twofold.errors import Conflict, Unavailable
from twofold.testing.faulty_disk import Operation, Part
from twofold.write_store.port import Append, Appended
from twofold.write_store.sqlite import SqliteWriteStore


async def test_everything_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        number = 0
        for size in (1, 7, 64, 512) * 3:
            batch = [command(number + i, events=i % 3, size=400) for i in range(size)]
            assert all(isinstance(outcome, Appended) for outcome in await append_watched(store, disk, batch))
            number += size
        assert disk.done["write", "main"] > 0, "the write-ahead log was never written back: make the test longer"
        await store.close()


@pytest.mark.parametrize("mode", ["off", "normal"])
async def test_the_check_of_syncs_fails_where_the_store_does_not_sync(tmp_path: Path, mode: str) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        connection_of(store).execute(f"pragma synchronous = {mode}")
        with pytest.raises(AssertionError, match="acknowledged with"):
            for number in range(3):
                await append_watched(store, disk, [command(number)])
        await store.close()


async def test_a_failed_sync_stops_the_writer_until_a_restart_and_lets_reads_go_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with faulty_disk() as disk:
        store = SqliteWriteStore(path, vfs=disk.name)
        await store.append([command(1)])
        disk.fail("sync", apsw.SQLITE_IOERR_FSYNC, part="wal", times=1)
        with pytest.raises(Unavailable):
            await store.append([command(2)])
        assert store.problem is not None
        assert "Restart the process" in store.problem
        with pytest.raises(Unavailable, match="stopped after a disk error"):
            await store.append([command(3)])
        assert (await positions_and_ids(store))[:1] == [(1, "command-1.0")]
        assert [e for e in await positions_and_ids(store) if e[1].startswith("command-3")] == []
        await store.close()
    again = SqliteWriteStore(path)
    assert again.problem is None
    head = len(await positions_and_ids(again))
    (second,) = await again.append([command(2)])
    assert isinstance(second, Appended)
    assert await positions_and_ids(again) == [(1, "command-1.0"), (2, "command-2.0")]
    assert second.repeated == (head == 2), "the outcome was unknown; its repeat must say which it was"
    await again.close()


@pytest.mark.parametrize(("operation", "code"), [("write", apsw.SQLITE_IOERR_WRITE), ("sync", apsw.SQLITE_IOERR_FSYNC)])
async def test_a_disk_error_while_the_log_is_written_back_stops_the_writer_but_takes_no_answer_back(
    tmp_path: Path, operation: Operation, code: int
) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        fault = disk.fail(operation, code, part="main", times=1)
        acknowledged = 0
        while fault.times and acknowledged < 60_000:
            await append_watched(store, disk, [command(acknowledged + i, size=400) for i in range(512)])
            acknowledged += 512
        assert store.problem is not None
        with pytest.raises(Unavailable, match="stopped after a disk error"):
            await store.append([command(99_999)])
        assert len(await positions_and_ids(store)) == acknowledged
        await store.close()
    again = SqliteWriteStore(tmp_path / "log.db")
    assert len(await positions_and_ids(again)) == acknowledged
    await again.close()


async def test_no_room_to_write_the_log_back_stops_nothing(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        disk.fail("write", apsw.SQLITE_FULL, part="main")
        before = disk.done["write", "main"]
        for start in range(0, 20_480, 512):
            await append_watched(store, disk, [command(start + i, size=900) for i in range(512)])
        assert store.problem is None
        assert disk.done["write", "main"] == before, "the main file was written to: the disk was not full"
        disk.repair()
        await store.append([command(99_999)])
        assert disk.done["write", "main"] > before + 1_000
        await store.close()


@pytest.mark.parametrize("part", ["wal", None])
async def test_a_full_disk_refuses_appends_and_nothing_else_and_recovers(tmp_path: Path, part: Part | None) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        await store.append([command(1)])
        for skip in range(8):
            disk.fail("write", apsw.SQLITE_FULL, part=part, skip=skip)
            with pytest.raises(Unavailable) as caught:
                await store.append([command(100 + i, size=2_000, tag=f"new:{skip}.{i}") for i in range(64)])
            assert isinstance(caught.value.__cause__, apsw.FullError)
            assert store.problem is None
            assert await positions_and_ids(store) == [(1, "command-1.0")], "a part of a refused batch is there"
            disk.repair()
        outcomes = await store.append([command(2), command(100), command(101)])
        assert outcomes == [Appended(2, 1), Appended(3, 1), Appended(4, 1)]
        await store.close()
    again = SqliteWriteStore(tmp_path / "log.db")
    assert [position for position, _ in await positions_and_ids(again)] == [1, 2, 3, 4]
    await again.close()


async def test_a_type_first_seen_in_a_refused_batch_is_stored_with_the_next(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        disk.fail("write", apsw.SQLITE_FULL)
        with pytest.raises(Unavailable):
            await store.append([command(1)])
        disk.repair()
        assert await store.append([command(1)]) == [Appended(1, 1)]
        assert await positions_and_ids(store) == [(1, "command-1.0")]
        await store.close()


async def test_a_condition_is_checked_right_while_the_memory_of_recent_tags_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer forgets its recent tags when there are too many; what it forgot, it must look up."""
    for limit in range(1, 8):
        monkeypatch.setattr("twofold.write_store.sqlite.writer._TAIL_KEYS", limit)
        store = SqliteWriteStore(tmp_path / f"log-{limit}.db")
        for position in range(1, 30):
            tags = (f"a:{position % 3}", f"b:{position % 5}")
            event = NewEvent(f"e{position}.0", f"type-{position % 2}", 1, tags, b"{}")
            await store.append([Append(Metadata(0, "c", "c"), (event,))])
            for item in (
                QueryItem((event.type,)),
                QueryItem((event.type,), tags[:1]),
                QueryItem((event.type,), tags[1:]),
                QueryItem((event.type,), tags),
                QueryItem((), tags),
            ):
                stale = Append(Metadata(0, "c", "c"), (event,), (AppendCondition(EventQuery((item,)), position - 1),))
                (outcome,) = await store.append([stale])
                assert isinstance(outcome, Conflict), f"limit {limit}: {item} missed position {position}"
        await store.close()
