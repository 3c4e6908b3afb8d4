"""Several processes on one database: they prepare at once, declare other columns, read while others write."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import msgspec
import pymongo
import pytest

from tests.read_store.mongodb_helpers import database, documents, opened
from twofold.errors import Conflict, Unavailable
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.mongodb.saving import write_rows
from twofold.read_store.parked_summary import ParkedSummary
from twofold.read_store.partition import WHOLE, Partition, shares
from twofold.read_store.port import Change, Parked, Progress, ReadModel, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, found_rows, keep, keys, loaded, progress
from twofold.world import RealWorld

BARE = ReadModel("orders", 1, Order)


async def test_nodes_that_prepare_at_once_make_one_layout(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        for n in range(8):
            models = [
                msgspec.structs.replace(ORDERS, generation=n, partitions=1 + m % 3, order_by=("total", "note")[: m % 3])
                for m in range(6)
            ]
            nodes = [await MongoReadStore.open(mongodb_url) for _ in models]
            await asyncio.gather(*(node.prepare([model]) for node, model in zip(nodes, models, strict=True)))
            for node in nodes:
                await node.close()
        found = await store.checkpoints()
        for n in range(8):
            laid_out = [each.partition for each in found if each.generation == n]
            assert laid_out in [shares(count) for count in (1, 2, 3)]


async def test_nodes_share_one_identity_from_the_first_moment(mongodb_url: str) -> None:
    nodes = await asyncio.gather(*(MongoReadStore.open(mongodb_url) for _ in range(6)))
    assert len({each.identity for each in nodes}) == 1
    async with opened(mongodb_url, read_only=True) as reader:
        assert reader.identity == nodes[0].identity
    for each in nodes:
        await each.close()


async def test_a_node_that_knows_less_columns_saves_no_row_without_them(mongodb_url: str) -> None:
    async with opened(mongodb_url) as old, opened(mongodb_url) as new:
        await keep(old, BARE, {"a": Order("ann"), "b": Order("bob")})
        await new.prepare([ORDERS])
        with pytest.raises(Unavailable, match=r"'orders' is now declared .*customer:text.* Restart this process"):
            await old.save(Change(BARE, LOG, 1, 2, 0, {"c": VersionedRow(Order("ann"), 2)}))
        assert await keys(new, ORDERS, {"customer": "ann"}) == ["a"]
        assert (await progress(new, ORDERS)).position == 1
        # Who knows more does no harm.
        await old.prepare([BARE])
        await new.save(Change(ORDERS, LOG, 1, 2, 0, {"c": VersionedRow(Order("ann"), 2)}))
        await new.prepare([ORDERS])
        assert await keys(new, ORDERS, {"customer": "ann"}) == ["a", "c"]


async def test_rows_of_a_save_that_was_under_way_when_columns_were_declared_are_given_them_too(
    mongodb_url: str,
) -> None:
    async with opened(mongodb_url) as old, opened(mongodb_url, patience=100.0) as new:
        await keep(old, BARE, {"a": Order("ann")})
        wait_for_saves = MongoCheckpoints.wait_for_saves
        under_way, declared = asyncio.Event(), asyncio.Event()

        async def held_up(*arguments: object) -> None:
            under_way.set()
            await declared.wait()
            await write_rows(*arguments)  # type: ignore[arg-type]

        async def waiting(self: MongoCheckpoints, table: MongoTable) -> None:
            declared.set()
            await wait_for_saves(self, table)

        with (
            patch("twofold.read_store.mongodb.saving.write_rows", held_up),
            patch.object(MongoCheckpoints, "wait_for_saves", waiting),
        ):
            saving = asyncio.create_task(old.save(Change(BARE, LOG, 1, 2, 0, {"b": VersionedRow(Order("ann"), 2)})))
            # Less than the time it would wait for a save that nobody ends.
            async with asyncio.timeout(60):
                await under_way.wait()
                await new.prepare([ORDERS])
        with pytest.raises(Unavailable):
            await saving
        assert await keys(new, ORDERS, {"customer": "ann"}) == ["a", "b"]
        assert (await progress(new, ORDERS)).position == 1


class FastClock(RealWorld):
    """A world in which each wait takes five seconds by the clock, and hardly any time."""

    def __init__(self) -> None:
        self._waits = 0

    def monotonic(self) -> float:
        return super().monotonic() + 5.0 * self._waits

    async def sleep(self, seconds: float) -> None:
        self._waits += 1
        await super().sleep(min(seconds, 0.01))


async def test_a_save_that_never_ended_holds_up_a_declaration_for_a_while_only(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store, opened(mongodb_url, world=FastClock()) as new:
        await keep(store, BARE, {"a": Order("ann")})
        # As if the process had died after it.
        await store._checkpoints.begin_save(MongoTable(BARE), Change(BARE, LOG, 1, 2, 0), "dead")
        await new.prepare([ORDERS])
        assert await keys(new, ORDERS, {"customer": "ann"}) == ["a"]


async def test_to_give_rows_their_columns_goes_on_where_it_was_broken_off(mongodb_url: str) -> None:
    rows = {f"k{n:04}": Order("ann" if n % 2 else "bob", n) for n in range(2_500)}
    async with opened(mongodb_url) as store, opened(mongodb_url, read_only=True) as reader:
        await keep(store, BARE, rows)
        with patch.object(MongoTable, "values", _fails_after(1_300)), pytest.raises(_BrokenOff):
            await store.prepare([ORDERS])
        found = await documents(mongodb_url, ORDERS)
        assert 0 < sum("customer:text" in each["c"] for each in found.values()) < 2_500
        with pytest.raises(Unavailable, match="no column of read model 'orders'"):
            await reader.prepare([ORDERS])
        await store.prepare([ORDERS])
        await reader.prepare([ORDERS])
        assert await keys(reader, ORDERS, {"customer": "bob"}, order_by="total") == list(rows)[::2]


class _BrokenOff(Exception):
    pass


def _fails_after(times: int) -> Callable[[MongoTable, Order], object]:
    left = iter(range(times))
    values = MongoTable.values

    def failing(self: MongoTable, row: Order) -> object:
        if next(left, None) is None:
            raise _BrokenOff
        return values(self, row)

    return failing


async def test_a_row_saved_while_rows_are_given_columns_keeps_its_own(mongodb_url: str) -> None:
    table = MongoTable(ORDERS)
    values = MongoTable.values
    async with opened(mongodb_url) as store:
        await keep(store, BARE, {"a": Order("ann"), "b": Order("ann")})

        def overtaken(self: MongoTable, row: Order) -> object:
            # What the save of another node would have written by now.
            with pymongo.MongoClient[dict[str, Any]](mongodb_url) as client:
                (newer,) = table.documents({"a": VersionedRow(Order("bob"), 2)}, 0)
                client.get_default_database()[table.collection].replace_one({"_id": "a", "_p": 1}, newer)
            return values(self, row)

        with patch.object(MongoTable, "values", overtaken):
            await store.prepare([ORDERS])
        assert await found_rows(store, ORDERS, {"customer": "bob"}) == [("a", Order("bob"))]
        assert await keys(store, ORDERS, {"customer": "ann"}) == ["b"]


async def test_a_reader_reads_beside_the_writer_and_writes_nothing(mongodb_url: str) -> None:
    async with opened(mongodb_url, read_only=True) as reader:
        assert reader.identity == ""
        assert await reader.checkpoints() == []
        assert await reader.raw_rows("orders", 1, "", 9) == []
        with pytest.raises(Unavailable, match=r"no collection of read model 'orders' generation 1 yet\. Start the app"):
            await reader.prepare([ORDERS])
        async with database(mongodb_url) as found:
            assert await found.list_collection_names() == []
        async with opened(mongodb_url) as writer:
            await keep(writer, BARE, {"a": Order("ann")}, parked={"p": Parked("p", 1, "no", 0)})
            with pytest.raises(Unavailable, match="no column"):
                await reader.prepare([ORDERS])
            await keep(writer, ORDERS, {"b": Order("ann")}, before=1)
            async with database(mongodb_url) as found:
                await found[MongoTable(ORDERS).collection].drop_index(
                    MongoTable(ORDERS).index_for(("customer",), "total")
                )
            with pytest.raises(Unavailable, match="no index"):
                await reader.prepare([ORDERS])
            await writer.prepare([ORDERS])
            await reader.prepare([ORDERS])
            assert await keys(reader, ORDERS, {"customer": "ann"}, order_by="total") == ["a", "b"]
            assert await loaded(reader, ORDERS, ["a"]) == {"a": Order("ann")}
            await writer.save(Change(ORDERS, LOG, 2, 3, 7, {"c": VersionedRow(Order("ann"), 3)}))
            assert await progress(reader, ORDERS) == Progress(3, LOG, 7, ParkedSummary(1, ("p",)))
            assert await keys(reader, ORDERS) == ["a", "b", "c"]
        for refused in (
            reader.save(Change(ORDERS, LOG, 3, 4, 0)),
            reader.repartition(ORDERS, [WHOLE], shares(2)),
            reader.drop("orders", 1),
        ):
            with pytest.raises(Unavailable, match="reading only"):
                await refused
        assert [each.progress.position for each in await reader.checkpoints()] == [3]


async def test_partitions_are_saved_by_nodes_at_once_each_as_if_it_were_alone(mongodb_url: str) -> None:
    parts = shares(4)
    model = msgspec.structs.replace(ORDERS, partitions=4)
    nodes = [await MongoReadStore.open(mongodb_url) for _ in parts]
    for node in nodes:
        await node.prepare([model])

    async def save_all(node: MongoReadStore, part: Partition) -> None:
        mine = [key for key in (f"k{n}" for n in range(400)) if part.holds(key)][:50]
        for n, key in enumerate(mine):
            rows = {key: VersionedRow(Order(total=n), n + 1)}
            await node.save(Change(model, LOG, n, n + 1, 0, rows, {key: Parked(key, n + 1, "no", 0)}, partition=part))

    await asyncio.gather(*(save_all(node, part) for node, part in zip(nodes, parts, strict=True)))
    found = await nodes[0].checkpoints()
    assert [(each.partition, each.progress.position) for each in found] == [(part, 50) for part in parts]
    assert [len(each.parked) for each in found] == [50] * 4
    assert len(await keys(nodes[0], model)) == 200
    for node in nodes:
        await node.close()


async def test_a_generation_that_was_dropped_is_saved_by_nobody(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store, opened(mongodb_url) as late:
        await keep(store, ORDERS, {"a": Order()})
        await late.prepare([ORDERS])
        await store.drop("orders", 1)
        with pytest.raises(Conflict, match="no partition 0-4096"):
            await late.save(Change(ORDERS, LOG, 1, 2, 0, {"b": VersionedRow(Order(), 2)}, {"b": None}))
        assert await store.checkpoints() == []
        assert await store.raw_rows("orders", 1, "", 9) == []
