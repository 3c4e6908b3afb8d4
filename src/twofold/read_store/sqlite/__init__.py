"""Read models in one SQLite file: one process writes, inline on the event loop, and any number read.

Each save commits rows and checkpoint together. A power cut loses them together, and the log still has the events: that
is why `synchronous = NORMAL` is enough here.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from twofold.read_store import refusals
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, Lookup, RawRow, ReadModel, VersionedRow
from twofold.read_store.refusals import prepared
from twofold.read_store.sqlite import checkpoints, inspection, schema
from twofold.read_store.sqlite.connection import SqliteConnections
from twofold.read_store.sqlite.connection_wal import WalMover
from twofold.read_store.sqlite.rows import SqliteTable, table_name
from twofold.read_store.sqlite.snapshot import SqliteSnapshot, Tables
from twofold.sqlite_file import DiskErrors
from twofold.world import RealWorld, World

CACHE_BYTES = 67_108_864
"""How much of the file the connection that writes keeps in memory at most."""


class SqliteReadStore:
    """Read models in a file. Opening it raises WiringError where another process writes to it already.

    `read_only` opens beside the process that writes, and raises Unavailable while there is no file yet. At most
    `snapshots` are open at a time; further ones wait. Unavailable as well once the file was deleted or replaced.
    """

    save_events = 500

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        snapshots: int = 16,
        cache_bytes: int = CACHE_BYTES,
        world: World | None = None,
    ) -> None:
        self._path = path
        self._world: World = world or RealWorld()
        self._connections = SqliteConnections(path, read_only=read_only, snapshots=snapshots)
        self._connection = self._connections.main
        self._tables: Tables = {}
        try:
            with DiskErrors(path):
                if not read_only:
                    self._connection.pragma("cache_size", -(cache_bytes // 1_024))
                    schema.create_tables(self._connection)
                self.identity = schema.identity_of(self._connection)
                self._wal = None if read_only else WalMover(self._connection, path)
        except BaseException:
            self._connections.release_lock()
            raise

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = SqliteTable(model)
            if self._connections.read_only:
                with DiskErrors(self._path):
                    absent = schema.missing(self._connection, table)
                if absent is not None:
                    raise refusals.missing(os.fspath(self._path), absent, model)
            else:
                with self._connections.transaction() as connection:
                    schema.prepare(connection, table)
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = prepared(self._tables, model)
        with DiskErrors(self._path):
            requested = msgspec.json.encode(keys).decode()
            records = list(self._connection.execute(table.select_many, (requested,)))
        return {key: VersionedRow(table.decode(row), position, repair) for key, row, position, repair in records}

    async def save(self, change: Change) -> None:
        self._connections.check_file()
        table = prepared(self._tables, change.model)
        try:
            with self._connections.transaction() as connection:
                checkpoints.advance(connection, change)
                connection.executemany(table.upsert, table.parameters(change.rows))
                deleted = [(key, new.repair, new.position) for key, new in change.rows.items() if new.row is None]
                connection.executemany(table.delete, deleted)
                checkpoints.park(connection, change)
        except (OverflowError, TypeError, ValueError):
            table.check(change.rows)
            raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[SqliteSnapshot]:
        self._connections.check_file()
        async with self._connections.reader() as reader:
            yield SqliteSnapshot(self._path, reader, dict(self._tables))

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        self._connections.check_file()
        table = prepared(self._tables, model)
        with DiskErrors(self._path):
            # One statement sees one moment.
            parameters = (model.name, model.generation, key)
            records: list[Any] = self._connection.execute(table.lookup, parameters).fetchall()
        *states, (*_, row) = records
        return Lookup(checkpoints.progress(states), None if row is None else table.decode(row))

    async def checkpoints(self) -> list[Checkpoint]:
        self._connections.check_file()
        with DiskErrors(self._path):
            return checkpoints.all_checkpoints(self._connection)

    async def close(self) -> None:
        wal, self._wal = self._wal, None
        try:
            if wal is not None:
                await wal.close()
        finally:
            self._connections.close()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        prepared(self._tables, model)
        with self._connections.transaction() as connection:
            checkpoints.repartition(connection, model, old, new)

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        with DiskErrors(self._path):
            model = known.model if known else None
            return inspection.rows_after(self._connection, table_name(name, generation), model, after, limit)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        with DiskErrors(self._path):
            return inspection.rows_of(self._connection, table_name(model.name, model.generation), model, keys)

    async def drop(self, name: str, generation: int) -> None:
        self._tables.pop((name, generation), None)
        with self._connections.transaction() as connection:
            schema.drop(connection, name, generation)
        await self._connections.give_space_back(self._world)
        if self._wal is not None:
            await self._wal.move()
