"""The throw-away PostgreSQL: what it keeps, what it loses, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import Postgres, fresh_schema, installed, versions
from tests.servers.server import ServerError, listening, wait_until

ROOT = Path(__file__).parents[2]
_ABANDONED = """
import sys, time
from tests.servers.postgres import Postgres
server = Postgres(sys.argv[1])
server.start()
print(server.folder, server.port, server.process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(postgres_bindir: Path) -> Iterator[Postgres]:
    with Postgres(postgres_bindir, durable=True) as server:
        yield server


def test_what_was_committed_is_there_after_a_kill(server: Postgres) -> None:
    server.sql("create table kept (n int); insert into kept values (1)")
    server.kill()
    assert not server.running
    server.start()
    assert server.sql("select n from kept") == "1"


def test_a_restarted_server_answers_at_the_same_address(server: Postgres) -> None:
    before = server.dsn, server.sql("select pg_postmaster_start_time()")
    server.restart()
    assert server.dsn == before[0]
    assert server.sql("select pg_postmaster_start_time()") != before[1]


def test_a_durable_server_syncs_and_settings_are_taken(server: Postgres) -> None:
    assert server.sql("show fsync") == "on"
    assert server.sql("show max_connections") == "200"
    server.configure(work_mem="3MB")
    assert server.sql("show work_mem") == "3MB"


def test_after_a_kill_and_a_close_nothing_is_left(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir, shared_buffers="16MB") as server:
        assert server.sql("show fsync") == "off"
        assert server.sql("show shared_buffers") == "16MB"
        shared = (server.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        server.kill()
    assert not server.folder.exists()
    assert not listening(server.port)
    assert shared not in [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


def test_a_server_dies_with_a_test_process_that_is_killed(postgres_bindir: Path) -> None:
    program = [sys.executable, "-c", _ABANDONED, str(postgres_bindir)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        folder, port, pid = tests.stdout.readline().split()
        assert listening(int(port))
        tests.send_signal(signal.SIGKILL)
    wait_until(lambda: not listening(int(port)), "the server to die")
    wait_until(lambda: not Path(folder).exists(), "its folder to be removed")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process to be gone")


def test_a_server_that_cannot_start_says_why(postgres_bindir: Path) -> None:
    with pytest.raises(ServerError, match="no_such_setting"):
        Postgres(postgres_bindir, no_such_setting="1").__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
def test_programs_that_the_servers_user_cannot_read_are_copied_out(tmp_path: Path, postgres_bindir: Path) -> None:
    tree = postgres_bindir.parents[1]
    tmp_path.chmod(0o700)
    for each in (tree, tree.with_name(f"{tree.name}.libs")):
        if each.exists():
            (tmp_path / each.name).symlink_to(each)
    with Postgres(tmp_path / postgres_bindir.relative_to(tree.parent)) as server:
        assert server.sql("select 1") == "1"
        assert not server.bindir.is_relative_to(tmp_path)


def test_the_chosen_programs_are_the_only_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, postgres_bindir: Path
) -> None:
    monkeypatch.setenv("TEST_PG_BIN", str(postgres_bindir))
    assert list(installed().values()) == [postgres_bindir]
    assert versions() == tuple(installed())
    monkeypatch.setenv("TEST_PG_BIN", str(tmp_path))
    with pytest.raises(ServerError, match="TEST_PG_BIN"):
        installed()


def test_a_fresh_database_is_empty_and_a_fresh_schema_new(server: Postgres) -> None:
    server.sql("create table here (n int)")
    name = server.create_database().rsplit("/", 1)[1]
    assert server.sql("select count(*) from pg_tables where tablename = 'here'", database=name) == "0"
    assert fresh_schema() != fresh_schema()
