"""`twofold rebuild`: built beside the one that serves, compared, switched to; with a way back; by a serve, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import apsw
import httpx
import pytest

from tests.cli.command_line_helpers import APP, TWOFOLD, run, run_json, running, serving

BROKEN = """update "rows of pages@1" set row = json_set(row, '$.text', 'BROKEN') where key = 'n3'"""
WRITES = """
import asyncio, sys
from app import app, WriteNote

async def main():
    async with app:
        for n in range(int(sys.argv[1])):
            receipt = await app.send(WriteNote(f"n{n}", f"text {n}"))
        await app.projections.wait(["pages"], receipt.position, 30)

asyncio.run(main())
"""

COPIES = """class Copy(Page, frozen=True):
    pass

def keep_copy(row: Copy | None, event: NoteWritten) -> Copy:
    return Copy(event.note_id, event.text)

class NoteById"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An app whose log holds notes, and whose read model is as it should be."""
    (tmp_path / "app.py").write_text(APP)
    subprocess.run([sys.executable, "-c", WRITES, "40"], cwd=tmp_path, check=True)
    return tmp_path


def break_a_row(folder: Path) -> None:
    """What no follower did."""
    connection = apsw.Connection(str(folder / "data/views.db"))
    connection.execute(BROKEN).fetchall()
    connection.close()


def text_of(url: str, note: str) -> str:
    found: str = httpx.get(f"{url}/queries/note-by-id", params={"note_id": note}).json()["answer"]["text"]
    return found


def test_what_is_the_same_is_switched_to_and_can_be_taken_back_and_dropped(folder: Path) -> None:
    code, said = run_json(folder, "rebuild", "app:app", "pages")
    (done,) = said["data"]
    assert (code, done["generation"], done["serves"]) == (0, 2, True)
    assert (done["comparison"]["rows"], done["comparison"]["equal"]) == (40, 40)
    code, said = run_json(folder, "rebuild", "app:app", "pages")
    assert code == 2
    assert "Drop it before you rebuild" in said["error"]["message"]
    assert run_json(folder, "rebuild", "app:app", "pages", "--switch-back")[1]["data"] == [
        {"name": "pages", "generations": [1]}
    ]
    assert run_json(folder, "rebuild", "app:app", "pages", "--drop")[1]["data"] == [
        {"name": "pages", "generations": [2]}
    ]


def test_what_differs_is_shown_and_switched_to_only_when_told_so(folder: Path) -> None:
    break_a_row(folder)
    done = run(folder, "rebuild", "app:app", "pages")
    assert done.returncode == 3
    assert "40 rows compared: 39 equal, 1 different" in done.stdout
    assert '    text: "BROKEN" -> "text 3"' in done.stdout
    assert "does not serve because rows differ" in done.stdout
    with serving(folder) as (_, at):
        assert text_of(at["url"], "n3") == "BROKEN"
    assert run(folder, "rebuild", "app:app", "pages", "--yes").returncode == 0
    with serving(folder) as (_, at):
        assert text_of(at["url"], "n3") == "text 3"


def test_a_running_serve_is_asked_by_its_url_and_answers_all_the_time(folder: Path) -> None:
    break_a_row(folder)
    with serving(folder) as (_, at):
        refused = run(folder, "rebuild", "app:app", "pages")
        assert refused.returncode == 2
        assert "--url" in refused.stderr
        rebuilt = run(folder, "rebuild", "app:app", "pages", "--url", at["url"], "--yes", "--json")
        assert "pages: comparing: 40 rows" in rebuilt.stderr
        code, said = rebuilt.returncode, json.loads(rebuilt.stdout)
        (done,) = said["data"]
        assert (code, done["serves"], done["comparison"]["different"]) == (0, True, 1)
        assert text_of(at["url"], "n3") == "text 3"
        code, said = run_json(folder, "rebuild", "pages", "--url", at["url"], "--switch-back")
        assert (code, said["data"]) == (0, [{"name": "pages", "generations": [1]}])


def test_beside_a_serve_rows_are_compared_in_the_stores_that_are_its_own_or_not_switched_to(folder: Path) -> None:
    break_a_row(folder)
    with serving(folder) as (_, at):
        elsewhere = "--read-store", "sqlite:///elsewhere/views.db"
        code, said = run_json(folder, "rebuild", "pages", "--url", at["url"], *elsewhere)
        assert (code, said["error"]["kind"]) == (4, "unavailable")
        assert "cannot be compared from here. There is no file" in said["error"]["message"]
        assert "--no-compare" in said["error"]["message"]
        (folder / "another").mkdir()
        (folder / "another/app.py").write_text(APP)
        subprocess.run([sys.executable, "-c", WRITES, "2"], cwd=folder / "another", check=True)
        stores = "--write-store", "sqlite:///another/data/log.db", "--read-store", "sqlite:///another/data/views.db"
        code, said = run_json(folder, "rebuild", "pages", "--url", at["url"], *stores)
        assert (code, said["error"]["kind"]) == (2, "wiring-error")
        assert ", the rebuilt one main-" in said["error"]["message"]
        assert text_of(at["url"], "n3") == "BROKEN"
        code, said = run_json(folder, "rebuild", "pages", "--url", at["url"])
        assert (code, said["data"][0]["serves"], said["data"][0]["comparison"]["different"]) == (3, False, 1)
        code, said = run_json(folder, "rebuild", "pages", "--url", at["url"], "--no-compare")
        assert (code, said["data"][0]["serves"], said["data"][0]["comparison"]) == (0, True, None)
        assert text_of(at["url"], "n3") == "text 3"


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("Yes", 0), ("", 3), ("n", 3), ("yn", 3)])
def test_on_a_terminal_it_asks(folder: Path, answer: str, code: int) -> None:
    break_a_row(folder)
    terminal, stdin = os.openpty()
    with running(folder, "rebuild", "app:app", "pages", stdin=stdin) as process:
        os.write(terminal, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
    os.close(terminal)
    os.close(stdin)
    assert process.returncode == code
    assert out.startswith("pages: 40 rows compared: 39 equal, 1 different\n")
    assert "Rows differ. Switch pages to generation 2 anyway? [y/N]: " in err
    with serving(folder) as (_, at):
        assert text_of(at["url"], "n3") == ("text 3" if code == 0 else "BROKEN")


def test_a_build_can_be_left_for_later_and_several_are_built_and_switched_together(folder: Path) -> None:
    more = APP.replace("projections=[", 'projections=[Projection("copies", keep_copy, key=NoteId), ')
    (folder / "app.py").write_text(more.replace("class NoteById", COPIES))
    code, said = run_json(folder, "rebuild", "app:app", "pages", "copies", "pages", "--no-switch")
    assert code == 0
    assert [(each["name"], each["generation"], each["serves"]) for each in said["data"]] == [
        ("pages", 2, False),
        ("copies", 2, False),
    ]
    assert [each["comparison"]["equal"] for each in said["data"]] == [40, 40]
    code, said = run_json(folder, "rebuild", "app:app", "pages")
    assert (code, said["data"][0]["generation"], said["data"][0]["serves"]) == (0, 2, True)
    code, said = run_json(folder, "rebuild", "app:app", "pages", "copies")
    assert (code, [each["serves"] for each in said["data"]]) == (3, [True, True])
    assert [each["standby"] for each in said["data"]] == [1, None], "nothing was built of the first"
    code, said = run_json(folder, "rebuild", "app:app", "pages", "copies")
    assert (code, said["error"]["field"]) == (2, "name")


def test_a_rebuild_that_is_killed_goes_on_when_it_is_called_again(folder: Path) -> None:
    with subprocess.Popen(
        [TWOFOLD, "rebuild", "app:app", "pages"], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.kill()
    code, said = run_json(folder, "rebuild", "app:app", "pages")
    if code:
        # It was killed after the switch.
        assert "is on standby" in said["error"]["message"]
    else:
        assert said["data"][0]["serves"]
    with serving(folder) as (_, at):
        assert text_of(at["url"], "n39") == "text 39"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["app:app"], "MODULE:APP NAME"),
        (["app:app", "nope"], "There is no projection 'nope'. There are: pages."),
        (["app:app", "pages", "--switch-back", "--drop"], "Use either --switch-back or --drop."),
        (["app:app", "pages", "--switch-back"], "No earlier generation of 'pages' is on standby"),
        (["pages"], "MODULE:APP NAME"),
    ],
)
def test_what_cannot_be_done_is_reported_with_what_to_do(folder: Path, words: list[str], reported: str) -> None:
    done = run(folder, "rebuild", *words)
    assert done.returncode == 2
    assert reported in done.stderr
