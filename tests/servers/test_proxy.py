"""A bad network before PostgreSQL: what is cut, when, and what the server has done by then."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.proxy import At, Proxy

LOST = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def proxy(postgres_newest: Postgres) -> AsyncIterator[Proxy]:
    async with Proxy(postgres_newest.port) as proxy:
        yield proxy


@pytest.fixture
async def table(postgres_newest: Postgres) -> str:
    name = fresh_schema()
    postgres_newest.sql(f"create table {name} (n int)")
    return name


async def rows(postgres: Postgres, table: str) -> int:
    client = await asyncpg.connect(postgres.dsn)
    count: int = await client.fetchval(f"select count(*) from {table}")
    await client.close()
    return count


async def insert(dsn: str, table: str, prepare: bool = True) -> None:
    client = await asyncpg.connect(dsn)
    try:
        if prepare:
            await client.execute(f"insert into {table} values ($1)", 1)
        else:
            await client.execute(f"insert into {table} values (1)")
    finally:
        client.terminate()


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "simple"])
@pytest.mark.parametrize(("at", "written"), [(At.REQUEST, 0), (At.ANSWER, 1), (At.HALFWAY, 1)])
async def test_the_client_loses_the_connection_and_the_row_is_there_if_the_server_got_it(
    proxy: Proxy, postgres_newest: Postgres, table: str, at: At, written: int, prepare: bool
) -> None:
    cuts = proxy.cut(at, matching=b"insert")
    with pytest.raises(LOST):
        await insert(proxy.dsn_of(postgres_newest), table, prepare)
    assert cuts.made == 1
    assert await rows(postgres_newest, table) == written
    await insert(proxy.dsn_of(postgres_newest), table, prepare)
    assert await rows(postgres_newest, table) == written + 1


async def test_only_what_matches_is_cut(proxy: Proxy, postgres_newest: Postgres, table: str) -> None:
    cuts = proxy.cut(At.ANSWER, matching=b"delete", times=None)
    client = await asyncpg.connect(proxy.dsn_of(postgres_newest))
    for _ in range(3):
        await client.execute(f"insert into {table} values ($1)", 1)
    assert cuts.made == 0
    with pytest.raises(LOST):
        await client.execute(f"delete from {table}")
    assert cuts.made == 1


async def test_a_prepared_statement_is_known_by_its_sql_when_it_runs_again(
    proxy: Proxy, postgres_newest: Postgres, table: str
) -> None:
    client = await asyncpg.connect(proxy.dsn_of(postgres_newest))
    statement = await client.prepare(f"insert into {table} values ($1)")
    await statement.fetch(1)
    proxy.cut(At.ANSWER, matching=lambda request: b"insert into" in request)
    with pytest.raises(LOST):
        await statement.fetch(2)
    assert await rows(postgres_newest, table) == 2


READY = b"Z\0\0\0\5I"


def message(letter: bytes, body: bytes) -> bytes:
    return letter + (4 + len(body)).to_bytes(4, "big") + body


async def speak(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without a driver in between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(b"", (196608).to_bytes(4, "big") + b"user\0postgres\0database\0postgres\0\0"))
    await reader.readuntil(READY)
    return reader, writer


async def test_half_an_answer_arrives_before_the_connection_breaks(proxy: Proxy) -> None:
    reader, writer = await speak(proxy.port)
    query = message(b"Q", b"select repeat('x', 1000)\0")
    writer.write(query)
    whole = await reader.readuntil(READY)
    proxy.cut(At.HALFWAY)
    writer.write(query)
    assert await reader.readexactly(len(whole) // 2) == whole[: len(whole) // 2]
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()


async def test_a_request_that_only_prepares_is_not_cut(proxy: Proxy) -> None:
    reader, writer = await speak(proxy.port)
    cuts = proxy.cut(At.REQUEST, matching=b"select")
    writer.write(message(b"P", b"name\0select 1\0\0\0") + message(b"S", b""))
    assert await reader.readuntil(READY) == message(b"1", b"") + READY
    writer.write(message(b"B", b"\0name\0" + bytes(6)) + message(b"E", b"\0" + bytes(4)) + message(b"S", b""))
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    assert cuts.made == 1
    writer.close()


async def test_all_connections_are_cut_at_once(proxy: Proxy, postgres_newest: Postgres) -> None:
    clients = [await asyncpg.connect(proxy.dsn_of(postgres_newest)) for _ in range(3)]
    assert proxy.connections == 3
    sleeping = [asyncio.create_task(client.execute("select pg_sleep(60)")) for client in clients]
    proxy.cut_all()
    for outcome in await asyncio.gather(*sleeping, return_exceptions=True):
        assert isinstance(outcome, LOST)
    assert await rows(postgres_newest, "pg_class") > 0


async def test_a_stalled_network_goes_on_where_it_stood(proxy: Proxy, postgres_newest: Postgres, table: str) -> None:
    client = await asyncpg.connect(proxy.dsn_of(postgres_newest))
    proxy.stall()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.dsn_of(postgres_newest), timeout=0.2)
    writing = asyncio.create_task(client.execute(f"insert into {table} values (1)"))
    assert await rows(postgres_newest, table) == 0
    assert not writing.done()
    proxy.resume()
    await writing
    assert await rows(postgres_newest, table) == 1
    await client.close()


async def test_chance_cuts_as_often_as_it_is_told_and_alike_for_a_seed(
    proxy: Proxy, postgres_newest: Postgres, table: str
) -> None:
    async def lost_of_forty() -> list[int]:
        proxy.cut(At.REQUEST, At.ANSWER, matching=b"insert", times=None, probability=0.3, seed=7)
        lost: list[int] = []
        for number in range(40):
            try:
                await insert(proxy.dsn_of(postgres_newest), table, prepare=False)
            except LOST:
                lost.append(number)
        return lost

    first = await lost_of_forty()
    proxy.cut_nothing()
    written = await rows(postgres_newest, table)
    assert 3 < len(first) < 25
    assert 40 - len(first) < written < 40
    assert await lost_of_forty() == first


async def test_a_server_that_is_not_there_is_a_lost_connection() -> None:
    async with Proxy(1) as nowhere:
        with pytest.raises(LOST):
            await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{nowhere.port}/postgres", timeout=5)
