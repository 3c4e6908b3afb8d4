"""A log in PostgreSQL that is restored in place, while nodes run or not: histories are never mixed without a word."""

from pathlib import Path
from random import Random

import pytest

from tests.operations.restored_log_helpers import Bank, is_refused
from tests.sample_domains import bank
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.write_store.postgres.address import address_of

RUNS = 4


def dumped(server: Postgres, schema: str) -> Path:
    to = server.folder / f"{schema}.dump"
    server._run(
        server.bindir / "pg_dump", f"--dbname={server.dsn}", f"--schema={schema}", "--format=custom", f"--file={to}"
    )
    return to


def restored(server: Postgres, schema: str, dump: Path) -> None:
    """Restore in place: the same server, the same database, the same schema, and so the same system identifier."""
    server.sql(f"drop schema {schema} cascade")
    server._run(server.bindir / "pg_restore", f"--dbname={server.dsn}", "--exit-on-error", dump)


async def restored_run(server: Postgres, folder: Path, seed: int) -> bool:
    """One random run; whether the read model fitted the restored log."""
    random = Random(seed)
    url = await fresh_log(server.dsn)
    schema = address_of(url).schema
    bench = Bank(url, f"sqlite:///{folder}/views.db", random)
    async with (app := bench.app()):
        await bench.work(app, random.randint(0, 12))
        if random.random() < 0.5:
            await bench.follow(app)
        dump = dumped(server, schema)
        lost = await bench.work(app, random.randint(0, 10))
        if random.random() < 0.8:
            await bench.follow(app)
        before = [event.id for event in (await app.log(limit=1_000)).events]
        while_running = random.random() < 0.5
        if while_running:
            restored(server, schema, dump)
            if random.random() < 0.7:
                await _grow(bench, folder)
            if lost:
                # What it has seen is gone, whatever stands there now: it must not write on top of that.
                assert await is_refused(app, bank.Withdraw("a0", 1))
                assert await is_refused(app, bank.Deposit("a0", 1))
            else:
                # It has seen nothing that is gone, and follows on.
                before = [event.id for event in (await app.log(limit=1_000)).events]
    if not while_running:
        restored(server, schema, dump)
        if random.random() < 0.7:
            await _grow(bench, folder)
    return await bench.check_restored(before)


async def _grow(bench: Bank, folder: Path) -> None:
    other: App = bench.app(f"sqlite:///{folder}/others.db")
    async with other:
        await bench.work(other, bench.random.randint(0, 20))


@pytest.mark.parametrize("seed", range(RUNS))
async def test_a_log_restored_in_place_is_continued_or_what_is_wrong_is_named(
    postgres_newest: Postgres, tmp_path: Path, seed: int
) -> None:
    await restored_run(postgres_newest, tmp_path, seed)


@pytest.mark.torture
@pytest.mark.timeout(3_000)
async def test_a_hundred_logs_restored_in_place_are_continued_or_what_is_wrong_is_named(
    postgres_newest: Postgres, tmp_path: Path
) -> None:
    fitted = 0
    for seed in range(100):
        folder = tmp_path / str(seed)
        folder.mkdir()
        fitted += await restored_run(postgres_newest, folder, seed)
    assert 0 < fitted < 100, "one of the two cases never came up"
