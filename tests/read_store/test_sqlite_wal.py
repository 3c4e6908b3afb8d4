"""The write-ahead log of a read database is moved into the file beside the event loop, and stays short."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from twofold.read_store.port import Change, VersionedRow
from twofold.read_store.sqlite import SqliteReadStore
from twofold.read_store.sqlite import connection_wal as wal
from twofold.testing.read_store_rows import LOG, ORDERS, Order

PAGES = 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "views.db"


@pytest.fixture
async def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteReadStore]:
    """A store whose log counts as long after 200 pages."""
    monkeypatch.setattr(wal, "_PAGES", PAGES)
    monkeypatch.setattr(wal, "_LONG", 4 * PAGES)
    monkeypatch.setattr(wal, "_FEW", 20)
    opened = SqliteReadStore(path)
    await opened.prepare([ORDERS])
    yield opened
    await opened.close()


def mover(store: SqliteReadStore) -> wal.WalMover:
    assert store._wal is not None
    return store._wal


async def save(store: SqliteReadStore, n: int) -> None:
    rows = {f"k{n}-{i}": VersionedRow(Order("ann", i, "x" * 200), n + 1) for i in range(200)}
    await store.save(Change(ORDERS, LOG, n, n + 1, 0, rows))


async def moved(store: SqliteReadStore) -> None:
    """Wait until nothing is being moved."""
    task = mover(store)._task
    if task is not None:
        await asyncio.wait([task])


class Watched:
    """The connection of the thread."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.calls = 0
        self.fails = False

    def wal_checkpoint(self, **options: Any) -> tuple[int, int]:
        assert threading.current_thread() is not threading.main_thread()
        self.calls += 1
        if self.fails:
            raise apsw.IOError("the disk is gone")
        pages, done = self._connection.wal_checkpoint(**options)
        return int(pages), int(done)

    def close(self) -> None:
        self._connection.close()


async def test_a_long_log_is_moved_by_the_thread_and_does_not_grow(
    path: Path, store: SqliteReadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(mover(store)._connection)
    monkeypatch.setattr(mover(store), "_connection", watched)
    sizes: list[int] = []
    for n in range(100):
        await save(store, n)
        sizes.append(Path(f"{path}-wal").stat().st_size)
        await moved(store)
    assert watched.calls > 5
    assert sizes[-1] < 10 * PAGES * 4_096, "all saves together are a hundred times as long"
    assert path.stat().st_size > 100 * 200 * 200
    assert len(await store.load(ORDERS, ["k0-0", "k99-199"])) == 2
    assert store._connection.execute("pragma integrity_check").get == "ok"


async def test_a_log_that_is_written_all_the_time_is_written_from_the_start_again(store: SqliteReadStore) -> None:
    begun, before, n = 0, 0, 0
    while begun < 3:
        await save(store, n)
        n += 1
        begun += mover(store)._pages < before
        before = mover(store)._pages
        # The next page of a follower that is far behind comes at once.
        await asyncio.sleep(0)


async def test_what_an_open_snapshot_needs_stays_and_is_moved_after_it(path: Path, store: SqliteReadStore) -> None:
    await save(store, 0)
    async with store.snapshot() as snapshot:
        for n in range(1, 20):
            await save(store, n)
            await moved(store)
        assert await snapshot.get(ORDERS, "k0-0") is not None
        assert await snapshot.get(ORDERS, "k1-0") is None
        before = mover(store)._pages
    await mover(store).move()
    await save(store, 20)
    assert mover(store)._pages < before, "the log is written from its start again"
    assert await store.load(ORDERS, ["k19-0"])


async def test_a_failure_to_move_the_log_loses_nothing(
    path: Path, store: SqliteReadStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(mover(store)._connection)
    watched.fails = True
    monkeypatch.setattr(mover(store), "_connection", watched)
    for n in range(20):
        await save(store, n)
        await moved(store)
    assert watched.calls > 0
    assert "could not be moved into the file" in caplog.text
    await store.close()
    again = SqliteReadStore(path)
    await again.prepare([ORDERS])
    assert len(await again.load(ORDERS, ["k0-0", "k19-199"])) == 2
    await again.close()


async def test_a_store_that_is_closed_while_its_log_is_moved_waits_for_it(path: Path, store: SqliteReadStore) -> None:
    n = 0
    while mover(store)._task is None:
        await save(store, n)
        n += 1
    await store.close()
    assert not Path(f"{path}-wal").exists(), "the last connection has removed it"
