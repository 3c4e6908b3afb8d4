"""`twofold recover`: the way on after a backup of the log was restored in place."""

import shutil
import signal
from pathlib import Path

import httpx

from tests.cli.command_line_helpers import run, run_json, serving, stop


def write(at: dict[str, str], *notes: str) -> list[str]:
    """The tokens of the receipts."""
    tokens: list[str] = []
    for note in notes:
        sent = httpx.post(f"{at['url']}/commands/write-note", json={"note_id": note, "text": "t"}, timeout=30)
        tokens.append(sent.raise_for_status().json()["token"])
    return tokens


def test_a_restored_log_is_refused_until_it_is_accepted_and_what_is_lost_is_listed(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        (kept,) = write(at, "n1")
        stop(process, signal.SIGTERM)
    log = tmp_path / "data" / "log.db"
    shutil.copy(log, tmp_path / "backup.db")
    with serving(tmp_path) as (process, at):
        lost, _ = write(at, "n2", "n3")
        httpx.get(f"{at['url']}/queries/note-by-id", params={"note_id": "n3", "position": lost}, timeout=30)
        stop(process, signal.SIGTERM)
    shutil.move(log, tmp_path / "lost.db")
    shutil.copy(tmp_path / "backup.db", log)

    with serving(tmp_path) as (process, at):
        sent = httpx.post(f"{at['url']}/commands/write-note", json={"note_id": "n4", "text": "t"}, timeout=30)
        assert sent.status_code == 503
        assert "`twofold recover`" in sent.text
        assert httpx.get(f"{at['url']}/queries/note-by-id", params={"note_id": "n1"}).status_code == 503
        assert httpx.get(f"{at['url']}/health/ready", params={"side": "command"}).status_code == 503
        stop(process, signal.SIGTERM)

    looked = run(tmp_path, "recover", "app:app", "--copy", f"sqlite:///{tmp_path}/lost.db")
    assert looked.returncode == 3
    assert "pages, generation 1, at position 3: will be built again from the log." in looked.stdout
    assert "The copy agrees up to position 1; 2 later events of it are lost." in looked.stdout
    assert "  2  note-written  command " in looked.stdout
    assert "Nothing was changed. Repeat with --yes to do this." in looked.stdout

    code, said = run_json(tmp_path, "recover", "app:app", "--yes")
    assert (code, said["data"]["epoch"], said["data"]["plan"]["epoch"]) == (0, 2, 1)
    assert "All read models fit it. Nothing to do." in run(tmp_path, "recover", "app:app").stdout
    with serving(tmp_path) as (_, at):
        write(at, "n4")
        for token, status in ((kept, 200), (lost, 400)):
            found = httpx.get(
                f"{at['url']}/queries/note-by-id", params={"note_id": "n1", "position": token}, timeout=30
            )
            assert found.status_code == status, found.text
