"""Logs: one line for each record whatever is in it, as text or JSON, with as much as was asked for."""

import json
import logging
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.command_line_helpers import APP, run, serving, stop
from twofold.cli.log_handler import json_line, text_lines

FORGED = "fine\nERROR forged: \x1b[2J\u2028\r2026"
BROKEN = (
    APP
    + """
import logging

logging.getLogger("shop").info("starting %s", "up")
logging.getLogger("shop").warning("odd\\nERROR forged: %s", "\\x1b[2J")
"""
)


def record(message: str, error: str | None = None, **more: Any) -> logging.LogRecord:
    info = None
    if error is not None:
        try:
            raise ValueError(error)
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("shop", logging.ERROR, __file__, 1, "%s", (message,), info)
    vars(made).update(more)
    return made


@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("error", [None, FORGED])
def test_a_text_cannot_forge_a_line_or_control_a_terminal(long: bool, error: str | None) -> None:
    lines = text_lines(record(FORGED, error), long=long).split("\n")
    assert all(line.isprintable() for line in lines)
    assert re.match(r"\S+Z ERROR shop: fine|ERROR: fine", lines[0])
    assert all(line.startswith("  | ") for line in lines[1:])
    assert (len(lines) > 1) is (long and error is not None)


@pytest.mark.parametrize("error", [None, FORGED])
def test_a_json_record_is_one_line_with_all_of_its_parts(error: str | None) -> None:
    line = json_line(record(FORGED, error))
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("error", "shop", FORGED)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["time"])
    assert ("error" in fields) is (error is not None)
    if error is not None:
        assert (fields["error"]["type"], fields["error"]["message"]) == ("ValueError", error)
        assert "Traceback" in fields["error"]["traceback"]


def test_a_level_and_a_form_are_chosen_for_every_command(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BROKEN)
    done = run(tmp_path, "migrate", "--log-level", "info")
    assert done.returncode == 0
    quiet = run(tmp_path, "rebuild", "app:app", "nothing")
    assert "starting up" not in quiet.stderr
    assert "WARNING: odd\\nERROR forged: \\x1b[2J" in quiet.stderr.splitlines()
    loud = run(tmp_path, "rebuild", "app:app", "nothing", "--log-level", "info", "--log-format", "json")
    shown = [json.loads(line) for line in loud.stderr.splitlines() if line.startswith("{")]
    assert [(each["level"], each["message"]) for each in shown if each["logger"] == "shop"] == [
        ("info", "starting up"),
        ("warning", "odd\nERROR forged: \x1b[2J"),
    ]


def test_the_environment_chooses_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(BROKEN)
    monkeypatch.setenv("TWOFOLD_LOG_LEVEL", "error")
    assert "odd" not in run(tmp_path, "rebuild", "app:app", "nothing").stderr
    monkeypatch.setenv("TWOFOLD_LOG_LEVEL", "loud")
    refused = run(tmp_path, "rebuild", "app:app", "nothing")
    assert (refused.returncode, "'loud'" in refused.stderr) == (2, True)


def test_the_access_log_has_each_request_without_its_query_and_its_bodies(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(tmp_path, "--access-log", "--log-format", "json") as (process, at):
        with httpx.Client(base_url=at["url"]) as client:
            client.post("/commands/write-note", json={"note_id": "n1", "text": "private"}).raise_for_status()
            answer = client.get("/queries/note-by-id", params={"note_id": "n1"})
            assert client.get("/nothing").status_code == 404
        code, _, errors = stop(process, signal.SIGTERM)
    requests = [json.loads(line)["request"] for line in errors.splitlines()]
    assert code == 0
    assert [(each["method"], each["path"], each["status"]) for each in requests] == [
        ("POST", "/commands/write-note", 200),
        ("GET", "/queries/note-by-id", 200),
        ("GET", "/nothing", 404),
    ]
    assert requests[1]["bytes"] == len(answer.content)
    assert all(each["seconds"] > 0 and each["caller"] == "-" and each["client"] == "127.0.0.1" for each in requests)
    assert "private" not in errors and "note_id" not in errors


def test_without_it_requests_are_not_logged(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(tmp_path) as (process, at):
        httpx.get(f"{at['url']}/nothing")
        assert stop(process, signal.SIGTERM) == (0, "", "")


def test_a_path_cannot_forge_a_line_of_the_access_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(tmp_path, "--access-log") as (process, at):
        httpx.get(f"{at['url']}/%0AERROR%1b")
        code, _, errors = stop(process, signal.SIGTERM)
    assert code == 0
    assert len(errors.splitlines()) == 1
    assert re.search(
        r"Z INFO twofold\.access: GET /%0AERROR%1[bB] 404 \S+ s \d+ bytes 127\.0\.0\.1 '-'$", errors.strip()
    )
