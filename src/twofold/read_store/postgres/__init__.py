"""Read models in one schema of a PostgreSQL database, written by any number of processes at once."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from twofold.errors import InvalidMessage
from twofold.postgres_server import address_of, closed_after
from twofold.read_store import refusals
from twofold.read_store.access import is_text
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, RawRow, ReadModel, VersionedRow
from twofold.read_store.postgres import checkpoints, saving, schema
from twofold.read_store.postgres.connection import PostgresReadConnections
from twofold.read_store.postgres.errors import DRIVER_ERRORS, translated
from twofold.read_store.postgres.inspection import PostgresRowInspector
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.rows_columns import Statement
from twofold.read_store.postgres.schema_names import key_of, short_key
from twofold.read_store.postgres.snapshot import PostgresSnapshot, Tables, begin
from twofold.read_store.refusals import prepared
from twofold.uncancellable import UncancellableTasks
from twofold.world import RealWorld, World

log = logging.getLogger(__name__)

SCHEMA = "twofold_views"


class PostgresReadStore:
    """A read store in one schema of a PostgreSQL database.

    A save is one statement: rows, parked keys and checkpoint together, or nothing. If its answer is lost, the
    checkpoint tells whether it was carried out. Snapshots and followers have separate connections.
    """

    def __init__(self, server: PostgresReadConnections) -> None:
        self.identity = ""
        self._server = server
        self._address = server.address
        self._schema = server.address.schema
        self._tasks = UncancellableTasks(str(refusals.closed(server.address.shown)))
        self._tables: Tables = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        read_only: bool = False,
        snapshots: int = 16,
        longest: float = 60.0,
        patience: float = 10.0,
        world: World | None = None,
    ) -> Self:
        """The read store of a `postgresql://` URL; `schema=NAME` is `twofold_views` unless given.

        At most `snapshots` are open at a time, each for `longest` seconds; further ones wait. Passing failures are
        retried for `patience` seconds. WiringError where the URL is malformed or the server does not fit; Unavailable
        where it is away.
        """
        world, address = world or RealWorld(), address_of(url, SCHEMA)
        store = cls(
            PostgresReadConnections(
                address, world, read_only=read_only, snapshots=snapshots, longest=longest, patience=patience
            )
        )
        try:
            await store._tasks.run(store._enter(None if read_only else world.new_id()))
        except BaseException:
            await store.close()
            raise
        return store

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = PostgresTable(model, self._schema)
            await self._tasks.run(self._prepare(table))
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = prepared(self._tables, model)
        requested = [short_key(key) for key in keys if is_text(key)]
        records = await self._tasks.run(self._server.fetch((table.select_many, [requested])))
        return {
            key_of(key, whole): VersionedRow(table.decode(row), position, n) for key, whole, row, position, n in records
        }

    async def save(self, change: Change) -> None:
        self._refuse_if_read_only()
        table = prepared(self._tables, change.model)
        try:
            statement = saving.save_statement(table, change, self._schema)
        except (TypeError, ValueError, InvalidMessage):
            table.check(change.rows)
            raise
        await self._tasks.run(self._save(table, change, statement))

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[PostgresSnapshot]:
        snapshot = await self._open_snapshot()
        try:
            yield snapshot
        finally:
            # The caller need not wait for it.
            _ = self._tasks.start(self._give_back(snapshot))

    async def checkpoints(self) -> list[Checkpoint]:
        async with self.snapshot() as snapshot:
            return await snapshot.checkpoints()

    async def close(self) -> None:
        await self._tasks.close(self._server.followers.close, self._server.snapshots.close)

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_if_read_only()
        table = prepared(self._tables, model)
        if not same_slots(old, new) or not await self._tasks.run(self._repartition(table, old, new)):
            raise refusals.partitions_changed(model)

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        table = self._tables.get((name, generation))
        inspector = self._inspector(name, generation, table.model if table else None)
        return await self._tasks.run(inspector.rows_after(after, limit))

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        return await self._tasks.run(self._inspector(model.name, model.generation, model).rows_of(keys))

    async def drop(self, name: str, generation: int) -> None:
        self._refuse_if_read_only()
        self._tables.pop((name, generation), None)
        await self._tasks.run(
            self._server.maintain(lambda connection: schema.drop(connection, self._schema, name, generation))
        )

    # What runs to its end

    async def _enter(self, new: str | None) -> None:
        await self._server.check_server()
        self.identity = await self._server.maintain(
            lambda connection: schema.identity_of(connection, self._schema, new), longest=None
        )

    async def _prepare(self, table: PostgresTable) -> None:
        if not self._server.read_only:
            await self._server.maintain(lambda connection: schema.prepare(connection, table, self._schema))
            return
        absent = await self._server.run(lambda connection: schema.missing(connection, table))
        if absent is not None:
            raise refusals.missing(self._address.shown, absent, table.model)

    async def _save(self, table: PostgresTable, change: Change, statement: Statement) -> None:
        perhaps_done, ((moved, *_),) = await self._server.change(
            lambda connection: self._server.fetch_over(connection, statement)
        )
        if not moved:
            records = await self._server.fetch(checkpoints.checkpoint_statement(table, change, self._schema))
            present = checkpoints.CheckpointRow(*records[0]) if records else None
            saving.refuse(table, change, present, perhaps_done=perhaps_done)

    async def _repartition(self, table: PostgresTable, old: Sequence[Partition], new: Sequence[Partition]) -> bool:
        perhaps_done, result = await self._server.change(
            lambda connection: checkpoints.repartition(connection, table, self._schema, old, new)
        )
        return result == "done" or (perhaps_done and result == "there")

    # Snapshots

    async def _open_snapshot(self) -> PostgresSnapshot:
        if self._tasks.closing:
            raise refusals.closed(self._address.shown)
        opening = self._tasks.start(self._take_snapshot())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._give_back_unused)
            raise

    async def _take_snapshot(self) -> PostgresSnapshot:
        try:
            connection = await self._server.snapshots.hold(lambda connection: begin(connection, self._server.longest))
        except DRIVER_ERRORS as error:
            raise translated(self._address, error) from error
        return PostgresSnapshot(self._server, connection, self._tables, self._tasks)

    def _give_back_unused(self, opening: "asyncio.Task[PostgresSnapshot]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            _ = self._tasks.start(self._give_back(opening.result()))

    async def _give_back(self, snapshot: PostgresSnapshot) -> None:
        try:
            with closed_after(self._server.patience, snapshot.connection):
                await snapshot.end()
        except DRIVER_ERRORS as error:
            log.debug("A snapshot could not be ended, and its connection is closed: %s", error)
            snapshot.connection.terminate()
        finally:
            if self._tasks.closing:
                snapshot.connection.terminate()
            self._server.snapshots.give_back(snapshot.connection)

    def _inspector(self, name: str, generation: int, model: ReadModel | None) -> PostgresRowInspector:
        return PostgresRowInspector(self._server.fetch_if_there, self._schema, name, generation, model)

    def _refuse_if_read_only(self) -> None:
        if self._server.read_only:
            raise refusals.read_only(self._address.shown)
