"""Every declared find reads a range of an index, sorts nothing, and reads no deleted rows."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import msgspec
import pytest

from tests.read_store.mongodb_helpers import database, opened
from twofold.errors import WiringError
from twofold.read_store.access import check_access
from twofold.read_store.mongodb.finds import MongoFind
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.mongodb.schema import indexes
from twofold.read_store.port import Change, ReadModel, VersionedRow
from twofold.testing.read_store_rows import EVERYTHING, LOG, ORDERS, find, keep, keys

Stage = Mapping[str, Any]


def stages(plan: Stage) -> Iterator[Stage]:
    """The stages of a plan, the last first."""
    yield plan
    for inner in [plan.get("inputStage"), *plan.get("inputStages", ())]:
        if inner is not None:
            yield from stages(inner)


async def explained(
    url: str, table: MongoTable, mongo_find: MongoFind, query: Mapping[str, Any], limit: int
) -> Mapping[str, Any]:
    """What the server says it did for one query of a find."""
    async with database(url) as found:
        rows = found[table.collection].find(query).sort(mongo_find.sort).hint(mongo_find.index).limit(limit)
        return dict(await rows.explain())


@pytest.mark.parametrize("model", [ORDERS, EVERYTHING], ids=lambda model: model.name)
@pytest.mark.parametrize("continued", [False, True])
async def test_every_declared_find_is_a_range_of_its_index(mongodb_url: str, model: ReadModel, continued: bool) -> None:
    table = MongoTable(model)
    rows = {f"k{n}": model.row() for n in range(40)}
    own, shared = 0, 0
    async with opened(mongodb_url) as store:
        await keep(store, model, rows)
        await store.save(
            Change(model, LOG, 1, 2, 2**52, {f"k{n}": VersionedRow(None, 2, 0, (rows[f"k{n}"],)) for n in range(20)})
        )
        for group, order, descending in product(((), *model.find_by), (None, *model.order_by), (False, True)):
            filters = {field: getattr(model.row(), field) for field in group}
            cursor = None
            if continued:
                cursor = (await find(store, model, filters, order_by=order, descending=descending, limit=8)).cursor
                assert cursor is not None
            access = check_access(
                model, table.columns, filters, order_by=order, descending=descending, limit=2, cursor=cursor
            )
            mongo_find = MongoFind(table, access)
            for query in mongo_find.queries():
                plan = await explained(mongodb_url, table, mongo_find, query, 3)
                names = [each["stage"] for each in stages(plan["queryPlanner"]["winningPlan"])]
                assert "COLLSCAN" not in names, names
                done = plan["executionStats"]
                if access.order and table.index_for(group, access.order) == table.index_for(group, None):
                    # Beyond the most indexes that MongoDB keeps.
                    assert "SORT" in names
                    shared += 1
                    continue
                own += 1
                assert "SORT" not in names, names
                # The rows returned, and no more entries than it takes to see an end of a range. None deleted.
                assert done["totalKeysExamined"] <= done["nReturned"] + 1, (query, done)
                assert done["totalDocsExamined"] == done["nReturned"]
    assert own
    assert bool(shared) == (model is EVERYTHING)


async def test_deleted_rows_are_in_the_way_of_nobody(mongodb_url: str) -> None:
    table = MongoTable(ORDERS)
    async with opened(mongodb_url) as store:
        rows = {f"k{n:04}": ORDERS.row() for n in range(2_000)}
        await keep(store, ORDERS, rows)
        gone = {key: VersionedRow(None, 2, 0, (row,)) for key, row in list(rows.items())[:-3]}
        await store.save(Change(ORDERS, LOG, 1, 2, 2**52, gone))
        assert await keys(store, ORDERS) == ["k1997", "k1998", "k1999"]
        mongo_find = MongoFind(table, check_access(ORDERS, table.columns, {}, limit=3))
        (query,) = mongo_find.queries()
        assert (await explained(mongodb_url, table, mongo_find, query, 4))["executionStats"]["totalKeysExamined"] <= 4


def wide(filters: int, orders: int) -> ReadModel:
    """A read model with so many filters and orders, each by its own field."""
    fields = [f"f{n}" for n in range(filters)], [f"o{n}" for n in range(orders)]
    row = msgspec.defstruct("Wide", [(field, int, 0) for each in fields for field in each], frozen=True)
    return ReadModel("wide", 1, row, tuple((field,) for field in fields[0]), tuple(fields[1]))


async def test_a_model_has_as_many_filters_and_orders_as_mongodb_has_indexes(mongodb_url: str) -> None:
    model = wide(31, 30)
    async with opened(mongodb_url) as store:
        await keep(store, model, {"a": model.row(f1=2, o1=2), "b": model.row(f1=2, o1=1)})
        assert await keys(store, model, {"f1": 2}, order_by="o1") == ["b", "a"]
        with pytest.raises(WiringError, match=r"'wide' declares 62 filters and orders.* 61"):
            await store.prepare([wide(31, 31)])


async def test_indexes_no_longer_declared_go_and_those_of_others_stay(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store, database(mongodb_url) as found:
        await store.prepare([ORDERS])
        rows = found[MongoTable(ORDERS).collection]
        await rows.create_index("row.total", name="mine")
        bare = ReadModel("orders", 1, ORDERS.row, (), ("total",))
        await store.prepare([bare])
        there = set(await rows.index_information())
        assert there == {"_id_", "mine", *indexes(MongoTable(bare))}
        await store.prepare([ORDERS])
        assert set(await rows.index_information()) == {"_id_", "mine", *indexes(MongoTable(ORDERS))}
