"""A standby: it follows, it can lag, and it takes over with a beginning of what its primary had."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.server import ServerError, wait_until
from tests.servers.standby import Standby, standby_of


@pytest.fixture(scope="module")
def primary(postgres_bindir: Path) -> Iterator[Postgres]:
    with Postgres(postgres_bindir) as primary:
        yield primary


@pytest.fixture(scope="module")
def standby(primary: Postgres) -> Iterator[Standby]:
    with standby_of(primary) as standby:
        yield standby


@pytest.fixture
def table(primary: Postgres) -> str:
    name = fresh_schema()
    primary.sql(f"create table {name} (n int)")
    return name


def numbers(server: Postgres, table: str) -> list[int]:
    return [int(line) for line in server.sql(f"select n from {table} order by n").split()]


def test_a_standby_shows_what_the_primary_has_and_takes_no_writes(
    primary: Postgres, standby: Standby, table: str
) -> None:
    primary.sql(f"insert into {table} values (1)")
    standby.catch_up()
    assert numbers(standby, table) == [1]
    with pytest.raises(ServerError, match="read-only"):
        standby.sql(f"insert into {table} values (2)")


def test_a_paused_replay_hides_what_has_arrived(primary: Postgres, standby: Standby, table: str) -> None:
    standby.catch_up()
    standby.pause_replay()
    primary.sql(f"set synchronous_commit = local; insert into {table} values (1)")
    end = primary.sql("select pg_current_wal_flush_lsn()")
    wait_until(lambda: standby.sql(f"select pg_last_wal_receive_lsn() >= '{end}'") == "t", "the row to arrive")
    assert numbers(standby, table) == []
    standby.resume_replay()
    standby.catch_up()
    assert numbers(standby, table) == [1]


def test_a_killed_standby_follows_again(primary: Postgres, standby: Standby, table: str) -> None:
    standby.kill()
    primary.sql(f"insert into {table} values (1)")
    standby.start()
    standby.catch_up()
    assert numbers(standby, table) == [1]


def test_a_promoted_standby_has_a_beginning_of_the_log_and_takes_writes(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary:
        primary.sql("create table log (n int)")
        with standby_of(primary) as standby:
            for n in range(1, 4):
                primary.sql(f"insert into log values ({n})")
            standby.catch_up()
            standby.pause_receiving()
            primary.sql("insert into log values (4)")
            primary.kill()
            standby.promote()
            assert numbers(standby, "log") == [1, 2, 3]
            standby.sql("insert into log values (5)")
            standby.restart()
            assert numbers(standby, "log") == [1, 2, 3, 5]


async def test_a_commit_waits_for_a_synchronous_standby_and_is_there_after_a_failover(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary, synchronous=True) as standby:
        primary.sql("create table log (n int); insert into log values (1)")
        standby.pause_receiving()
        client = await asyncpg.connect(primary.dsn)
        writing = asyncio.create_task(client.execute("insert into log values (2)"))
        waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
        await asyncio.to_thread(wait_until, lambda: primary.sql(waiting) == "1", "the commit to wait")
        assert not writing.done()
        standby.resume_receiving()
        await asyncio.wait_for(writing, 20)
        primary.kill()
        client.terminate()
        standby.promote()
        assert numbers(standby, "log") == [1, 2]


def test_a_primary_forgets_a_standby_that_is_gone(primary: Postgres) -> None:
    slots = "select count(*) from pg_replication_slots"
    before, commit = primary.sql(slots), primary.sql("show synchronous_commit")
    with standby_of(primary, synchronous=True) as standby:
        assert int(primary.sql(slots)) == int(before) + 1
        assert primary.sql("show synchronous_standby_names") == f"standby_{standby.port}"
    assert primary.sql(slots) == before
    assert primary.sql("show synchronous_commit") == commit
    primary.sql("set synchronous_commit = on; create table nobody_waits (n int)")


def test_a_standby_needs_a_primary_that_runs(postgres_bindir: Path) -> None:
    primary = Postgres(postgres_bindir)
    with pytest.raises(ServerError, match="start that first"):
        standby_of(primary)
    primary.close()
