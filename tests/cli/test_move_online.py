"""`twofold move` beside a running `serve`: it moves its log, and a copy is kept and taken into use."""

import json
import signal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.cli.command_line_helpers import next_line, run, run_json, running, serving, stop

STORES = ("--write-store", "sqlite:///log.db", "--read-store", "sqlite:///views.db")


def post(url: str, path: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
    with urlopen(Request(f"{url}{path}", json.dumps(body).encode(), headers)) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def write(url: str, number: int) -> dict[str, Any]:
    return post(url, "/commands/write-note", {"note_id": f"n{number}", "text": "hello"}, f"c{number}")


def test_a_running_serve_moves_its_log_and_the_next_one_starts_at_the_new_place(tmp_path: Path) -> None:
    with serving(tmp_path, *STORES) as (process, data):
        url = data["url"]
        for number in range(5):
            write(url, number)
        code, moved = run_json(tmp_path, "move", "--to", "sqlite:///new.db", "--url", url)
        status = moved["data"]
        assert (code, status["state"], status["place"]) == (0, "moved", f"sqlite:///{tmp_path}/new.db")
        assert (status["position"], status["pause_seconds"] > 0) == (5, True)
        assert write(url, 5)["position"] == 6
        assert write(url, 0)["repeated"]
        with urlopen(f"{url}/log") as answer:
            report = json.load(answer)
        assert (report["place"], report["epoch"], report["head"]) == (f"sqlite:///{tmp_path}/new.db", 2, 6)
        assert report["move"] == status
        busy = run(
            tmp_path, "parked", "retry", "app:app", "pages", "k", "--write-store", "sqlite:///new.db", *STORES[2:]
        )
        assert f"--url {url}" in busy.stderr, busy.stderr
        stop(process, signal.SIGTERM)
    old = run(tmp_path, "serve", "app:app", "--port", "0", *STORES)
    assert (old.returncode, f"was moved to sqlite:///{tmp_path}/new.db" in old.stderr) == (2, True), old.stderr
    with serving(tmp_path, "--write-store", "sqlite:///new.db", "--read-store", "sqlite:///views.db") as (_, data):
        assert write(data["url"], 5)["repeated"]
        assert write(data["url"], 6)["position"] == 7
        refused = run(tmp_path, "move", "--to", "sqlite:///log.db", "--url", data["url"], "--json")
        assert json.loads(refused.stdout)["data"]["state"] == "moved", "it moves back to where it was"


def test_a_serve_that_cannot_move_its_log_says_why(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("something else")
    with serving(tmp_path, *STORES) as (_, data):
        write(data["url"], 1)
        code, failed = run_json(tmp_path, "move", "--to", "sqlite:///other.db", "--url", data["url"])
        assert code in (2, 4), failed
        assert "other.db" in failed["error"]["message"]
        assert write(data["url"], 2)["position"] == 2


def test_a_copy_that_was_kept_is_taken_into_use_where_the_log_is_lost(tmp_path: Path) -> None:
    copy = ("--to", "sqlite:///copy.db")
    with serving(tmp_path, *STORES) as (process, data):
        write(data["url"], 1)
        with running(tmp_path, "move", "--from", "sqlite:///log.db", *copy, "--follow") as following:
            assert "complete up to position 1, and follows the log" in next_line(following.stdout)
            early = run(tmp_path, "log", "--write-store", "sqlite:///copy.db")
            assert (early.returncode, "a copy that is not complete" in early.stderr) == (2, True), early.stderr
            for number in range(2, 30):
                write(data["url"], number)
            code, out, _ = stop(following, signal.SIGTERM)
            assert (code, out.startswith("Stopped. The copy has the log up to position ")) == (0, True), out
        with running(tmp_path, "move", "--from", "sqlite:///log.db", *copy, "--follow") as following:
            assert "complete up to position 29" in next_line(following.stdout)
            following.kill()
        process.kill()
    (tmp_path / "log.db").unlink()
    code, done = run_json(tmp_path, "move", *copy, "--complete")
    assert (code, done["data"]["epoch"], done["data"]["head"]) == (0, 2, 29)
    again = run(tmp_path, "move", *copy, "--complete")
    assert (again.returncode, "is not a copy that is to be completed" in again.stderr) == (2, True)
    with serving(tmp_path, "--write-store", "sqlite:///copy.db", "--read-store", "sqlite:///views.db") as (_, data):
        assert write(data["url"], 29)["repeated"]
        assert write(data["url"], 30)["position"] == 30


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ((), "Name the log with --from"),
        (("--from", "sqlite:///a.db", "--complete"), "--from has no effect with --complete"),
        (("--follow", "--complete"), "are different things"),
        (("--url", "http://127.0.0.1:1", "--follow"), "are different things"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...], cure: str, tmp_path: Path) -> None:
    done = run(tmp_path, "move", "--to", "sqlite:///b.db", *arguments)
    assert (done.returncode, cure in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "b.db").exists()
