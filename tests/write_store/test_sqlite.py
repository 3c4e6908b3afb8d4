"""The log in a SQLite file has one writer, lets others read beside it, forgets old command ids, and refuses damage."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.write_store.disk_helpers import append_watched, command, faulty_disk
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Unavailable, WiringError
from twofold.write_store.port import Append, Appended
from twofold.write_store.sqlite import SqliteWriteStore

_WRITE = """
import asyncio, sys
from tests.write_store.disk_helpers import command
from twofold.write_store.sqlite import SqliteWriteStore

async def main():
    store = SqliteWriteStore(sys.argv[1])
    print("open", flush=True)
    number = 0
    while more := sys.stdin.readline().strip():
        for number in range(number, number + int(more)):
            await store.append([command(2 * number), command(2 * number + 1)])
        number += 1
        print("done", flush=True)
    await store.close()

asyncio.run(main())
"""


def another_writer(path: Path) -> "subprocess.Popen[str]":
    here = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here
    )
    assert line_of(process) == "open\n"
    return process


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


async def test_a_second_writer_is_refused_and_told_the_process_that_writes(tmp_path: Path) -> None:
    with another_writer(tmp_path / "log.db") as process:
        with pytest.raises(WiringError, match=f"pid {process.pid}"):
            SqliteWriteStore(tmp_path / "log.db")
        process.kill()
    store = SqliteWriteStore(tmp_path / "log.db")
    assert await store.append([command(1)]) == [Appended(1, 1)]
    await store.close()


async def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    with pytest.raises(WiringError, match=f"pid {os.getpid()}"):
        SqliteWriteStore(tmp_path / "log.db")
    assert await store.append([command(1)]) == [Appended(1, 1)]
    await store.close()
    await SqliteWriteStore(tmp_path / "log.db").close()


async def test_a_reader_beside_a_busy_writer_sees_whole_batches_in_order_and_never_writes(tmp_path: Path) -> None:
    with another_writer(tmp_path / "log.db") as process:
        reader = SqliteWriteStore(tmp_path / "log.db", read_only=True)
        with pytest.raises(Unavailable, match="reading only"):
            await reader.append([command(1)])
        seen: list[tuple[int, str]] = []
        beside = reported = 0
        # Until something was read beside the writer: on a busy machine all may come at once.
        while beside < 3 or len(seen) < 2 * reported:
            if len(seen) == 2 * reported:
                tell(process, "400")
                reported += 400
            await reader.wait(len(seen), 5.0)
            found = await reader.read(ALL_EVENTS, after=len(seen))
            assert found.head % 2 == 0, "half of a batch is visible"
            assert found.upto == found.head == len(seen) + len(found.events)
            seen += [(event.position, event.id) for event in found.events]
            beside += len(seen) < 2 * reported
        assert seen == [(n + 1, f"command-{n}.0") for n in range(2 * reported)]
        assert [line_of(process) for _ in range(reported // 400)] == reported // 400 * ["done\n"]
        tell(process, "")
        await reader.close()


async def test_a_reader_without_a_file_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="twofold serve"):
        SqliteWriteStore(tmp_path / "log.db", read_only=True)


async def test_a_log_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/share {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr("twofold.sqlite_file.refuse_network_file_system.__defaults__", (mounts,))
    with pytest.raises(WiringError, match="nfs4"):
        SqliteWriteStore(tmp_path / "log.db")
    assert not (tmp_path / "log.db").exists()


async def test_thirty_two_appends_in_one_batch_cost_one_sync(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        before = disk.done["sync", "wal"]
        await append_watched(store, disk, [command(n) for n in range(32)])
        assert disk.done["sync", "wal"] == before + 1
        await store.close()


async def test_positions_are_never_used_again_after_the_process_ended(tmp_path: Path) -> None:
    for run in range(5):
        store = SqliteWriteStore(tmp_path / "log.db")
        assert await store.append([command(run)]) == [Appended(run + 1, 1)]
        assert await store.append([command(run)]) == [Appended(run + 1, 1, repeated=True)]
        await store.close()


DAMAGES = {
    "the last event is gone": "delete from events where position = 50",
    "an event near the end is gone": "delete from events where position = 30",
    "an event is beyond the head": "update logs set position = 49",
    "the head is beyond the events": "update logs set position = 60",
    "an event is not indexed": "delete from event_tags where position = 50 and tag = ''",
    "an event is missing under its tag": "delete from event_tags where position = 40 and tag <> ''",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_log_with_a_damaged_end_is_refused_for_writing(tmp_path: Path, damage: str) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await store.append([command(number) for number in range(50)])
    await store.close()
    await SqliteWriteStore(tmp_path / "log.db").close()
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute(damage)
    connection.close()
    with pytest.raises(WiringError, match="is damaged"):
        SqliteWriteStore(tmp_path / "log.db")
    # What was wrong is not made worse, and the refusal does not keep the lock.
    with pytest.raises(WiringError, match="is damaged"):
        SqliteWriteStore(tmp_path / "log.db")


@pytest.mark.parametrize("change", ["position = 2", "chain = x'00'"])
@pytest.mark.parametrize("events", [1, 0])
async def test_a_log_that_something_else_has_written_to_meanwhile_takes_no_append(
    tmp_path: Path, change: str, events: int
) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await store.append([command(number) for number in range(3)])
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute(f"update logs set {change}")
    with pytest.raises(Unavailable, match="was changed by something else"):
        await store.append([command(3, events=events)])
    assert connection.execute("select count(*) from events").get == 3
    assert connection.execute("select count(*) from commands").get == 3
    connection.close()
    await store.close()


IDENTITIES = {
    "the epoch is no number": "update logs set epoch = 'first'",
    "an earlier epoch is no number": "insert into epochs (log_id, epoch, after) values (1, 'second', 3)",
}


@pytest.mark.parametrize("damage", IDENTITIES.values(), ids=IDENTITIES)
async def test_a_log_with_a_damaged_identity_is_not_opened(tmp_path: Path, damage: str) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await store.append([command(number) for number in range(5)])
    await store.close()
    # The tables refuse such values, but a damaged file may hold them.
    for sql in ("pragma writable_schema = on; update sqlite_schema set sql = replace(sql, 'strict', '')", damage):
        connection = apsw.Connection(str(tmp_path / "log.db"))
        connection.execute(sql)
        connection.close()
    with pytest.raises(WiringError, match=r"is damaged.*Restore the log"):
        SqliteWriteStore(tmp_path / "log.db", read_only=True)


async def test_a_page_of_the_end_that_was_lost_is_refused_and_never_served(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteWriteStore(path)
    await store.append([command(number, size=20) for number in range(200)])
    whole_log = [(event.position, event.id, event.payload) for event in (await store.read(ALL_EVENTS)).events]
    await store.close()
    whole = path.read_bytes()
    refused = 0
    for page in range(1, len(whole) // 4_096):
        path.write_bytes(whole[: page * 4_096] + bytes(4_096) + whole[(page + 1) * 4_096 :])
        try:
            store = SqliteWriteStore(path)
        except (WiringError, Unavailable):
            refused += 1
            continue
        found = [(event.position, event.id, event.payload) for event in (await store.read(ALL_EVENTS)).events]
        await store.close()
        assert found == whole_log
    assert refused > 5


async def test_waiting_ends_with_news_and_not_before(tmp_path: Path) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    waiting = asyncio.create_task(store.wait(0, 60.0))
    done, _ = await asyncio.wait([waiting], timeout=0.02)
    assert not done
    await store.append([command(1)])
    await asyncio.wait_for(waiting, 30.0)
    await store.close()


async def test_rows_and_events_of_an_append_are_on_disk_together(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        append = command(1)
        assert await append_watched(store, disk, [append, Append(append.metadata)]) == [Appended(1, 1), Appended(1, 0)]
        await store.close()
