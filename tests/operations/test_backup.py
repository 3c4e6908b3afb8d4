"""A backup is made while commands go on, and restored it has exactly the events up to its position."""

import fcntl
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.operations.backup_helpers import (
    backed_up,
    drill,
    events_at,
    filled_log,
    loaded_bank,
    names_and_bytes,
    restored,
)
from tests.sample_domains.bank import Deposit
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import Unavailable, WiringError
from twofold.errors import ForkedHistory


async def test_five_drills_on_sqlite_under_load_have_exact_totals(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    async with loaded_bank(url) as load:
        for number in range(5):
            # The first two add to one backup, the others begin their own.
            folder = tmp_path / f"set-{max(number, 1)}"
            await drill(load, url, folder, f"sqlite:///{tmp_path}/restored-{number}.db")


async def test_two_drills_on_postgresql_under_load_have_exact_totals(postgres: Postgres, tmp_path: Path) -> None:
    url = await fresh_log(postgres.dsn)
    async with loaded_bank(url) as load:
        first = await drill(load, url, tmp_path / "set", f"sqlite:///{tmp_path}/restored.db")
        assert await drill(load, url, tmp_path / "set", await fresh_log(postgres.dsn)) > first


async def test_a_second_backup_adds_only_what_is_new(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 500)
    await backed_up(url, folder)
    before = (folder / "log-1.db").read_bytes()
    await filled_log(url, 30, first=501)
    added = await backed_up(url, folder)
    assert (added.added_after, added.position, added.parts) == (500, 530, 2)
    assert (folder / "log-1.db").read_bytes() == before
    with closing(sqlite3.connect(f"file:{folder}/log-2.db?immutable=1", uri=True)) as part:
        assert part.execute("select min(position), max(position) from events").fetchone() == (501, 530)
        assert part.execute("select count(*) from commands").fetchone()[0] <= 31
    assert (await restored(folder, f"sqlite:///{tmp_path}/r.db")).commands == 530
    assert await events_at(f"sqlite:///{tmp_path}/r.db") == await events_at(url)


async def test_a_backup_from_postgresql_is_restored_to_sqlite_and_back(postgres: Postgres, tmp_path: Path) -> None:
    url, between, after = await fresh_log(postgres.dsn), f"sqlite:///{tmp_path}/log.db", await fresh_log(postgres.dsn)
    await filled_log(url)
    await backed_up(url, tmp_path / "a.tar")
    assert (await restored(tmp_path / "a.tar", between)).epoch == 2
    await backed_up(between, tmp_path / "b")
    assert (await restored(tmp_path / "b", after)).epoch == 3
    assert await events_at(after) == await events_at(url)
    async with loaded_bank(after) as load:
        again = await load.app.send(Deposit("a1", 1), command_id="f-1")
        assert again.repeated, "command ids come along"
        await load.deposit()


async def test_a_backup_that_another_history_would_continue_is_refused(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 5)
    shutil.copy(tmp_path / "log.db", tmp_path / "fork.db")
    await filled_log(url, 10, first=6)
    await backed_up(url, folder)
    before = names_and_bytes(folder)
    with pytest.raises(ForkedHistory, match=r"ends at position 5, but the backup in .* goes up to 15"):
        await backed_up(f"sqlite:///{tmp_path}/fork.db", folder)
    await filled_log(f"sqlite:///{tmp_path}/fork.db", 20, first=50)
    with pytest.raises(ForkedHistory, match=r"another history.* its chain at position 15 is [0-9a-f]{16}, not"):
        await backed_up(f"sqlite:///{tmp_path}/fork.db", folder)
    await filled_log(f"sqlite:///{tmp_path}/other.db", 20)
    with pytest.raises(ForkedHistory, match=r"has a backup of the log main-\w+, not main-\w+\. Begin a new backup"):
        await backed_up(f"sqlite:///{tmp_path}/other.db", folder)
    assert names_and_bytes(folder) == before


async def test_a_damaged_log_is_not_backed_up(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 1_100)
    await backed_up(url, folder)
    await filled_log(url, 1_100, first=1_101)
    before = names_and_bytes(folder)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
        connection.execute("update events set payload = cast(replace(payload, 'a', 'b') as blob) where position = 1111")
    with pytest.raises(WiringError, match="at position 1111 is missing or damaged"):
        await backed_up(url, folder)
    with pytest.raises(WiringError, match=r"The log is damaged, and was not backed up: The event at 1111 does not fit"):
        await backed_up(url, tmp_path / "new")
    assert not (tmp_path / "new" / "manifest.json").exists()
    assert names_and_bytes(folder) == before, "not even a partial file is left"


async def test_a_backup_is_not_mixed_with_other_files_or_with_another_backup(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    await filled_log(url, 3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(WiringError, match=r"has no backup, but other files: letter\.txt"):
        await backed_up(url, tmp_path / "full")
    await backed_up(url, tmp_path / "set.tar")
    with pytest.raises(WiringError, match=r"set\.tar exists\. Name a new file"):
        await backed_up(url, tmp_path / "set.tar")
    await backed_up(url, tmp_path / "set")
    with (tmp_path / "set" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="Another process makes a backup"):
            await backed_up(url, tmp_path / "set")


async def test_files_of_a_backup_are_of_their_owner_alone(tmp_path: Path) -> None:
    await filled_log(f"sqlite:///{tmp_path}/log.db", 3)
    await backed_up(f"sqlite:///{tmp_path}/log.db", tmp_path / "set")
    await backed_up(f"sqlite:///{tmp_path}/log.db", tmp_path / "set.tar")
    for path in (*(tmp_path / "set").iterdir(), tmp_path / "set.tar"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
