"""`twofold log`: the events as they are kept, read beside the process that writes them."""

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import APP, TWOFOLD, next_json, next_line, run, run_json, running, serving, stop


def write(url: str, *notes: str) -> None:
    for note in notes:
        sent = httpx.post(f"{url}/commands/write-note", json={"note_id": note, "text": f"text of {note}"})
        sent.raise_for_status()


@pytest.fixture(scope="module")
def url_and_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running `serve` whose log holds n1 to n12, and its folder."""
    folder = tmp_path_factory.mktemp("log")
    with serving(folder) as (_, at):
        write(at["url"], *(f"n{i}" for i in range(1, 13)))
        yield at["url"], folder


@pytest.fixture
def folder(url_and_folder: tuple[str, Path]) -> Path:
    return url_and_folder[1]


def test_events_stand_in_columns_with_their_payload(folder: Path) -> None:
    done = run(folder, "log", "--limit", "2")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    position, _, _, kind, tag, payload = first.split(maxsplit=5)
    assert (position, kind, tag) == ("1", "note-written", "note:n1")
    assert json.loads(payload) == {"note_id": "n1", "text": "text of n1"}
    assert second.index("note-written") == first.index("note-written")
    assert "Go on with --after 2." in done.stderr


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        (["--after", "10"], [11, 12]),
        (["--after", "3", "--limit", "2"], [4, 5]),
        (["--tag", "note:n7"], [7]),
        (["--tag", "note:n7", "--tag", "note:n8"], []),
        (["--type", "note-written", "--type", "other", "--after", "11"], [12]),
        (["--type", "other"], []),
        (["--after", "99"], []),
    ],
)
def test_filters_choose_what_is_shown(folder: Path, options: list[str], positions: list[int]) -> None:
    done = run(folder, "log", *options, "--json")
    *events, end = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    assert (done.returncode, [event["position"] for event in events]) == (0, positions)
    assert (end["events"], end["head"]) == (len(positions), 12)


def test_a_type_that_was_never_stored_is_named_with_a_suggestion(folder: Path) -> None:
    done = run(folder, "log", "--type", "NoteWritten")
    assert "No event of type NoteWritten is stored yet. Did you mean note-written?" in done.stderr


def test_following_starts_with_the_recent_past_and_sees_what_comes(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        write(at["url"], *(f"n{i}" for i in range(1, 13)))
        with running(tmp_path, "log", "--follow", "--json") as following:
            assert [next_json(following)["position"] for _ in range(10)] == list(range(3, 13))
            write(at["url"], "n13")
            new = next_json(following)
            assert (new["position"], new["data"]["note_id"]) == (13, "n13")
            assert stop(following, signal.SIGINT) == (130, "", "\n")
        with running(tmp_path, "log", "-f", "--tag", "note:n15", "--after", "0", "--limit", "1") as following:
            write(at["url"], "n14", "n15")
            assert "note:n15" in next_line(following.stdout)
            assert following.wait(30) == 0


def test_characters_that_control_a_terminal_are_escaped(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        text = "\x9b31m red \u202e right to left"
        httpx.post(f"{at['url']}/commands/write-note", json={"note_id": "n", "text": text}).raise_for_status()
        (line,) = run(tmp_path, "log").stdout.splitlines()
    assert "\\x9b31m red \\u202e right to left" in line
    assert line.isprintable()


def test_a_payload_that_is_not_json_is_shown_as_text_and_said_to_be_damaged(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        write(at["url"], "n1", "n2", "n3")
        stop(process, signal.SIGTERM)
    with sqlite3.connect(tmp_path / "data" / "log.db") as log:
        log.execute("update events set payload = ? where position = 2", (b'{"{\xff',))
    log.close()
    done = run(tmp_path, "log", "--json")
    first, damaged, third, _ = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    assert (done.returncode, first["position"], third["position"]) == (0, 1, 3)
    assert (damaged["position"], damaged["type"], damaged["payload"]) == (2, "note-written", '{"{\\xff')
    assert "its payload is not JSON" in damaged["damage"]
    assert "its payload is not JSON" in run(tmp_path, "log").stdout.splitlines()[1]


def test_the_reader_of_the_output_may_stop_reading(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{TWOFOLD}' log --follow --after 0 | true"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "code", "kind", "field", "cure"),
    [
        (["--write-store", "sqlite:///none.db"], 4, "unavailable", None, "Start the app that writes it first"),
        (["--write-store", "log.db"], 2, "wiring-error", None, "sqlite:///relative/path.db"),
        (["--write-store", "memory:"], 2, "usage", "--write-store", "exists only inside its process"),
        (["--write-store", "sqlite:///data/views.db"], 2, "wiring-error", None, "lacks the tables of a log"),
        (["--write-store", "sqlite:///app.py"], 4, "unavailable", None, "not a database"),
        (["--tag", "n7"], 2, "usage", "--tag", "KIND:VALUE"),
        (["--tag", ":n7"], 2, "usage", "--tag", "KIND:VALUE"),
        (["--after", "-1"], 2, "usage", "--after", "-1"),
        (["--limit", "0"], 2, "usage", "--limit", "0"),
        (["--limit", "many"], 2, "usage", "--limit", "many"),
        (["--no-such"], 2, "usage", "--no-such", "No such option"),
    ],
)
def test_wrong_usage_is_reported_with_the_option_and_what_to_do(
    folder: Path, options: list[str], code: int, kind: str, field: str | None, cure: str
) -> None:
    got, said = run_json(folder, "log", *options)
    assert (got, said["ok"], said["error"]["kind"], said["error"]["field"]) == (code, False, kind, field)
    assert cure in said["error"]["message"]


def test_another_store_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(tmp_path, "--write-store", "sqlite:///else/where.db") as (_, at):
        write(at["url"], "n1")
        done = run(tmp_path, "log", "--write-store", "sqlite:///else/where.db")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
