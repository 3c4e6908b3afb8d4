"""A log whose file is deleted or replaced while it is open takes no more commands, and says so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.write_store.disk_helpers import command, positions_and_ids
from twofold.errors import Unavailable
from twofold.testing.frozen_world import FrozenWorld
from twofold.write_store.port import Appended
from twofold.write_store.sqlite import SqliteWriteStore


def delete(path: Path) -> None:
    path.unlink()


def delete_the_write_ahead_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace_by_another_file(path: Path) -> None:
    (path.parent / "other.db").write_bytes(path.read_bytes())
    os.replace(path.parent / "other.db", path)


def rename(path: Path) -> None:
    path.rename(path.parent / "renamed.db")


def delete_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


LOSSES = [delete, delete_the_write_ahead_log, replace_by_another_file, rename, delete_the_folder]


async def refuses_twenty_commands(store: SqliteWriteStore) -> None:
    for number in range(100, 120):
        with pytest.raises(Unavailable, match="was deleted or replaced"):
            await store.append([command(number)])
    assert store.problem is not None
    assert "restore the log from a backup" in store.problem


@pytest.mark.parametrize("lose", LOSSES)
async def test_twenty_commands_after_the_file_is_lost_are_refused(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "data" / "log.db"
    world = FrozenWorld()
    store = SqliteWriteStore(path, world=world)
    assert await store.append([command(1)]) == [Appended(1, 1)]
    lose(path)
    if lose is delete_the_write_ahead_log:
        await world.advance(1.0)
    await refuses_twenty_commands(store)
    assert await positions_and_ids(store) == [(1, "command-1.0")], "what was refused was written"
    await store.close()


async def test_a_file_deleted_behind_a_symlink_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "log.db"
    link.symlink_to(tmp_path / "disk" / "log.db")
    store = SqliteWriteStore(link)
    assert await store.append([command(1)]) == [Appended(1, 1)]
    (tmp_path / "disk" / "log.db").unlink()
    await refuses_twenty_commands(store)
    await store.close()


async def test_a_symlink_that_points_to_another_log_is_noticed(tmp_path: Path) -> None:
    link, other = tmp_path / "log.db", tmp_path / "other.db"
    link.symlink_to(tmp_path / "first.db")
    store = SqliteWriteStore(link)
    assert await store.append([command(1)]) == [Appended(1, 1)]
    await SqliteWriteStore(other).close()
    link.unlink()
    link.symlink_to(other)
    await refuses_twenty_commands(store)
    await store.close()


async def test_a_relative_path_is_the_same_file_after_the_folder_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteWriteStore("log.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert await store.append([command(1)]) == [Appended(1, 1)]
    await store.close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_reading_notices_it_within_a_second_although_nothing_is_appended(tmp_path: Path, read_only: bool) -> None:
    world = FrozenWorld()
    await SqliteWriteStore(tmp_path / "log.db").close()
    store = SqliteWriteStore(tmp_path / "log.db", read_only=read_only, world=world)
    (tmp_path / "log.db").unlink()
    await positions_and_ids(store)
    assert store.problem is None, "the file is looked at for every read"
    await world.advance(1.0)
    await positions_and_ids(store)
    assert store.problem is not None
    await store.close()
