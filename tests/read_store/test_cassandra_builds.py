"""The tables of a keyspace: created by many nodes at once, and rebuilt for other filters and orders."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from tests.read_store.cassandra_follower import Interruption, change_of, made_up, make_interruptible, start_save
from tests.servers.cassandra import Cassandra, fresh_keyspace
from twofold.errors import Unavailable, WiringError
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.cassandra.saving import CassandraTables
from twofold.read_store.port import Change, ReadModel, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, at, find, found_rows, keep, keys, loaded, progress

BARE = ReadModel("orders", 1, Order)


@pytest.fixture
def url(cassandra: Cassandra) -> str:
    return cassandra.url(fresh_keyspace())


@pytest.fixture
async def old(url: str) -> AsyncIterator[CassandraReadStore]:
    """The store of a process with the old declarations."""
    store = await CassandraReadStore.open(url, patience=60.0)
    make_interruptible(store)
    await store.prepare([BARE])
    yield store
    await store.close()


@pytest.fixture
async def new(url: str, old: CassandraReadStore) -> AsyncIterator[CassandraReadStore]:
    store = await CassandraReadStore.open(url, patience=60.0)
    yield store
    await store.close()


async def _tables(store: CassandraReadStore) -> list[str]:
    keyspace = store._connection.address.keyspace
    cql = "select table_name from system_schema.tables where keyspace_name = ?"
    return sorted(name for (name,) in await store._connection.rows(cql, keyspace) if name != "checkpoints")


async def test_tables_are_two_for_a_generation_whatever_is_declared(old: CassandraReadStore) -> None:
    before = await _tables(old)
    await old.prepare([ORDERS])
    after = await _tables(old)
    assert [name.split("_")[0] for name in before] == [name.split("_")[0] for name in after] == ["finds", "rows"]
    assert not {*before} & {*after}
    await old.drop("orders", 1)
    assert await _tables(old) == []


async def test_nodes_that_prepare_at_once_agree_on_one_pair_of_tables(url: str) -> None:
    stores = await asyncio.gather(*(CassandraReadStore.open(url) for _ in range(4)))
    models = [ORDERS, msgspec.structs.replace(ORDERS, generation=2, partitions=3)]
    await asyncio.gather(*(store.prepare(models) for store in stores))
    assert len({store.identity for store in stores}) == 1
    assert len({(store._tables["orders", 1].rows, store._tables["orders", 2].rows) for store in stores}) == 1
    assert len(await _tables(stores[0])) == 4
    await keep(stores[0], ORDERS, {"a": Order()})
    assert [await keys(store, ORDERS, {"customer": "ann"}) for store in stores] == [["a"]] * 4
    assert len(await stores[3].checkpoints()) == 4
    await asyncio.gather(*(store.close() for store in stores))


async def test_nodes_that_declare_anew_at_once_agree_and_lose_nothing(url: str, old: CassandraReadStore) -> None:
    rows = {f"k{n}": Order("ann", n) for n in range(1_200)}
    await keep(old, BARE, rows)
    stores = await asyncio.gather(*(CassandraReadStore.open(url) for _ in range(3)))
    await asyncio.gather(*(store.prepare([ORDERS]) for store in stores))
    assert len(await _tables(old)) == 2
    for store in stores:
        assert [row.total for _, row in await found_rows(store, ORDERS, order_by="total")] == list(range(1_200))
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_process_with_other_declarations_neither_saves_nor_answers(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await keep(old, BARE, {"a": Order()})
    await new.prepare([ORDERS])
    with pytest.raises(Unavailable, match=r"Another process declares other.*Restart"):
        await old.save(Change(BARE, LOG, 1, 2, 0, at(2, {"a": Order("bob")})))
    with pytest.raises(Unavailable, match=r"Another process declares other.*Restart"):
        await old.save(Change(BARE, LOG, 1, 2, 0))
    for call in (find(old, BARE), old.load(BARE, ["a"])):
        with pytest.raises(Unavailable, match=r"rebuilt its tables\. Restart"):
            await call
    assert await found_rows(new, ORDERS, {"customer": "ann"}) == [("a", Order())]
    await old.prepare([ORDERS])
    await keep(old, ORDERS, {"a": Order("bob")}, before=1)
    assert await keys(new, ORDERS, {"customer": "bob"}) == ["a"]


@pytest.mark.parametrize("statements", range(1, 5))
async def test_a_save_that_hangs_while_others_declare_anew_is_not_half_there_in_the_new_tables(
    old: CassandraReadStore, new: CassandraReadStore, statements: int
) -> None:
    log = made_up(20)
    first = await change_of(old, BARE, log, 10)
    assert first is not None
    await old.save(first)
    second = await change_of(old, BARE, log, 10)
    assert second is not None
    hanging = Interruption(statements, waits=True)
    saving = await start_save(old, second, hanging)
    await new.prepare([ORDERS])
    hanging.release()
    with pytest.raises(Unavailable):
        await saving
    assert (await progress(new, ORDERS)).position == 10
    again = await change_of(new, ORDERS, log, 10)
    assert again is not None
    await new.save(again)
    rows = dict(await found_rows(new, ORDERS))
    assert rows == await loaded(new, ORDERS, [key for key, _ in log])
    for customer in {row.customer for row in rows.values()}:
        found = await found_rows(new, ORDERS, {"customer": customer}, order_by="total")
        assert dict(found) == {key: row for key, row in rows.items() if row.customer == customer}
        assert len(found) == len(dict(found))


async def test_building_anew_that_was_broken_off_is_begun_again(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await keep(old, BARE, {"a": Order()})

    async def break_off(*_: object) -> None:
        raise asyncio.CancelledError

    with patch.object(CassandraTables, "copy", break_off), pytest.raises(asyncio.CancelledError):
        await new.prepare([ORDERS])
    with pytest.raises(Unavailable, match="rebuilt its tables or is about to"):
        await old.save(Change(BARE, LOG, 1, 2, 0))
    assert len(await _tables(old)) == 4
    # The next process decides: with the declarations of before all is as it was,
    await old.prepare([BARE])
    await keep(old, BARE, {"b": Order("bob")}, before=1)
    # with the new ones it is built again, and leftovers are removed.
    await new.prepare([ORDERS])
    assert await keys(new, ORDERS, {"customer": "bob"}) == ["b"]
    assert len(await _tables(old)) == 2


async def test_what_is_copied_while_the_old_ones_come_back_is_not_taken(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await keep(old, BARE, {"a": Order("ann")})
    copy, times = CassandraTables.copy, 0

    async def meanwhile(self: CassandraTables, rows: str) -> None:
        nonlocal times
        await copy(self, rows)
        times += 1
        if times == 1:
            await keep(old, BARE, {"a": Order("bob")}, before=1)

    with patch.object(CassandraTables, "copy", meanwhile):
        await new.prepare([ORDERS])
    assert times == 2
    assert await keys(new, ORDERS, {"customer": "ann"}) == []
    assert await keys(new, ORDERS, {"customer": "bob"}) == ["a"]


async def test_deleted_rows_are_still_told_of_after_building_anew(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await old.save(Change(BARE, LOG, 0, 5, 0, {"a": VersionedRow(Order(), 4), "b": VersionedRow(Order(total=1), 5, 2)}))
    await old.save(Change(BARE, LOG, 5, 6, 0, {"a": VersionedRow(None, 6, 0, (Order(),))}))
    await new.prepare([ORDERS])
    assert await new.load(ORDERS, ["a", "b"]) == {"a": VersionedRow(None, 6), "b": VersionedRow(Order(total=1), 5, 2)}
    assert await keys(new, ORDERS) == ["b"]


async def test_rows_that_no_longer_fit_their_type_are_refused_at_start_and_the_old_ones_go_on(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await keep(old, BARE, {"a": Order()})
    changed: Any = msgspec.defstruct("Changed", [("customer", int)])
    for model in (ReadModel("orders", 1, changed), ReadModel("orders", 1, changed, (("customer",),))):
        with pytest.raises(WiringError, match=r"no longer fit Changed.*raise `version`"):
            await new.prepare([model])
    await old.save(Change(BARE, LOG, 1, 2, 0, at(2, {"a": Order("bob")})))
    assert len(await _tables(old)) == 2


async def test_rows_too_long_for_what_is_declared_now_are_named_and_the_old_ones_go_on(
    old: CassandraReadStore, new: CassandraReadStore
) -> None:
    await keep(old, BARE, {"a": Order("x" * 70_000)})
    with pytest.raises(WiringError, match=r"Row 'a' of 'orders'.*'customer'.*64 KiB"):
        await new.prepare([ORDERS])
    await keep(old, BARE, {"a": Order()}, before=1)
    await new.prepare([ORDERS])


async def test_a_reader_is_told_what_is_missing_and_makes_nothing(url: str, cassandra: Cassandra) -> None:
    reader = await CassandraReadStore.open(url, read_only=True)
    assert (await reader.checkpoints(), await reader.raw_rows("orders", 1, "", 9), reader.identity) == ([], [], "")
    with pytest.raises(Unavailable, match=r"no table of read model 'orders' generation 1 yet\. Start the app"):
        await reader.prepare([ORDERS])
    keyspaces = await reader._connection.rows("select keyspace_name from system_schema.keyspaces")
    assert (reader._connection.address.keyspace,) not in keyspaces
    writer = await CassandraReadStore.open(url, patience=60.0)
    await keep(writer, BARE, {"a": Order()})
    with pytest.raises(Unavailable, match="other filters and orders of read model 'orders'"):
        await reader.prepare([ORDERS])
    await keep(writer, ORDERS, {"b": Order("bob")}, before=1)
    await reader.prepare([ORDERS])
    assert await keys(reader, ORDERS, {"customer": "bob"}) == ["b"]
    assert [each.progress.position for each in await reader.checkpoints()] == [2]
    for call in (
        reader.save(Change(ORDERS, LOG, 2, 3, 0)),
        reader.repartition(ORDERS, [], []),
        reader.drop("orders", 1),
    ):
        with pytest.raises(Unavailable, match="reading only"):
            await call
    await reader.close()
    await writer.close()
    late = await CassandraReadStore.open(url, read_only=True)
    assert late.identity == writer.identity
    await late.close()


async def test_a_keyspace_that_was_dropped_comes_again_empty_and_another(url: str, old: CassandraReadStore) -> None:
    await keep(old, BARE, {"a": Order()}, position=7)
    await old._connection.define(f"drop keyspace {old._connection.address.keyspace}")
    store = await CassandraReadStore.open(url, patience=60.0)
    assert store.identity != old.identity
    assert await store.checkpoints() == []
    await keep(store, BARE, {"b": Order()}, position=2)
    assert await keys(store, BARE) == ["b"]
    assert (await progress(store, BARE)).position == 2
    await store.close()


async def test_a_keyspace_has_the_copies_the_url_asks_for(cassandra: Cassandra) -> None:
    for options in ("replication=1", "datacenter=datacenter1&replication=1", ""):
        keyspace = fresh_keyspace()
        plain, _, _ = cassandra.url(keyspace).partition("?")
        store = await CassandraReadStore.open(f"{plain}?{options}")
        cql = "select replication from system_schema.keyspaces where keyspace_name = ?"
        ((replication,),) = await store._connection.rows(cql, keyspace)
        # Without a number, as many as there are nodes, and at most three.
        assert replication["class"].endswith("NetworkTopologyStrategy")
        assert replication["datacenter1"] == "1"
        await store.close()


async def test_no_batch_is_larger_than_cassandra_likes(cassandra: Cassandra, old: CassandraReadStore) -> None:
    begin = cassandra.log.stat().st_size
    await old.prepare([ORDERS])
    rows = {f"k{n}": Order(f"c{n % 50}", n, "x" * (n % 300)) for n in range(1_500)} | {"long": Order(note="x" * 60_000)}
    await keep(old, ORDERS, rows)
    moved = {key: VersionedRow(Order("dan", row.total), 2, 0, (row,)) for key, row in rows.items()}
    await old.save(Change(ORDERS, LOG, 1, 2, 0, moved))
    assert len(await keys(old, ORDERS, {"customer": "dan"}, order_by="total")) == 1_501
    assert await keys(old, ORDERS, {"customer": "c1"}) == []
    said = cassandra.log.read_bytes()[begin:].decode(errors="replace")
    assert "Batch" not in said, said[-2_000:]
