"""A log in SQLite that is replaced by an older copy: histories are never mixed without a word."""

import os
from pathlib import Path
from random import Random

import apsw
import pytest

from tests.operations.restored_log_helpers import Bank, is_refused
from tests.sample_domains import bank

RUNS = 12


def copied(path: Path, to: Path) -> None:
    """A consistent copy of a database that is in use, made with SQLite's own means, in no process of its own."""
    source = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    source.execute("vacuum into ?", (str(to),)).fetchall()
    source.close()


async def restored_run(folder: Path, seed: int) -> bool:
    """One random run; whether the read model fitted the restored log."""
    random = Random(seed)
    log, copy = folder / "log.db", folder / "copy.db"
    bench = Bank(f"sqlite:///{log}", f"sqlite:///{folder}/views.db", random)
    async with (app := bench.app()):
        await bench.work(app, random.randint(0, 12))
        if random.random() < 0.5:
            await bench.follow(app)
    copied(log, copy)
    beside = random.random() < 0.5
    async with (app := bench.app()):
        await bench.work(app, random.randint(0, 10))
        if random.random() < 0.8:
            await bench.follow(app)
        before = [event.id for event in (await app.log(limit=1_000)).events]
        if not beside:
            os.replace(copy, log)
            assert await is_refused(app, bank.Deposit("a0", 1)), "a replaced file was written"
    if beside:
        os.replace(copy, log)
    for name in ("log.db-wal", "log.db-shm"):
        (folder / name).unlink(missing_ok=True)
    if random.random() < 0.7:
        async with (app := bench.app(f"sqlite:///{folder}/others.db")):
            await bench.work(app, random.randint(0, 20))
    return await bench.check_restored(before)


@pytest.mark.parametrize("seed", range(RUNS))
async def test_a_restored_log_is_continued_or_what_is_wrong_is_named(tmp_path: Path, seed: int) -> None:
    await restored_run(tmp_path, seed)


@pytest.mark.torture
@pytest.mark.timeout(3_000)
async def test_two_hundred_restored_logs_are_continued_or_what_is_wrong_is_named(tmp_path: Path) -> None:
    fitted = 0
    for seed in range(200):
        folder = tmp_path / str(seed)
        folder.mkdir()
        fitted += await restored_run(folder, seed)
    assert 0 < fitted < 200, "one of the two cases never came up"
