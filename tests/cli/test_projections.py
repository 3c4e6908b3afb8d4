"""`twofold projections`: how far what follows the log has come, read beside the app or without it."""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.command_line_helpers import APP, next_json, run, run_json, running, serving, stop
from tests.servers.postgres import Postgres, fresh_schema

STORES = ("--write-store", "sqlite:///data/log.db", "--read-store", "sqlite:///data/views.db")


def write(url: str, note: str, text: str = "hi") -> str:
    sent = httpx.post(f"{url}/commands/write-note", json={"note_id": note, "text": text})
    token: str = sent.raise_for_status().json()["token"]
    return token


def ask(url: str, note: str, token: str) -> None:
    """Return once the read model is as far as the token."""
    httpx.get(f"{url}/queries/note-by-id", params={"note_id": note, "position": token}).raise_for_status()


def overview(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code, said = run_json(folder, "projections", *options)
    assert said["ok"], said
    return code, said["data"]


def codes_of(seen: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in seen["health"]["problems"]]


def owners_of(seen: dict[str, Any]) -> list[str | None]:
    return [partition["owner"] for partition in seen["followers"][0]["partitions"]]


def test_checkpoints_are_told_beside_a_running_app_without_its_code(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        ask(at["url"], "n2", [write(at["url"], note) for note in ("n1", "n2")][-1])
        code, seen = overview(tmp_path)
        (pages,) = seen["followers"]
        assert (code, seen["head"], seen["health"]["level"]) == (0, 2, "ready")
        assert (pages["name"], pages["kind"], pages["position"], pages["lag"]) == ("pages", "projection", 2, 0)
        done = run(tmp_path, "projections")
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1].split() == "pages projection 1 2 0 0.0 s 0/s 0 ok".split()


def test_a_parked_key_is_shown_with_its_error_and_makes_the_exit_code_3(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        write(at["url"], "bad", "cannot be folded")
        # The note after it is answered only once the one before it is parked.
        ask(at["url"], "good", write(at["url"], "good"))
        code, seen = overview(tmp_path)
    (pages,) = seen["followers"]
    assert (code, seen["health"]["level"], pages["position"]) == (3, "degraded", 2)
    assert [(each["key"], each["position"], each["error"]) for each in pages["parked"]] == [
        ("bad", 1, "ValueError: not this one")
    ]
    done = run(tmp_path, "projections")
    assert done.returncode == 3
    assert "pages: bad is parked at position 1:\n  ValueError: not this one" in done.stdout


def test_what_stays_behind_the_log_is_not_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_STALL_SECONDS", "86400")
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        stop(process, signal.SIGTERM)
    writer_alone = APP.replace('projections=[Projection("pages", keep_page, key=NoteId)],', "")
    (tmp_path / "app.py").write_text(writer_alone.replace("queries=[note_by_id],", ""))
    with serving(tmp_path) as (process, at):
        write(at["url"], "n2")
        stop(process, signal.SIGTERM)
    code, seen = overview(tmp_path, "--max-lag", "0")
    (pages,) = seen["followers"]
    assert (code, pages["position"], pages["lag"], codes_of(seen)) == (3, 1, 1, ["behind"])
    assert pages["lag_seconds"] > 0
    assert overview(tmp_path, "--max-lag", "86400")[0] == 0
    monkeypatch.setenv("TWOFOLD_STALL_SECONDS", "0.2")
    code, seen = overview(tmp_path)
    assert (code, codes_of(seen)) == (3, ["stalled"])


def test_with_the_app_what_never_ran_is_shown_too_and_what_is_gone_is_not(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        stop(process, signal.SIGTERM)
    (tmp_path / "app.py").write_text(APP.replace('Projection("pages",', 'Projection("leaves",'))
    names = {each["name"]: each["position"] for each in overview(tmp_path, "app:app")[1]["followers"]}
    assert names == {"leaves": 0}
    assert [each["name"] for each in overview(tmp_path)[1]["followers"]] == ["pages"]


def operate(url: str, verb: str, **body: Any) -> Any:
    return httpx.post(f"{url}/projections/pages/{verb}", json=body).raise_for_status().json()


def until_built(folder: Path, *options: str) -> dict[str, Any]:
    """The one generation that does not serve, once it is at the head."""
    while True:
        _, seen = overview(folder, *options)
        if [each for each in seen["builds"] if each["lag"] == 0]:
            (build,) = seen["builds"]
            return dict(build)


def test_the_generation_that_serves_is_shown_and_those_that_are_built_or_kept_beside_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        operate(at["url"], "rebuild")
        built = until_built(tmp_path)
        assert (built["name"], built["generation"], built["state"], built["position"]) == ("pages", 2, "building", 1)
        assert overview(tmp_path)[1]["followers"][0]["generation"] == 1
        assert "pages  generation           2           1    0" in run(tmp_path, "projections").stdout
        operate(at["url"], "switch")
        for options in ([], ["app:app"]):
            _, seen = overview(tmp_path, *options)
            assert [each["generation"] for each in seen["followers"]] == [2]
            assert [(each["generation"], each["state"]) for each in seen["builds"]] == [(1, "standby")]
        operate(at["url"], "switch-back")
        assert overview(tmp_path)[1]["followers"][0]["generation"] == 1
        operate(at["url"], "drop")
        assert overview(tmp_path)[1]["builds"] == []


@pytest.mark.parametrize(
    ("parks", "reported"),
    [("key", "pages, generation 2: bad is parked at position 2:\n  "), ("partition", "bad fails at position 2: ")],
)
def test_what_a_build_has_parked_is_told_with_its_error(tmp_path: Path, parks: str, reported: str) -> None:
    (tmp_path / "app.py").write_text(APP.replace("key=NoteId)]", f'key=NoteId, parks="{parks}")]'))
    with serving(tmp_path) as (_, at):
        for note, text in (("good", "hi"), ("bad", "cannot be folded"), ("after", "hi")):
            write(at["url"], note, text)
        operate(at["url"], "rebuild")
        while not (seen := overview(tmp_path)[1])["builds"] or not seen["builds"][0]["parked_count"]:
            pass
        (build,) = seen["builds"]
        assert build["parked"][0]["error"] == "ValueError: not this one"
        assert (build["stopped"], "build-stopped" in codes_of(seen)) == ((parks == "partition"),) * 2
        assert f"{reported}ValueError: not this one" in run(tmp_path, "projections").stdout


def test_the_newest_version_is_shown_and_with_the_app_that_of_the_app(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        stop(process, signal.SIGTERM)
    (tmp_path / "app.py").write_text(APP.replace("key=NoteId)]", "key=NoteId, version=2)]"))
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n2"))
        stop(process, signal.SIGTERM)
    _, seen = overview(tmp_path)
    assert [(each["generation"], each["position"]) for each in seen["followers"]] == [(2, 2)]
    assert [(each["generation"], each["version"], each["state"]) for each in seen["builds"]] == [(1, 1, "serving")]
    (tmp_path / "app.py").write_text(APP)
    _, seen = overview(tmp_path, "app:app")
    assert [(each["generation"], each["position"]) for each in seen["followers"]] == [(1, 1)]


def test_an_objective_that_is_missed_is_told_where_the_app_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOFOLD_STALL_SECONDS", "86400")
    (tmp_path / "app.py").write_text(APP.replace("key=NoteId)]", "key=NoteId, freshness=0.001)]"))
    with serving(tmp_path) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        assert overview(tmp_path, "app:app")[0] == 0
        stop(process, signal.SIGTERM)
    writer_alone = APP.replace('projections=[Projection("pages", keep_page, key=NoteId)],', "")
    objective = (tmp_path / "app.py").read_text()
    (tmp_path / "app.py").write_text(writer_alone.replace("queries=[note_by_id],", ""))
    with serving(tmp_path) as (process, at):
        write(at["url"], "n2")
        stop(process, signal.SIGTERM)
    (tmp_path / "app.py").write_text(objective)
    code, seen = overview(tmp_path, "app:app")
    (pages,) = seen["followers"]
    assert (code, pages["freshness"], codes_of(seen)) == (3, 0.001, ["objective-missed"])


def test_a_halted_partition_is_told_and_what_it_waits_behind(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("key=NoteId)]", 'key=NoteId, parks="partition")]'))
    with serving(tmp_path) as (_, at):
        write(at["url"], "good")
        write(at["url"], "bad", "cannot be folded")
        write(at["url"], "after")
        while not (seen := overview(tmp_path))[1]["followers"][0]["parked"]:
            pass
        code, (pages,) = seen[0], seen[1]["followers"]
        assert (code, pages["position"], pages["lag"]) == (3, 1, 2)
        (problem,) = seen[1]["health"]["problems"]
        assert problem["message"] == "projection 'pages' has stopped at position 1: ValueError: not this one"
        done = run(tmp_path, "parked", "skip", "pages", "bad", "--url", at["url"])
        assert (done.returncode, done.stdout) == (0, "The event at 2 is skipped.\n")
        while (pages := overview(tmp_path)[1]["followers"][0])["lag"]:
            pass
        assert (pages["position"], pages["state"], pages["parked"]) == (3, "up-to-date", [])


def test_the_node_that_follows_is_named_where_there_may_be_several(postgres: Postgres, tmp_path: Path) -> None:
    write_store = ["--write-store", f"{postgres.dsn}?schema={fresh_schema()}"]
    assert run(tmp_path, "migrate", *write_store).returncode == 0
    with serving(tmp_path, *write_store) as (process, at):
        ask(at["url"], "n1", write(at["url"], "n1"))
        _, seen = overview(tmp_path, *write_store)
        (owner,) = owners_of(seen)
        assert owner is not None
        assert owner.endswith(f":{process.pid}")
        operate(at["url"], "split", partition="0-4096")
        # The partitions are taken in the next look of the node.
        while not all(each["owner"] for each in overview(tmp_path, *write_store)[1]["followers"][0]["partitions"]):
            pass
        lines = run(tmp_path, "projections", *write_store).stdout.splitlines()
        assert [line.split()[-1] for line in lines if " partition " in line] == [owner] * 2
        stop(process, signal.SIGTERM)
    assert owners_of(overview(tmp_path, *write_store)[1]) == [None, None]


def test_watching_looks_again_until_interrupted(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, at), running(tmp_path, "projections", "--watch", "--json", *STORES) as watching:
        assert next_json(watching)["head"] == 0
        ask(at["url"], "n1", write(at["url"], "n1"))
        while (seen := next_json(watching))["head"] == 0:
            pass
        while seen["followers"][0]["position"] != 1:
            seen = next_json(watching)
        assert stop(watching, signal.SIGINT)[0] == 130


@pytest.mark.parametrize(
    ("options", "code", "cure"),
    [
        ([], 4, "data/log.db. Start the app that writes it first"),
        (["--read-store", "memory:"], 2, "exists only inside its process"),
        (["--max-lag", "nan"], 2, "not a finite number"),
        (["--max-lag", "-1"], 2, "-1"),
        (["nothing"], 2, "Write MODULE:APP"),
    ],
)
def test_wrong_usage_is_reported_with_what_to_do(tmp_path: Path, options: list[str], code: int, cure: str) -> None:
    got, said = run_json(tmp_path, "projections", *options)
    assert (got, said["ok"]) == (code, False)
    assert cure in said["error"]["message"]
