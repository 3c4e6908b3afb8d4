"""`twofold move` on the command line: what it says, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in
from tests.sample_domains.counters import Count
from tests.servers.postgres import Postgres, fresh_schema

TWOFOLD = Path(sys.executable).with_name("twofold")


def twofold(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TWOFOLD, *arguments], cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_the_shop_of_the_demo_moves_to_postgresql_and_has_the_same_totals(postgres: Postgres, tmp_path: Path) -> None:
    stores = ["--read-store", "sqlite:///views.db"]
    assert twofold(tmp_path, "demo", "--no-serve", "--write-store", "sqlite:///log.db", *stores).returncode == 0
    url = f"{postgres.dsn}?schema={fresh_schema()}"
    early = twofold(tmp_path, "move", "--from", "sqlite:///log.db", "--to", url, "--json")
    assert (early.returncode, "`twofold migrate" in json.loads(early.stdout)["error"]["message"]) == (2, True)
    assert twofold(tmp_path, "migrate", "--write-store", url).returncode == 0

    done = twofold(tmp_path, "move", "--from", "sqlite:///log.db", "--to", url, "--json")
    moved = json.loads(done.stdout)["data"]
    assert (done.returncode, moved["head"], moved["epoch"], moved["commands"]) == (0, 16_227, 2, 13_870)
    assert "Moving: 16,227 of 16,227 events" in done.stderr

    after = twofold(tmp_path, "demo", "--no-serve", "--write-store", url, *stores, "--json")
    reported = json.loads(after.stdout)["data"]
    assert (after.returncode, reported["right"], reported["sent"]) == (0, True, 0), "nothing had to be sent again"


@pytest.mark.parametrize(
    ("source", "target", "code", "cure"),
    [
        ("sqlite:///none.db", "sqlite:///other.db", 4, "There is no file"),
        ("memory:", "sqlite:///other.db", 2, "--from memory: names no place"),
        ("sqlite:///none.db", "memory:", 2, "--to memory: names no place"),
        ("sqlite:///none.db", "mongodb://there/here", 4, "There is no file"),
    ],
)
def test_what_cannot_be_moved_is_reported(tmp_path: Path, source: str, target: str, code: int, cure: str) -> None:
    done = twofold(tmp_path, "move", "--from", source, "--to", target)
    assert (done.returncode, cure in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "other.db").exists()


async def test_a_move_that_is_repeated_says_that_the_log_was_moved_before(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        await app.send(Count(["a"]))
    move = ("move", "--from", "sqlite:///log.db", "--to", "sqlite:///new.db")
    assert twofold(tmp_path, *move).returncode == 0
    again = twofold(tmp_path, *move)
    assert (again.returncode, "The log was moved there before. It is at position 1" in again.stdout) == (0, True)
    data = json.loads(twofold(tmp_path, *move, "--json").stdout)["data"]
    assert (data["moved_before"], data["events"], data["epoch"]) == (True, 0, 2)
    other = twofold(tmp_path, *move[:-1], "sqlite:///other.db")
    assert (other.returncode, "was moved to" in other.stderr) == (2, True), other.stderr


async def test_a_log_that_was_moved_is_not_backed_up_and_whoever_reads_it_is_warned(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        await app.send(Count(["a"]))
    stores = ["--write-store", "sqlite:///log.db"]
    assert twofold(tmp_path, "move", "--from", "sqlite:///log.db", "--to", "sqlite:///new.db").returncode == 0
    backup = twofold(tmp_path, "backup", *stores, "--to", "backups")
    assert (backup.returncode, "was moved to" in backup.stderr) == (2, True), backup.stderr
    for command in ("log", "verify"):
        read = twofold(tmp_path, command, *stores)
        assert (read.returncode, "Warning: this log was moved to" in read.stderr) == (0, True), read.stderr
    assert "Warning" not in twofold(tmp_path, "log", "--write-store", "sqlite:///new.db").stderr
