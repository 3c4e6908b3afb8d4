"""A backup or a restore that is killed leaves what was there, or the whole result, at every step on the disk."""

import asyncio
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.operations.backup_helpers import backed_up, events_at, filled_log, names_and_bytes, restored
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import WiringError
from twofold.operations.restore import check
from twofold.settings import Settings
from twofold.stores import open_write_store
from twofold.world import RealWorld

_KILLED_AT_A_STEP = """
import os, signal, sys

left = int(sys.argv.pop(1))

def killed_first(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

for name in ("replace", "link", "fsync", "unlink"):
    setattr(os, name, killed_first(getattr(os, name)))
from twofold.cli import main
main()
"""
_KILLED_IN_THE_COPY = """
import os, signal, sys
from twofold.write_store.{store}.copying import {log}

async def killed(self, *_):
    os.kill(os.getpid(), signal.SIGKILL)

{log}.{method} = killed
from twofold.cli import main
main()
"""


def run(script: str, *arguments: str) -> int:
    """The exit code of the command line in a process that a script prepares."""
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False).returncode


async def test_a_backup_killed_at_any_step_is_what_it_was_and_the_next_one_succeeds(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/log.db", tmp_path / "set"
    await filled_log(url, 5)
    arguments = ("backup", "--to", str(folder), "--write-store", url)
    kills = 0
    for wanted, number in zip((5, 10), (5, 0), strict=True):
        for step in itertools.count(1):
            code = run(_KILLED_AT_A_STEP, str(step), *arguments)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
            if (folder / "manifest.json").exists():
                result = await check(folder, RealWorld())
                assert result.problem is None
                assert result.position in (wanted - 5, wanted)
                if result.position == wanted:
                    break
        result = await check(folder, RealWorld())
        assert (result.position, result.problem) == (wanted, None)
        await filled_log(url, number, first=6)
    assert kills > 6
    assert not [name for name in names_and_bytes(folder) if "partial" in name]


async def test_a_restore_killed_at_any_step_leaves_the_old_log_or_the_new_one(tmp_path: Path) -> None:
    url, target = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/target.db"
    await filled_log(url, 8)
    await backed_up(url, tmp_path / "set")
    await restored(tmp_path / "set", target)
    await filled_log(target, 4, first=50)
    old, new = await events_at(target), await events_at(url)
    for step in itertools.count(1):
        code = run(
            _KILLED_AT_A_STEP, str(step), "restore", "--from", str(tmp_path / "set"), "--to", target, "--replace"
        )
        present = await events_at(target)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert present in (old, new)
        try:
            # What an app does at its start: lock the file and check the end of the log.
            await (await open_write_store(target, Settings(), RealWorld())).close()
        except WiringError as error:
            assert "2 names" in str(error)
            assert present != new, "the second name is the kept one: it is there only before the replacement"
    assert present == new
    assert step > 4
    kept = [path for path in tmp_path.glob("target.db.replaced-*") if not path.name.endswith(("-wal", "-shm"))]
    lengths = [len(await events_at(f"sqlite:///{path}")) for path in kept]
    assert 12 in lengths, "the lost events are still somewhere"
    assert not (tmp_path / "target.db.restoring").exists()


@pytest.mark.parametrize("method", ["add_events", "add_commands", "set_rows"])
async def test_a_restore_into_a_file_killed_in_the_copy_changes_nothing(tmp_path: Path, method: str) -> None:
    url, target = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/target.db"
    await filled_log(url, 8)
    await backed_up(url, tmp_path / "set")
    await filled_log(target, 4)
    old = await events_at(target)
    script = _KILLED_IN_THE_COPY.format(store="sqlite", log="SqliteLogCopy", method=method)
    arguments = ("restore", "--from", str(tmp_path / "set"), "--to", target, "--replace")
    assert await asyncio.to_thread(run, script, *arguments) == -signal.SIGKILL
    assert await events_at(target) == old
    assert (await restored(tmp_path / "set", target, replace=True)).position == 8


@pytest.mark.parametrize("method", ["add_events", "add_commands", "set_rows"])
async def test_a_restore_into_postgresql_killed_in_the_copy_changes_nothing(
    postgres_newest: Postgres, tmp_path: Path, method: str
) -> None:
    url, target = f"sqlite:///{tmp_path}/log.db", await fresh_log(postgres_newest.dsn)
    await filled_log(url, 8)
    await backed_up(url, tmp_path / "set")
    await filled_log(target, 4)
    old = await events_at(target)
    script = _KILLED_IN_THE_COPY.format(store="postgres", log="PostgresLogCopy", method=method)
    arguments = ("restore", "--from", str(tmp_path / "set"), "--to", target, "--replace")
    assert await asyncio.to_thread(run, script, *arguments) == -signal.SIGKILL
    assert await events_at(target) == old
    assert (await restored(tmp_path / "set", target, replace=True)).position == 8
