"""What opening and preparing need, tell, and leave alone."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from unittest.mock import patch

import asyncpg
import msgspec
import pytest

from tests.patience import giving_up_after
from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.proxy import At, Proxy
from tests.servers.server import wait_until
from twofold.errors import Unavailable, WiringError
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel
from twofold.read_store.postgres import PostgresReadStore
from twofold.read_store.postgres import schema as schema_module
from twofold.stores import open_read_store
from twofold.testing.read_store_rows import EVERYTHING, LOG, ORDERS, Order, at, found_rows, keep, keys, loaded, progress
from twofold.world import RealWorld

BARE = ReadModel("orders", 1, Order)


@pytest.fixture
def schema() -> str:
    return fresh_schema()


@pytest.fixture
def url(postgres: Postgres, schema: str) -> str:
    return f"{postgres.dsn}?schema={schema}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresReadStore]:
    store = await PostgresReadStore.open(url)
    yield store
    await store.close()


# -------------------------------------------------------------------------------------------------- the URL, the server


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("postgresql://u:secret/x@h/db", "%2F"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h/db?schema=A-b", "schema 'A-b'"),
        ("postgresql://u:secret@h/db?pgbouncer=maybe", "neither true nor false"),
        ("postgresql://u:secret@h/db?sslmode=nonsense", "sslmode"),
    ],
)
async def test_a_malformed_url_is_refused_with_the_cure_and_without_the_password(url: str, cure: str) -> None:
    with pytest.raises(WiringError, match=cure) as refused:
        await asyncio.wait_for(PostgresReadStore.open(url), 30)
    assert "secret" not in str(refused.value)


async def test_a_server_that_is_not_there_is_unavailable_soon_and_without_the_password() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached") as refused:
            await asyncio.wait_for(
                PostgresReadStore.open(f"postgresql://u:secret@127.0.0.1:{free.getsockname()[1]}/db", patience=0.3), 30
            )
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [("/postgres", "/nowhere", "nowhere"), ("postgres@", "nobody:secret@", "nobody")],
    ids=["no database", "no role"],
)
async def test_a_database_or_a_role_that_is_not_there_is_a_matter_of_wiring(
    postgres: Postgres, old: str, new: str, cause: str
) -> None:
    with pytest.raises(WiringError, match=cause) as refused:
        await asyncio.wait_for(PostgresReadStore.open(postgres.dsn.replace(old, new)), 30)
    assert "secret" not in str(refused.value)


async def test_a_database_that_cannot_hold_all_text_is_refused(postgres: Postgres) -> None:
    name = fresh_schema()
    postgres.sql(f"create database {name} encoding 'LATIN1' locale 'C' template template0")
    with pytest.raises(WiringError, match="UTF8"):
        await PostgresReadStore.open(postgres.dsn_of(name))


async def test_the_schema_is_that_of_the_url_or_twofold_views(postgres: Postgres) -> None:
    dsn = postgres.create_database()
    store = await open_read_store(dsn, RealWorld())
    await keep(store, ORDERS, {"a": Order()})
    await store.close()
    name = dsn.rpartition("/")[2]
    assert postgres.sql('select count(*) from twofold_views."orders@1"', database=name) == "1"


async def test_all_who_open_one_schema_at_once_find_one_identity_and_prepare_it_once(url: str) -> None:
    stores = await asyncio.gather(*(PostgresReadStore.open(url) for _ in range(8)))
    assert len({store.identity for store in stores}) == 1
    model = msgspec.structs.replace(ORDERS, partitions=3)
    await asyncio.gather(*(store.prepare([model, EVERYTHING]) for store in stores))
    assert len(await stores[0].checkpoints()) == 3 + 1
    await keep(stores[0], EVERYTHING, {})
    for store in stores:
        assert await loaded(store, ORDERS, ["a"]) == {}
        await store.close()
    again = await PostgresReadStore.open(url, read_only=True)
    assert again.identity == stores[0].identity
    await again.close()


async def test_preparing_that_breaks_off_is_done_whole_or_not_at_all(postgres: Postgres, url: str) -> None:
    async with Proxy(postgres.port) as proxy:
        store = await PostgresReadStore.open(url.replace(postgres.dsn, proxy.dsn_of(postgres)))
        await keep(store, BARE, {f"k{n}": Order() for n in range(2_500)})
        for matching in (b"alter table", b"update", b"create index", b"COMMIT"):
            made = proxy.cut(At.ANSWER, matching=matching)
            await store.prepare([ORDERS])
            assert made.made == 1
            assert len(await keys(store, ORDERS, {"customer": "ann"})) == 2_500
            await store.prepare([BARE])
        await store.close()


# -------------------------------------------------------------------------------------------------------- what is there


async def test_rows_that_no_longer_fit_their_type_are_refused_at_start_with_the_cure(store: PostgresReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    changed = msgspec.defstruct("Changed", [("customer", int)])
    with pytest.raises(WiringError, match=r"no longer fit Changed.*raise `version`"):
        await store.prepare([ReadModel("orders", 1, changed)])
    with pytest.raises(WiringError, match=r"raise `version`"):
        await store.prepare([ReadModel("orders", 1, changed, (("customer",),))])
    await store.prepare([ORDERS])
    assert await keys(store, ORDERS, {"customer": "ann"}) == ["a"]


async def test_a_field_whose_type_changes_has_a_new_column_with_all_values(store: PostgresReadStore) -> None:
    whole = msgspec.defstruct("Row", [("n", int)], frozen=True)
    real = msgspec.defstruct("Row", [("n", float)], frozen=True)
    await keep(store, ReadModel("m", 1, whole, (("n",),)), {"a": whole(1), "b": whole(2)})
    model = ReadModel("m", 1, real, (("n",),), ("n",))
    await keep(store, model, {"c": real(1.5)}, before=1)
    assert await keys(store, model, order_by="n") == ["a", "c", "b"]
    assert await keys(store, model, {"n": 1}) == ["a"]


async def test_what_is_not_declared_any_more_takes_no_room(
    postgres: Postgres, schema: str, store: PostgresReadStore
) -> None:
    await keep(store, EVERYTHING, {})
    await store.prepare([ReadModel("everything", 1, EVERYTHING.row)])
    table = f"'{schema}.\"everything@1\"'::regclass"
    columns = f"select count(*) from pg_attribute where attrelid = {table} and attnum > 0 and not attisdropped"
    assert postgres.sql(columns) == "5"
    assert postgres.sql(f"select count(*) from pg_index where indrelid = {table}") == "1"


async def test_a_table_that_is_read_all_the_time_does_not_make_preparing_wait_for_ever_nor_readers_behind_it(
    postgres: Postgres, url: str, schema: str
) -> None:
    store = await PostgresReadStore.open(url, patience=60.0)
    await keep(store, BARE, {"a": Order()})
    reader = await asyncpg.connect(postgres.dsn)
    await reader.execute(f'begin; select from {schema}."orders@1"')
    impatient = schema_module._ALONE.replace("lock_timeout = '5s'", "lock_timeout = '200ms'")
    assert impatient != schema_module._ALONE
    with (
        patch.object(schema_module, "_ALONE", impatient),
        giving_up_after(0.2, store),
        pytest.raises(Unavailable, match="locked for too long"),
    ):
        await asyncio.wait_for(store.prepare([ORDERS]), 30)
    assert await keys(store, BARE) == ["a"]
    await keep(store, BARE, {"b": Order()}, before=1)
    await reader.close()
    await store.prepare([ORDERS])
    assert await keys(store, ORDERS, {"customer": "ann"}) == ["a", "b"]
    await store.close()


class NoRetries(RealWorld):
    """A world in which no call is repeated: it would wait before it."""

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a call failed and was retried")


async def test_who_prepares_and_who_saves_take_their_locks_in_one_order(postgres: Postgres, url: str) -> None:
    """Else the server would end one of them as a deadlock, and it would be retried."""
    async with Proxy(postgres.port) as proxy:
        store = await PostgresReadStore.open(url, patience=60.0, world=NoRetries())
        await keep(store, BARE, {"a": Order()})
        behind = url.replace(postgres.dsn, proxy.dsn_of(postgres))
        through = await PostgresReadStore.open(behind, patience=60.0, world=NoRetries())
        altering = asyncio.Event()

        def hold(request: bytes) -> bool:
            if b"alter table" in request and not altering.is_set():
                altering.set()
                proxy.stall()
            return False

        proxy.cut(matching=hold)
        preparing = asyncio.create_task(through.prepare([ORDERS]))
        await altering.wait()
        saving = asyncio.create_task(store.save(Change(BARE, LOG, 1, 2, 0, at(2, {"b": Order()}))))
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'with moved%'"
        await asyncio.to_thread(wait_until, lambda: postgres.sql(waiting) == "1", "the save to wait")
        proxy.resume()
        await preparing
        with pytest.raises(Unavailable, match="with other fields"):
            await saving
        await through.close()
        await store.close()


# --------------------------------------------------------------------------------------------------------- reading only


async def test_a_reader_makes_nothing_and_finds_nothing_where_nothing_was_ever_made(
    postgres: Postgres, url: str, schema: str
) -> None:
    reader = await PostgresReadStore.open(url, read_only=True)
    assert reader.identity == ""
    assert await reader.checkpoints() == []
    assert await reader.raw_rows("orders", 1, "", 9) == []
    with pytest.raises(Unavailable, match=r"no table of read model 'orders' generation 1 yet\. Start the app"):
        await reader.prepare([ORDERS])
    await reader.close()
    assert postgres.sql(f"select to_regnamespace('{schema}') is null") == "t"


async def test_a_reader_is_told_what_the_writer_has_not_made_yet(url: str, store: PostgresReadStore) -> None:
    reader = await PostgresReadStore.open(url, read_only=True)
    with pytest.raises(Unavailable, match="no table"):
        await reader.prepare([ORDERS])
    await store.prepare([BARE])
    with pytest.raises(Unavailable, match="no column"):
        await reader.prepare([ORDERS])
    await store.prepare([msgspec.structs.replace(ORDERS, find_by=(("customer",), ("note",)))])
    with pytest.raises(Unavailable, match="no index"):
        await reader.prepare([ORDERS])
    await reader.prepare([BARE])
    await store.prepare([ORDERS])
    await reader.prepare([ORDERS])
    await keep(store, ORDERS, {"a": Order()}, position=4)
    assert await keys(reader, ORDERS, {"customer": "ann"}, order_by="total") == ["a"]
    assert await loaded(reader, ORDERS, ["a"]) == {"a": Order()}
    assert await reader.checkpoints() == [Checkpoint("orders", 1, Progress(4, LOG, 0))]
    for refused in (
        lambda: reader.save(Change(ORDERS, LOG, 4, 5, 0)),
        lambda: reader.repartition(ORDERS, [WHOLE], [WHOLE]),
        lambda: reader.drop("orders", 1),
    ):
        with pytest.raises(Unavailable, match="reading only"):
            await refused()
    await reader.close()


async def test_a_role_that_may_only_read_reads_and_one_that_may_only_write_there_writes(
    postgres: Postgres, url: str, schema: str
) -> None:
    writes, reads = f"{schema}_writes", f"{schema}_reads"
    postgres.sql(
        f"create role {writes} login; create role {reads} login; create schema {schema} authorization {writes}"
    )
    writer = await PostgresReadStore.open(url.replace("postgres@", f"{writes}@"))
    await keep(writer, ORDERS, {"a": Order()})
    postgres.sql(f"grant usage on schema {schema} to {reads}; grant select on all tables in schema {schema} to {reads}")
    reader = await PostgresReadStore.open(url.replace("postgres@", f"{reads}@"), read_only=True)
    await reader.prepare([ORDERS])
    assert await found_rows(reader, ORDERS) == [("a", Order())]
    assert (await progress(reader, ORDERS)).position == 1
    await reader.close()
    wrong = await PostgresReadStore.open(url.replace("postgres@", f"{reads}@"))
    with pytest.raises(WiringError, match="permission denied"):
        await wrong.prepare([EVERYTHING])
    await wrong.close()
    with pytest.raises(WiringError, match="permission denied"):
        await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}".replace("postgres@", f"{reads}@"))
    await writer.close()


async def test_a_generation_another_process_has_dropped_is_unavailable_here(url: str, store: PostgresReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    other = await PostgresReadStore.open(url)
    await other.drop("orders", 1)
    for gone in (lambda: loaded(store, ORDERS, ["a"]), lambda: keys(store, ORDERS)):
        with pytest.raises(Unavailable, match="changed or dropped"):
            await gone()
    await store.prepare([ORDERS])
    assert await keys(store, ORDERS) == []
    await other.close()


async def test_a_schema_of_an_earlier_version_gets_the_summaries_of_its_parked_keys(postgres: Postgres) -> None:
    schema = fresh_schema()
    url = f"{postgres.dsn}?schema={schema}"
    store = await PostgresReadStore.open(url)
    parked = {f"k{n:02}": Parked(f"k{n:02}", 1, "no", 0) for n in range(30)}
    await keep(store, ORDERS, {}, parked=parked)
    expected = await progress(store, ORDERS)
    await store.close()
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"alter table {schema}.checkpoints drop column parked")
    await connection.close()
    again = await PostgresReadStore.open(url)
    await again.prepare([ORDERS])
    assert await progress(again, ORDERS) == expected
    assert expected.parked.count == 30
    await again.close()
