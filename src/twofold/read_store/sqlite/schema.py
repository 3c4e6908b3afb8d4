"""The tables and indexes of a SQLite file of read models: created, and updated to what is declared now."""

from typing import Any

import apsw

from twofold.read_store.corruption import decode_at_start
from twofold.read_store.parked_summary import stored_summary, summary_of
from twofold.read_store.partition import Partition, shares
from twofold.read_store.port import VersionedRow
from twofold.read_store.sqlite.rows import KEY_AND_ROW, SqliteTable, quoted, table_name

TABLES = """
pragma synchronous = normal;
pragma wal_autocheckpoint = 0;
pragma journal_size_limit = 67108864;
create table if not exists identity (id text not null) strict;
insert into identity select lower(hex(randomblob(16))) where not exists (select 1 from identity);
create table if not exists checkpoints (
    model text not null, generation integer not null, first integer not null, "end" integer not null,
    log text not null, position integer not null, epoch integer not null, updated integer not null,
    parked text not null default '',
    primary key (model, generation, first)
) without rowid, strict;
create table if not exists parked (
    model text not null, generation integer not null, key text not null, position integer not null,
    error text not null, since integer not null, waiting integer not null, upto integer not null,
    primary key (model, generation, key)
) without rowid, strict;
"""

_PAGE = 1_000


_HAS_SUMMARIES = "select 1 from pragma_table_info('checkpoints') where name = 'parked'"


def create_tables(connection: apsw.Connection) -> None:
    """Create the tables that all read models share. In a file of an earlier version, summaries are added."""
    connection.execute(TABLES).fetchall()
    if has_tables(connection):
        return
    connection.execute("begin immediate; alter table checkpoints add column parked text not null default ''")
    states: list[Any] = connection.execute('select model, generation, first, "end" from checkpoints').fetchall()
    for model, generation, first, end in states:
        keys = connection.execute("select key from parked where model = ? and generation = ?", (model, generation))
        summary = summary_of(key for (key,) in keys if Partition(first, end).holds(key))
        update = "update checkpoints set parked = ? where model = ? and generation = ? and first = ?"
        connection.execute(update, (stored_summary(summary), model, generation, first))
    connection.execute("commit")


def has_tables(connection: apsw.Connection) -> bool:
    """Whether `create_tables` was called, as a reader may be there first."""
    return connection.execute(_HAS_SUMMARIES).fetchone() is not None


def identity_of(connection: apsw.Connection) -> str:
    """The identity in the file; "" where it has none yet."""
    return str(connection.execute("select id from identity").get) if has_tables(connection) else ""


def prepare(connection: apsw.Connection, table: SqliteTable) -> None:
    """Create the table, or bring its columns and indexes up to what the model declares now, within a transaction.

    WiringError, with the fix, where the rows stored no longer fit the row type.
    """
    connection.execute(
        f"create table if not exists {table.name}"
        " (key text primary key not null, row, position integer not null, repair integer not null) without rowid"
    )
    _create_partitions(connection, table)
    _drop_undeclared(connection, table)
    _add_columns(connection, table)
    for access, index in table.indexes.items():
        group, order = access
        fields = [*group, *([order] if order else [])]
        columns = ", ".join([*(table.column_names[field] for field in fields), "key"])
        connection.execute(f"create index if not exists {index} on {table.name} ({columns})")


def missing(connection: apsw.Connection, table: SqliteTable) -> str | None:
    """What a reader would miss, as a word: "table", "column" or "index"; None where all is there."""
    columns = columns_there(connection, table.name)
    if not columns:
        return "table"
    if not columns >= set(table.column_names.values()):
        return "column"
    return None if _indexes_there(connection, table) >= set(table.indexes.values()) else "index"


def drop(connection: apsw.Connection, name: str, generation: int) -> None:
    connection.execute(f"drop table if exists {table_name(name, generation)}")
    for table in ("checkpoints", "parked"):
        connection.execute(f"delete from {table} where model = ? and generation = ?", (name, generation))


def columns_there(connection: apsw.Connection, table: str) -> set[str]:
    """The columns a table has, quoted; none where it is not there."""
    rows = connection.execute("select name from pragma_table_info(?)", (table.strip('"'),))
    return {quoted(name) for (name,) in rows}


def _create_partitions(connection: apsw.Connection, table: SqliteTable) -> None:
    generation = (table.model.name, table.model.generation)
    sql = "select 1 from checkpoints where model = ? and generation = ?"
    if connection.execute(sql, generation).fetchone() is None:
        connection.executemany(
            "insert into checkpoints values (?, ?, ?, ?, '', 0, 0, 0, '')",
            [(*generation, partition.first, partition.end) for partition in shares(table.model.partitions)],
        )


def _drop_undeclared(connection: apsw.Connection, table: SqliteTable) -> None:
    # A column that saves do not write would be wrong when it is declared again.
    for name in _indexes_there(connection, table) - set(table.indexes.values()):
        connection.execute(f"drop index {name}")
    declared = {*map(quoted, KEY_AND_ROW), *table.column_names.values()}
    for name in columns_there(connection, table.name) - declared:
        connection.execute(f"alter table {table.name} drop column {name}")


def _add_columns(connection: apsw.Connection, table: SqliteTable) -> None:
    added = set(table.column_names.values()) - columns_there(connection, table.name)
    for name in added:
        connection.execute(f"alter table {table.name} add column {name}")
    after = ""
    while True:
        sql = f"select {', '.join(KEY_AND_ROW)} from {table.name} where key > ? order by key limit ?"
        stored: list[Any] = list(connection.execute(sql, (after, _PAGE if added else 1)))
        rows = {key: VersionedRow(decode_at_start(table.decode, row), *version) for key, row, *version in stored}
        if not added or not stored:
            return
        connection.executemany(table.fill, table.parameters(rows))
        after = stored[-1][0]


def _indexes_there(connection: apsw.Connection, table: SqliteTable) -> set[str]:
    rows = connection.execute(
        "select name from sqlite_schema where type = 'index' and tbl_name = ? and sql is not null",
        (table.name.strip('"'),),
    )
    return {quoted(name) for (name,) in rows}
