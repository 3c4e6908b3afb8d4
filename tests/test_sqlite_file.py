"""SQLite files are opened hardened, by one writer, and never where SQLite cannot be trusted."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from twofold.errors import Unavailable, WiringError
from twofold.read_store.sqlite import SqliteReadStore
from twofold.sqlite_file import DiskErrors, open_connection, refuse_network_file_system, refuse_old_sqlite
from twofold.sqlite_lock import FileLock
from twofold.write_store.sqlite import SqliteWriteStore

_HOLD = """
import sys
from twofold.sqlite_lock import FileLock
lock = FileLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_names_the_process_that_holds_it_and_ends_with_that_process(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(WiringError, match=f"pid {holder.pid}"):
            FileLock(path)
        holder.kill()
    FileLock(path).release()


def test_a_lock_released_twice_can_be_taken_again(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "log.db")
    lock.release()
    lock.release()
    again = FileLock(tmp_path / "log.db")
    lock.release()
    with pytest.raises(WiringError):
        FileLock(tmp_path / "log.db")
    again.release()


def test_a_writer_is_hardened_and_its_folders_are_made(tmp_path: Path) -> None:
    connection = open_connection(tmp_path / "a" / "b" / "log.db")
    assert connection.execute("pragma journal_mode").get == "wal"
    assert connection.execute("pragma trusted_schema").get == 0
    assert connection.execute("pragma cell_size_check").get == 1
    connection.close()


def test_a_reader_can_do_nothing_but_read_and_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Start the app"):
        open_connection(tmp_path / "log.db", readonly=True)
    assert list(tmp_path.iterdir()) == []
    writer = open_connection(tmp_path / "log.db")
    writer.execute("create table t (a)")
    reader = open_connection(tmp_path / "log.db", readonly=True)
    with pytest.raises(Unavailable) as refused, DiskErrors("log.db"):
        reader.execute("insert into t values (1)")
    assert isinstance(refused.value.__cause__, apsw.ReadOnlyError)
    reader.close()
    writer.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(Unavailable, match="cannot be used"):
        open_connection(tmp_path / "log.db")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_and_a_local_one_below_it_is_not(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nhost:/x /mnt/the\\040share {kind} rw 0 0\n/dev/b /mnt/the\\040share/disk xfs rw 0 0\n"
    )
    with pytest.raises(WiringError, match=f"{kind}, mounted at /mnt/the share"):
        refuse_network_file_system("/mnt/the share/data/log.db", mounts)
    refuse_network_file_system("/mnt/the share/disk/log.db", mounts)
    refuse_network_file_system("/mnt/the share of others/log.db", mounts)
    refuse_network_file_system("/srv/log.db", mounts)


def test_where_mounts_are_not_known_no_file_is_refused(tmp_path: Path) -> None:
    refuse_network_file_system(tmp_path / "log.db", tmp_path / "absent")


@pytest.mark.parametrize(
    ("version", "old"), [("3.51.2", True), ("3.9.9", True), ("3.51.3", False), ("3.54.1.0", False)]
)
def test_an_sqlite_before_3_51_3_is_refused(version: str, old: bool) -> None:
    if old:
        with pytest.raises(WiringError, match=f"{version} is too old.*apsw"):
            refuse_old_sqlite(version)
    else:
        refuse_old_sqlite(version)


def test_the_present_sqlite_is_new_enough() -> None:
    refuse_old_sqlite()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be created"):
        FileLock(tmp_path / "file" / "log.db")
    assert os.path.isfile(tmp_path / "file")


@pytest.mark.parametrize("turned", [False, True])
def test_a_log_is_not_opened_as_a_read_database_nor_the_other_way_round(tmp_path: Path, turned: bool) -> None:
    stores = [SqliteWriteStore, SqliteReadStore]
    first, second = reversed(stores) if turned else stores
    path = tmp_path / "one.db"
    asyncio.run(first(path).close())
    with pytest.raises(WiringError, match=r"one\.db exists and is not a .* of Twofold"):
        second(path)
    asyncio.run(first(path).close())


def test_somebody_else_s_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with apsw.Connection(str(path)) as theirs:
        theirs.execute("create table people (name text)")
    with pytest.raises(WiringError, match="is not a log"):
        SqliteWriteStore(path)
    with apsw.Connection(str(path)) as theirs:
        assert theirs.execute("select name from sqlite_schema").get == "people"
