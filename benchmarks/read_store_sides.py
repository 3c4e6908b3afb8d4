"""The contestants of `benchmarks.read_store`: each store, and the bare driver on the same tables."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import apsw
import asyncpg
import msgspec

from benchmarks.postgres import durable_server
from tests.servers.postgres import fresh_schema
from twofold.read_store.port import ReadModel, ReadStore, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.rows_columns import Arguments
from twofold.read_store.sqlite import SqliteReadStore
from twofold.read_store.sqlite.rows import SqliteTable

Rows = Mapping[str, VersionedRow]


class Bare(Protocol):
    """The bare driver, on a store's own tables and indexes."""

    def made(self, rows: Rows) -> Any:
        """A batch as the driver takes it, made before the clock runs."""
        ...

    async def save(self, batch: Any, position: int) -> None:
        """Upsert a batch and set the checkpoint, durably and in one transaction if there are such."""
        ...

    async def load(self, keys: Sequence[str]) -> int:
        """Fetch rows by key; how many there were."""
        ...


class Sides(NamedTuple):
    """Both sides of one store, each in an empty place of its own: a folder or a schema."""

    store: Callable[[Path], AbstractAsyncContextManager[ReadStore]]
    bare: Callable[[Path, ReadModel], AbstractAsyncContextManager[Bare]]


@contextmanager
def sqlite() -> Iterator[Sides]:
    """A file."""

    @asynccontextmanager
    async def store(folder: Path) -> AsyncIterator[ReadStore]:
        opened = SqliteReadStore(folder / "ours.db")
        yield opened
        await opened.close()

    @asynccontextmanager
    async def bare(folder: Path, model: ReadModel) -> AsyncIterator[Bare]:
        opened = SqliteReadStore(folder / "bare.db")
        await opened.prepare([model])
        await opened.close()
        connection = apsw.Connection(str(folder / "bare.db"))
        connection.execute("pragma synchronous = normal; pragma cache_size = -65536; pragma wal_autocheckpoint = 4000")
        yield _BareSqlite(connection, SqliteTable(model))
        connection.close()

    yield Sides(store, bare)


class _BareSqlite:
    def __init__(self, connection: apsw.Connection, table: SqliteTable) -> None:
        self._connection = connection
        self._table = table
        self._select = f"select row from {table.name} where key in (select value from json_each(?))"

    def made(self, rows: Rows) -> Any:
        return self._table.parameters(rows)

    async def save(self, batch: Any, position: int) -> None:
        self._connection.execute("begin immediate")
        self._connection.executemany(self._table.upsert, batch)
        self._connection.execute("update checkpoints set position = ?", (position,))
        self._connection.execute("commit")

    async def load(self, keys: Sequence[str]) -> int:
        return len(self._connection.execute(self._select, (msgspec.json.encode(keys).decode(),)).fetchall())


@contextmanager
def postgresql() -> Iterator[Sides]:
    """A server that syncs what it commits, on this machine."""
    with durable_server() as dsn:

        @asynccontextmanager
        async def store(_: Path) -> AsyncIterator[ReadStore]:
            opened = await PostgresReadStore.open(f"{dsn}?schema={fresh_schema()}")
            yield opened
            await opened.close()

        @asynccontextmanager
        async def bare(_: Path, model: ReadModel) -> AsyncIterator[Bare]:
            schema = fresh_schema()
            opened = await PostgresReadStore.open(f"{dsn}?schema={schema}")
            await opened.prepare([model])
            await opened.close()
            connection = await asyncpg.connect(dsn)
            yield _BarePostgres(connection, PostgresTable(model, schema), schema)
            await connection.close()

        yield Sides(store, bare)


class _BarePostgres:
    """The quickest bulk upsert there is: arrays, unnested. Its arguments are made as the store makes them."""

    def __init__(self, connection: asyncpg.Connection, table: PostgresTable, schema: str) -> None:
        self._connection = connection
        self._table = table
        self._move = f"update {schema}.checkpoints set position = $1"
        self._select = f"select row from {table.name} where key = any($1::text[])"

    def made(self, rows: Rows) -> Any:
        arguments, names = Arguments(), self._table.names
        columns = arguments.unnested(self._table.arrays(rows))
        renewed = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        sql = (
            f"insert into {self._table.name} ({', '.join(names)}) select * from {columns}"
            f" on conflict (key) do update set {renewed}"
        )
        return sql, arguments.values

    async def save(self, batch: Any, position: int) -> None:
        sql, arguments = batch
        async with self._connection.transaction():
            await self._connection.execute(sql, *arguments)
            await self._connection.execute(self._move, position)

    async def load(self, keys: Sequence[str]) -> int:
        return len(await self._connection.fetch(self._select, keys))


STORES: dict[str, Callable[[], AbstractContextManager[Sides]]] = {"sqlite": sqlite, "postgresql": postgresql}
"""What is measured, by name. A store more is an entry more."""
