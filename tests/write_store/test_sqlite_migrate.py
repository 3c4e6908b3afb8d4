"""The schema of a log in SQLite has a version: an older log is migrated when it is opened, a newer one is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.write_store.disk_helpers import command, faulty_disk, positions_and_ids
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Unavailable, WiringError
from twofold.world import RealWorld
from twofold.write_store.chain import chain_after, chain_start
from twofold.write_store.migration import MigrationStep, migration_steps
from twofold.write_store.port import Appended
from twofold.write_store.sqlite import SqliteWriteStore, migrate

HERE = Path(__file__).parent
VERSION_1 = (HERE / "sqlite_version_1.sql").read_text()
"""What the code before numbered migrations ran whenever it opened a log."""

NAMES = [step.name for step in migrate.STEPS]
NEWEST = len(migrate.STEPS)
NEXT = MigrationStep(
    NEWEST + 1,
    "next_step",
    "create table notes (note text) strict; insert into notes values ('first'); create index by_note on notes (note);",
)


def log_without_version(path: Path) -> None:
    """A log as the code before numbered migrations left it, with one event."""
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode = wal; begin immediate").fetchall()
    connection.execute(VERSION_1)
    connection.execute(
        """
        insert into logs (name, epoch, position, appends) values ('main-1a2b3c4d', 1, 1, 1);
        insert into event_types values (1, 1, 'thing-happened');
        insert into event_tags values (1, '', 1, 1), (1, 'thing:1', 1, 1);
        insert into commands (log_id, command_id, request_hash, position, count, recorded_at)
               values (1, 'command-1', cast('1' as blob), 1, 1, 0);
        insert into events values (1, 1, 1, 1, cast('"01"' as blob), cast('{"id":"command-1.0","tags":["thing:1"],
            "metadata":{"time":0,"command_id":"command-1","correlation_id":"command-1"}}' as blob));
        commit
        """
    )
    connection.pragma("application_id", 0x54464C47)
    connection.close()


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def version_of(path: Path) -> object:
    return read(path, "pragma user_version")[0][0]


def shape_of(path: Path) -> list[tuple[object, ...]]:
    return read(path, "select type, name, sql from sqlite_schema order by name")


def with_next_step(monkeypatch: pytest.MonkeyPatch, step: MigrationStep = NEXT) -> None:
    monkeypatch.setattr(migrate, "STEPS", [*migrate.STEPS, step])


async def is_a_working_log(path: Path) -> None:
    store = SqliteWriteStore(path)
    (outcome,) = await store.append([command(99)])
    assert isinstance(outcome, Appended)
    assert (await positions_and_ids(store))[-1] == (outcome.position, "command-99.0")
    await store.close()


async def test_a_new_log_has_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    assert version_of(path) == NEWEST


async def test_a_log_written_before_schemas_had_a_version_is_opened_and_carries_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log_without_version(path)
    store = SqliteWriteStore(path)
    assert store.identity.log == "main-1a2b3c4d"
    assert await store.append([command(1), command(2)]) == [Appended(1, 1, repeated=True), Appended(2, 1)]
    assert await positions_and_ids(store) == [(1, "command-1.0"), (2, "command-2.0")]
    await store.close()
    assert version_of(path) == NEWEST
    await SqliteWriteStore(tmp_path / "new.db").close()
    assert shape_of(path) == shape_of(tmp_path / "new.db")


async def test_the_events_of_an_older_log_are_linked_when_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log_without_version(path)
    migrate.migrate(str(path), RealWorld())
    store = SqliteWriteStore(path, read_only=True)
    page = await store.read(ALL_EVENTS)
    (recorded,) = page.events
    assert recorded.envelope == Envelope("command-1.0", ("thing:1",), Metadata(0, "command-1", "command-1"))
    assert page.chain == recorded.chain == chain_after(chain_start("main-1a2b3c4d"), recorded)
    await store.close()


async def test_an_older_log_is_migrated_when_it_is_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered, unnumbered = tmp_path / "log.db", tmp_path / "unnumbered.db"
    await is_a_working_log(numbered)
    log_without_version(unnumbered)
    with_next_step(monkeypatch)
    for path in (numbered, unnumbered):
        await is_a_working_log(path)
        assert version_of(path) == NEXT.number
        assert read(path, "select note from notes") == [("first",)]
        await is_a_working_log(path)
        assert read(path, "select note from notes") == [("first",)], "the step was applied twice"


async def test_an_older_log_is_refused_for_reading_with_the_command_that_migrates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    with_next_step(monkeypatch)
    with pytest.raises(WiringError, match=f"`twofold migrate --write-store sqlite:///{path}`"):
        SqliteWriteStore(path, read_only=True)
    assert version_of(path) == NEWEST
    assert list(migrate.migrate(str(path), RealWorld()).steps) == ["next_step"]
    await SqliteWriteStore(path, read_only=True).close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_log_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", NEWEST + 1)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(WiringError, match=f"schema version {NEWEST + 1}, but .* up to {NEWEST}"):
        SqliteWriteStore(path, read_only=read_only)
    for dry_run in (False, True):
        with pytest.raises(WiringError, match=f"schema version {NEWEST + 1}"):
            migrate.migrate(str(path), RealWorld(), dry_run=dry_run)
    assert path.read_bytes() == before


async def test_a_file_with_some_of_the_tables_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log_without_version(path)
    connection = apsw.Connection(str(path))
    connection.execute("drop table rows; drop table epochs")
    connection.close()
    with pytest.raises(WiringError, match="lacks the tables of a log: epochs, rows"):
        SqliteWriteStore(path)
    assert version_of(path) == 0


KILLED = """
import os, signal, sys
import apsw
from twofold.write_store.migration import MigrationStep
from twofold.write_store.sqlite import SqliteWriteStore, migrate

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

apsw.connection_hooks.append(lambda connection: connection.create_scalar_function("kill", kill, 0))
migrate.STEPS = [*migrate.STEPS, MigrationStep(len(migrate.STEPS) + 1, "next_step", sys.argv[2])]
SqliteWriteStore(sys.argv[1])
"""


@pytest.mark.parametrize("statements", [0, 1, 2, 3])
async def test_a_process_killed_in_the_middle_of_a_step_leaves_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statements: int
) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    before = shape_of(path)
    parts = NEXT.sql.split(";")
    parts.insert(statements, "select kill()")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), ";".join(parts)], capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (version_of(path), shape_of(path)) == (NEWEST, before)
    with_next_step(monkeypatch)
    await is_a_working_log(path)
    assert version_of(path) == NEXT.number


async def test_a_step_that_fails_leaves_the_older_version_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    before = shape_of(path)
    with monkeypatch.context() as patched:
        with_next_step(patched, NEXT._replace(sql=f"{NEXT.sql} insert into logs select * from logs;"))
        with pytest.raises(apsw.ConstraintError):
            SqliteWriteStore(path)
    assert (version_of(path), shape_of(path)) == (NEWEST, before)
    await is_a_working_log(path)


@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE])
async def test_a_disk_that_fails_in_the_middle_of_a_step_leaves_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "log.db"
    await is_a_working_log(path)
    with_next_step(monkeypatch)
    failed = 0
    with faulty_disk() as disk:
        while True:
            disk.fail("write", code, part="wal", skip=failed)
            try:
                store = SqliteWriteStore(path, vfs=disk.name)
                break
            except Unavailable:
                failed += 1
                disk.repair()
                assert version_of(path) == NEWEST
        await store.close()
    assert failed > 1
    assert version_of(path) == NEXT.number


async def test_migrate_lists_the_steps_and_is_safe_to_repeat(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log.db"
    assert list(migrate.migrate(str(path), RealWorld()).steps) == NAMES
    assert migrate.migrate(str(path), RealWorld()).steps == []
    assert migrate.migrate(str(path), RealWorld(), dry_run=True) == ([], "")
    await is_a_working_log(path)


async def test_a_dry_run_changes_nothing_and_its_sql_makes_the_same_log(tmp_path: Path) -> None:
    path, printed = tmp_path / "log.db", tmp_path / "printed.db"
    result = migrate.migrate(str(path), RealWorld(), dry_run=True)
    assert list(result.steps) == NAMES
    assert list(tmp_path.iterdir()) == []
    connection = apsw.Connection(str(printed))
    migrate.add_functions(connection)
    connection.execute(result.sql).fetchall()
    connection.close()
    migrate.migrate(str(path), RealWorld())
    assert shape_of(printed) == shape_of(path)
    assert migrate.migrate(str(printed), RealWorld()).steps == []
    await is_a_working_log(printed)


async def test_a_dry_run_beside_a_writer_lists_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    store = SqliteWriteStore(path)
    with_next_step(monkeypatch)
    result = migrate.migrate(str(path), RealWorld(), dry_run=True)
    assert list(result.steps) == ["next_step"]
    assert "create table events" not in result.sql
    with pytest.raises(WiringError, match="Another process"):
        migrate.migrate(str(path), RealWorld())
    await store.close()
    connection = apsw.Connection(str(path))
    connection.execute(result.sql).fetchall()
    connection.close()
    assert migrate.migrate(str(path), RealWorld()).steps == []


def test_a_gap_in_the_numbers_of_the_steps_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "0001_log.sql").write_text("select 1")
    (tmp_path / "0003_more.sql").write_text("select 3")
    with pytest.raises(ValueError, match=r"0003_more\.sql should have the number 2"):
        migration_steps(tmp_path)
