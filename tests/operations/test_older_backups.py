"""Backups with parts of an older schema are restored, checked and continued."""

from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import pytest

from tests.operations.backup_helpers import backed_up, events_at, filled_log, restored, total_of
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.operations.backup_manifest import DamagedBackup, read_manifest, write_manifest
from twofold.operations.durable_files import digest_of
from twofold.operations.restore import check
from twofold.operations.verify import verify
from twofold.settings import Settings
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store.sqlite.sealed_file import SCHEMA

# What each migration is undone by, the newest first.
UNDO = {
    5: """
alter table commands drop column checksum;
alter table rows drop column checksum;
alter table epochs drop column checksum;
alter table logs drop column commands_checksum;
alter table logs drop column rows_checksum;
""",
    4: "drop table payload_dictionaries;",
    3: "alter table logs drop column use; alter table logs drop column place; alter table logs drop column settled;",
}
FIRST_WITH_BACKUPS = 2


def make_older(folder: Path, name: str, version: int, sql: str = "") -> None:
    """Give a part of a backup an older schema, as an older version of Twofold has written it, and what `sql` adds."""
    with closing(apsw.Connection(str(folder / name))) as part:
        for number in range(SCHEMA, version, -1):
            part.execute(UNDO[number]).fetchall()
        part.execute(sql).fetchall()
        part.pragma("user_version", version)
    manifest = read_manifest(folder)
    parts = tuple(
        msgspec.structs.replace(
            part,
            schema=version,
            bytes=(folder / name).stat().st_size,
            sha256=digest_of(folder / name),
        )
        if part.file == name
        else part
        for part in manifest.parts
    )
    write_manifest(folder, msgspec.structs.replace(manifest, parts=parts))


async def all_right(url: str) -> bool:
    log = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    try:
        return (await verify(log, RealWorld())).all_right
    finally:
        await log.close()


@pytest.mark.parametrize("version", range(FIRST_WITH_BACKUPS, SCHEMA))
async def test_a_backup_of_an_older_schema_is_restored_and_continued(
    version: int, postgres_newest: Postgres, tmp_path: Path
) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 10)
    await backed_up(url, folder)
    await filled_log(url, 10, first=11)
    await backed_up(url, folder)
    for name in ("log-1.db", "log-2.db"):
        make_older(folder, name, version)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (await check(folder, RealWorld())).problem is None
    for target in (f"sqlite:///{tmp_path}/new.db", await fresh_log(postgres_newest.dsn)):
        result = await restored(folder, target)
        assert (result.position, result.commands) == (20, 20)
        assert total_of(await events_at(target)) == total_of(await events_at(url))
        assert await all_right(target)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the backup was changed"
    await filled_log(url, 5, first=21)
    await backed_up(url, folder)
    assert (await restored(folder, f"sqlite:///{tmp_path}/more.db")).position == 25


async def test_a_part_whose_schema_cannot_be_migrated_is_refused_with_the_version_that_made_it(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 10)
    await backed_up(url, folder)
    make_older(folder, "log-1.db", SCHEMA - 1, "alter table logs add column rows_checksum text")
    with pytest.raises(
        DamagedBackup, match=r"cannot be migrated: .* It was made with Twofold [0-9.]+: use that version"
    ):
        await restored(folder, f"sqlite:///{tmp_path}/new.db")
    assert not (tmp_path / "new.db").exists()


async def test_a_part_with_a_trigger_is_refused_before_it_is_migrated(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 10)
    await backed_up(url, folder)
    trigger = "create trigger other after update on commands begin delete from events; end"
    make_older(folder, "log-1.db", SCHEMA - 1, trigger)
    with pytest.raises(DamagedBackup, match="views or triggers"):
        await restored(folder, f"sqlite:///{tmp_path}/new.db")
