"""Read models in one schema of a PostgreSQL database, written by any number of processes at once."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import asyncpg

from twofold.errors import Conflict, InvalidMessage, Unavailable, WiringError
from twofold.postgres_server import (
    LOST,
    Connection,
    Connections,
    PostgresAddress,
    UnderWay,
    address_of,
    closed_after,
    is_missing,
)
from twofold.read_store.access import is_text
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, RawRow, ReadModel, VersionedRow
from twofold.read_store.postgres import looking, saving, schema
from twofold.read_store.postgres.arguments import Statement
from twofold.read_store.postgres.failing import refused, refused_at_start
from twofold.read_store.postgres.names import table_name
from twofold.read_store.postgres.partitions import repartition
from twofold.read_store.postgres.snapshot import PostgresSnapshot, begin
from twofold.read_store.postgres.table import Table, qualified
from twofold.read_store.postgres.text import key_of, short_key
from twofold.world import RealWorld, World

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA = "twofold_views"
_WORKING = 4
_LONGEST_UPKEEP = 3_600.0
_LARGE = 6
"""How many times the patience a change may take: what is cut off too early is cut off for ever."""
_OLDEST = 13
PLANS = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
"""What followers ask goes by the primary key, however small the table was when the plan was made."""


class PostgresReadStore:
    """A read store in one schema of a PostgreSQL database.

    A save is one statement: rows, parked keys and checkpoint together, or nothing. Where its answer is lost, the
    checkpoint tells whether it was carried out. Finds and followers have connections apart.
    """

    def __init__(
        self,
        address: PostgresAddress,
        *,
        read_only: bool,
        snapshots: int,
        longest: float,
        patience: float,
        world: World,
    ) -> None:
        self.identity = ""
        self._address = address
        self._read_only = read_only
        self._longest = longest
        self._patience = patience
        self._world = world
        plans = {**PLANS, "default_transaction_read_only": "on"} if read_only else PLANS
        self._working = Connections(address, world, _WORKING, patience, plans)
        self._reading = Connections(address, world, snapshots, patience)
        self._under_way = UnderWay()
        self._closing: asyncio.Task[None] | None = None
        self._tables: dict[tuple[str, int], Table] = {}

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
        """The read store a `postgresql://` URL names; `schema=NAME` is `twofold_views` unless given.

        At most `snapshots` are open at a time, each for `longest` seconds; further ones wait. What fails in passing is
        tried again for `patience` seconds. WiringError where the URL is malformed or the server will not do;
        Unavailable where it is away.
        """
        store = cls(
            address_of(url, SCHEMA),
            read_only=read_only,
            snapshots=snapshots,
            longest=longest,
            patience=patience,
            world=world or RealWorld(),
        )
        try:
            await store._uncancelled(store._enter())
        except BaseException:
            await store.close()
            raise
        return store

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = Table(model, self._address.schema)
            await self._uncancelled(self._prepare(table))
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = self._table(model)
        statement: Statement = (table.select_many, [[short_key(key) for key in keys if is_text(key)]])
        found = await self._uncancelled(self._run(lambda connection: self._fetch(connection, statement)))
        return {key_of(key, whole): VersionedRow(table.row(row), position, n) for key, whole, row, position, n in found}

    async def save(self, change: Change) -> None:
        self._refuse_reader()
        table = self._table(change.model)
        try:
            statement = saving.save_statement(table, change, self._address.schema)
        except (TypeError, ValueError, InvalidMessage):
            table.check(change.rows)
            raise
        await self._uncancelled(self._save(table, change, statement))

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[PostgresSnapshot]:
        snapshot, connection = await self._taken()
        try:
            yield snapshot
        finally:
            # Nobody need wait for it.
            _ = self._under_way.start(self._give_back(snapshot, connection))

    async def checkpoints(self) -> list[Checkpoint]:
        async with self.snapshot() as snapshot:
            return await snapshot.checkpoints()

    async def close(self) -> None:
        # Whoever gives up waiting for it does not stop it half-way.
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_reader()
        table = self._table(model)
        done = same_slots(old, new) and await self._uncancelled(self._repartition(table, old, new))
        if not done:
            raise Conflict(f"The partitions of read model '{model.name}' have changed, or stand at several positions.")

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        table = qualified(self._address.schema, table_name(name, generation))
        found = await self._uncancelled(looking.behind(self._stored, table, after, limit))
        return looking.stored(found, known.model if known else None)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        table = qualified(self._address.schema, table_name(model.name, model.generation))
        found = await self._uncancelled(self._stored(looking.of(table, [key for key in keys if is_text(key)])))
        return dict(looking.stored(found, model))

    async def drop(self, name: str, generation: int) -> None:
        self._refuse_reader()
        self._tables.pop((name, generation), None)
        await self._uncancelled(self._upkeep(lambda each: schema.drop(each, self._address.schema, name, generation)))

    # What goes on to its end

    async def _enter(self) -> None:
        new = None if self._read_only else self._world.new_id()
        try:
            version, encoding = await self._working.run(_version_and_encoding)
            if version < _OLDEST or encoding != "UTF8":
                raise WiringError(
                    f"Read models need PostgreSQL {_OLDEST} or newer and a database in UTF8; {self._address.shown} is "
                    f"{version} in {encoding}."
                )
            self.identity = await self._working.run(
                lambda connection: schema.identity_of(connection, self._address.schema, new)
            )
        except (*LOST, asyncpg.PostgresError) as error:
            raise refused_at_start(self._address, error) from error

    async def _prepare(self, table: Table) -> None:
        if not self._read_only:
            await self._upkeep(lambda connection: schema.prepare(connection, table, self._address.schema))
            return
        absent = await self._run(lambda connection: schema.missing(connection, table))
        if absent is not None:
            raise Unavailable(
                f"{self._address.shown} has no {absent} of read model '{table.model.name}' generation "
                f"{table.model.generation} yet. Start the app that writes it with the same modules."
            )

    async def _upkeep(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What may take long; and what the role may not do is a matter of wiring."""
        try:
            return await self._working.run(work, _LONGEST_UPKEEP)
        except (*LOST, asyncpg.PostgresError) as error:
            raise refused_at_start(self._address, error) from error

    async def _save(self, table: Table, change: Change, statement: Statement) -> None:
        perhaps_done, ((moved, *_),) = await self._tried(lambda connection: self._fetch(connection, statement))
        if not moved:
            where = saving.standing_statement(table, change, self._address.schema)
            found = await self._run(lambda connection: self._fetch(connection, where))
            present = saving.Standing(*found[0]) if found else None
            saving.refuse(table, change, present, perhaps_done=perhaps_done)

    async def _stored(self, statement: Statement) -> Sequence[Any]:
        try:
            return await self._working.run(lambda connection: self._fetch(connection, statement))
        except (*LOST, asyncpg.PostgresError) as error:
            if is_missing(error):
                return []
            raise refused(self._address, error) from error

    async def _repartition(self, table: Table, old: Sequence[Partition], new: Sequence[Partition]) -> bool:
        perhaps_done, became = await self._tried(
            lambda connection: repartition(connection, table, self._address.schema, old, new)
        )
        return became == "done" or (perhaps_done and became == "there")

    async def _tried(self, work: Callable[[Connection], Awaitable[T]]) -> tuple[bool, T]:
        """What a change came to, and whether an earlier try may have been carried out, whose answer was lost."""
        in_doubt = False

        async def once(connection: Connection) -> tuple[bool, T]:
            nonlocal in_doubt
            before, in_doubt = in_doubt, True
            try:
                return before, await work(connection)
            except asyncpg.PostgresError as error:
                if not isinstance(error, LOST):
                    in_doubt = before
                raise

        return await self._run(once, _LARGE * self._patience)

    async def _run(self, work: Callable[[Connection], Awaitable[T]], longest: float | None = None) -> T:
        try:
            return await self._working.run(work, longest)
        except (*LOST, asyncpg.PostgresError) as error:
            raise refused(self._address, error) from error

    async def _fetch(self, connection: Connection, statement: Statement) -> Sequence[Any]:
        """The rows of one statement, in one transaction."""
        sql, arguments = statement
        if not self._address.pgbouncer:
            rows: Sequence[Any] = await connection.fetch(sql, *arguments)
            return rows
        # Between two messages the pooler may go over to another server connection, but not in a transaction.
        async with connection.transaction():
            await connection.execute("; ".join(f"set local {name} = {value}" for name, value in PLANS.items()))
            rows = await connection.fetch(sql, *arguments)
            return rows

    async def _uncancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on to its end even where the caller is cancelled."""
        if self._closing is not None:
            work.close()
            raise Unavailable(f"The read models at {self._address.shown} have been closed.")
        return await self._under_way.finish(work)

    async def _close(self) -> None:
        await self._under_way.wait()
        await self._working.close()
        await self._reading.close()

    # Snapshots

    async def _taken(self) -> tuple[PostgresSnapshot, Connection]:
        if self._closing is not None:
            raise Unavailable(f"The read models at {self._address.shown} have been closed.")
        taking = self._under_way.start(self._take())
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._not_wanted)
            raise

    async def _take(self) -> tuple[PostgresSnapshot, Connection]:
        try:
            connection = await self._reading.hold(lambda connection: begin(connection, self._longest))
        except (*LOST, asyncpg.PostgresError) as error:
            raise refused(self._address, error) from error
        return self._snapshot_on(connection), connection

    def _snapshot_on(self, connection: Connection) -> PostgresSnapshot:
        return PostgresSnapshot(
            connection,
            self._address.schema,
            self._table,
            self._under_way.finish,
            lambda error: refused(self._address, error),
            patience=self._patience,
            longest=self._longest,
        )

    def _not_wanted(self, taking: "asyncio.Task[tuple[PostgresSnapshot, Connection]]") -> None:
        if not taking.cancelled() and taking.exception() is None:
            _ = self._under_way.start(self._give_back(*taking.result()))

    async def _give_back(self, snapshot: PostgresSnapshot, connection: Connection) -> None:
        try:
            with closed_after(self._patience, connection):
                await snapshot.end()
        except (*LOST, asyncpg.PostgresError) as error:
            log.debug("A snapshot did not end in order, and its connection is closed: %s", error)
            connection.terminate()
        finally:
            if self._closing is not None:
                connection.terminate()
            self._reading.give_back(connection)

    def _refuse_reader(self) -> None:
        if self._read_only:
            raise Unavailable(f"{self._address.shown} is open for reading only. Ask a process that writes.")

    def _table(self, model: ReadModel) -> Table:
        try:
            return self._tables[model.name, model.generation]
        except KeyError as error:
            raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error


async def _version_and_encoding(connection: Connection) -> tuple[int, str]:
    return connection.get_server_version().major, connection.get_settings().server_encoding
