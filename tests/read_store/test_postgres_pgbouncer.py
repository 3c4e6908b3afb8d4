"""Behind a PgBouncer that hands each transaction to another server connection, read models keep all their promises."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from tests.read_store.postgres_follower import step, whole_at
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.proxy import At, Proxy
from twofold.errors import WiringError
from twofold.read_store.partition import shares
from twofold.read_store.port import ReadStore
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_contract import ReadStoreContract
from twofold.testing.read_store_rows import ORDERS, found_rows, loaded

SERVER_CONNECTIONS = 3


@pytest.fixture(scope="module")
def bouncer(pgbouncer_here: None, postgres_newest: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres_newest.dsn, size=SERVER_CONNECTIONS) as bouncer:
        yield bouncer


class TestPostgresReadStoreBehindPgBouncer(ReadStoreContract):
    @pytest.fixture(autouse=True)
    def server(self, bouncer: PgBouncer) -> None:
        self.dsn = bouncer.dsn

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[ReadStore]:
        store = await PostgresReadStore.open(f"{self.dsn}?schema={fresh_schema()}&pgbouncer=true", snapshots=2)
        try:
            yield store
        finally:
            await store.close()

    # Each history has a schema of its own; directly, it is tried on both versions.
    test_find_equals_filtering_and_sorting_a_dict = None  # type: ignore[assignment]


async def test_four_nodes_share_three_connections_and_each_moves_its_partition_on(
    bouncer: PgBouncer, postgres_newest: Postgres
) -> None:
    url = f"{bouncer.dsn}?schema={fresh_schema()}&pgbouncer=true"
    nodes = [await PostgresReadStore.open(url, snapshots=4) for _ in range(4)]
    model = msgspec.structs.replace(ORDERS, partitions=4)
    for node in nodes:
        await node.prepare([model])

    async def follow(node: PostgresReadStore, number: int) -> None:
        share = shares(4)[number]
        for position in range(25):
            await node.save(step(position, model=model, partition=share))
            assert await whole_at(node, model=model, partition=share) == position + 1
            await asyncio.gather(loaded(node, model, ["k1", "k2"]), found_rows(node, model, order_by="total"))

    await asyncio.gather(*(follow(node, number) for number, node in enumerate(nodes)))
    for node in nodes:
        await node.close()
    busy = "select count(*) from pg_stat_activity where application_name <> 'psql' and backend_type = 'client backend'"
    assert int(postgres_newest.sql(busy)) <= SERVER_CONNECTIONS, "that was not a pool of three"


@pytest.mark.parametrize("place", At)
async def test_a_save_whose_connection_breaks_around_its_commit_is_carried_out_once(
    bouncer: PgBouncer, place: At
) -> None:
    async with Proxy(bouncer.port) as proxy:
        url = f"{proxy.dsn_of(bouncer)}?schema={fresh_schema()}&pgbouncer=true"
        store = await PostgresReadStore.open(url)
        await store.prepare([ORDERS])
        for n, matching in enumerate((b"COMMIT", b"with moved as", b"COMMIT")):
            made = proxy.cut(place, matching=matching)
            await store.save(step(n))
            assert made.made == 1
            assert await whole_at(store) == n + 1
        await store.close()


async def test_without_the_word_in_the_url_a_pooler_is_refused(bouncer: PgBouncer) -> None:
    url = f"{bouncer.dsn}?schema={fresh_schema()}"
    for _ in range(3):
        with pytest.raises(WiringError, match="Add pgbouncer=true"):
            await PostgresReadStore.open(url)
    await (await PostgresReadStore.open(f"{url}&pgbouncer=true")).close()


async def test_no_setting_of_ours_is_left_to_whoever_has_the_server_connection_next(bouncer: PgBouncer) -> None:
    store = await PostgresReadStore.open(f"{bouncer.dsn}?schema={fresh_schema()}&pgbouncer=true")
    await store.prepare([ORDERS])
    await store.save(step(0))
    assert await whole_at(store) == 1
    other = await asyncpg.connect(bouncer.dsn, statement_cache_size=0)
    for _ in range(2 * SERVER_CONNECTIONS):
        for name, value in (("enable_sort", "on"), ("enable_seqscan", "on"), ("plan_cache_mode", "auto")):
            assert await other.fetchval(f"show {name}") == value
    await other.close()
    await store.close()
