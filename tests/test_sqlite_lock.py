"""A SQLite file has one writer, whatever path it comes by, and is for its user alone."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.write_store.disk_helpers import command
from twofold.errors import Unavailable, WiringError
from twofold.read_store.sqlite import SqliteReadStore
from twofold.sqlite_file import open_connection
from twofold.sqlite_lock import FileLock, announce_address, announced_address
from twofold.write_store.port import Appended
from twofold.write_store.sqlite import SqliteWriteStore

_WRITER = """
import sys
from twofold.read_store.sqlite import SqliteReadStore
from twofold.write_store.sqlite import SqliteWriteStore
store = {"log": SqliteWriteStore, "views": SqliteReadStore}[sys.argv[1]](sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""
_OPEN = """
import os, sys
os.umask(int(sys.argv[1], 8))
from twofold.read_store.sqlite import SqliteReadStore
from twofold.write_store.sqlite import SqliteWriteStore
stores = [SqliteWriteStore(sys.argv[2] + "/log.db"), SqliteReadStore(sys.argv[2] + "/views.db")]
print("open", flush=True)
sys.stdin.read()
"""
STORES: dict[str, Callable[[Path], Any]] = {"log": SqliteWriteStore, "views": SqliteReadStore}


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has opened its files."""
    with subprocess.Popen([sys.executable, "-c", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            yield process
        finally:
            process.kill()


def by_the_same_path(path: Path) -> Path:
    return path


def by_a_symbolic_link(path: Path) -> Path:
    link = path.parent / "link.db"
    link.symlink_to(path)
    return link


def by_a_folder_that_is_a_symbolic_link(path: Path) -> Path:
    link = path.parent.parent / "linked"
    link.symlink_to(path.parent)
    return link / path.name


def by_a_hard_link(path: Path) -> Path:
    other = path.parent / "other.db"
    os.link(path, other)
    return other


def after_the_lock_file_was_deleted(path: Path) -> Path:
    Path(f"{path}.lock").unlink()
    return path


def after_a_move_that_left_a_symbolic_link(path: Path) -> Path:
    moved = path.parent / "moved.db"
    path.rename(moved)
    path.symlink_to(moved)
    return path


def after_a_move(path: Path) -> Path:
    return path.rename(path.parent / "moved.db")


WAYS = [
    (by_the_same_path, r"Another process \(pid {pid}\) writes to"),
    (by_a_symbolic_link, r"Another process \(pid {pid}\) writes to"),
    (by_a_folder_that_is_a_symbolic_link, r"Another process \(pid {pid}\) writes to"),
    (by_a_hard_link, r"has 2 names \(hard links\).* Delete the other names"),
    (after_the_lock_file_was_deleted, r"Another process \(pid unknown\) writes to"),
    (after_a_move_that_left_a_symbolic_link, r"Another process \(pid unknown\) writes to"),
    (after_a_move, r"Another process \(pid unknown\) writes to"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the lock file is locked")
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(("way", "reason"), WAYS, ids=[way.__name__ for way, _ in WAYS])
def test_a_second_writer_is_refused(kind: str, way: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / f"{kind}.db"
    with (
        running(_WRITER, kind, str(path)) as process,
        pytest.raises(WiringError, match=reason.format(pid=process.pid)),
    ):
        STORES[kind](way(path))


def test_a_second_writer_in_the_same_process_is_refused_and_disturbs_nobody(tmp_path: Path) -> None:
    async def write() -> None:
        first = SqliteWriteStore(tmp_path / "log.db")
        for number in range(1, 4):
            with pytest.raises(WiringError, match=f"pid {os.getpid()}"):
                SqliteWriteStore(tmp_path / "log.db")
            assert await first.append([command(number)]) == [Appended(number, 1)]
        assert holds_sqlite_lock(tmp_path / "log.db"), "a refused writer released the locks of SQLite"
        await first.close()
        again = SqliteWriteStore(tmp_path / "log.db")
        assert await again.append([command(4)]) == [Appended(4, 1)]
        await again.close()

    asyncio.run(write())


def test_readers_of_this_process_keep_their_locks_when_its_writer_closes(tmp_path: Path) -> None:
    async def read() -> None:
        writer = SqliteWriteStore(tmp_path / "log.db")
        await writer.append([command(1)])
        reader = SqliteWriteStore(tmp_path / "log.db", read_only=True)
        await writer.close()
        assert holds_sqlite_lock(tmp_path / "log.db"), "closing the writer released the locks of the reader"
        next_writer = SqliteWriteStore(tmp_path / "log.db")
        assert await next_writer.append([command(2)]) == [Appended(2, 1)]
        await next_writer.close()
        await reader.close()

    asyncio.run(read())


def holds_sqlite_lock(path: Path) -> bool:
    """Whether this process still has the lock by which SQLite knows that the file is in use."""
    asks = (
        "import fcntl, sys, struct\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0x40000002, 510, 0)\n"
        "print(struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, lock))[0] != fcntl.F_UNLCK)\n"
    )
    done = subprocess.run([sys.executable, "-c", asks, str(path)], capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def test_no_descriptors_are_left_behind(tmp_path: Path) -> None:
    async def open_and_close() -> None:
        await SqliteWriteStore(tmp_path / "log.db").close()
        await SqliteReadStore(tmp_path / "views.db").close()

    asyncio.run(open_and_close())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(open_and_close())
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("umask", ["000", "022", "077", "777"])
def test_files_and_their_folder_are_for_their_user_alone_whatever_the_umask_is(umask: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    if umask == "777":
        folder.mkdir()
    with running(_OPEN, umask, str(folder)):
        modes = {each.name: each.stat().st_mode & 0o777 for each in folder.iterdir()}
    expected = {f"{name}.db{suffix}" for name in ("log", "views") for suffix in ("", "-wal", "-shm", ".lock")}
    assert modes == dict.fromkeys(expected, 0o600)
    assert folder.stat().st_mode & 0o777 == (0o755 if umask == "777" else 0o700)


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_files_that_exist_keep_their_mode(store: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "it.db"
    asyncio.run(store(path).close())
    path.chmod(0o640)
    opened = store(path)
    assert {f.stat().st_mode & 0o777 for f in tmp_path.glob("it.db-*")} == {0o640}, "SQLite gives them its mode"
    asyncio.run(opened.close())
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_writer_without_a_lock_creates_its_file_for_its_user_alone(tmp_path: Path) -> None:
    open_connection(tmp_path / "copy.db").close()
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    with pytest.raises(WiringError, match="is not a file"):
        SqliteWriteStore(tmp_path / "log.db")


def test_a_writer_says_where_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    assert announced_address(path) is None
    lock = FileLock(path)
    assert announced_address(path) is None
    announce_address(path, "http://127.0.0.1:8137")
    assert announced_address(path) == "http://127.0.0.1:8137"
    with pytest.raises(WiringError, match=rf"pid {os.getpid()}, http://127\.0\.0\.1:8137\) writes to"):
        FileLock(path)
    lock.release()
    FileLock(path).release()
    assert announced_address(path) is None, "the next one has not said it"


async def test_a_log_that_was_moved_from_its_write_ahead_log_takes_no_more_commands(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteWriteStore(path)
    await store.append([command(1)])
    after_a_move_that_left_a_symbolic_link(path)
    with pytest.raises(Unavailable, match="If the file was moved, move it back"):
        await store.append([command(2)])
    await store.close()


async def test_the_write_ahead_log_behind_a_symbolic_link_is_watched(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "log.db"
    link.symlink_to(tmp_path / "disk" / "log.db")
    store = SqliteWriteStore(link)
    await store.append([command(1)])
    (tmp_path / "disk" / "log.db-wal").unlink()
    store._files_checked = -1e9
    with pytest.raises(Unavailable, match="was deleted or replaced"):
        await store.append([command(2)])
    await store.close()


def test_sqlite_reports_the_lock_that_the_other_tests_ask_for(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "plain.db"))
    connection.execute("pragma journal_mode = wal; create table t (a)").fetchall()
    assert holds_sqlite_lock(tmp_path / "plain.db")
    connection.close()
    assert not holds_sqlite_lock(tmp_path / "plain.db")
