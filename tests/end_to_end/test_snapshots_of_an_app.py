"""Snapshots of a running app: in files and in PostgreSQL, after a restart, a restore and a loss."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.command_service.long_account_helpers import BANK
from tests.operations.backup_helpers import backed_up, restored
from tests.sample_domains.bank import Deposit, Transfer, Withdraw
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import App, Rejected, Settings
from twofold.command_service.snapshots import SnapshotCounts
from twofold.operations.verify import verify
from twofold.world import RealWorld
from twofold.write_store.sqlite import SqliteWriteStore


def bank(url: str) -> App:
    """The bank, with a snapshot after ten events."""
    return App(BANK, write_store=url, read_store="memory:", settings=Settings(snapshot_events=10))


async def used(url: str, cents: int, name: str) -> SnapshotCounts:
    """Take so many cents from account `a`, which are all there are, and put them back."""
    async with bank(url) as app:
        with pytest.raises(Rejected):
            await app.send(Withdraw("a", cents + 1))
        await app.send(Withdraw("a", cents), command_id=f"{name} out")
        await app.send(Deposit("a", cents), command_id=f"{name} in")
        counts = {labels[0]: value for labels, value in (await snapshots_of(app)).items()}
        return SnapshotCounts(**counts)


async def snapshots_of(app: App) -> dict[Any, Any]:
    """The counts as `/metrics` has them."""
    (family,) = [each for each in await app.metrics() if each.name == "twofold_snapshots_total"]
    return dict(family.series)


async def deposits(url: str, count: int, start: int = 0) -> None:
    async with bank(url) as app:
        for n in range(start, start + count):
            await app.send(Deposit("a", 1), command_id=f"d-{n}")
            await app.send(Deposit("b", 1), command_id=f"e-{n}")
            await app.send(Transfer("b", "a", 1), command_id=f"t-{n}")


async def test_an_app_on_sqlite_uses_its_snapshots_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    await deposits(url, 30)
    assert (await used(url, 60, "first")).used == 1
    await deposits(url, 30, 30)
    assert (await used(url, 120, "second")).used == 1
    store = SqliteWriteStore(tmp_path / "log.db", read_only=True)
    assert not (await verify(store, RealWorld())).damages
    await store.close()


async def test_an_app_whose_snapshots_were_deleted_folds_from_the_first_event(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    await deposits(url, 30)
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as file:
        deleted = file.execute("delete from rows where space = 'snapshots'").rowcount
    assert deleted == 2
    assert (await used(url, 60, "first")).used == 0
    assert (await used(url, 60, "second")).used == 1


async def test_a_restored_log_uses_only_snapshots_of_its_own_history(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    await deposits(url, 20)
    await backed_up(url, tmp_path / "set")
    await deposits(url, 20, 20)
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        newer = file.execute(
            "select space, key, value, version, checksum from rows where space = 'snapshots'"
        ).fetchall()
    await restored(tmp_path / "set", url, replace=True)
    assert (await used(url, 40, "first")).used == 1, "the backup has the snapshots of its last event"
    await deposits(url, 20, 100)
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as file:
        file.executemany("update rows set value = ?3, version = ?4, checksum = ?5 where space = ?1 and key = ?2", newer)
    counts = await used(url, 80, "second")
    assert (counts.used, counts.ignored) == (0, 1)


async def test_nodes_on_postgresql_share_their_snapshots(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    await deposits(url, 15)
    assert (await used(url, 30, "first")).used == 1
    async with bank(url) as one, bank(url) as two:
        for n in range(15):
            await (one, two)[n % 2].send(Deposit("a", 1), command_id=f"more-{n}")
            await (one, two)[n % 2].send(Transfer("a", "b", 1), command_id=f"moved-{n}")
        for app in one, two:
            assert app._running is not None
            assert app._running.snapshots.counts.failed == 0
    assert (await used(url, 30, "second")).used == 1
