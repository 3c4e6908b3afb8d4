"""`twofold migrate`: what people and scripts see of a log's schema being made."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command_line_helpers import PATIENCE, TWOFOLD, run, run_json
from tests.servers.postgres import Postgres, fresh_schema
from twofold.cli.output import Exit
from twofold.write_store.postgres.migrate import migrations
from twofold.write_store.sqlite.migrate import STEPS as SQLITE_STEPS

STEPS = [step.name for step in migrations("any_schema")]
SECRET = "kn0w-n0b0dy"


@pytest.fixture
def url(postgres_newest: Postgres) -> str:
    return f"{postgres_newest.dsn}?schema={fresh_schema()}"


def test_it_says_what_it_has_done_and_then_that_there_is_nothing_to_do(tmp_path: Path, url: str) -> None:
    first = run(tmp_path, "migrate", "--write-store", url)
    assert (first.returncode, first.stdout) == (0, "".join(f"applied {step}\n" for step in STEPS))
    second = run(tmp_path, "migrate", "--write-store", url)
    assert (second.returncode, second.stdout, second.stderr) == (0, "The log is up to date.\n", "")


def test_a_dry_run_prints_sql_that_psql_takes_and_changes_nothing(
    tmp_path: Path, url: str, postgres_newest: Postgres
) -> None:
    schema = url.rpartition("=")[2]
    printed = run(tmp_path, "migrate", "--write-store", url, "--role", "postgres", "--dry-run")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert postgres_newest.sql(f"select to_regnamespace('{schema}') is null") == "t"
    command = [
        postgres_newest.bindir / "psql",
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        f"--dbname={postgres_newest.dsn}",
    ]
    fed = subprocess.run(command, input=printed.stdout, text=True, capture_output=True, check=False, cwd="/")
    assert fed.returncode == 0, fed.stderr
    assert run(tmp_path, "migrate", "--write-store", url).stdout == "The log is up to date.\n"
    listed = run(tmp_path, "log", "--write-store", url)
    assert listed.returncode == 0, listed.stderr


def test_json_has_the_steps_and_only_in_a_dry_run_the_sql(tmp_path: Path, url: str) -> None:
    code, said = run_json(tmp_path, "migrate", "--write-store", url, "--dry-run")
    assert (code, said["data"]["steps"]) == (0, STEPS)
    assert "create table" in said["data"]["sql"]
    assert run_json(tmp_path, "migrate", "--write-store", url) == (
        0,
        {"ok": True, "data": {"steps": STEPS, "sql": None}},
    )
    assert run_json(tmp_path, "migrate", "--write-store", url)[1]["data"]["steps"] == []


def test_a_log_in_memory_needs_no_migration(tmp_path: Path) -> None:
    code, said = run_json(tmp_path, "migrate", "--write-store", "memory:")
    assert (code, said["error"]["kind"]) == (2, "wiring-error")
    assert "needs no migration" in said["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_log_in_sqlite_is_made_once_and_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    names = [step.name for step in SQLITE_STEPS]
    dry = run(tmp_path, "migrate", "--write-store", "sqlite:///log.db", "--dry-run")
    assert (dry.returncode, "create table events" in dry.stdout) == (0, True)
    assert list(tmp_path.iterdir()) == []
    first = run(tmp_path, "migrate", "--write-store", "sqlite:///log.db")
    assert (first.returncode, first.stdout) == (0, "".join(f"applied {name}\n" for name in names))
    second = run(tmp_path, "migrate", "--write-store", "sqlite:///log.db")
    assert (second.returncode, second.stdout, second.stderr) == (0, "The log is up to date.\n", "")
    assert run(tmp_path, "log", "--write-store", "sqlite:///log.db").returncode == 0


def test_a_role_is_refused_for_sqlite(tmp_path: Path) -> None:
    code, said = run_json(tmp_path, "migrate", "--write-store", "sqlite:///log.db", "--role", "app")
    assert (code, said["error"]["kind"]) == (2, "wiring-error")
    assert "Leave out --role" in said["error"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@127.0.0.1:1/db",
        f"postgresql://ann@127.0.0.1:1/db?password={SECRET}",
        f"postgresql://ann:{SECRET}@127.0.0.1:1/db?schema=Not",
        f"postgresql://ann:{SECRET}@127.0.0.1:1/db?pgbouncer=perhaps",
        f"postgresql://ann:{SECRET}@127.0.0.1:1/",
        f"postgresql://ann:{SECRET}@127.0.0.1:port/db",
        f"postgresql://ann:{SECRET}@127.0.0.1:1/db?no_such_option=1",
        f"postgresql://ann:{SECRET}@[::1/db",
        f"postgresql://ann:{SECRET}/1@127.0.0.1:1/db",
        f"postgresql://ann:{SECRET}#1@127.0.0.1:1/db",
        f"postgresql://ann:{SECRET}?1@127.0.0.1:1/db",
    ],
)
def test_a_password_is_in_no_output_and_the_error_is_a_sentence_not_a_traceback(tmp_path: Path, url: str) -> None:
    command = [TWOFOLD, "migrate"]
    environment = {**os.environ, "TWOFOLD_WRITE_STORE": url}
    reported = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": PATIENCE}
    outputs = [
        subprocess.run(command, check=False, **reported),
        run(tmp_path, "migrate", "--json", "--write-store", url),
        run(tmp_path, "migrate", "--dry-run", "--write-store", url),
    ]
    for done in outputs:
        assert done.returncode in (Exit.USAGE, Exit.UNAVAILABLE), done
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout + done.stderr != ""
