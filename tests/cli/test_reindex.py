"""`twofold reindex`: the way back to a running app after an event type got a new tag."""

import signal
from pathlib import Path

import httpx

from tests.cli.command_line_helpers import APP, run, run_json, serving, stop

BEFORE = """
class NoteWritten(Struct, frozen=True):
    note_id: NoteId
    text: str
"""
AFTER = """
class NoteWritten(Struct, frozen=True):
    note_id: NoteId
    text: Annotated[str, Tag("text")]
"""
WITH_NEW_TAG = APP.replace(BEFORE, AFTER)


def test_it_is_asked_for_at_start_and_makes_the_app_start(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        for n in range(3):
            sent = httpx.post(f"{at['url']}/commands/write-note", json={"note_id": f"n{n}", "text": "same"})
            sent.raise_for_status()
        code, said = run_json(tmp_path, "reindex", "app:app")
        assert (code, said["error"]["kind"]) == (2, "wiring-error")
        stop(process, signal.SIGTERM)
    assert run(tmp_path, "reindex", "app:app").stdout == "All events have all their tags. Nothing to do.\n"

    (tmp_path / "app.py").write_text(WITH_NEW_TAG)
    refused = run(tmp_path, "serve", "app:app", "--port", "0")
    assert refused.returncode == 2
    assert "has the new tag 'text'" in refused.stderr
    assert "`twofold reindex`" in refused.stderr

    code, said = run_json(tmp_path, "reindex", "app:app")
    assert (code, said["data"]) == (0, {"types": {"note-written": ["text"]}, "looked_at": 3, "retagged": 3})
    with serving(tmp_path) as (_, at):
        found = httpx.get(f"{at['url']}/events", params={"tag": "text:same"}).json()["events"]
        assert [event["tags"] for event in found] == [[f"note:n{n}", "text:same"] for n in range(3)]
