"""`twofold parked` and `twofold partitions`: what operators do, in the stores or through a running app."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.command_line_helpers import APP, run, run_json, serving, stop
from tests.cli.test_projections import ask, overview, write
from tests.servers.server import wait_until

CARELESS = APP.replace(
    'if event.text == "cannot be folded":', 'if event.text == "cannot be folded" and not repaired():'
)
CARELESS = CARELESS.replace(
    "class Page(Struct",
    "from pathlib import Path\n\ndef repaired() -> bool:\n    return Path('repaired').exists()\n\nclass Page(Struct",
)
"""An app whose fold is fixed by a file while it runs."""


def park(folder: Path, url: str) -> None:
    """Park one key, and do not park another."""
    write(url, "bad", "cannot be folded")
    ask(url, "good", write(url, "good"))


def note(url: str, name: str) -> Any:
    return httpx.get(f"{url}/queries/note-by-id", params={"note_id": name}).raise_for_status().json()["answer"]


def keys_parked(folder: Path) -> list[str]:
    (pages,) = overview(folder)[1]["followers"]
    return [each["key"] for each in pages["parked"]]


def acts(folder: Path) -> list[tuple[str, str, bool]]:
    reported = run_json(folder, "projections", "--actions")[1]["data"]["actions"]
    return [(each["what"], each["key"], each["done"]) for each in reported]


def test_a_running_app_retries_until_the_cause_is_fixed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CARELESS)
    with serving(tmp_path) as (_, at):
        park(tmp_path, at["url"])
        code, said = run_json(tmp_path, "parked", "retry", "pages", "bad", "--url", at["url"])
        assert (code, said["ok"]) == (3, True)
        assert said["data"]["parked"] == "It is parked at position 1: ValueError: not this one"
        (tmp_path / "repaired").touch()
        done = run(tmp_path, "parked", "retry", "pages", "bad", "--url", at["url"])
        assert (done.returncode, done.stdout) == (0, "It is up to date.\n")
        assert note(at["url"], "bad") == {"note_id": "bad", "text": "cannot be folded"}
        assert keys_parked(tmp_path) == []
        assert acts(tmp_path) == [("retry", "bad", True), ("retry", "bad", True)]


def test_a_running_app_skips_an_event_and_it_stays_skipped(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        park(tmp_path, at["url"])
        other = run(tmp_path, "parked", "skip", "pages", "bad", "--at", "2", "--url", at["url"])
        assert other.returncode != 0
        assert "'bad' is parked at 1 now, not at 2. Nothing is skipped" in other.stderr
        assert run(tmp_path, "parked", "retry", "pages", "bad", "--at", "1", "--url", at["url"]).returncode == 2
        code, said = run_json(tmp_path, "parked", "skip", "pages", "bad", "--at", "1", "--url", at["url"])
        assert (code, said["data"]["outcome"]) == (0, "The event at 1 is skipped.")
        assert keys_parked(tmp_path) == []
        stop(process, signal.SIGTERM)
    with serving(tmp_path) as (_, at):
        ask(at["url"], "later", write(at["url"], "later"))
        assert keys_parked(tmp_path) == []
        assert note(at["url"], "bad") is None


def test_stores_without_a_running_app_are_opened_and_the_user_is_recorded(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        park(tmp_path, at["url"])
        stop(process, signal.SIGTERM)
    again = run(tmp_path, "parked", "retry", "app:app", "pages", "bad")
    assert again.returncode == 3
    assert "It is parked at position 1: ValueError: not this one" in again.stdout
    done = run(tmp_path, "parked", "skip", "app:app", "pages", "bad")
    assert (done.returncode, done.stdout) == (0, "The event at 1 is skipped.\n")
    assert keys_parked(tmp_path) == []
    reported = run_json(tmp_path, "projections", "--actions")[1]["data"]["actions"]
    assert [each["what"] for each in reported] == ["retry", "skip"]
    assert {bool(each["actor"]) for each in reported} == {True}
    shown = run(tmp_path, "projections", "--actions").stdout.splitlines()
    assert shown[0].split() == "time (UTC) action name key or partition user outcome".split()
    assert "skip" in shown[2] and "The event at 1 is skipped." in shown[2]


def test_an_error_about_a_file_that_a_running_app_holds_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _):
        for command in (["parked", "retry", "app:app", "pages", "bad"], ["partitions", "split", "app:app", "pages"]):
            code, said = run_json(tmp_path, *command)
            assert (code, said["error"]["kind"]) == (2, "wiring-error")
            assert f"pid {process.pid}" in said["error"]["message"]
            assert "add --url http://" in said["error"]["message"]


def test_what_is_not_parked_is_refused_naming_the_field(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        write(at["url"], "good")
        code, said = run_json(tmp_path, "parked", "retry", "pages", "good", "--url", at["url"])
        assert (code, said["error"]["kind"], said["error"]["field"]) == (2, "invalid-message", "key")
        code, said = run_json(tmp_path, "parked", "skip", "leaves", "good", "--url", at["url"])
        assert (code, said["error"]["kind"]) == (2, "unknown-message")
        stop(process, signal.SIGTERM)
    code, said = run_json(tmp_path, "parked", "retry", "app:app", "pages", "good")
    assert (code, said["error"]["kind"], said["error"]["field"]) == (2, "invalid-message", "key")
    code, said = run_json(tmp_path, "parked", "retry", "app:app", "leaves", "good")
    assert (code, said["error"]["message"]) == (2, "There is no follower 'leaves'. There are: pages.")


def test_partitions_are_split_and_merged_through_a_running_app_or_in_the_stores(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        write(at["url"], "n1")
        done = run(tmp_path, "partitions", "split", "pages", "--url", at["url"])
        assert (done.returncode, done.stdout) == (0, "Split into 0-2048 and 2048-4096.\n")
        run(tmp_path, "partitions", "split", "pages", "0-2048", "--url", at["url"])
        lines = [line.split() for line in run(tmp_path, "projections").stdout.splitlines()]
        assert [line[0] for line in lines if "partition" in line] == ["0-1024", "1024-2048", "2048-4096"]
        code, said = run_json(tmp_path, "partitions", "split", "pages", "--url", at["url"])
        assert (code, said["error"]["field"]) == (2, "partition")
        assert "It has: 0-1024, 1024-2048, 2048-4096." in said["error"]["message"]
        stop(process, signal.SIGTERM)
    code, said = run_json(tmp_path, "partitions", "merge", "app:app", "pages", "0-1024")
    assert (code, said["data"]["outcome"]) == (0, "Merged into 0-2048.")
    code, said = run_json(tmp_path, "partitions", "merge", "app:app", "pages", "2048-4096")
    assert (code, said["error"]["message"]) == (2, "There is no partition after this one.")
    (pages,) = overview(tmp_path)[1]["followers"]
    assert [each["partition"] for each in pages["partitions"]] == ["0-2048", "2048-4096"]


MAILS = APP.replace(
    "notes = Module(",
    """
from pathlib import Path
from twofold import Policy

async def mail(event: NoteWritten) -> None:
    if event.text == "no mail" and not Path("repaired").exists():
        raise ValueError("no mail today")
    with open("sent", "a") as file:
        print(event.note_id, file=file)

notes = Module(""",
).replace("    queries=", "    policies=[Policy('mail', mail, key=NoteId)],\n    queries=")
"""An app with effects outside, each of them a line in a file."""


def test_an_action_on_one_event_of_a_policy_does_not_touch_the_others(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MAILS)
    with serving(tmp_path) as (process, at):
        for name, text in (("n1", "hello"), ("n2", "no mail"), ("n3", "no mail"), ("n4", "no mail"), ("n5", "bye")):
            ask(at["url"], name, write(at["url"], name, text))
        wait_until(lambda: sent(tmp_path) == ["n1", "n5"], "mails")
        wait_until(lambda: parked_count(at["url"], "mail") == 3, "the three that fail are parked")
        stop(process, signal.SIGTERM)
    (tmp_path / "repaired").touch()
    done = run(tmp_path, "parked", "skip", "app:app", "mail", "note:n2")
    assert (done.returncode, done.stdout) == (0, "The event at 2 is skipped.\n")
    assert sent(tmp_path) == ["n1", "n5"]
    done = run(tmp_path, "parked", "retry", "app:app", "mail", "note:n4")
    assert (done.returncode, done.stdout) == (0, "It is done.\n")
    assert sent(tmp_path) == ["n1", "n5", "n4"]
    with serving(tmp_path):
        wait_until(lambda: sent(tmp_path) == ["n1", "n5", "n4", "n3"], "mails")


def parked_count(url: str, name: str) -> int:
    followers = httpx.get(f"{url}/status").json()["followers"]
    return int(next(each["parked_count"] for each in followers if each["name"] == name))


def sent(folder: Path) -> list[str]:
    return (folder / "sent").read_text().split() if (folder / "sent").exists() else []


def test_an_event_that_can_be_folded_by_now_is_not_skipped_in_the_stores_either(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CARELESS)
    with serving(tmp_path) as (process, at):
        park(tmp_path, at["url"])
        stop(process, signal.SIGTERM)
    (tmp_path / "repaired").touch()
    done = run(tmp_path, "parked", "skip", "app:app", "pages", "bad")
    assert done.returncode == 2
    assert "Nothing was skipped, because the event at 1 can be folded now. It is up to date." in done.stderr
    assert keys_parked(tmp_path) == []


def test_log_messages_are_printed_in_lines_that_cannot_control_a_terminal(tmp_path: Path) -> None:
    loud = APP.replace('"not this one"', 'f"not \\x1b[31mthis\\none"')
    assert loud != APP
    (tmp_path / "app.py").write_text(loud)
    with serving(tmp_path) as (process, at):
        park(tmp_path, at["url"])
        stop(process, signal.SIGTERM)
    again = run(tmp_path, "rebuild", "app:app", "pages")
    assert "Traceback" not in again.stderr and "\x1b" not in again.stderr
    reported = [line for line in again.stderr.splitlines() if line.startswith("ERROR: ")]
    assert [line for line in reported if line.startswith("ERROR: pages failed at position 1: ")]
    assert all(line.endswith(r"ValueError: not \x1b[31mthis\none") for line in reported)


@pytest.mark.parametrize(
    ("arguments", "code", "cure"),
    [
        (["parked", "retry", "pages", "bad"], 2, "Write MODULE:APP NAME KEY"),
        (["parked", "forget", "app:app", "pages", "bad"], 2, "'retry', 'skip'"),
        (["parked", "skip", "app:app", "pages", "a", "b"], 2, "Write MODULE:APP NAME KEY"),
        (
            ["parked", "retry", "app:app", "pages", "bad", "--write-store", "memory:"],
            2,
            "exists only inside its process",
        ),
        (["parked", "retry", "pages", "bad", "--url", "127.0.0.1:8000"], 2, "http://HOST:PORT"),
        (["parked", "retry", "pages", "bad", "--url", "http://127.0.0.1:9"], 4, "does not answer"),
        (["partitions", "split"], 2, "Write MODULE:APP NAME PARTITION"),
        (["partitions", "merge", "app:app", "pages"], 2, "Name the partition"),
        (["partitions", "split", "app:app", "pages", "half"], 2, "Write MODULE:APP NAME PARTITION"),
    ],
)
def test_wrong_usage_is_reported_with_what_to_do(tmp_path: Path, arguments: list[str], code: int, cure: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    got, said = run_json(tmp_path, *arguments)
    assert (got, said["ok"]) == (code, False), json.dumps(said)
    assert cure in said["error"]["message"]


def test_an_event_without_a_usable_key_is_skipped_by_its_position(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("key=NoteId", "key=lambda event: event.text"))
    with serving(tmp_path) as (_, at):
        write(at["url"], "long", "x" * 1_100)
        write(at["url"], "good")
        wait_until(lambda: keys_parked(tmp_path) == ["parked:1"], "parked")
        listed = run(tmp_path, "projections")
        assert listed.returncode == 3
        assert "pages: parked:1 is parked at position 1:" in listed.stdout
        assert "a row key must have 1 to 1024 characters, not 1100" in listed.stdout
        again = run(tmp_path, "parked", "retry", "pages", "parked:1", "--url", at["url"])
        assert again.returncode == 3
        (record,) = httpx.get(f"{at['url']}/projections/pages/parked", params={"key": "parked:1"}).json()["parked"]
        assert record["position"] == 1
        done = run(tmp_path, "parked", "skip", "pages", "parked:1", "--url", at["url"])
        assert (done.returncode, done.stdout) == (0, "The event at 1 is skipped.\n")
        assert keys_parked(tmp_path) == []
        assert acts(tmp_path) == [("retry", "parked:1", True), ("skip", "parked:1", True)]
