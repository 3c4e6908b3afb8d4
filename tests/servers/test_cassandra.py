"""The throw-away Cassandra: what it keeps when it is killed, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cassandra.cluster import Cluster

from tests.servers import cassandra_fixtures, jars
from tests.servers.cassandra import Cassandra, missing
from tests.servers.jars import JVM
from tests.servers.server import LOOPBACK, ServerError, listening, wait_until

ROOT = Path(__file__).parents[2]
_ABANDONED = """
import time
from tests.servers.cassandra import Cassandra
server = Cassandra()
server.start()
print(server.folder, server.port, server.process.pid, flush=True)
time.sleep(600)
"""


def _ask(server: Cassandra, *statements: str) -> list[object]:
    cluster = Cluster([LOOPBACK], port=server.port, protocol_version=5)
    try:
        session = cluster.connect()
        return [list(session.execute(statement)) for statement in statements][-1]
    finally:
        cluster.shutdown()


def test_what_was_written_is_there_after_a_kill_and_nothing_after_a_close(cassandra_here: None) -> None:
    with Cassandra(durable=True) as server:
        _ask(
            server,
            "create keyspace kept with replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
            "create table kept.numbers (n int primary key)",
            "insert into kept.numbers (n) values (7)",
        )
        server.kill()
        assert not server.running
        assert not listening(server.port)
        server.start()
        assert _ask(server, "select n from kept.numbers") == [(7,)]
        folder, port = server.folder, server.port
    assert not folder.exists()
    assert not listening(port)


def test_the_shared_one_is_the_version_that_is_pinned(cassandra: Cassandra) -> None:
    ((version,),) = _ask(cassandra, "select release_version from system.local")  # type: ignore[misc]
    assert f"cassandra-all-{version}.jar" in (JVM / "cassandra.sha256").read_text()


def test_no_server_outlives_a_killed_test_process(cassandra_here: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", _ABANDONED], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    folder, port, pid = process.stdout.readline().split()
    assert listening(int(port))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not Path("/proc", pid).exists(), "the server to die with the process that started it")
    wait_until(lambda: not Path(folder).exists(), "its folder to be swept away")


def test_a_server_that_cannot_start_says_why(cassandra_here: None) -> None:
    server = Cassandra()
    server._settings += "no_such_setting: 1\n"
    with pytest.raises(ServerError, match="no_such_setting"):
        server.__enter__()
    assert not server.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process")
def test_whatever_needs_one_runs_in_the_same_process(cassandra: Cassandra, request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@cassandra"), "pytest-xdist knows no groups: each process starts a server"


def test_the_server_does_not_run_as_root(cassandra: Cassandra) -> None:
    assert cassandra.process is not None
    assert Path("/proc", str(cassandra.process.pid)).stat().st_uid != 0


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_where_no_jars_are_the_test_is_skipped_and_in_ci_it_fails(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jars, "find_java", lambda: Path("java"))
    monkeypatch.setattr("tests.servers.cassandra.find_java", lambda: Path("java"))
    monkeypatch.setenv("CI", ci)
    assert (missing() or "").startswith("no jars of Cassandra: `scripts/install-servers`")
    with pytest.raises(outcome, match="no jars of Cassandra"):
        cassandra_fixtures.cassandra_here.__wrapped__()  # type: ignore[attr-defined]


def test_other_jars_than_the_listed_ones_are_not_taken(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    maven = programs / "mvn"
    maven.write_text(
        '#!/bin/bash\nfor each; do case $each in -DoutputDirectory=*) echo x > "${each#*=}/evil.jar";; esac; done\n'
    )
    maven.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([JVM / "fetch-jars", "cassandra"], env=environment, capture_output=True, check=False)
    assert done.returncode != 0
    assert list((tmp_path / "twofold-servers").iterdir()) == []
