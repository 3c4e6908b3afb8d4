"""`twofold check` before a deployment, and `twofold doctor` for what runs: both say what to do."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import APP, run, serving, stop
from twofold.cli.doctor_command import ADVICE, MOST_OFFSET, _clock
from twofold.health import Level

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
RENAMED = APP.replace("class NoteWritten", "class NoteTaken").replace("NoteWritten", "NoteTaken")


def outcomes(text: str) -> dict[str, str]:
    return {each["check"]: each["outcome"] for each in json.loads(text)["data"]["findings"]}


def test_an_app_is_checked_before_it_ever_ran_and_after(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    before = run(tmp_path, "check", "app:app", "--json")
    assert before.returncode == 0, before.stderr
    assert outcomes(before.stdout)["write_store"] == "warning"
    assert not (tmp_path / "data").exists()
    with serving(tmp_path) as (process, at):
        httpx.post(f"{at['url']}/commands/write-note", json={"note_id": "n1", "text": "hi"}).raise_for_status()
        beside = run(tmp_path, "check", "app:app", "--json")
        assert set(outcomes(beside.stdout).values()) == {"ok"}, beside.stdout
        stop(process, signal.SIGTERM)
    after = run(tmp_path, "check", "app:app", "--json")
    assert after.returncode == 0
    assert outcomes(after.stdout) == dict.fromkeys(
        ["wiring", "http", "versions", "write_store", "event_types", "events", "read_store"], "ok"
    )


def test_code_that_cannot_read_the_log_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(tmp_path) as (process, at):
        httpx.post(f"{at['url']}/commands/write-note", json={"note_id": "n1", "text": "hi"}).raise_for_status()
        stop(process, signal.SIGTERM)
    assert RENAMED != APP
    (tmp_path / "app.py").write_text(RENAMED)
    renamed = run(tmp_path, "check", "app:app")
    assert renamed.returncode == 3
    assert re.search(r"problem +write_store .*no module lists an event of that name", renamed.stdout)
    (tmp_path / "app.py").write_text(APP.replace("    text: str", "    text: str\n    length: int"))
    field = run(tmp_path, "check", "app:app")
    assert field.returncode == 3
    assert re.search(r"problem +events .*cannot read the event at 1", field.stdout)
    assert run(tmp_path, "check", "app:app", "--no-stores").returncode == 0


def test_a_store_that_is_away_is_not_a_problem_of_the_app(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = run(tmp_path, "check", "app:app", "--json", "--write-store", "postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 4
    assert outcomes(done.stdout)["write_store"] == "unavailable"


def test_a_wrong_module_ends_the_check(tmp_path: Path) -> None:
    assert run(tmp_path, "check", "nothing:app").returncode == 2


def test_a_healthy_system_gets_no_advice(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        done = run(tmp_path, "doctor", "--url", at["url"], "--json")
        diagnoses = json.loads(done.stdout)["data"]["diagnoses"]
        assert done.returncode == 0, done.stdout
        assert {each["level"] for each in diagnoses} == {"ready"}
        assert [each for each in diagnoses if each["advice"]] == []
        assert {"clock", "version", "health"} <= {each["check"] for each in diagnoses}


def test_a_problem_is_shown_with_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        name = "pages"
        httpx.post(f"{at['url']}/projections/{name}/pause", json={"reason": "a test"}).raise_for_status()
        done = run(tmp_path, "doctor", "--url", at["url"])
        assert done.returncode == 3
        assert re.search(rf"degraded  paused: {name}: .*a test.*\n    Run `twofold resume`", done.stdout)


def test_a_system_that_is_away_is_reported(tmp_path: Path) -> None:
    assert run(tmp_path, "doctor", "--url", "http://127.0.0.1:1").returncode == 4


def test_every_documented_problem_has_its_advice() -> None:
    page = (ROOT / "docs/reference/http.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `([a-z-]+)` \| `(?:degraded|not_ready)`", page, re.MULTILINE))
    assert documented == ADVICE.keys()


@pytest.mark.parametrize(
    ("there", "level"),
    [
        (timedelta(0), "ready"),
        (timedelta(seconds=MOST_OFFSET), "ready"),
        (timedelta(seconds=MOST_OFFSET + 2), "degraded"),
        (timedelta(seconds=-MOST_OFFSET - 2), "degraded"),
        (timedelta(hours=-1), "degraded"),
    ],
)
def test_clocks_that_differ_are_noticed(there: timedelta, level: Level) -> None:
    date = (NOW + there).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert _clock(date, NOW, NOW).level == level


def test_a_slow_answer_is_no_difference_of_clocks() -> None:
    date = (NOW + timedelta(seconds=30)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert _clock(date, NOW, NOW + timedelta(seconds=60)).level == "ready"


def test_roles_that_cannot_work_on_the_stores_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.setenv("TWOFOLD_ROLES", "query,console")
    checked = run(tmp_path, "check", "app:app")
    assert checked.returncode == 3
    assert re.search(r"problem +roles .*Give the role `console` to the process", checked.stdout)
    monkeypatch.setenv("TWOFOLD_ROLES", "query")
    assert run(tmp_path, "check", "app:app").returncode == 0
