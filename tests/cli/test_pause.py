"""`twofold pause` and `twofold resume`: in the stores, or through a running app."""

import signal
from pathlib import Path

from tests.cli.command_line_helpers import APP, run, run_json, serving, stop
from tests.cli.test_parked import acts, note
from tests.cli.test_projections import ask, codes_of, overview, write

STORM = (
    APP.replace("Projection, Rejected,", "Policy, Projection, Rejected, Settings,")
    .replace(
        "notes = Module(",
        """
async def copy(event: NoteWritten) -> WriteNote:
    return WriteNote(event.note_id + "+", event.text)

notes = Module(""",
    )
    .replace("    queries=", '    policies=[Policy("copy", copy)],\n    queries=')
    .replace("app = App(notes)", "app = App(notes, settings=Settings(max_causation_depth=3))")
)
"""An app whose policy answers its own answers."""


def test_a_running_app_pauses_and_resumes(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        done = run(tmp_path, "pause", "pages", "--reason", "The disk is being moved.", "--url", at["url"])
        assert (done.returncode, done.stdout) == (0, "It is paused: The disk is being moved.\n")
        token = write(at["url"], "n2")
        assert note(at["url"], "n2") is None
        code, seen = overview(tmp_path)
        assert (code, codes_of(seen), seen["followers"][0]["state"]) == (3, ["paused"], "paused")
        assert run(tmp_path, "projections").stdout.splitlines()[3].split()[-1] == "paused"
        stop(process, signal.SIGTERM)
    with serving(tmp_path) as (_, at):
        assert codes_of(overview(tmp_path)[1]) == ["paused"]
        code, said = run_json(tmp_path, "resume", "pages", "--url", at["url"])
        assert (code, said["data"]["outcome"]) == (0, "It is resumed.")
        ask(at["url"], "n2", token)
        assert note(at["url"], "n2") is not None
        assert acts(tmp_path) == [("pause", "", True), ("resume", "", True)]


def test_stores_without_a_running_app_are_opened_and_nothing_is_followed_meanwhile(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        stop(process, signal.SIGTERM)
    assert run(tmp_path, "pause", "app:app", "pages").stdout == "It is paused.\n"
    code, seen = overview(tmp_path)
    assert (code, codes_of(seen)) == (3, ["paused"])
    code, said = run_json(tmp_path, "parked", "retry", "app:app", "pages", "n1")
    assert (code, said["error"]["field"]) == (2, "name")
    assert "'pages' is paused. Resume it first" in said["error"]["message"]
    assert run(tmp_path, "resume", "app:app", "pages").stdout == "It is resumed.\n"
    assert overview(tmp_path)[0] == 0
    actions = run_json(tmp_path, "projections", "--actions")[1]["data"]["actions"]
    assert [(each["what"], bool(each["actor"])) for each in actions] == [("pause", True), ("resume", True)]


def test_a_storm_is_shown_with_its_cure_and_resumed_without_the_event_that_was_too_deep(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(STORM)
    with serving(tmp_path) as (_, at):
        write(at["url"], "n")
        code, seen = overview(tmp_path, "--url", at["url"])
        while codes_of(seen) != ["paused"]:
            code, seen = overview(tmp_path, "--url", at["url"])
        assert (code, seen["head"]) == (3, 4)
        shown = run(tmp_path, "projections").stdout
        for named in ("note-written → note-written", "max_causation_depth is 3", "`skip` 4"):
            assert named in shown
        code, said = run_json(tmp_path, "resume", "copy", "--skip", "3", "--url", at["url"])
        assert (code, said["error"]["field"]) == (2, "skip")
        code, said = run_json(tmp_path, "resume", "copy", "--skip", "4", "--url", at["url"])
        assert (code, said["data"]["position"]) == (0, 4)
        assert overview(tmp_path, "--url", at["url"])[1]["head"] == 4


def test_a_name_that_nothing_has_is_refused_and_a_call_without_a_name_is_explained(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        for command in ("pause", "resume"):
            code, said = run_json(tmp_path, command, "leaves", "--url", at["url"])
            assert (code, said["error"]["kind"]) == (2, "unknown-message")
            code, said = run_json(tmp_path, command, "pages")
            assert (code, said["error"]["message"]) == (2, "Write MODULE:APP NAME, or with --url only NAME.")
