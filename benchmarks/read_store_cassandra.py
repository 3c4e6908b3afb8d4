"""`python -m benchmarks.read_store_cassandra`: `save` and `load` in Cassandra against the bare driver.

The bare driver upserts one row at a time into the same tables, by prepared statements, 128 at a time: what its manual
recommends.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args

from benchmarks.read_store import BATCH, ROUNDS, compare, work
from benchmarks.read_store_sides import Bare, Rows, Sides
from tests.servers.cassandra import Cassandra, fresh_keyspace, missing
from tests.servers.server import LOOPBACK
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.cassandra.rows import CassandraLayout
from twofold.read_store.port import ReadModel, ReadStore

BATCHES = 20
_AT_ONCE = 128


@contextmanager
def cassandra() -> Iterator[Sides]:
    """A node with Cassandra's own way to write its log: synced in the background."""
    with Cassandra(heap="1g") as server:

        @asynccontextmanager
        async def store(_: Path) -> AsyncIterator[ReadStore]:
            opened = await CassandraReadStore.open(server.url(fresh_keyspace()), patience=60.0)
            yield opened
            await opened.close()

        @asynccontextmanager
        async def bare(_: Path, model: ReadModel) -> AsyncIterator[Bare]:
            async with store(_) as opened:
                await opened.prepare([model])
                tables = opened._tables[model.name, model.generation]
                cluster = Cluster([LOOPBACK], port=server.port, protocol_version=5)
                yield _BareCassandra(cluster.connect(), model, tables.rows, tables.finds)
                cluster.shutdown()

        yield Sides(store, bare)


class _BareCassandra:
    def __init__(self, session: Any, model: ReadModel, rows: str, finds: str) -> None:
        self._session = session
        self._layout = CassandraLayout(model)
        keyspace = rows.partition(".")[0]
        session.execute(f"create table if not exists {keyspace}.bare (id int primary key, position bigint)")
        self._rows = self._prepare(f"update {rows} using timestamp ? set row = ? where key = ?")
        self._finds = self._prepare(
            f"update {finds} using timestamp ? set row = ? where access = ? and part = ? and sort_key = ? and key = ?"
        )
        self._move = self._prepare(f"update {keyspace}.bare set position = ? where id = 1")
        self._select = self._prepare(f"select key, row from {rows} where key = ?")

    def made(self, rows: Rows) -> Any:
        finds: list[tuple[Any, ...]] = []
        by_key: list[tuple[Any, ...]] = []
        for key, kept in rows.items():
            text = self._layout.encode(kept.row)
            finds += [(kept.position, text, *entry, key) for entry in self._layout.entries(key, kept.row)]
            by_key.append((kept.position, text, key))
        return finds, by_key

    async def save(self, batch: Any, position: int) -> None:
        finds, by_key = batch
        await asyncio.to_thread(self._all, self._finds, finds)
        await asyncio.to_thread(self._all, self._rows, by_key)
        await asyncio.to_thread(self._all, self._move, [(position,)])

    async def load(self, keys: Sequence[str]) -> int:
        return len(await asyncio.to_thread(self._all, self._select, [(key,) for key in keys]))

    def _all(self, statement: Any, parameters: Sequence[tuple[Any, ...]]) -> Any:
        return execute_concurrent_with_args(self._session, statement, parameters, concurrency=_AT_ONCE)

    def _prepare(self, cql: str) -> Any:
        prepared = self._session.prepare(cql)
        prepared.consistency_level = ConsistencyLevel.LOCAL_QUORUM
        return prepared


@click.command()
@click.option("--batch", default=BATCH, help="Rows in a batch.")
@click.option("--batches", default=BATCHES)
@click.option("--rounds", default=ROUNDS)
def main(batch: int, batches: int, rounds: int) -> None:
    """Measure, if there is a Cassandra."""
    if reason := missing():
        raise click.ClickException(reason)
    with cassandra() as sides:
        compare("cassandra", sides, work(batch, batches), rounds)


if __name__ == "__main__":
    main()
