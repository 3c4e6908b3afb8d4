"""In charge of read models in one SQLite file: one writer inline on the event loop, readers each on a connection.

Each save commits rows and checkpoint together, so what a power cut takes away it takes away together, and the log still
has it: that is why `synchronous = NORMAL` is enough here.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import apsw
import msgspec

from twofold.errors import Conflict, Unavailable, WiringError
from twofold.read_store.access import check_access
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import (
    Change,
    Checkpoint,
    FindPage,
    Native,
    Parked,
    Progress,
    RawRow,
    ReadModel,
    VersionedRow,
)
from twofold.read_store.sqlite_looking import stored_behind, stored_of
from twofold.read_store.sqlite_schema import TABLES, missing, prepare_table
from twofold.read_store.sqlite_table import Table, table_name
from twofold.sqlite_file import (
    DiskErrors,
    FileLock,
    claim,
    open_connection,
    refuse_network_file_system,
    refuse_old_sqlite,
)

_APPLICATION_ID = 0x54465657

_Tables = dict[tuple[str, int], Table]

_ADVANCE = (
    "update checkpoints set position = ?, log = ?, updated = ?, epoch = ?"
    " where model = ? and generation = ? and first = ? and \"end\" = ? and position = ? and log in (?, '')"
    " and epoch <= ?"
)
_CHECKPOINTS = (
    'select model, generation, first, "end", position, log, updated, epoch from checkpoints'
    " order by model, generation, first"
)
_PROGRESS = (
    "select position, log, (select max(updated) from checkpoints where model = ?1 and generation = ?2)"
    " from checkpoints where model = ?1 and generation = ?2 order by position limit 1"
)
_PARKED = (
    "select key, position, error, since, waiting, upto from parked where model = ? and generation = ? order by key"
)
_IDENTITY = "select id from identity"
_HAS_TABLES = "select 1 from sqlite_schema where name = 'parked'"
_PARK = "insert or replace into parked values (?, ?, ?, ?, ?, ?, ?, ?)"
_UNPARK = "delete from parked where model = ? and generation = ? and key = ?"
_MERGE = (
    'delete from checkpoints where model = ? and generation = ? and first = ? and "end" = ?'
    " returning position, log, updated, epoch"
)
_SHARE = "insert into checkpoints values (?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteReadStore:
    """Read models in a file. Opening it raises WiringError where another process writes to it already.

    `read_only` opens beside the process that writes, and raises Unavailable while there is no file yet. At most
    `snapshots` are open at a time; further ones wait.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, snapshots: int = 16) -> None:
        refuse_old_sqlite()
        refuse_network_file_system(path)
        self._path = path
        self._tables: _Tables = {}
        self._open = True
        self._lock = None if read_only else FileLock(path)
        self._idle: list[apsw.Connection] = []
        self._room = asyncio.Semaphore(snapshots)
        self.identity = ""
        try:
            self._connection = open_connection(path, readonly=read_only)
            if not read_only:
                with DiskErrors(path):
                    claim(self._connection, path, "read database", _APPLICATION_ID)
                    self._connection.execute(TABLES).fetchall()
            with DiskErrors(path):
                if self._connection.execute(_HAS_TABLES).fetchone() is not None:
                    (self.identity,) = self._connection.execute(_IDENTITY).fetchone()  # type: ignore[misc]
        except BaseException:
            self._release_lock()
            raise

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = Table(model)
            with DiskErrors(self._path):
                if self._lock is None:
                    self._expect(table)
                else:
                    prepare_table(self._connection, table)
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = _table(self._tables, model)
        with DiskErrors(self._path):
            wanted = msgspec.json.encode(keys).decode()
            found = list(self._connection.execute(table.select_many, (wanted,)))
        return {key: VersionedRow(table.row(row), position, repair) for key, row, position, repair in found}

    async def save(self, change: Change) -> None:
        table = _table(self._tables, change.model)
        try:
            self._save(table, change)
        except (OverflowError, TypeError, ValueError):
            table.check(change.rows)
            raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["_SqliteSnapshot"]:
        async with self._room:
            with DiskErrors(self._path):
                reader = self._idle.pop() if self._idle else open_connection(self._path, readonly=True)
                try:
                    # SQLite takes its snapshot at the first read after `begin`, not at `begin`.
                    reader.execute("begin; select 1 from checkpoints limit 1").fetchall()
                except apsw.Error:
                    reader.close()
                    raise
            try:
                # Its own list: what is dropped while it is open it has still, as the file has.
                yield _SqliteSnapshot(self._path, reader, dict(self._tables))
            finally:
                self._give_back(reader)

    async def checkpoints(self) -> list[Checkpoint]:
        with DiskErrors(self._path):
            if self._connection.execute(_HAS_TABLES).fetchone() is None:
                return []
            found: list[Any] = self._connection.execute(_CHECKPOINTS).fetchall()
            parked = {each[:2]: _parked(self._connection, *each[:2]) for each in found}
        return [
            Checkpoint(
                model,
                generation,
                Progress(position, log, updated, tuple(p for p in parked[model, generation] if share.holds(p.key))),
                share,
                epoch,
            )
            for model, generation, first, end, position, log, updated, epoch in found
            for share in (Partition(first, end),)
        ]

    async def close(self) -> None:
        self._open = False
        while self._idle:
            self._idle.pop().close()
        with DiskErrors(self._path):
            self._connection.close()
        self._release_lock()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        _table(self._tables, model)
        mine = (model.name, model.generation)
        with self._transaction() as connection:
            merged: list[Any] = [connection.execute(_MERGE, (*mine, each.first, each.end)).fetchone() for each in old]
            stand = {each and each[:2] for each in merged}
            if len(stand) != 1 or None in stand or not same_slots(old, new):
                raise Conflict(
                    f"The partitions of read model '{model.name}' have changed, or stand at several positions."
                )
            position, log, updated, _ = merged[0]
            epoch = max(each[3] for each in merged)
            for each in new:
                connection.execute(_SHARE, (*mine, each.first, each.end, log, position, epoch, updated))

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        with DiskErrors(self._path):
            return stored_behind(self._connection, name, generation, known.model if known else None, after, limit)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        with DiskErrors(self._path):
            return stored_of(self._connection, model, keys)

    async def drop(self, name: str, generation: int) -> None:
        self._tables.pop((name, generation), None)
        with self._transaction() as connection:
            connection.execute(f"drop table if exists {table_name(name, generation)}")
            for table in ("checkpoints", "parked"):
                connection.execute(f"delete from {table} where model = ? and generation = ?", (name, generation))

    @contextmanager
    def _transaction(self) -> Generator[apsw.Connection]:
        if self._lock is None:
            raise Unavailable(f"{os.fspath(self._path)} is open for reading only. Ask the process that writes.")
        connection = self._connection
        with DiskErrors(self._path):
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                # A full disk or the like may have rolled back by itself already.
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    def _save(self, table: Table, change: Change) -> None:
        with self._transaction() as connection:
            self._advance(change)
            connection.executemany(table.upsert, table.parameters(change.rows))
            gone = [(key, each.repair, each.position) for key, each in change.rows.items() if each.row is None]
            if gone:
                connection.executemany(table.delete, gone)
            self._park(change)

    def _advance(self, change: Change) -> None:
        mine = (change.model.name, change.model.generation, change.partition.first, change.partition.end)
        to = (change.position, change.log, change.now, change.epoch)
        self._connection.execute(_ADVANCE, (*to, *mine, change.before, change.expected, change.epoch))
        if self._connection.changes() != 1:
            present = _progress(self._connection, change.model.name, change.model.generation)
            raise Conflict(
                f"Read model '{change.model.name}' is at {present.position} of log '{present.log}', not at "
                f"{change.before} of log '{change.log}', or a later epoch than {change.epoch} keeps it."
            )

    def _park(self, change: Change) -> None:
        mine = (change.model.name, change.model.generation)
        for key, parked in change.parked.items():
            if parked is None:
                self._connection.execute(_UNPARK, (*mine, key))
            else:
                what = (key, parked.position, parked.error, parked.since, parked.waiting, parked.upto)
                self._connection.execute(_PARK, (*mine, *what))

    def _expect(self, table: Table) -> None:
        absent = missing(self._connection, table)
        if absent is not None:
            raise Unavailable(
                f"{os.fspath(self._path)} has no {absent} of read model '{table.model.name}' generation "
                f"{table.model.generation} yet. Start the app that writes it with the same modules."
            )

    def _give_back(self, reader: apsw.Connection) -> None:
        try:
            reader.execute("rollback")
        except apsw.Error:
            # What is wrong with it has shown in the query, or will in the next: this connection is not used again.
            reader.close()
            return
        if self._open:
            self._idle.append(reader)
        else:
            reader.close()

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()


class _SqliteSnapshot:
    def __init__(self, path: str | os.PathLike[str], reader: apsw.Connection, tables: _Tables) -> None:
        self._path = path
        self._reader = reader
        self._tables = tables

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = _table(self._tables, model)
        with DiskErrors(self._path):
            found = self._reader.execute(table.select, (key,)).fetchone()
        return None if found is None else table.row(found[1])

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> FindPage:
        table = _table(self._tables, model)
        access = check_access(model, table.columns, filters, order_by, descending, limit, cursor)
        if access.matches_nothing:
            return FindPage([], None)
        found: list[Any] = []
        with DiskErrors(self._path):
            for sql, parameters in table.finds(access):
                # One more than asked for tells whether there is a next page.
                found += self._reader.execute(sql, (*parameters, limit + 1 - len(found))).fetchall()
                if len(found) > limit:
                    break
        page = [(key, table.row(row)) for key, row, _ in found[:limit]]
        if len(found) <= limit:
            return FindPage(page, None)
        key, _, value = found[limit - 1]
        return FindPage(page, access.cursor(value, key))

    async def progress(self, model: ReadModel) -> Progress:
        _table(self._tables, model)
        with DiskErrors(self._path):
            return _progress(self._reader, model.name, model.generation)

    def native(self, model: ReadModel) -> Native:
        return Native(self._reader, _table(self._tables, model).name)


def _progress(connection: apsw.Connection, model: str, generation: int) -> Progress:
    found = connection.execute(_PROGRESS, (model, generation)).fetchone()
    if found is None:
        return Progress(0, "", 0)
    position, log, updated = found
    return Progress(position, log, updated, _parked(connection, model, generation))


def _parked(connection: apsw.Connection, model: str, generation: int) -> tuple[Parked, ...]:
    return tuple(Parked(*each) for each in connection.execute(_PARKED, (model, generation)))


def _table(tables: _Tables, model: ReadModel) -> Table:
    try:
        return tables[model.name, model.generation]
    except KeyError as error:
        raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error
