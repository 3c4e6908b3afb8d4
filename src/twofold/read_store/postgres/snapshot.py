"""A view of one moment of all read models: a transaction on its own connection."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from twofold.errors import Unavailable
from twofold.postgres_server import Connection, closed_after
from twofold.read_store.access import Access, check_access, fetch_until, find_page
from twofold.read_store.port import Checkpoint, FindOptions, FindPage, Native, Progress, ReadModel
from twofold.read_store.postgres.checkpoints import all_checkpoints, is_parked, progress_of
from twofold.read_store.postgres.connection import PostgresReadConnections
from twofold.read_store.postgres.errors import DRIVER_ERRORS, translated
from twofold.read_store.postgres.finds import find_statements, needs_exact
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.rows_columns import Statement
from twofold.read_store.postgres.schema_names import key_of, short_key
from twofold.read_store.refusals import prepared
from twofold.uncancellable import UncancellableTasks

SNAPSHOT_PLANS = {
    # A plan made for a small table would be used still when it has grown. A new one takes some 40 µs.
    "plan_cache_mode": "force_custom_plan",
    # There is an index in the order of each find, however few rows the server believes there are to sort.
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    # Where it has to sort all the same, the server estimates such a cost that it would compile the query.
    "jit": "off",
}

Tables = dict[tuple[str, int], PostgresTable]


class PostgresSnapshot:
    """One moment, for as long as its connection is held: `longest` seconds at most, then the connection is closed.

    `native` gives the connection: `fetch`, `fetchrow` and `fetchval` see this moment (`cursor` and `transaction` do not
    work, because the transaction is not the driver's). Before a query that sorts many rows, run
    `set local enable_sort = on` on it.
    """

    def __init__(
        self, server: PostgresReadConnections, connection: Connection, tables: Tables, tasks: UncancellableTasks
    ) -> None:
        self.connection = connection
        self._server = server
        self._tables = tables
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self._lent = False
        self._late = False
        self._timer = asyncio.get_running_loop().call_later(server.longest, self._cut_off)

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = prepared(self._tables, model)
        try:
            short = short_key(key)
        except UnicodeEncodeError:
            # No row can have such a key.
            return None
        records = await self._fetch(table.select, short)
        return table.decode(records[0][0]) if records else None

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        table = prepared(self._tables, model)
        access = check_access(model, table.columns, filters, **options)
        return await find_page(
            access,
            lambda count: self._find(table, access, count),
            lambda record: (key_of(record[0], record[1]), table.decode(record[2])),
        )

    async def progress(self, model: ReadModel) -> Progress:
        return await progress_of(self._fetch, self._server.address.schema, prepared(self._tables, model))

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        return await is_parked(self._fetch, self._server.address.schema, prepared(self._tables, model), key)

    def native(self, model: ReadModel) -> Native:
        table = prepared(self._tables, model)
        self._lent = True
        return Native(self.connection, table.name)

    async def checkpoints(self) -> list[Checkpoint]:
        """How far all partitions of all read models have come; empty where none was ever prepared."""
        return await all_checkpoints(self._fetch, self._server.address.schema)

    async def end(self) -> None:
        """End the transaction, and all that was set on the native connection. asyncpg's errors where that fails."""
        async with self._turn:
            self._timer.cancel()
            await self.connection.execute("rollback")
            if self._lent:
                await self.connection.reset()

    async def _find(self, table: PostgresTable, access: Access, count: int) -> list[Any]:
        exact = needs_exact(table, access)
        records = await fetch_until(count, find_statements(table, access, exact=exact), self._fetch_some)
        if not exact and any(cut for *_, cut in records):
            records = await fetch_until(count, find_statements(table, access, exact=True), self._fetch_some)
        return records

    async def _fetch_some(self, statement: Statement, count: int) -> Sequence[Any]:
        sql, arguments = statement
        return await self._fetch(f"{sql} limit ${len(arguments) + 1}", *arguments, count)

    async def _fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """The records of one statement; statements run one at a time."""
        records: Sequence[Any] = await self._tasks.finish(self._fetch_alone(sql, arguments))
        return records

    async def _fetch_alone(self, sql: str, arguments: Sequence[Any]) -> Sequence[Any]:
        async with self._turn:
            try:
                with closed_after(self._server.patience, self.connection):
                    records: Sequence[Any] = await self.connection.fetch(sql, *arguments)
                    return records
            except DRIVER_ERRORS as error:
                if self._late:
                    raise Unavailable(
                        f"This snapshot was open for longer than {self._server.longest:g} s and was closed: it keeps "
                        "the server from removing old rows. Request less at a time."
                    ) from error
                raise translated(self._server.address, error) from error

    def _cut_off(self) -> None:
        self._late = True
        self.connection.terminate()


async def begin(connection: Connection, longest: float) -> None:
    """Take a snapshot, which the server ends by itself after `longest` seconds without a statement.

    The settings end with it: a pooler would give them to others.
    """
    settings = {**SNAPSHOT_PLANS, "idle_in_transaction_session_timeout": int(1_000 * longest)}
    local = "".join(f"set local {name} = {value};" for name, value in settings.items())
    # The first statement that reads takes the snapshot.
    await connection.execute(f"begin isolation level repeatable read, read only; {local} select 1")
