"""`twofold rebuild`, killed again and again: it goes on where it was, and what serves answers all the time."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from tests.cli.command_line_helpers import APP, TWOFOLD, run, run_json, serving
from tests.cli.test_rebuild import WRITES
from tests.servers.postgres import Postgres, fresh_schema
from tests.write_store.postgres_helpers import fresh_log
from twofold.stores import open_read_store
from twofold.world import RealWorld

NOTES = 10_000
KILLS = 10


def killed(folder: Path, random: Random) -> None:
    """Begin a rebuild, or go on with one, and kill it at some moment of its life."""
    with subprocess.Popen(
        [TWOFOLD, "rebuild", "app:app", "pages"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        if random.random() < 0.7:
            # It has reported how far it is; else it is killed while it starts.
            process.stderr.readline()
        time.sleep(random.uniform(0, 0.08))
        process.kill()


def to_the_end(folder: Path) -> dict[str, Any]:
    """Go on until it serves. Whether it did already, when it was killed, is said."""
    code, said = run_json(folder, "rebuild", "app:app", "pages")
    if code:
        assert "still on standby" in said["error"]["message"], said
        return {"killed behind the switch": True}
    (done,) = said["data"]
    assert done["serves"]
    assert done["comparison"]["rows"] == done["comparison"]["equal"] >= NOTES
    return {"killed behind the switch": False}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.setenv("TWOFOLD_CATCH_UP_PAGE_EVENTS", "1")
    monkeypatch.setenv("TWOFOLD_LEASE_SECONDS", "1")
    return tmp_path


def write_notes(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITES, f"{NOTES}"], cwd=folder, check=True, timeout=100)


@pytest.mark.timeout(300)
def test_on_files_that_nobody_serves(folder: Path) -> None:
    random = Random(1)
    write_notes(folder)
    reached: list[int] = []
    for _ in range(KILLS):
        killed(folder, random)
        reached.append(asyncio.run(built_to(folder)))
        # What serves is whole, however far the other one is.
        some = [word for n in random.sample(range(NOTES), 5) for word in ("--key", f"n{n}")]
        assert run(folder, "audit", "app:app", "pages", *some).returncode == 0
    assert reached == sorted(reached), "it never began from the start again"
    assert len({each for each in reached if 0 < each < NOTES}) > 1, "it was killed on the way"
    to_the_end(folder)
    code, said = run_json(folder, "audit", "app:app", "pages")
    assert (code, said["data"]["right"], said["data"]["generation"]) == (0, NOTES, 2)


async def built_to(folder: Path) -> int:
    """How far the second generation has come."""
    read_store = await open_read_store(f"sqlite:///{folder}/data/views.db", RealWorld(), read_only=True)
    try:
        return sum(each.progress.position for each in await read_store.checkpoints() if each.generation == 2)
    finally:
        await read_store.close()


class Reader(Thread):
    """Asks a serve all the time, and writes to it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.asked = 0
        self.wrong: list[str] = []
        self.enough = Event()
        self._url = url

    def run(self) -> None:
        position = 0
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self.enough.is_set():
                n = self.asked
                sent = client.post("/commands/write-note", json={"note_id": f"new{n}", "text": "new"})
                self._check(sent.status_code == 200, sent.text)
                token = sent.headers["Twofold-Position"] if n % 2 else None
                known = f"n{n % NOTES}" if token is None else f"new{n}"
                asked = {"note_id": known} | ({} if token is None else {"position": token})
                answer = client.get("/queries/note-by-id", params=asked)
                self._check(answer.status_code == 200, answer.text)
                if answer.status_code == 200:
                    self._check(answer.json()["answer"] is not None, f"{known} is not there")
                    at = int(answer.headers["Twofold-Position"].rpartition(".")[2])
                    self._check(at >= position, f"at {at} after {position}")
                    position = at
                self.asked += 1

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


@pytest.mark.timeout(300)
def test_beside_a_serve_that_answers_all_the_time(
    folder: Path, postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(2)
    monkeypatch.setenv("TWOFOLD_WRITE_STORE", asyncio.run(fresh_log(postgres_newest.dsn)))
    monkeypatch.setenv("TWOFOLD_READ_STORE", f"{postgres_newest.dsn}?schema={fresh_schema()}")
    write_notes(folder)
    with serving(folder) as (_, at):
        reader = Reader(at["url"])
        reader.start()
        try:
            for _ in range(KILLS):
                killed(folder, random)
            to_the_end(folder)
            # Another process has switched: the one that answers sees it at its next look, and answers all the time.
            until(lambda: serving_generation(at["url"]) == 2)
            before = reader.asked
            until(lambda: reader.asked > before + 20)
        finally:
            reader.enough.set()
            reader.join()
        assert reader.wrong == []
        assert serving_generation(at["url"]) == 2
        code, said = run_json(folder, "audit", "app:app", "pages")
        assert (code, said["data"]["right"]) == (0, said["data"]["rows"])
        assert said["data"]["rows"] >= NOTES + reader.asked
        done = json.loads(run(folder, "rebuild", "app:app", "pages", "--drop", "--json").stdout)
        assert done["data"] == [{"name": "pages", "generations": [1]}]


def serving_generation(url: str) -> int:
    found: int = httpx.get(f"{url}/projections/pages").json()["follower"]["generation"]
    return found


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; AssertionError after a long time."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
