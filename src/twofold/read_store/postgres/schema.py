"""The tables and indexes of a schema of read models: created, updated to what is declared now, and dropped."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from twofold.postgres_server import Connection
from twofold.read_store.corruption import decode_at_start
from twofold.read_store.parked_summary import stored_summary, summary_of
from twofold.read_store.partition import Partition, shares
from twofold.read_store.port import VersionedRow
from twofold.read_store.postgres.rows import CHECKPOINTS, KEY_AND_ROW, PARKED, PostgresTable
from twofold.read_store.postgres.rows_columns import Arguments
from twofold.read_store.postgres.schema_names import escaped, key_of, qualified, quoted, table_name

IDENTITY = "identity"

# The names of the tables of rows differ from these: they contain an @.
_TABLES = """
create table if not exists {schema}.identity (id text primary key);
insert into {schema}.identity select '{new}' where not exists (select from {schema}.identity);
create table if not exists {schema}.checkpoints (
    rows_in    text collate "C" not null,
    first      int              not null,
    "end"      int              not null,
    model      text             not null,
    generation bigint           not null,
    log        text             not null,
    position   bigint           not null,
    updated    bigint           not null,
    epoch      bigint           not null,
    layout     text             not null,
    parked     text             not null default '',
    primary key (rows_in, first)
) with (fillfactor = 50);
create table if not exists {schema}.parked (
    rows_in   text collate "C" not null,
    key       text collate "C" not null,
    whole_key text collate "C",
    error     text             not null,
    position  bigint           not null,
    since     bigint           not null,
    waiting   bigint           not null,
    upto      bigint           not null,
    primary key (rows_in, key)
);
"""
# One at a time in all processes. The wait for a lock is limited, because readers queue behind it.
_ALONE = """
set local lock_timeout = '5s';
select pg_advisory_xact_lock(hashtext('twofold read store'), hashtext('{schema}'));
"""
_COLUMNS = """
select attname from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped
"""
_INDEXES = """
select relname from pg_index join pg_class on pg_class.oid = indexrelid
where indrelid = to_regclass($1) and not indisprimary
"""
_PAGE = 1_000


async def identity_of(connection: Connection, schema: str, new: str | None) -> str:
    """The identity in a schema; where there is none yet it is set to `new`. "" if `new` is None.

    The tables that all read models share are created with it.
    """
    identity = await _identity(connection, schema)
    if identity is None and new is not None:
        async with alone(connection, schema):
            # `create schema if not exists` needs a right that the role may not have, even if the schema exists.
            if await connection.fetchval("select to_regnamespace($1) is null", quoted(schema)):
                await connection.execute(f"create schema {quoted(schema)}")
            await connection.execute(_TABLES.replace("{schema}", quoted(schema)).replace("{new}", new))
        identity = await _identity(connection, schema)
    elif new is not None:
        await _add_summaries(connection, schema)
    return identity or ""


async def prepare(connection: Connection, table: PostgresTable, schema: str) -> None:
    """Create the table, or bring its columns and indexes up to what the model declares now; all or nothing.

    WiringError, with the fix, where the rows stored no longer fit the row type.
    """
    async with alone(connection, schema):
        await connection.execute(table.create)
        undeclared = await _columns(connection, table) - table.added.keys()
        added = [name for name in table.added if name not in await _columns(connection, table)]
        if undeclared or added:
            # Before the checkpoints, as saves do: otherwise each could wait for the other.
            await connection.execute(f"lock table {table.name} in access exclusive mode")
        await _create_partitions(connection, table, schema)
        for name in await _indexes(connection, table) - table.indexes.keys():
            await connection.execute(f"drop index {quoted(schema)}.{name}")
        # A column that saves do not write would be wrong when it is declared again.
        for name in undeclared:
            await connection.execute(f"alter table {table.name} drop column {name}")
        for name in added:
            await connection.execute(f"alter table {table.name} add column {name} {table.added[name]}")
        await _fill(connection, table, all_rows=bool(added))
        for name in table.indexes.keys() - await _indexes(connection, table):
            await connection.execute(table.indexes[name])


async def missing(connection: Connection, table: PostgresTable) -> str | None:
    """What a reader would miss, as a word: "table", "column" or "index"; None where all is there."""
    if not await connection.fetchval("select to_regclass($1) is not null", table.name):
        return "table"
    if not await _columns(connection, table) >= table.added.keys():
        return "column"
    return None if await _indexes(connection, table) >= table.indexes.keys() else "index"


async def drop(connection: Connection, schema: str, name: str, generation: int) -> None:
    rows_in = table_name(name, generation)
    async with alone(connection, schema):
        # In the same order as saves.
        await connection.execute(f"drop table if exists {qualified(schema, rows_in)}")
        for shared in (CHECKPOINTS, PARKED):
            await connection.execute(f"delete from {qualified(schema, shared)} where rows_in = $1", rows_in)


@asynccontextmanager
async def alone(connection: Connection, schema: str) -> AsyncGenerator[None]:
    """A transaction. In all processes together, one of them runs at a time."""
    async with connection.transaction():
        await connection.execute(_ALONE.replace("{schema}", schema))
        yield


async def _identity(connection: Connection, schema: str) -> str | None:
    table = qualified(schema, IDENTITY)
    if not await connection.fetchval("select to_regclass($1) is not null", table):
        return None
    identity: str | None = await connection.fetchval(f"select id from {table}")
    return identity


async def _add_summaries(connection: Connection, schema: str) -> None:
    """Add the summaries of parked keys to a schema of an earlier version."""
    checkpoints, parked = qualified(schema, CHECKPOINTS), qualified(schema, PARKED)
    if PARKED in {name for (name,) in await connection.fetch(_COLUMNS, checkpoints)}:
        return
    async with alone(connection, schema):
        await connection.execute(f"alter table {checkpoints} add column if not exists parked text not null default ''")
        for rows_in, first, end in await connection.fetch(f'select rows_in, first, "end" from {checkpoints}'):
            keys = await connection.fetch(f"select key, whole_key from {parked} where rows_in = $1", rows_in)
            summary = summary_of(key for key in (key_of(*one) for one in keys) if Partition(first, end).holds(key))
            await connection.execute(
                f"update {checkpoints} set parked = $3 where rows_in = $1 and first = $2",
                rows_in,
                first,
                stored_summary(summary),
            )


async def _create_partitions(connection: Connection, table: PostgresTable, schema: str) -> None:
    """Create the partitions of a new generation. From now on, saves with other columns are refused."""
    checkpoints = qualified(schema, CHECKPOINTS)
    if not await connection.fetchval(f"select exists (select from {checkpoints} where rows_in = $1)", table.rows_in):
        model = table.model
        await connection.executemany(
            f"insert into {checkpoints} values ($1, $2, $3, $4, $5, '', 0, 0, 0, $6)",
            [
                (table.rows_in, partition.first, partition.end, escaped(model.name), model.generation, table.layout)
                for partition in shares(model.partitions)
            ],
        )
    await connection.execute(
        f"update {checkpoints} set layout = $2 where rows_in = $1 and layout <> $2", table.rows_in, table.layout
    )


async def _fill(connection: Connection, table: PostgresTable, *, all_rows: bool) -> None:
    """Write the columns of all rows again, or only check whether the first row fits the row type."""
    after = ""
    while True:
        sql = f"select {', '.join(KEY_AND_ROW)} from {table.name} where key > $1 order by key limit $2"
        stored: list[Any] = await connection.fetch(sql, after, _PAGE if all_rows else 1)
        rows = {
            key_of(short, whole): VersionedRow(decode_at_start(table.decode, row), position, repair)
            for short, whole, row, position, repair in stored
        }
        if not all_rows or not rows:
            return
        arrays = table.arrays({key: stored_row for key, stored_row in rows.items() if stored_row.row is not None})
        arguments = Arguments()
        columns = arguments.unnested([arrays[0], *arrays[len(KEY_AND_ROW) :]])
        names = list(table.added)
        await connection.execute(
            f"update {table.name} old set {', '.join(f'{name} = new.{name}' for name in names)}"
            f" from {columns} new (key, {', '.join(names)}) where old.key = new.key",
            *arguments.values,
        )
        after = stored[-1][0]


async def _columns(connection: Connection, table: PostgresTable) -> set[str]:
    return await _names(connection, _COLUMNS, table) - set(map(quoted, KEY_AND_ROW))


async def _indexes(connection: Connection, table: PostgresTable) -> set[str]:
    return await _names(connection, _INDEXES, table)


async def _names(connection: Connection, sql: str, table: PostgresTable) -> set[str]:
    return {quoted(name) for (name,) in await connection.fetch(sql, table.name)}
