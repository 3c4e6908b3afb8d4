"""A log whose main file is overwritten in place while it is open takes no more commands, and says so.

Files are copied by a process of their own: closing a descriptor of the file here would release the locks of SQLite.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from unittest.mock import patch

import apsw
import pytest

from tests.write_store.disk_helpers import command
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Unavailable
from twofold.operations.verify import verify
from twofold.testing.frozen_world import FrozenWorld
from twofold.world import RealWorld
from twofold.write_store.port import Appended
from twofold.write_store.sqlite import SqliteWriteStore, writer


def copied(source: Path, target: Path, *options: str) -> None:
    subprocess.run(["cp", *options, source, target], check=True)


@pytest.fixture(autouse=True)
def often_written_back() -> Iterator[None]:
    """Pages are written back to the main file after every few commits."""
    with patch.object(writer, "_WRITE_BACK_PAGES", 40):
        yield


async def fill(store: SqliteWriteStore, first: int, number: int) -> None:
    for each in range(first, first + number):
        (outcome,) = await store.append([command(each)])
        assert isinstance(outcome, Appended)


async def refuses(store: SqliteWriteStore) -> None:
    for number in range(1_000, 1_020):
        with pytest.raises(Unavailable, match="was overwritten while it was in use"):
            await store.append([command(number)])
    assert "restore the log from a backup" in (store.problem or "")


@pytest.mark.parametrize("options", [(), ("-p",), ("--sparse=always",)])
@pytest.mark.parametrize("seed", range(8))
async def test_no_command_is_acknowledged_after_an_older_copy_has_overwritten_the_file(
    tmp_path: Path, seed: int, options: tuple[str, ...]
) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    random = Random(seed)
    store = SqliteWriteStore(path)
    first = random.randrange(1, 200)
    await fill(store, 0, first)
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        # Either a proper copy, or that of the main file alone.
        if random.random() < 0.5:
            reader.execute("vacuum into ?", (str(copy),))
    if not copy.exists():
        copied(path, copy)
    await fill(store, first, 60 + random.randrange(300))
    copied(copy, path, *options)
    await refuses(store)
    with pytest.raises(Unavailable, match="was overwritten"):
        await store.read(ALL_EVENTS)
    await store.close()


def cut(path: Path) -> None:
    subprocess.run(["truncate", "-s", "8192", path], check=True)


def zeros(path: Path) -> None:
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={path}", "bs=4096", "count=3", "conv=notrunc", "status=none"], check=True
    )


def text(path: Path) -> None:
    copied(Path(__file__), path)


@pytest.mark.parametrize("overwrite", [cut, zeros, text])
async def test_a_file_with_something_else_is_noticed(tmp_path: Path, overwrite: Callable[[Path], None]) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await fill(store, 0, 300)
    overwrite(tmp_path / "log.db")
    await refuses(store)
    await store.close()


async def test_a_read_notices_it_within_a_second(tmp_path: Path) -> None:
    world = FrozenWorld()
    store = SqliteWriteStore(tmp_path / "log.db", world=world)
    await fill(store, 0, 10)
    copied(tmp_path / "log.db", tmp_path / "copy.db")
    await fill(store, 10, 100)
    copied(tmp_path / "copy.db", tmp_path / "log.db")
    await world.advance(1.0)
    for read in (store.read(ALL_EVENTS), store.newer([]), store.rows("space"), store.wait(0, 0.0)):
        with pytest.raises(Unavailable, match="was overwritten"):
            await read
    await store.close()


async def test_the_write_ahead_log_is_not_written_into_a_file_that_was_overwritten(tmp_path: Path) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await fill(store, 0, 10)
    copied(tmp_path / "log.db", tmp_path / "copy.db")
    await fill(store, 10, 100)
    copied(tmp_path / "copy.db", tmp_path / "log.db")
    await refuses(store)
    await store.close()
    assert (tmp_path / "log.db").read_bytes() == (tmp_path / "copy.db").read_bytes()


async def test_what_does_not_change_the_content_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteWriteStore(path)
    await fill(store, 0, 150)
    subprocess.run(["touch", path], check=True)
    await fill(store, 150, 1)
    copied(path, tmp_path / "same.db")
    copied(tmp_path / "same.db", path)
    await fill(store, 151, 1)
    path.chmod(0o640)
    await fill(store, 152, 1)
    # Another process writes pages back, as Litestream does.
    program = f"""
import apsw
log = apsw.Connection("{path}")
log.execute("select * from logs").fetchall()
log.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
"""
    before = path.stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", program], check=True)
    assert path.stat().st_mtime_ns != before
    await fill(store, 153, 100)
    assert store.problem is None
    assert (await verify(store, RealWorld())).all_right
    await store.close()
