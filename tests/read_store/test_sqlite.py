"""The read store in SQLite keeps the promises of every read store, and those of a file."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import apsw
import msgspec
import pytest

from twofold.errors import Unavailable, WiringError
from twofold.read_store.access import check_access
from twofold.read_store.port import Change, Parked, ReadModel, ReadStore
from twofold.read_store.sqlite import SqliteReadStore
from twofold.read_store.sqlite.finds import find_statements
from twofold.read_store.sqlite.rows import SqliteTable
from twofold.testing.read_store_contract import ReadStoreContract
from twofold.testing.read_store_rows import (
    EVERYTHING,
    LOG,
    ORDERS,
    Order,
    find,
    found_rows,
    keep,
    keys,
    loaded,
    parked_keys,
    progress,
)


class TestSqliteReadStore(ReadStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ReadStore]:
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteReadStore(Path(folder) / "views.db", snapshots=4)
            try:
                yield store
            finally:
                await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "views.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteReadStore]:
    store = SqliteReadStore(path)
    yield store
    await store.close()


async def test_rows_checkpoint_and_parked_keys_survive_closing(path: Path) -> None:
    first = SqliteReadStore(path)
    await keep(first, ORDERS, {"a": Order("ann", 1)}, position=5, parked={"p": Parked("p", 4, "no", 1)})
    await first.close()
    second = SqliteReadStore(path)
    await second.prepare([ORDERS])
    assert await found_rows(second, ORDERS, {"customer": "ann"}) == [("a", Order("ann", 1))]
    assert await parked_keys(second, ORDERS) == (Parked("p", 4, "no", 1),)
    await second.close()


async def test_a_second_writer_is_refused_with_the_pid_of_the_first(path: Path, store: SqliteReadStore) -> None:
    with pytest.raises(WiringError, match=f"pid {os.getpid()}"):
        SqliteReadStore(path)
    await store.close()
    await SqliteReadStore(path).close()


async def test_a_reader_runs_beside_the_writer_and_sees_each_save(path: Path, store: SqliteReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    reader = SqliteReadStore(path, read_only=True)
    await reader.prepare([ORDERS])
    assert await keys(reader, ORDERS) == ["a"]
    await keep(store, ORDERS, {"b": Order()}, before=1)
    assert await keys(reader, ORDERS) == ["a", "b"]
    assert await loaded(reader, ORDERS, ["b"]) == {"b": Order()}
    await reader.close()


async def test_a_reader_reads_a_file_nobody_has_open(path: Path) -> None:
    writer = SqliteReadStore(path)
    await keep(writer, ORDERS, {"a": Order()})
    await writer.close()
    reader = SqliteReadStore(path, read_only=True)
    await reader.prepare([ORDERS])
    assert await keys(reader, ORDERS) == ["a"]
    await reader.close()


async def test_a_reader_cannot_save(path: Path, store: SqliteReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    reader = SqliteReadStore(path, read_only=True)
    await reader.prepare([ORDERS])
    with pytest.raises(Unavailable, match="reading only"):
        await reader.save(Change(ORDERS, LOG, 1, 2, 0))
    await reader.close()


def test_a_reader_without_a_file_is_told_to_start_the_writer(path: Path) -> None:
    with pytest.raises(Unavailable, match="Start the app"):
        SqliteReadStore(path, read_only=True)
    assert not path.exists()


async def test_a_reader_of_a_model_nobody_prepared_is_told_to_start_the_writer(
    path: Path, store: SqliteReadStore
) -> None:
    reader = SqliteReadStore(path, read_only=True)
    with pytest.raises(Unavailable, match="no table of read model 'orders' generation 1"):
        await reader.prepare([ORDERS])
    await store.prepare([ReadModel("orders", 1, Order)])
    with pytest.raises(Unavailable, match="no column"):
        await reader.prepare([ORDERS])
    await store.prepare([ORDERS])
    await reader.prepare([ORDERS])
    await reader.close()


@pytest.mark.parametrize("model", [ORDERS, EVERYTHING], ids=lambda model: model.name)
@pytest.mark.parametrize("continued", [False, True])
async def test_every_declared_find_is_a_range_of_an_index_without_sorting(
    path: Path, store: SqliteReadStore, model: ReadModel, continued: bool
) -> None:
    rows = {f"k{n}": model.row() for n in range(3)}
    await keep(store, model, rows)
    table = SqliteTable(model)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    plans = 0
    for group, order, descending in product(((), *model.find_by), (None, *model.order_by), (False, True)):
        filters = dict.fromkeys(group)
        cursor = None
        if continued:
            found = await find(store, model, filters, order_by=order, descending=descending, limit=1)
            cursor = found.cursor
        access = check_access(
            model, table.columns, filters, order_by=order, descending=descending, limit=1, cursor=cursor
        )
        for sql, parameters in find_statements(table, access):
            plan = [row[3] for row in connection.execute(f"explain query plan {sql}", (*parameters, 1))]
            assert len(plan) == 1, plan
            assert "TEMP B-TREE" not in plan[0], plan
            searched = "SEARCH" in plan[0] and ("USING INDEX" in plan[0] or "USING PRIMARY KEY" in plan[0])
            # Without filter and cursor the whole is asked for: then an index, or the table, is read in its order.
            assert searched or (not group and not continued), plan
            plans += 1
    connection.close()
    assert plans >= 2 * (len(model.find_by) + 1) * (len(model.order_by) + 1)


async def test_rows_that_no_longer_fit_their_type_are_refused_at_start_with_the_cure(store: SqliteReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    changed = msgspec.defstruct("Changed", [("customer", int)])
    with pytest.raises(WiringError, match=r"no longer fit Changed.*raise `version`"):
        await store.prepare([ReadModel("orders", 1, changed)])
    with pytest.raises(WiringError, match=r"raise `version`"):
        await store.prepare([ReadModel("orders", 1, changed, (("customer",),))])
    await store.prepare([ORDERS])
    assert await keys(store, ORDERS, {"customer": "ann"}) == ["a"]


async def test_snapshots_beyond_the_cap_wait_until_one_is_given_back(path: Path) -> None:
    store = SqliteReadStore(path, snapshots=1)
    await keep(store, ORDERS, {"a": Order()})
    async with store.snapshot():
        waiting = asyncio.create_task(keys(store, ORDERS))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting == ["a"]
    await store.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc only")
async def test_a_snapshot_outlives_the_closing_of_its_store_and_leaves_no_file_open(path: Path) -> None:
    store = SqliteReadStore(path)
    await keep(store, ORDERS, {"a": Order()})
    async with store.snapshot() as snapshot:
        await store.close()
        assert await snapshot.get(ORDERS, "a") == Order()
    open_files = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    assert not [name for name in open_files if name.startswith(str(path))]
    with pytest.raises(Unavailable):
        await store.load(ORDERS, ["a"])


async def test_a_snapshot_keeps_a_generation_that_is_dropped_while_it_is_open(store: SqliteReadStore) -> None:
    await keep(store, ORDERS, {"a": Order("ann", 3)}, position=7)
    async with store.snapshot() as snapshot:
        await store.drop(ORDERS.name, ORDERS.generation)
        assert (await snapshot.progress(ORDERS)).position == 7
        assert await snapshot.get(ORDERS, "a") == Order("ann", 3)
    async with store.snapshot() as snapshot:
        with pytest.raises(WiringError, match="was never prepared"):
            await snapshot.progress(ORDERS)


async def test_a_corrupt_file_is_unavailable_with_its_cause(path: Path) -> None:
    store = SqliteReadStore(path)
    await keep(store, ORDERS, {f"k{n}": Order(note="x" * 100) for n in range(5_000)})
    await store.close()
    with path.open("r+b") as file:
        file.seek(8_192)
        file.write(b"\xff" * (path.stat().st_size - 8_192))
    with pytest.raises(Unavailable, match="cannot be used") as refused:
        store = SqliteReadStore(path)
        try:
            await store.prepare([ORDERS])
            await find(store, ORDERS)
        finally:
            await store.close()
    assert isinstance(refused.value.__cause__, apsw.Error)


async def test_a_full_disk_is_unavailable_and_leaves_the_last_save(store: SqliteReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    pages = store._connection.execute("pragma page_count").get
    store._connection.execute(f"pragma max_page_count = {pages + 2}").fetchall()
    with pytest.raises(Unavailable) as refused:
        await keep(store, ORDERS, {f"k{n}": Order(note="x" * 1_000) for n in range(1_000)}, before=1)
    assert isinstance(refused.value.__cause__, apsw.FullError)
    assert await keys(store, ORDERS) == ["a"]
    store._connection.execute("pragma max_page_count = 1000000").fetchall()
    await keep(store, ORDERS, {"b": Order()}, before=1)
    assert await keys(store, ORDERS) == ["a", "b"]


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_file_that_was_deleted_or_replaced_is_unavailable_until_a_restart(
    path: Path, store: SqliteReadStore, replaced: bool
) -> None:
    await keep(store, ORDERS, {"a": Order()})
    reader = SqliteReadStore(path, read_only=True)
    await reader.prepare([ORDERS])
    path.unlink()
    if replaced:
        other = SqliteReadStore(path.with_name("other.db"))
        await keep(other, ORDERS, {"b": Order()})
        await other.close()
        path.with_name("other.db").rename(path)
    expected = f"{re.escape(str(path))} was deleted or replaced.* Restart this process"
    for opened in (store, reader):
        with pytest.raises(Unavailable, match=expected):
            await opened.checkpoints()
        with pytest.raises(Unavailable, match=expected):
            await keys(opened, ORDERS)
        with pytest.raises(Unavailable, match=expected):
            await opened.save(Change(ORDERS, LOG, 1, 2, 0))
        await opened.close()
    restarted = SqliteReadStore(path)
    await restarted.prepare([ORDERS])
    assert await keys(restarted, ORDERS) == (["b"] if replaced else [])
    await restarted.close()


_SAVE_FOR_EVER = """
import asyncio, sys
from twofold.read_store.sqlite import SqliteReadStore
from twofold.testing.read_store_rows import ORDERS, Order, at as placed, progress
from twofold.read_store.port import Change

async def main():
    store = SqliteReadStore(sys.argv[1])
    await store.prepare([ORDERS])
    at = (await progress(store, ORDERS)).position
    while True:
        rows = {f"k{n}": Order(total=at + 1) for n in range(200)} | {f"new{at}": Order(total=at + 1)}
        await store.save(Change(ORDERS, "log", at, at + 1, 0, placed(at + 1, rows)))
        at += 1
        print(at, flush=True)

asyncio.run(main())
"""


async def test_a_process_killed_while_saving_leaves_rows_and_checkpoint_together(path: Path) -> None:
    saved = 0
    for kill_after in (1, 2, 5, 9, 14):
        child = subprocess.Popen(
            [sys.executable, "-c", _SAVE_FOR_EVER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        for _ in range(kill_after):
            saved = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        store = SqliteReadStore(path)
        await store.prepare([ORDERS])
        position = (await progress(store, ORDERS)).position
        rows = dict(await found_rows(store, ORDERS))
        await store.close()
        assert position >= saved
        assert {row.total for key, row in rows.items() if key.startswith("k")} == {position}
        assert {key for key in rows if key.startswith("new")} == {f"new{n}" for n in range(position)}


async def test_a_dropped_generation_gives_its_space_back(path: Path, store: SqliteReadStore) -> None:
    rows = {f"k{n}": Order(note="x" * 1_000) for n in range(3_000)}
    second = msgspec.structs.replace(ORDERS, generation=ORDERS.generation + 1)
    await keep(store, ORDERS, rows)
    await keep(store, second, rows)
    await store.checkpoints()
    pages = store._connection.pragma("page_count")
    await store.drop(ORDERS.name, ORDERS.generation)
    assert store._connection.pragma("freelist_count") == 0
    assert store._connection.pragma("page_count") < pages * 0.55
    assert path.stat().st_size == store._connection.pragma("page_count") * store._connection.pragma("page_size")
    assert len(await keys(store, second)) == 3_000
    assert store._connection.execute("pragma integrity_check").get == "ok"


async def test_a_file_of_an_earlier_version_gets_the_summaries_of_its_parked_keys(path: Path) -> None:
    store = SqliteReadStore(path)
    parked = {f"k{n:02}": Parked(f"k{n:02}", 1, "no", 0) for n in range(30)}
    await keep(store, ORDERS, {}, parked=parked)
    expected = await progress(store, ORDERS)
    store._connection.execute("alter table checkpoints drop column parked").fetchall()
    await store.close()
    again = SqliteReadStore(path)
    await again.prepare([ORDERS])
    assert await progress(again, ORDERS) == expected
    assert expected.parked.count == 30
    await again.close()
