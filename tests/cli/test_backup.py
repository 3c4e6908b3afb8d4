"""`twofold backup` and `twofold restore` on the command line: what they say, and how they end."""

from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import run, run_json, serving

STORES = ("--write-store", "sqlite:///log.db", "--read-store", "sqlite:///views.db")


def test_the_log_of_a_running_server_is_backed_up_and_restored_and_the_difference_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, *STORES) as (_, started):
        for number in range(3):
            httpx.post(f"{started['url']}/commands/write-note", json={"note_id": f"n{number}", "text": "x"})
        made = run(tmp_path, "backup", "--to", "set", "--with-read-models", *STORES)
        assert (made.returncode, "Added 3 events" in made.stdout) == (0, True), made.stderr
        httpx.post(f"{started['url']}/commands/write-note", json={"note_id": "late", "text": "x"})
        code, said = run_json(tmp_path, "restore", "--from", "set", "--to", "sqlite:///log.db", "--replace")
        assert (code, "Stop that process" in said["error"]["message"]) == (2, True)
    checked = run(tmp_path, "backup", "--check", "set")
    assert (checked.returncode, "3 events, 3 command ids" in checked.stdout) == (0, True), checked.stderr
    refused = run(tmp_path, "restore", "--from", "set", "--to", "sqlite:///log.db")
    assert (refused.returncode, "1 events would be lost (positions 4 to 4)" in refused.stderr) == (2, True)
    done = run(tmp_path, "restore", "--from", "set", "--to", "sqlite:///log.db", "--replace")
    assert done.returncode == 0, done.stderr
    assert "up to position 3: 3 events" in done.stdout
    assert "1 events, positions 4 to 4" in done.stdout
    assert "is kept as" in done.stdout


def test_a_check_exits_with_three_where_the_backup_is_damaged(tmp_path: Path) -> None:
    with serving(tmp_path, *STORES):
        assert run(tmp_path, "backup", "--to", "set", *STORES).returncode == 0
    with (tmp_path / "set" / "log-1.db").open("r+b") as part:
        part.seek(5_000)
        part.write(b"xx")
    code, said = run_json(tmp_path, "backup", "--check", "set")
    assert (code, said["data"]["position"]) == (3, 0)
    assert "its SHA-256 is not that of the manifest" in said["data"]["problem"]


def test_a_log_of_another_history_is_not_added_to_a_backup_and_later_is_not_better(tmp_path: Path) -> None:
    for name in ("one", "two"):
        log = f"sqlite:///{name}.db"
        with serving(tmp_path, "--write-store", log, "--read-store", f"sqlite:///{name}-views.db"):
            pass
        code, said = run_json(tmp_path, "backup", "--to", "set", "--write-store", log)
    assert (code, said["error"]["kind"]) == (2, "forked-history")


def test_a_place_for_a_backup_that_is_of_the_other_kind_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, *STORES):
        pass
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "file").touch()
    for place, cure in (("folder.tar", "folder.tar is a folder"), ("file", "file is a file. Name a folder")):
        done = run(tmp_path, "backup", "--to", place, *STORES)
        assert (done.returncode, cure in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "cure"),
    [
        (("backup",), 2, "Name either the place of the backup with --to, or a backup to check with --check"),
        (("backup", "--to", "a", "--check", "b"), 2, "Name either"),
        (("backup", "--to", "set", "--write-store", "memory:"), 2, "exists only inside its process"),
        (("backup", "--to", "set", "--write-store", "sqlite:///none.db"), 4, "There is no file"),
        (("backup", "--check", "a", "--with-read-models"), 2, "has no effect here"),
        (("backup", "--check", "none"), 4, "cannot be read"),
        (("restore", "--from", "none", "--to", "sqlite:///a.db"), 4, "cannot be read"),
        (("restore", "--from", "none", "--to", "memory:"), 2, "--to memory: names no place"),
        (
            ("restore", "--from", "a", "--to", "sqlite:///a.db", "--read-models-to", "memory:"),
            2,
            "is not a SQLite file",
        ),
    ],
)
def test_what_cannot_be_done_is_reported(tmp_path: Path, arguments: tuple[str, ...], code: int, cure: str) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, cure in done.stderr) == (code, True), done.stderr
    assert list(tmp_path.iterdir()) == []
