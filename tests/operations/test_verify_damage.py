"""Random damages of a log: every one that changes what is stored is found."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.operations.damage_helpers import damage, fill, found_in, stored
from tests.operations.postgres_damage_helpers import DamagedLog
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.errors import WiringError
from twofold.operations.verify import verify
from twofold.world import RealWorld
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.sqlite import SqliteWriteStore


async def _damaged_sqlite_logs(folder: Path, seed: int, wanted: int) -> Counter[str]:
    """How many damages that changed what is stored were found, by kind. AssertionError at one that was not."""
    sound, copy = folder / "sound.db", folder / "copy.db"
    store = SqliteWriteStore(sound)
    await fill(store)
    await store.close()
    before = stored(sound)
    assert await found_in(sound) is None
    counts: Counter[str] = Counter()
    number = 0
    while counts.total() < wanted:
        number += 1
        chance = random.Random(f"{seed}/{number}")
        for end in ("-wal", "-shm"):
            copy.with_name(copy.name + end).unlink(missing_ok=True)
        shutil.copyfile(sound, copy)
        what = damage(copy, chance)
        if stored(copy) == before:
            continue
        reason = await found_in(copy)
        assert reason is not None, f"damage {number} of seed {seed} was not found: {what}"
        counts[what.partition(" at ")[0]] += 1
    return counts


async def test_every_damage_that_changes_a_sqlite_log_is_found(tmp_path: Path) -> None:
    counts = await _damaged_sqlite_logs(tmp_path, 1, 200)
    assert len(counts) > 10, counts


@pytest.mark.torture
@pytest.mark.timeout(3_000)
async def test_ten_thousand_damages_of_a_sqlite_log_are_found(tmp_path: Path) -> None:
    counts = await _damaged_sqlite_logs(tmp_path, 2, 10_000)
    assert counts.total() == 10_000


async def _damaged_postgres_logs(url: str, seed: int, wanted: int) -> int:
    """How many damages that changed what is stored were found. AssertionError at one that was not."""
    store = await PostgresWriteStore.open(url)
    await fill(store)
    log = await DamagedLog.of(url)
    before, found, number = await log.stored(), 0, 0
    assert (await verify(store, RealWorld())).all_right
    while found < wanted:
        number += 1
        sql = await log.damage(random.Random(f"{seed}/{number}"))
        if await log.stored() == before:
            continue
        try:
            result = await verify(store, RealWorld())
        except WiringError as error:
            assert "log ends at" in str(error)
        else:
            assert not result.all_right, f"damage {number} of seed {seed} was not found: {sql}"
        found += 1
        await log.restore()
    await log.close()
    await store.close()
    return found


async def test_every_damage_that_changes_a_postgresql_log_is_found(postgres_newest: Postgres) -> None:
    assert await _damaged_postgres_logs(await fresh_log(postgres_newest.dsn), 1, 50) == 50


@pytest.mark.torture
@pytest.mark.timeout(3_000)
async def test_a_thousand_damages_of_a_postgresql_log_are_found(postgres_newest: Postgres) -> None:
    assert await _damaged_postgres_logs(await fresh_log(postgres_newest.dsn), 2, 1_000) == 1_000
