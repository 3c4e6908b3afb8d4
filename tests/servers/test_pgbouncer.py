"""PgBouncer in front of PostgreSQL: many clients on few connections, by transaction."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.server import listening


@pytest.fixture(scope="module")
def pool(postgres_newest: Postgres, pgbouncer_here: None) -> Iterator[PgBouncer]:
    with PgBouncer(postgres_newest.dsn) as pool:
        yield pool


async def test_ten_clients_that_stay_share_two_connections(pool: PgBouncer) -> None:
    clients = [await asyncpg.connect(pool.dsn, statement_cache_size=0) for _ in range(10)]
    try:
        backends = await asyncio.gather(*(client.fetchval("select pg_backend_pid()") for client in clients))
        assert len(set(backends)) <= 2
    finally:
        for client in clients:
            await client.close()


async def test_a_client_that_keeps_a_transaction_open_keeps_its_connection(pool: PgBouncer) -> None:
    holder = await asyncpg.connect(pool.dsn, statement_cache_size=0)
    other = await asyncpg.connect(pool.dsn, statement_cache_size=0)
    try:
        async with holder.transaction():
            held = await holder.fetchval("select pg_backend_pid()")
            assert await other.fetchval("select pg_backend_pid()") != held
            assert await holder.fetchval("select pg_backend_pid()") == held
    finally:
        await holder.close()
        await other.close()


def test_a_closed_pool_is_gone(postgres_newest: Postgres, pgbouncer_here: None) -> None:
    with PgBouncer(postgres_newest.dsn) as pool:
        assert listening(pool.port)
        pool.kill()
        assert not listening(pool.port)
        pool.start()
        assert listening(pool.port)
    assert not listening(pool.port)
    assert not pool.folder.exists()
