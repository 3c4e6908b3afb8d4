"""An answer reads the same amount from every store, however many keys are parked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.read_store.mongodb_helpers import database
from tests.servers.cassandra import fresh_keyspace
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import fresh_schema
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.parked_summary import MAX_PARKED_SHOWN
from twofold.read_store.port import Parked, ReadStore, Snapshot
from twofold.read_store.postgres import PostgresReadStore
from twofold.read_store.sqlite import SqliteReadStore
from twofold.testing.read_store_rows import ORDERS, Order, keep

FEW, MANY = 30, 3_000

Work = Callable[[Snapshot], Awaitable[None]]
Count = Callable[[Work], Awaitable[int]]
"""Does some work in a snapshot, and counts what the store reads for it."""


async def what_an_answer_reads(snapshot: Snapshot) -> None:
    """All that an answer for a key or a list reads."""
    progress = await snapshot.progress(ORDERS)
    assert len(progress.parked.first) == MAX_PARKED_SHOWN
    assert await snapshot.is_parked(ORDERS, "k00029")
    assert not await snapshot.is_parked(ORDERS, "a")
    assert await snapshot.get(ORDERS, "a") == Order()


@asynccontextmanager
async def sqlite(url: str) -> AsyncIterator[tuple[ReadStore, Count]]:
    store = SqliteReadStore(url)

    async def steps_of_the_machine(work: Work) -> int:
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        async with store.snapshot() as snapshot:
            snapshot.native(ORDERS).client.set_progress_handler(count, 1)
            await work(snapshot)
            snapshot.native(ORDERS).client.set_progress_handler(None)
        return steps

    try:
        yield store, steps_of_the_machine
    finally:
        await store.close()


@asynccontextmanager
async def postgres(url: str) -> AsyncIterator[tuple[ReadStore, Count]]:
    store = await PostgresReadStore.open(url)
    rows = (
        "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
        " where schemaname = $1"
    )

    async def rows_read(work: Work) -> int:
        async with store.snapshot() as snapshot:
            fetchval, schema = snapshot.native(ORDERS).client.fetchval, store._address.schema
            # The server adds up the transactions of about a second.
            before: int = await fetchval(rows, schema)
            await work(snapshot)
            after: int = await fetchval(rows, schema)
            return after - before

    try:
        yield store, rows_read
    finally:
        await store.close()


@asynccontextmanager
async def mongodb(url: str) -> AsyncIterator[tuple[ReadStore, Count]]:
    store = await MongoReadStore.open(url)

    async def documents_examined(work: Work) -> int:
        async with database(url) as found:
            await found.command("profile", 2)
            async with store.snapshot() as snapshot:
                await work(snapshot)
            await found.command("profile", 0)
            profiled: list[Any] = await found["system.profile"].find({"docsExamined": {"$exists": True}}).to_list()
            await found["system.profile"].drop()
            return sum(each["docsExamined"] for each in profiled)

    try:
        yield store, documents_examined
    finally:
        await store.close()


@asynccontextmanager
async def cassandra(url: str) -> AsyncIterator[tuple[ReadStore, Count]]:
    store = await CassandraReadStore.open(url)
    connection: Any = store._connection

    async def rows_returned(work: Work) -> int:
        returned, rows = 0, connection.rows

        async def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal returned
            found = await rows(*arguments, **options)
            returned += len(found)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "rows", counted)
            async with store.snapshot() as snapshot:
                await work(snapshot)
        return returned

    try:
        yield store, rows_returned
    finally:
        await store.close()


@pytest.fixture(params=["sqlite", "postgresql", "mongodb", "cassandra"])
def counted(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[tuple[ReadStore, Count]]:
    """An empty read store of each kind, and a way to count what it reads."""
    match request.param:
        case "sqlite":
            return sqlite(f"{tmp_path}/views.db")
        case "postgresql":
            return postgres(f"{request.getfixturevalue('postgres_newest').dsn}?schema={fresh_schema()}")
        case "mongodb":
            return mongodb(str(request.getfixturevalue("mongodb").url_of(fresh_database())))
        case _:
            return cassandra(str(request.getfixturevalue("cassandra").url(fresh_keyspace())))


async def test_an_answer_reads_as_much_with_few_parked_keys_as_with_many(
    counted: AbstractAsyncContextManager[tuple[ReadStore, Count]],
) -> None:
    async with counted as (store, count):
        await keep(store, ORDERS, {"a": Order()}, parked=_parked(0, FEW))
        await count(what_an_answer_reads)
        few = await count(what_an_answer_reads)
        await keep(store, ORDERS, {}, before=1, parked=_parked(FEW, MANY))
        many = await count(what_an_answer_reads)
        assert few > 0
        assert many <= few + 5, "only the depth of an index may differ"


def _parked(first: int, end: int) -> dict[str, Parked]:
    return {key: Parked(key, 1, "no", 0) for key in (f"k{n:05}" for n in range(first, end))}
