"""Saves: rows, parked keys and checkpoint in one transaction."""

import apsw

from twofold.read_store.port import Change
from twofold.read_store.sqlite.checkpoints import advance, park
from twofold.read_store.sqlite.rows import SqliteTable


def save(connection: apsw.Connection, table: SqliteTable, change: Change) -> None:
    """Write a change within a transaction. Conflict where the checkpoint is not as it expects."""
    advance(connection, change)
    connection.executemany(table.upsert, table.parameters(change.rows))
    deleted = [(key, new.repair, new.position) for key, new in change.rows.items() if new.row is None]
    if deleted:
        connection.executemany(table.delete, deleted)
    park(connection, change)
