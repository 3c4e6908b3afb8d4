"""Random damages of a log: every one that changes what is stored is found."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.operations.damage_helpers import damage, fill, found_in, stored
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
