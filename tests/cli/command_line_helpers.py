"""The real command, run as people run it: as a separate process, in an empty folder."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TWOFOLD = str(Path(sys.executable).parent / "twofold")
PATIENCE = 60.0

APP = """
from typing import Annotated
from msgspec import Struct
from twofold import App, DecisionModel, Module, Projection, Rejected, Tag, View

NoteId = Annotated[str, Tag("note")]

class WriteNote(Struct, frozen=True):
    note_id: NoteId
    text: str

class NoteWritten(Struct, frozen=True):
    note_id: NoteId
    text: str

class Note(Struct, frozen=True):
    written: bool = False

    def evolve(self, event: NoteWritten) -> "Note":
        return Note(True)

def write_note(command: WriteNote, note: Note) -> NoteWritten | None:
    return None if note.written else NoteWritten(command.note_id, command.text)

class Page(Struct, frozen=True):
    note_id: str
    text: str

def keep_page(row: Page | None, event: NoteWritten) -> Page:
    if event.text == "cannot be folded":
        raise ValueError("not this one")
    return Page(event.note_id, event.text)

class NoteById(Struct, frozen=True):
    note_id: str

async def note_by_id(query: NoteById, pages: View[Page]) -> Page | None:
    return await pages.get(query.note_id)

notes = Module(
    "notes",
    events=[NoteWritten],
    models=[DecisionModel(Note, by=NoteId)],
    decisions=[write_note],
    projections=[Projection("pages", keep_page, key=NoteId)],
    queries=[note_by_id],
)
app = App(notes)
"""

GUARDED = APP.replace(
    "app = App(notes)",
    """
from twofold import ALL, ANYONE, Allow, ApiKeys

app = App(
    notes,
    authenticate=[ApiKeys("keys.json")],
    access=[Allow(ANYONE, commands=ALL, queries=ALL), Allow("operator", operate=ALL, inspect=True)],
)
""",
)
"""The same app with API keys, and rules for operators."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `twofold` to its end."""
    return subprocess.run(
        [TWOFOLD, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def run_json(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the one line of JSON."""
    done = run(folder, *arguments, "--json")
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


@contextmanager
def running(folder: Path, *arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """`twofold`, going on; killed at the end if it still runs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": stdin}
    with subprocess.Popen([TWOFOLD, *arguments], cwd=folder, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`twofold serve app:app` in a folder, and where it said it is."""
    if not (folder / "app.py").exists():
        (folder / "app.py").write_text(APP)
    with running(folder, "serve", "app:app", "--port", "0", "--json", *arguments) as process:
        yield process, next_json(process)


def next_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the next line on standard output says."""
    line = next_line(process.stdout)
    envelope = json.loads(line)
    assert envelope["ok"], envelope
    data: dict[str, Any] = envelope["data"]
    return data


def next_line(pipe: Any) -> str:
    """The next line; fails where the process ended instead."""
    line: str = pipe.readline()
    assert line, "the process ended without another line"
    return line


def stop(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str, str]:
    """Send a signal and wait: exit code, and what was left on standard output and standard error."""
    process.send_signal(how)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err
