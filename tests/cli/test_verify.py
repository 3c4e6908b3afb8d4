"""`twofold verify` on the command line: what it says of a log, beside the process that writes it."""

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import APP, run, run_json, serving
from twofold.write_store.chain import chain_start, content_digest, link


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a running `serve` whose log holds n1 to n9."""
    with serving(tmp_path) as (_, at):
        for i in range(1, 10):
            httpx.post(f"{at['url']}/commands/write-note", json={"note_id": f"n{i}", "text": "x"}).raise_for_status()
        yield tmp_path


def change(folder: Path, sql: str) -> None:
    with sqlite3.connect(folder / "data" / "log.db") as log:
        assert log.execute(sql).rowcount


def test_a_sound_log_is_verified_beside_the_process_that_writes_it(folder: Path) -> None:
    done = run(folder, "verify")
    assert (done.returncode, "Verified 9 events (1 to 9 of 9)" in done.stdout) == (0, True), done.stdout
    assert "Verifying: 9 of 9 events" in done.stderr


def test_damage_is_named_with_its_position_and_ends_with_3(folder: Path) -> None:
    change(folder, "update events set payload = cast(replace(payload, 'n4', 'n5') as blob) where position = 4")
    change(folder, "delete from events where position = 7")
    done = run(folder, "verify")
    assert done.returncode == 3
    assert "The event at 4 does not fit the chain" in done.stdout
    assert "The event at 7 is missing." in done.stdout


def test_a_log_that_was_rewritten_and_linked_again_does_not_have_the_digest_that_was_kept(folder: Path) -> None:
    code, answer = run_json(folder, "verify", "--to", "4")
    digest = answer["data"]["digest"]
    code, answer = run_json(folder, "verify", "--expect", f"4:{digest}")
    assert (code, answer["data"]["damages"]) == (0, [])
    key, kept = folder / "key", folder / "checkpoint.json"
    key.write_text("k" * 32)
    code, _ = run_json(folder, "verify", "--write-checkpoint", str(kept), "--key", str(key))
    assert (code, kept.stat().st_mode & 0o777) == (0, 0o600)
    code, answer = run_json(folder, "verify", "--checkpoint", str(kept), "--key", str(key))
    assert (code, answer["data"]["damages"]) == (0, [])
    with sqlite3.connect(folder / "data" / "log.db") as log:
        log.execute("update events set payload = cast(replace(payload, 'n3', 'n5') as blob) where position = 3")
        log.execute("delete from event_tags where position = 3 and tag = 'note:n3'")
        ((name, type, version),) = log.execute(
            "select l.name, y.name, e.version from events e join logs l on true"
            " join event_types y on y.type_id = e.type_id where e.position = 3"
        ).fetchall()
        log.execute("update events set tags = cast(replace(tags, 'n3', 'n5') as blob) where position = 3")
        log.execute("insert into event_tags select log_id, 'note:n5', type_id, position from events where position = 3")
        chain = chain_start(name)
        for position, head, payload in log.execute("select position, envelope, payload from events order by position"):
            chain = link(chain, content_digest(type, version, head, payload))
            log.execute("update events set chain = ? where position = ?", (chain, position))
        log.execute("update logs set chain = ?", (chain,))
    code, answer = run_json(folder, "verify")
    assert (code, answer["data"]["damages"]) == (0, []), "it fits itself"
    code, answer = run_json(folder, "verify", "--expect", f"4:{digest}")
    assert (code, [damage["position"] for damage in answer["data"]["damages"]]) == (3, [4])
    before = kept.read_bytes()
    options = ("--checkpoint", str(kept), "--write-checkpoint", str(kept), "--key", str(key))
    code, answer = run_json(folder, "verify", *options)
    assert (code, [damage["position"] for damage in answer["data"]["damages"]]) == (3, [9])
    assert kept.read_bytes() == before, "a checkpoint was written of a log that is not the one that was signed"


def test_options_of_signed_checkpoints_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    kept, key = tmp_path / "kept.json", tmp_path / "key"
    kept.write_text("{}")
    key.write_text("short")
    for options, said in [
        (("--checkpoint", str(kept)), "--key"),
        (("--write-checkpoint", str(kept), "--key", str(key)), "--checkpoint too"),
        (("--checkpoint", str(kept), "--key", str(key)), "at least 32 are needed"),
        (("--write-checkpoint", str(tmp_path / "new"), "--key", str(key), "--from", "2"), "whole log"),
    ]:
        done = run(tmp_path, "verify", *options)
        assert done.returncode == 2
        assert said in " ".join(done.stderr.split()), done.stderr


def test_a_range_is_verified_alone(folder: Path) -> None:
    change(folder, "update events set payload = x'7b7d' where position = 4")
    code, answer = run_json(folder, "verify", "--from", "5")
    assert (code, answer["data"]["events"], answer["data"]["damages"]) == (0, 5, [])
    code, answer = run_json(folder, "verify", "--from", "2", "--to", "4")
    assert (code, answer["data"]["first"], answer["data"]["last"], answer["data"]["damage_count"]) == (3, 2, 4, 1)
    assert [damage["position"] for damage in answer["data"]["damages"]] == [4]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--from", "10"], "There is no position 10: the log ends at 9."),
        (["--from", "5", "--to", "4"], "The range from 5 to 4 is empty."),
        (["--write-store", "memory:"], "exists only inside its process"),
    ],
)
def test_a_range_that_is_not_there_is_refused(folder: Path, options: list[str], cure: str) -> None:
    done = run(folder, "verify", *options)
    assert (done.returncode, cure in done.stderr) == (2, True), done.stderr


def test_code_that_cannot_read_what_is_stored_fails_the_gate(folder: Path) -> None:
    assert run(folder, "verify", "--decode-all", "app:app").returncode == 0
    # The new code has renamed a field, without an upcaster.
    (folder / "newer.py").write_text(APP.replace("    text: str", "    body: str", 2).replace(".text", ".body"))
    code, answer = run_json(folder, "verify", "--decode-all", "newer:app")
    assert (code, answer["data"]["damage_count"]) == (3, 0)
    (unreadable,) = answer["data"]["unreadable"]
    assert {**unreadable, "message": ""} == {
        "type": "note-written",
        "version": 1,
        "position": 1,
        "count": 9,
        "message": "",
    }
    done: subprocess.CompletedProcess[str] = run(folder, "verify", "--decode-all", "newer:app")
    assert "'note-written' version 1: 9 events, the first at position 1" in done.stdout


def test_tags_that_do_not_follow_from_the_payload_are_found_with_the_code(folder: Path) -> None:
    change(folder, "update events set tags = cast('[]' as blob) where position = 3")
    change(folder, "delete from event_tags where position = 3 and tag <> ''")
    assert run(folder, "verify").returncode == 0, "without the code nobody can tell"
    done = run(folder, "verify", "--decode-all", "app:app")
    assert (done.returncode, "The event at 3 does not have the tags note:n3" in done.stdout) == (3, True), done.stdout
