"""In charge of what a SQLite file of read models contains: its tables made, and brought up to what is declared now."""

import logging
from typing import Any

import apsw

from twofold.errors import WiringError
from twofold.read_store.corruption import DECODE_ERRORS, type_changed, unreadable
from twofold.read_store.partition import shares
from twofold.read_store.port import VersionedRow
from twofold.read_store.sqlite_table import Table, quoted

log = logging.getLogger(__name__)

TABLES = """
pragma synchronous = normal;
pragma cache_size = -65536;
pragma wal_autocheckpoint = 4000;
pragma journal_size_limit = 67108864;
create table if not exists identity (id text not null) strict;
insert into identity select lower(hex(randomblob(16))) where not exists (select 1 from identity);
create table if not exists checkpoints (
    model text not null, generation integer not null, first integer not null, "end" integer not null,
    log text not null, position integer not null, epoch integer not null, updated integer not null,
    primary key (model, generation, first)
) without rowid, strict;
create table if not exists parked (
    model text not null, generation integer not null, key text not null, position integer not null,
    error text not null, since integer not null, waiting integer not null, upto integer not null,
    primary key (model, generation, key)
) without rowid, strict;
"""

_PAGE = 1_000
_ALWAYS = {quoted(name) for name in ("key", "row", "position", "repair")}


def prepare_table(connection: apsw.Connection, table: Table) -> None:
    """Make the table, or bring its columns and indexes up to what the model declares now; all or nothing.

    WiringError, naming the cure, where the rows stored no longer fit the row type.
    """
    connection.execute("begin immediate")
    try:
        connection.execute(table.create)
        _share_out(connection, table)
        _drop_undeclared(connection, table)
        _add_columns(connection, table)
        for sql in table.indexes.values():
            connection.execute(sql)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def missing(connection: apsw.Connection, table: Table) -> str | None:
    """What a reader would miss, as a word: "table", "column" or "index"; None where all is there."""
    columns = columns_there(connection, table.name)
    if not columns:
        return "table"
    if not columns >= set(table.column_names.values()):
        return "column"
    return None if _indexes(connection, table) >= table.indexes.keys() else "index"


def _share_out(connection: apsw.Connection, table: Table) -> None:
    """Give a generation that is new its partitions."""
    mine = (table.model.name, table.model.generation)
    known = connection.execute("select 1 from checkpoints where model = ? and generation = ?", mine).fetchone()
    if known is None:
        for each in shares(table.model.partitions):
            connection.execute(
                "insert into checkpoints values (?, ?, ?, ?, '', 0, 0, 0)", (*mine, each.first, each.end)
            )


def _drop_undeclared(connection: apsw.Connection, table: Table) -> None:
    # A column that saves do not write would be wrong when it is declared again.
    for name in _indexes(connection, table) - table.indexes.keys():
        connection.execute(f"drop index {name}")
    for name in columns_there(connection, table.name) - set(table.column_names.values()) - _ALWAYS:
        connection.execute(f"alter table {table.name} drop column {name}")


def _add_columns(connection: apsw.Connection, table: Table) -> None:
    added = set(table.column_names.values()) - columns_there(connection, table.name)
    for name in added:
        connection.execute(f"alter table {table.name} add column {name}")
    after = ""
    while True:
        sql = f"select key, row, position, repair from {table.name} where key > ? order by key limit ?"
        stored: list[Any] = list(connection.execute(sql, (after, _PAGE if added else 1)))
        rows: dict[str, VersionedRow] = {}
        for key, row, position, repair in stored:
            try:
                rows[key] = VersionedRow(table.decode(row), position, repair)
            except DECODE_ERRORS as error:
                if type_changed(error):
                    raise WiringError(unreadable(table.model, error)) from error
                # It stays without columns, which an audit finds: it must not keep the app from starting.
                log.warning("%s", unreadable(table.model, error))
        if not added or not stored:
            return
        connection.executemany(table.fill, table.parameters(rows))
        after = stored[-1][0]


def columns_there(connection: apsw.Connection, table: str) -> set[str]:
    """The columns a table has, quoted; none where it is not there."""
    found = connection.execute("select name from pragma_table_info(?)", (table.strip('"'),))
    return {quoted(name) for (name,) in found}


def _indexes(connection: apsw.Connection, table: Table) -> set[str]:
    found = connection.execute(
        "select name from sqlite_schema where type = 'index' and tbl_name = ? and sql is not null",
        (table.name.strip('"'),),
    )
    return {quoted(name) for (name,) in found}
