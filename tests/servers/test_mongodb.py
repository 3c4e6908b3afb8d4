"""The throw-away MongoDB: what it keeps, how it elects, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pymongo
import pytest

from tests.servers import mongodb_fixtures
from tests.servers.mongodb import HOW_TO_GET_ONE, SET, Mongod, ReplicaSet, fresh_database, installed
from tests.servers.server import ServerError, listening, wait_until

ROOT = Path(__file__).parents[2]
_ABANDONED = """
import sys, time
from pathlib import Path
from tests.servers.mongodb import Mongod
server = Mongod(Path(sys.argv[1]))
server.start()
print(server.folder, server.port, server.process.pid, flush=True)
time.sleep(600)
"""


def insert(servers: ReplicaSet, value: int) -> None:
    """Write a document so that it lasts."""
    with pymongo.MongoClient[dict[str, Any]](servers.url) as client:
        client.tests.with_options(write_concern=pymongo.WriteConcern("majority", j=True)).kept.insert_one({"n": value})


def inserted(servers: ReplicaSet) -> list[int]:
    with pymongo.MongoClient[dict[str, Any]](servers.url) as client:
        return [each["n"] for each in client.tests.kept.find().sort("n")]


@pytest.mark.parametrize("fast", [False, True])
def test_what_was_acknowledged_is_there_after_a_kill_and_a_restart(mongod_here: Path, fast: bool) -> None:
    with ReplicaSet(mongod_here, fast=fast) as servers:
        (node,) = servers.nodes
        insert(servers, 1)
        node.kill()
        assert not node.running
        node.start()
        assert servers.primary is node
        assert inserted(servers) == [1]
        node.restart()
        assert servers.primary is node
        assert inserted(servers) == [1]
    assert not node.folder.exists()
    assert not node.data.exists()
    assert not listening(node.port)


def test_three_nodes_elect_another_primary_when_one_is_killed_and_take_it_back(mongod_here: Path) -> None:
    with ReplicaSet(mongod_here, 3) as servers:
        first = servers.primary
        insert(servers, 1)
        first.kill()
        assert servers.primary is not first
        insert(servers, 2)
        first.start()
        servers.wait_until_whole()
        assert inserted(servers) == [1, 2]


def test_parameters_and_options_are_taken(mongod_here: Path) -> None:
    with Mongod(mongod_here, "--noscripting", ttlMonitorSleepSecs=7) as server:
        assert server.ask("getParameter", 1, ttlMonitorSleepSecs=1)["ttlMonitorSleepSecs"] == 7
        assert server.ask("getCmdLineOpts")["parsed"]["security"] == {"javascriptEnabled": False}


def test_a_server_outside_a_set_says_so(mongod_here: Path) -> None:
    with Mongod(mongod_here, replica_set=False) as server:
        assert "setName" not in server.ask("hello")


def test_a_server_dies_with_a_test_process_that_is_killed(mongod_here: Path) -> None:
    program = [sys.executable, "-c", _ABANDONED, str(mongod_here)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        folder, port, pid = tests.stdout.readline().split()
        assert listening(int(port))
        tests.send_signal(signal.SIGKILL)
    wait_until(lambda: not listening(int(port)), "the server to die")
    wait_until(lambda: not Path(folder).exists(), "its folder to be removed")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process to be gone")


def test_a_server_that_cannot_start_says_why(mongod_here: Path) -> None:
    with pytest.raises(ServerError, match="no_such_parameter"):
        Mongod(mongod_here, no_such_parameter=1).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
def test_a_server_runs_as_another_user_who_gets_a_copy_of_a_program_he_cannot_reach(
    mongod_here: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "mongod").symlink_to(mongod_here)
    with Mongod(tmp_path / "mongod") as server:
        assert server.process is not None
        assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0
        assert not server.program.is_relative_to(tmp_path)


def test_the_chosen_program_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MONGOD", "/somewhere/mongod")
    assert installed() == Path("/somewhere/mongod")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_program_is_a_skip_and_in_ci_a_failure(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(mongodb_fixtures, "installed", lambda: None)
    with pytest.raises(outcome, match=r"no mongod: .*TEST_MONGOD"):
        mongodb_fixtures.program()
    assert "libcurl4" in HOW_TO_GET_ONE


def test_the_shared_set_has_one_node_and_databases_for_everybody(mongodb: ReplicaSet, mongodb_url: str) -> None:
    assert len(mongodb.nodes) == 1
    assert mongodb.primary.ask("hello")["setName"] == SET
    assert fresh_database() not in mongodb_url
    assert mongodb_url.startswith("mongodb://127.0.0.1:")
