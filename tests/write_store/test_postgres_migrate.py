"""`migrate` makes one log, however often, from wherever and with whatever interruptions it is called."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

import asyncpg
import pytest

from tests.servers.postgres import Postgres, fresh_schema
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.events import NewEvent
from twofold.errors import Unavailable, WiringError
from twofold.world import RealWorld
from twofold.write_store.chain import chain_after, chain_start
from twofold.write_store.port import Append, Appended
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.postgres.migrate import migrate, migrations

STEPS = [step.name for step in migrations("any_schema")]
VERSION_BEFORE_THE_CHAIN = 4

# Every object of a schema with all that makes it what it is, the schema's own name left out.
SHAPE = """
with here as (select '{schema}'::regnamespace::oid as id)
select replace(line, '{schema}', 'S') from (
    select format('column %s.%s %s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                  a.attidentity, pg_get_expr(d.adbin, d.adrelid))
                  || ' ' || coalesce(a.attcollation::regcollation::text, '-') || coalesce(c.reloptions::text, '')
      from here, pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
      left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum where c.relnamespace = here.id
    union all select pg_get_indexdef(i.indexrelid) from here, pg_index i join pg_class c on c.oid = i.indexrelid
      where c.relnamespace = here.id
    union all select pg_get_constraintdef(o.oid) from here, pg_constraint o where o.connamespace = here.id
    union all select pg_get_triggerdef(t.oid) from here, pg_trigger t join pg_class c on c.oid = t.tgrelid
      where c.relnamespace = here.id and not t.tgisinternal
    union all select pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '-') from here, pg_proc p
      where p.pronamespace = here.id
    union all select format('right %s %s %s', c.relname, c.relkind, c.relacl) from here, pg_class c
      where c.relnamespace = here.id
) as lines(line) order by 1
"""


def shape_of(server: Postgres, schema: str) -> str:
    return server.sql(SHAPE.replace("{schema}", schema))


def append(command_id: str) -> Append:
    event = NewEvent(f"{command_id}.0", "noted", 1, ("note:n",), b"{}")
    return Append(Metadata(0, command_id, command_id), (event,), (), command_id)


async def is_a_working_log(url: str) -> None:
    store = await PostgresWriteStore.open(url)
    try:
        head = (await store.read(NO_EVENTS)).head
        assert await store.append([append("works")]) == [Appended(head + 1, 1)]
        assert (await store.read(ALL_EVENTS)).head == head + 1
    finally:
        await store.close()


async def test_a_second_migration_does_nothing_and_the_log_stays_the_same(postgres: Postgres) -> None:
    schema = fresh_schema()
    url = f"{postgres.dsn}?schema={schema}"
    assert (await migrate(url, RealWorld())).steps == STEPS
    before = shape_of(postgres, schema), postgres.sql(f"select * from {schema}.log_head")
    assert (await migrate(url, RealWorld())).steps == []
    assert (shape_of(postgres, schema), postgres.sql(f"select * from {schema}.log_head")) == before
    await is_a_working_log(url)


async def test_eight_at_once_make_one_log_and_each_returns_to_a_log_that_works(postgres: Postgres) -> None:
    url = f"{postgres.dsn}?schema={fresh_schema()}"

    async def migrate_and_open() -> tuple[list[str], str]:
        done = await migrate(url, RealWorld())
        store = await PostgresWriteStore.open(url)
        await store.close()
        return list(done.steps), store.identity.log

    results = await asyncio.gather(*(migrate_and_open() for _ in range(8)))
    assert sorted(step for steps, _ in results for step in steps) == STEPS
    assert len({log for _, log in results}) == 1
    await is_a_working_log(url)


class Interrupted(Exception):
    """The process would be dead now."""


def dying_after(monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
    """Let connections break off instead of sending another request, once there were so many."""
    left = requests

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(self: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                self.terminate()
                raise Interrupted
            left -= 1
            return await method(self, *arguments, **options)

        return call

    for name in ("execute", "fetchval"):
        monkeypatch.setattr(asyncpg.Connection, name, counted(getattr(asyncpg.Connection, name)))


async def test_broken_off_before_any_request_and_repeated_it_ends_as_if_nothing_had_been(
    postgres_newest: Postgres,
) -> None:
    whole = fresh_schema()
    await migrate(f"{postgres_newest.dsn}?schema={whole}", RealWorld())
    shape = shape_of(postgres_newest, whole)
    interrupted = 0
    while True:
        schema = fresh_schema()
        url = f"{postgres_newest.dsn}?schema={schema}"
        with pytest.MonkeyPatch.context() as patch:
            dying_after(patch, interrupted)
            try:
                await migrate(url, RealWorld())
                break
            except (Interrupted, Unavailable):
                interrupted += 1
        await migrate(url, RealWorld())
        assert shape_of(postgres_newest, schema) == shape, f"after {interrupted - 1} requests"
        await is_a_working_log(url)
    assert interrupted > 5 * len(STEPS)


KILLED = """
import asyncio, os, signal, sys
import asyncpg
from twofold.world import RealWorld
from twofold.write_store.postgres.migrate import migrate

first = asyncpg.Connection.execute

async def execute(self, query, *arguments, **options):
    answer = await first(self, query, *arguments, **options)
    if "create function" in query:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

asyncpg.Connection.execute = execute
asyncio.run(migrate(sys.argv[1], RealWorld()))
"""


async def test_a_process_killed_in_the_middle_of_a_step_leaves_nothing_of_it(postgres: Postgres) -> None:
    schema = fresh_schema()
    url = f"{postgres.dsn}?schema={schema}"
    command = [sys.executable, "-c", KILLED, url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, env=dict(os.environ), timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert postgres.sql(f"select count(*) from {schema}.migrations") == "0"
    assert (await migrate(url, RealWorld())).steps == STEPS
    await is_a_working_log(url)


@pytest.mark.parametrize("role", [None, "postgres"])
async def test_a_dry_run_changes_nothing_and_its_sql_makes_the_same_log(postgres: Postgres, role: str | None) -> None:
    real, printed = fresh_schema(), fresh_schema()
    await migrate(f"{postgres.dsn}?schema={real}", RealWorld(), role=role)
    url = f"{postgres.dsn}?schema={printed}"
    done = await migrate(url, RealWorld(), role=role, dry_run=True)
    assert postgres.sql(f"select to_regnamespace('{printed}') is null") == "t"
    assert done.steps == STEPS
    postgres.sql(done.sql)
    assert shape_of(postgres, printed) == shape_of(postgres, real)
    assert (await migrate(url, RealWorld())).steps == []
    await is_a_working_log(url)


async def test_a_dry_run_on_an_old_log_prints_the_missing_steps_only(postgres_newest: Postgres) -> None:
    schema = await old_log(postgres_newest)
    done = await migrate(f"{postgres_newest.dsn}?schema={schema}", RealWorld(), dry_run=True)
    assert done.steps == STEPS[VERSION_BEFORE_THE_CHAIN:]
    assert f"create table {schema}.log_head" not in done.sql
    postgres_newest.sql(done.sql)
    await is_a_working_log(f"{postgres_newest.dsn}?schema={schema}")


async def old_log(server: Postgres) -> str:
    """The schema of a log with one event as the version before the hash chain left it."""
    schema = fresh_schema()
    steps = migrations(schema)[:VERSION_BEFORE_THE_CHAIN]
    server.sql(f"create schema {schema}; create table {schema}.migrations (number int primary key, name text not null)")
    for step in steps:
        server.sql(f"begin; {step.sql} insert into {schema}.migrations values ({step.number}, '{step.name}'); commit")
    envelope = (
        '{"id":"command-1.0","tags":["thing:1","thing:2"],'
        '"metadata":{"time":0,"command_id":"command-1","correlation_id":"command-1"}}'
    )
    server.sql(
        f"""
        insert into {schema}.log_head (name, epoch, position, cluster, timeline)
        select 'main-1a2b3c4d', 1, 1, system_identifier::text, left(pg_walfile_name(pg_current_wal_lsn()), 8)
          from pg_control_system();
        insert into {schema}.event_types (name) values ('thing-happened');
        insert into {schema}.events values (1, 1, 1, convert_to('"01"', 'UTF8'), convert_to('{envelope}', 'UTF8'));
        insert into {schema}.event_tags values ('thing:1', 1, 1), ('thing:2', 1, 1)
        """
    )
    return schema


async def test_the_events_of_an_older_log_are_linked_when_it_is_migrated(postgres: Postgres) -> None:
    url = f"{postgres.dsn}?schema={await old_log(postgres)}"
    await migrate(url, RealWorld())
    store = await PostgresWriteStore.open(url)
    page = await store.read(ALL_EVENTS)
    (recorded,) = page.events
    metadata = Metadata(0, "command-1", "command-1")
    assert recorded.envelope == Envelope("command-1.0", ("thing:1", "thing:2"), metadata)
    assert recorded.stored_envelope.tags == b'["thing:1","thing:2"]'
    assert page.chain == recorded.chain == chain_after(chain_start("main-1a2b3c4d"), recorded)
    await store.close()


async def test_a_role_that_may_append_still_may_after_a_migration_and_may_call_what_is_new(
    postgres_newest: Postgres,
) -> None:
    schema = await old_log(postgres_newest)
    role = f"app_{schema}"
    postgres_newest.sql(f"create role {role}; grant execute on all functions in schema {schema} to {role}")
    await migrate(f"{postgres_newest.dsn}?schema={schema}", RealWorld())
    may = f"select bool_and(has_function_privilege('{role}', oid, 'execute')), count(*) from pg_proc"
    those = f"pronamespace = '{schema}'::regnamespace and proname in ('append', 'advance_clock')"
    assert postgres_newest.sql(f"{may} where {those}") == "t|2"


async def test_an_old_log_is_refused_at_start_with_the_command_that_cures_it(postgres_newest: Postgres) -> None:
    schema = await old_log(postgres_newest)
    url = f"{postgres_newest.dsn}?schema={schema}"
    with pytest.raises(WiringError, match="`twofold migrate --write-store URL`"):
        await PostgresWriteStore.open(url)
    assert (await migrate(url, RealWorld())).steps == STEPS[VERSION_BEFORE_THE_CHAIN:]
    await is_a_working_log(url)


async def test_a_log_that_only_lacks_the_entry_of_a_step_is_refused_too(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    schema = url.rpartition("=")[2]
    postgres_newest.sql(f"delete from {schema}.migrations where number = {len(STEPS)}")
    with pytest.raises(WiringError, match="`twofold migrate --write-store URL`"):
        await PostgresWriteStore.open(url)


async def test_a_log_of_a_newer_version_runs(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    schema = url.rpartition("=")[2]
    postgres.sql(f"insert into {schema}.migrations values ({len(STEPS) + 1}, 'from the future')")
    await is_a_working_log(url)
    assert (await migrate(url, RealWorld())).steps == []


@pytest.fixture
async def busy(postgres: Postgres) -> AsyncGenerator[tuple[str, "asyncio.Task[int]", asyncio.Event]]:
    """A log, and a task that appends to it until the event is set: how many it has appended."""
    url = await fresh_log(postgres.dsn)
    store = await PostgresWriteStore.open(url)
    ended = asyncio.Event()

    async def write() -> int:
        count = 0
        while not ended.is_set():
            assert await store.append([append(f"c{count}")]) == [Appended(count + 1, 1)]
            count += 1
        return count

    yield url, asyncio.create_task(write()), ended
    ended.set()
    await store.close()


async def test_migrating_again_while_an_app_appends_fails_no_append(
    busy: tuple[str, "asyncio.Task[int]", asyncio.Event],
) -> None:
    url, writing, ended = busy
    for _ in range(5):
        await migrate(url, RealWorld(), role="postgres")
    ended.set()
    assert await writing > 0


async def test_replacing_every_function_while_an_app_appends_fails_no_append(
    postgres: Postgres, busy: tuple[str, "asyncio.Task[int]", asyncio.Event]
) -> None:
    url, writing, ended = busy
    schema = url.rpartition("=")[2]
    functions = re.findall(r"create (?:or replace )?function .*?[$]function[$];", migrations(schema)[-1].sql, re.DOTALL)
    again = "".join(functions).replace("create function", "create or replace function")
    assert again
    for _ in range(3):
        await asyncio.to_thread(postgres.sql, f"begin; {again} commit")
    ended.set()
    assert await writing > 0


async def test_a_lock_on_the_log_that_does_not_go_is_said_and_appends_do_not_queue_behind_it(
    postgres_newest: Postgres,
) -> None:
    schema = fresh_schema()
    url = f"{postgres_newest.dsn}?schema={schema}"
    other = await asyncpg.connect(postgres_newest.dsn)
    await other.execute(f"select pg_advisory_lock(hashtext('twofold migrate'), hashtext('{schema}'))")
    with pytest.raises(Unavailable, match="holds a lock"):
        await migrate(url, RealWorld())
    await other.close()
    await migrate(url, RealWorld())
    await is_a_working_log(url)


@pytest.mark.parametrize("name", ["Big", "1st", "pg_mine", "a-b", "a b", 'a"b', "a;b", "", "x" * 64, "ä"])
async def test_a_schema_that_does_not_fit_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(WiringError, match="small letters, digits, underscores"):
        await migrate(f"postgresql://postgres@127.0.0.1:1/postgres?schema={name.replace(';', '%3B')}", RealWorld())


async def test_a_schema_may_have_63_letters(postgres_newest: Postgres) -> None:
    url = f"{postgres_newest.dsn}?schema={fresh_schema().ljust(63, 'x')}"
    await migrate(url, RealWorld())
    await is_a_working_log(url)


@pytest.mark.parametrize("role", ["", 'a"b', "a;b", "1a", "a b"])
async def test_a_role_that_does_not_fit_is_refused(role: str) -> None:
    with pytest.raises(WiringError, match="not the name of a role"):
        await migrate("postgresql://postgres@127.0.0.1:1/postgres", RealWorld(), role=role)


async def test_a_role_or_database_that_is_not_there_is_named(postgres_newest: Postgres) -> None:
    with pytest.raises(WiringError, match='role "nobody_here" does not exist'):
        await migrate(f"{postgres_newest.dsn}?schema={fresh_schema()}", RealWorld(), role="nobody_here")
    with pytest.raises(WiringError, match='database "not_here" does not exist'):
        await migrate(postgres_newest.dsn_of("not_here"), RealWorld())


async def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await migrate("postgresql://postgres@127.0.0.1:1/postgres", RealWorld())
