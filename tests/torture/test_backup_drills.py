"""A hundred drills: backups of a bank under load, restored and compared with what was acknowledged."""

import shutil
from pathlib import Path

import pytest

from tests.operations.backup_helpers import drill, loaded_bank
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log

ON_SQLITE, ON_POSTGRESQL = 60, 40
_ONE_SET = 10
"""Drills that add to one backup, before another one begins."""


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_sixty_drills_on_sqlite_have_exact_totals(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    async with loaded_bank(url) as load:
        for number in range(ON_SQLITE):
            await drill(load, url, tmp_path / f"set-{number // _ONE_SET}", f"sqlite:///{tmp_path}/r{number}/log.db")
            shutil.rmtree(tmp_path / f"r{number}")


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_forty_drills_on_postgresql_have_exact_totals(postgres_newest: Postgres, tmp_path: Path) -> None:
    url, target = await fresh_log(postgres_newest.dsn), await fresh_log(postgres_newest.dsn)
    async with loaded_bank(url) as load:
        for number in range(ON_POSTGRESQL):
            # Every other one replaces the log that the one before has restored.
            there = target if number % 2 else f"sqlite:///{tmp_path}/r{number}/log.db"
            await drill(load, url, tmp_path / f"set-{number // _ONE_SET}", there)
