"""The role an app runs as may append and read, and nothing else; what is in the log is changed by nobody."""

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import quote

import asyncpg
import pytest

from tests.servers.postgres import Postgres, fresh_schema
from twofold import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.events import NewEvent
from twofold.errors import Unavailable, WiringError
from twofold.world import RealWorld
from twofold.write_store.port import Append, Appended, RowWrite
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.postgres.migrate import migrate

TABLES = [
    "log_head",
    "epochs",
    "event_types",
    "events",
    "event_tags",
    "commands",
    "command_clock",
    "rows",
    "migrations",
]
PASSWORD = "s3cr3t:/?#[]@%&=+ ä'\"\\"


@dataclass
class Log:
    """A log of an owner who is no superuser, and of the role its app runs as."""

    server: Postgres
    schema: str
    owner: str
    app: str

    @property
    def url(self) -> str:
        return f"{self.dsn_as(self.app)}?schema={self.schema}"

    @property
    def owners_url(self) -> str:
        return f"{self.dsn_as(self.owner)}?schema={self.schema}"

    def dsn_as(self, role: str) -> str:
        return self.server.dsn.replace("postgres@", f"{role}@")


@pytest.fixture
async def log(postgres: Postgres) -> AsyncGenerator[Log]:
    schema = fresh_schema()
    log = Log(postgres, schema, f"owner_{schema}", f"app_{schema}")
    postgres.sql(
        f"create role {log.owner} login; create role {log.app} login;grant create on database postgres to {log.owner}"
    )
    await migrate(log.owners_url, RealWorld(), role=log.app)
    yield log
    postgres.sql(
        f"drop schema {schema} cascade; drop owned by {log.app}; drop owned by {log.owner};"
        f"drop role {log.app}; drop role {log.owner}"
    )


def noted(command_id: str, rows: tuple[RowWrite, ...] = ()) -> Append:
    event = NewEvent(f"{command_id}.0", "noted", 1, ("k:1", "k:2"), b"{}")
    return Append(Metadata(0, command_id, command_id), (event,), (), command_id, rows=rows)


async def test_the_role_of_an_app_may_do_all_that_an_app_does(log: Log) -> None:
    store = await PostgresWriteStore.open(log.url)
    assert await store.append([noted("c-1", (RowWrite("s", "k", b"v", 0),))]) == [Appended(1, 1)]
    found, outcome = await store.newer([AppendCondition(ALL_EVENTS, 0)], "c-1")
    assert ([event.position for event in found.events], outcome) == ([1], Appended(1, 1))
    assert (await store.rows("s"))["k"].value == b"v"
    await store.wait(0, 1)
    await store.append([noted(f"m-{n}") for n in range(1_100)])
    log.server.sql(f"update {log.schema}.log_head set timeline = 'FFFFFFFF'")
    assert await store.append([noted("c-2")]) == [Appended(1_102, 1)]
    assert store.identity.epoch == 2
    await store.close()


async def test_the_role_of_an_app_cannot_retag(log: Log) -> None:
    store = await PostgresWriteStore.open(log.url)
    await store.append([noted("c-1")])
    with pytest.raises(Unavailable, match="permission denied for function"):
        await store.retag({1: ["new:1"]})
    await store.close()
    owner = await PostgresWriteStore.open(log.owners_url)
    await owner.retag({1: ["new:1"]})
    assert [event.tags for event in (await owner.read(ALL_EVENTS)).events] == [("k:1", "k:2", "new:1")]
    await owner.close()


async def test_the_role_of_an_app_cannot_write_any_table_itself(log: Log) -> None:
    connection = await asyncpg.connect(log.dsn_as(log.app))
    there = await connection.fetch(
        "select relname from pg_class where relnamespace = $1::regnamespace and relkind = 'r'", log.schema
    )
    assert sorted(row[0] for row in there) == sorted(TABLES)
    for table in TABLES:
        name = f"{log.schema}.{table}"
        column = await connection.fetchval(
            "select attname from pg_attribute where attrelid = $1::regclass and attnum = 1", name
        )
        for statement in (
            f"insert into {name} overriding system value select * from {name}",
            f"update {name} set {column} = default",
            f"delete from {name}",
            f"truncate {name}",
            f"drop table {name}",
            f"create trigger t before insert on {name} for each row execute function {log.schema}.refuse_change()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    for statement in (
        f"create table {log.schema}.mine (n int)",
        f"select setval('{log.schema}.writers', 1)",
        f"select nextval('{log.schema}.writers')",
        f"create or replace function {log.schema}.tell(p_channel text) returns int language sql as 'select 1'",
        f"alter function {log.schema}.tell(text) security invoker",
        f"select {log.schema}.retag('{{1}}', '{{a}}', '{{b}}', '{{}}', '{{}}')",
        f"select {log.schema}.matching('{{}}', null, 0, 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize("who", ["owner", "superuser"])
@pytest.mark.parametrize("table", ["events", "event_tags", "epochs"])
async def test_not_even_its_owner_changes_what_is_in_the_log(log: Log, who: str, table: str) -> None:
    store = await PostgresWriteStore.open(log.url)
    await store.append([noted("c-1")])
    await store.close()
    connection = await asyncpg.connect(log.dsn_as(log.owner if who == "owner" else "postgres"))
    name = f"{log.schema}.{table}"
    column = {"events": "position", "event_tags": "tag", "epochs": "epoch"}[table]
    for statement in (f"update {name} set {column} = {column}", f"delete from {name}", f"truncate {name}"):
        with pytest.raises(asyncpg.PostgresError, match="the log is never changed") as refused:
            await connection.execute(statement)
        assert refused.value.sqlstate == "TF005"
    await connection.close()


async def test_temporary_objects_of_the_app_do_not_stand_in_for_the_logs_own(log: Log) -> None:
    store = await PostgresWriteStore.open(log.url)
    await store.append([noted("c-1")])
    connection = await asyncpg.connect(log.dsn_as(log.app))
    for table in TABLES:
        await connection.execute(f"create temp table {table} as table {log.schema}.{table}")
    await connection.execute("update pg_temp.log_head set position = 1000, epoch = 1000")
    await connection.execute("delete from pg_temp.events")
    await connection.execute("set search_path = pg_temp, public")
    read = f"select * from {log.schema}.read(null, 0, '{{}}', '{{}}', '{{}}', null, null, 0) order by 1"
    assert [row[0] for row in await connection.fetch(read)][-1] == 1
    state = await connection.fetchrow(f"select * from {log.schema}.state(0)")
    assert state is not None
    assert (state["epoch"], state["at"]) == (1, 1)
    # An append over just this session.
    await store._writing.close()
    store._writing._idle.append(connection)
    assert await store.append([noted("c-2")]) == [Appended(2, 1)]
    assert log.server.sql(f"select position from {log.schema}.log_head") == "2"
    assert await connection.fetchval("select position from pg_temp.log_head") == 1000
    await store.close()


def odd(role: str, server: Postgres) -> None:
    server.sql(f'create role "{role}" login password $p${PASSWORD}$p$')


async def test_odd_characters_in_a_users_name_and_password_arrive_as_they_are(postgres_newest: Postgres) -> None:
    role = "Ann-$ofAll"
    odd(role, postgres_newest)
    try:
        url = f"{postgres_newest.dsn}?schema={fresh_schema()}"
        await migrate(url, RealWorld(), role=role)
        theirs = url.replace("postgres@", f"{quote(role, safe='')}:{quote(PASSWORD, safe='')}@")
        store = await PostgresWriteStore.open(theirs)
        assert await store.append([noted("c")]) == [Appended(1, 1)]
        await store.close()
    finally:
        postgres_newest.sql(f'drop owned by "{role}"; drop role "{role}"')


@pytest.mark.parametrize("where", ["user", "query"])
async def test_a_password_is_in_no_message_log_or_status(
    postgres_newest: Postgres, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "kn0w-n0b0dy"
    port = postgres_newest.port
    user, query = (f"postgres:{secret}", "") if where == "user" else ("postgres", f"&password={secret}")
    said: list[str] = []
    for at in (
        f"127.0.0.1:{port}/not_here?x=1",
        f"127.0.0.1:{port}/postgres?schema={fresh_schema()}",
        "127.0.0.1:1/db?",
    ):
        url = f"postgresql://{user}@{at}{query}"
        for call in (PostgresWriteStore.open(url, patience=0.2), migrate(url, RealWorld(), role="nobody_there")):
            with pytest.raises((WiringError, Unavailable)) as refused:
                await call
            said.append(str(refused.value))
    assert len(said) == 6
    assert secret not in "".join(said) + caplog.text
