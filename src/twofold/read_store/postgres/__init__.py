"""Read models in one schema of a PostgreSQL database, written by any number of processes at once."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

from twofold.errors import InvalidMessage
from twofold.postgres_server import address_of, closed_after
from twofold.read_store import refusals
from twofold.read_store.access import is_text
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.partition_state import partitions_changed
from twofold.read_store.port import Change, Checkpoint, Lookup, RawRow, ReadModel, VersionedRow
from twofold.read_store.postgres import checkpoints, inspection, saving, schema
from twofold.read_store.postgres.connection import PostgresReadConnections
from twofold.read_store.postgres.errors import DRIVER_ERRORS, translated
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.schema_names import key_of, qualified, short_key, table_name
from twofold.read_store.postgres.snapshot import PostgresSnapshot, Tables, begin
from twofold.read_store.refusals import prepared
from twofold.uncancellable import UncancellableTasks, uncancelled
from twofold.world import RealWorld, World

log = logging.getLogger(__name__)

SCHEMA = "twofold_views"


class PostgresReadStore:
    """A read store in one schema of a PostgreSQL database.

    A save is one statement: rows, parked keys and checkpoint together, or nothing. If its answer is lost, the
    checkpoint tells whether it was carried out. Snapshots and followers have separate connections.
    """

    save_events = 5_000

    def __init__(self, server: PostgresReadConnections) -> None:
        self.identity = ""
        self._server = server
        self._address = server.address
        self._schema = server.address.schema
        self.tasks = UncancellableTasks(str(refusals.closed(server.address.shown)))
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
            await store._enter(None if read_only else world.new_id())
        except BaseException:
            await store.close()
            raise
        return store

    @uncancelled
    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = PostgresTable(model, self._schema)
            if not self._server.read_only:
                await self._server.maintain(partial(schema.prepare, table=table, schema=self._schema))
            elif absent := await self._server.run(partial(schema.missing, table=table)):
                raise refusals.missing(self._address.shown, absent, model)
            self._tables[model.name, model.generation] = table

    @uncancelled
    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = prepared(self._tables, model)
        requested = [short_key(key) for key in keys if is_text(key)]
        records = await self._server.fetch((table.select_many, [requested]))
        return {
            key_of(key, whole): VersionedRow(table.decode(row), position, n) for key, whole, row, position, n in records
        }

    @uncancelled
    async def save(self, change: Change) -> None:
        self._refuse_if_read_only()
        table = prepared(self._tables, change.model)
        try:
            statement = saving.save_statement(table, change, self._schema)
        except (TypeError, ValueError, InvalidMessage):
            table.check(change.rows)
            raise
        perhaps_done, ((moved, *_),) = await self._server.change(
            lambda connection: self._server.fetch_over(connection, statement)
        )
        if not moved:
            records = await self._server.fetch(checkpoints.checkpoint_statement(table, change, self._schema))
            present = checkpoints.checkpoint_row(records[0]) if records else None
            saving.refuse(table, change, present, perhaps_done=perhaps_done)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[PostgresSnapshot]:
        snapshot = await self._open_snapshot()
        try:
            yield snapshot
        finally:
            # The caller need not wait for it.
            _ = self.tasks.start(self._give_back(snapshot))

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        if self._address.pgbouncer or not is_text(key):
            async with self.snapshot() as snapshot:
                progress = await snapshot.progress(model)
                return Lookup(progress, await snapshot.get(model, key))
        return await self._look_up(prepared(self._tables, model), key)

    async def checkpoints(self) -> list[Checkpoint]:
        async with self.snapshot() as snapshot:
            return await snapshot.checkpoints()

    async def close(self) -> None:
        await self.tasks.close(self._server.followers.close, self._server.lookups.close, self._server.snapshots.close)

    @uncancelled
    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_if_read_only()
        table = prepared(self._tables, model)
        if not same_slots(old, new):
            raise partitions_changed(model)
        perhaps_done, result = await self._server.change(
            lambda connection: checkpoints.repartition(connection, table, self._schema, old, new)
        )
        if result == "refused" or (result == "there" and not perhaps_done):
            raise partitions_changed(model)

    @uncancelled
    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        table = qualified(self._schema, table_name(name, generation))
        return await inspection.rows_after(
            self._server.fetch_if_there, table, known.model if known else None, after, limit
        )

    @uncancelled
    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        table = qualified(self._schema, table_name(model.name, model.generation))
        return await inspection.rows_of(self._server.fetch_if_there, table, model, keys)

    @uncancelled
    async def drop(self, name: str, generation: int) -> None:
        self._refuse_if_read_only()
        self._tables.pop((name, generation), None)
        await self._server.maintain(lambda connection: schema.drop(connection, self._schema, name, generation))

    @uncancelled
    async def _enter(self, new: str | None) -> None:
        await self._server.check_server()
        self.identity = await self._server.maintain(
            lambda connection: schema.identity_of(connection, self._schema, new), longest=None
        )

    @uncancelled
    async def _look_up(self, table: PostgresTable, key: str) -> Lookup:
        # One statement sees one moment.
        *states, (*_, row) = await self._server.look_up((table.lookup, [table.rows_in, short_key(key)]))
        return Lookup(checkpoints.progress(states), None if row is None else table.decode(row))

    # Snapshots

    async def _open_snapshot(self) -> PostgresSnapshot:
        if self.tasks.closing:
            raise refusals.closed(self._address.shown)
        opening = self.tasks.start(self._take_snapshot())
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
        return PostgresSnapshot(self._server, connection, self._tables, self.tasks)

    def _give_back_unused(self, opening: "asyncio.Task[PostgresSnapshot]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            _ = self.tasks.start(self._give_back(opening.result()))

    async def _give_back(self, snapshot: PostgresSnapshot) -> None:
        try:
            with closed_after(self._server.patience, snapshot.connection):
                await snapshot.end()
        except DRIVER_ERRORS as error:
            log.debug("A snapshot could not be ended, and its connection is closed: %s", error)
            snapshot.connection.terminate()
        finally:
            if self.tasks.closing:
                snapshot.connection.terminate()
            self._server.snapshots.give_back(snapshot.connection)

    def _refuse_if_read_only(self) -> None:
        if self._server.read_only:
            raise refusals.read_only(self._address.shown)
