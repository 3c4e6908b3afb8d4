"""Every declared find is a range of its own index and sorts nothing; loads and saves never read a whole table."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from tests.servers.postgres import Postgres, fresh_schema
from twofold.read_store.access import check_access
from twofold.read_store.port import Change, ReadModel, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.read_store.postgres.connection import PLANS
from twofold.read_store.postgres.finds import find_statements
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.saving import save_statement
from twofold.read_store.postgres.snapshot import begin
from twofold.testing.read_store_rows import FIELDS, LOG, ORDERS, Everything, Order, Size, find, keep

ROWS = 6_000
ORDER_BY = ("text", "real", "moment")
WIDE = ReadModel(
    "everything", 1, Everything, (*((field,) for field in FIELDS), ("text", "whole"), ("whole", "day", "yes")), ORDER_BY
)
START = datetime(2000, 1, 1, tzinfo=UTC)


def everything(n: int) -> Everything:
    """Every value some hundred times, and None as often."""
    if n % 60 == 0:
        return Everything()
    few = n % 60
    return Everything(
        text=f"t{few}",
        whole=few,
        real=few / 7,
        yes=few % 2 == 0,
        moment=START + timedelta(hours=few),
        day=date(2000, 1, 1) + timedelta(few),
        id=UUID(int=few),
        money=Decimal(few) / 3,
        size=Size.BIG if few % 2 else Size.SMALL,
        state="new" if few % 2 else "paid",
    )


class Explained:
    """One kept model, and what the server says it would do in a snapshot."""

    def __init__(self, store: PostgresReadStore, model: ReadModel, connection: asyncpg.Connection) -> None:
        self.store = store
        self.model = model
        self.table = PostgresTable(model, store._address.schema)
        self._connection = connection

    async def plan(self, sql: str, arguments: Sequence[Any]) -> Any:
        (found,) = json.loads(await self._connection.fetchval(f"explain (format json) {sql}", *arguments))
        return found["Plan"]

    async def pages(self, sql: str, arguments: Sequence[Any]) -> int:
        """Pages looked at, the catalogue apart, which the first call of two has read."""
        await self._connection.fetch(sql, *arguments)
        explained = f"explain (analyze, buffers, format json) {sql}"
        (found,) = json.loads(await self._connection.fetchval(explained, *arguments))
        return int(found["Plan"]["Shared Hit Blocks"]) + int(found["Plan"]["Shared Read Blocks"])


def nodes(plan: Any) -> list[Any]:
    return [plan, *(node for inner in plan.get("Plans", ()) for node in nodes(inner))]


@pytest.fixture
async def explained(postgres: Postgres) -> AsyncIterator[Explained]:
    store = await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}")
    await keep(store, WIDE, {f"k{n:05}": everything(n) for n in range(ROWS)})
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"analyze {PostgresTable(WIDE, store._address.schema).name}")
    await begin(connection, 60.0)
    yield Explained(store, WIDE, connection)
    await connection.close()
    await store.close()


@pytest.mark.parametrize("where", ["at the start", "continued", "continued at None"])
async def test_every_declared_find_is_a_range_of_its_own_index_without_sorting(
    explained: Explained, where: str
) -> None:
    table, wrong = explained.table, list[str]()
    columns = {name.strip('"'): {each for each in table.added if each in sql} for name, sql in table.indexes.items()}
    columns[f"{table.rows_in}_pkey"] = set()
    groups = ((), *WIDE.find_by)
    asked = 0
    for group, order, descending, n in product(groups, (None, *WIDE.order_by), (False, True), (0, 31)):
        filters = {field: getattr(everything(n), field) for field in group}
        cursor = None
        if where != "at the start":
            cursor = await cursor_of(explained, filters, order, descending, at_none=where == "continued at None")
            if cursor is None:
                continue
        access = check_access(
            WIDE, table.columns, filters, order_by=order, descending=descending, limit=2, cursor=cursor
        )
        index = index_of(table, access.group, access.order)
        for sql, arguments in find_statements(table, access):
            plan = await explained.plan(f"{sql} limit ${len(arguments) + 1}", [*arguments, 3])
            used = [node["Index Name"] for node in nodes(plan) if "Index Name" in node]
            kinds = [node["Node Type"] for node in nodes(plan)]
            # Where all columns are fixed, one with the same columns in another order is as good.
            fixed = access.order is None or f"{table.fields[access.order].name} is null" in sql
            good = used == [index] or (fixed and len(used) == 1 and columns[used[0]] == columns[index])
            if kinds != ["Limit", "Index Scan"] or not good:
                wrong.append(f"{kinds} {used} not {index}: {sql}")
            asked += 1
    assert not wrong, "\n".join(wrong)
    assert asked > 50


async def cursor_of(
    explained: Explained, filters: dict[str, Any], order: str | None, descending: bool, *, at_none: bool
) -> str | None:
    """A cursor that continues behind some row of a find: one whose order value is None, or one that has a value."""
    whole = await find(explained.store, WIDE, filters, order_by=order, descending=descending)
    for n, (_, row) in enumerate(whole.rows[:-1], 1):
        if order is not None and (getattr(row, order) is None) == at_none:
            found = await find(explained.store, WIDE, filters, order_by=order, descending=descending, limit=n)
            return found.cursor
    if order is not None or at_none:
        return None
    return (await find(explained.store, WIDE, filters, descending=descending, limit=5)).cursor


def index_of(table: PostgresTable, group: Sequence[str], order: str | None) -> str:
    """The index of an access; the one of the primary key where everything is read by key."""
    fields = (*group, *([order] if order else []))
    by = ", ".join(f"{table.fields[field].name} nulls first" for field in fields)
    found = [name for name, sql in table.indexes.items() if f"({by}, (key" in sql]
    return found[0].strip('"') if found else f"{table.rows_in}_pkey"


async def test_a_find_reads_few_pages_though_statistics_say_that_there_is_one_value_only(postgres: Postgres) -> None:
    store = await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}")
    await keep(store, ORDERS, {f"a{n:05}": Order("ann", n, "x") for n in range(500)})
    connection = await asyncpg.connect(postgres.dsn)
    explained = Explained(store, ORDERS, connection)
    await connection.execute(f"alter table {explained.table.name} set (autovacuum_enabled = off)")
    await connection.execute(f"analyze {explained.table.name}")
    for page in range(10):
        rows = {f"b{page}-{n:05}": Order("bob", n, None if n % 2 else "y") for n in range(2_000)}
        await keep(store, ORDERS, rows, before=1 + page)
    await begin(connection, 60.0)
    for filters, order, descending in product(
        ({"customer": "bob"}, {"customer": "bob", "note": None}, {"customer": "nobody"}, {}),
        (None, "total", "note"),
        (False, True),
    ):
        cursor = (await find(store, ORDERS, filters, order_by=order, descending=descending, limit=9)).cursor
        for each in (None, cursor):
            access = check_access(
                ORDERS, explained.table.columns, filters, order_by=order, descending=descending, limit=9, cursor=each
            )
            for sql, arguments in find_statements(explained.table, access):
                assert await explained.pages(f"{sql} limit ${len(arguments) + 1}", [*arguments, 10]) < 60, sql
    await connection.close()
    await store.close()


async def test_a_load_a_lookup_and_a_save_find_their_rows_by_key_though_their_plans_were_made_for_a_single_one(
    postgres: Postgres,
) -> None:
    store = await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}")
    await store.prepare([ORDERS])
    table = PostgresTable(ORDERS, store._address.schema)
    connection = await asyncpg.connect(postgres.dsn, server_settings=PLANS)
    await connection.execute(f"alter table {table.name} set (autovacuum_enabled = off)")
    await keep(store, ORDERS, {"first": Order()}, position=0)
    await connection.execute(f"vacuum analyze {table.name}")

    def changed(before: int) -> tuple[str, list[Any]]:
        rows = {f"k{n:05}": VersionedRow(Order(total=before) if n % 2 else None, before + 1) for n in range(100, 110)}
        return save_statement(table, Change(ORDERS, LOG, before, before + 1, 0, rows), store._address.schema)

    loading = await connection.prepare(f"explain (analyze, format json) {table.select_many}")
    saving = await connection.prepare(f"explain (analyze, format json) {changed(0)[0]}")
    looking = await connection.prepare(f"explain (analyze, format json) {table.lookup}")
    for each, arguments in ((loading, [["k"]]), (looking, [table.rows_in, "k"]), (saving, changed(0)[1])):
        await each.fetchval(*arguments)
    await connection.execute(
        f"insert into {table.name} (key, row, position, repair)"
        " select 'k' || to_char(n, 'FM00000'), '{\"customer\": \"ann\"}', 1, 0 from generate_series(0, 20000) n"
        " on conflict do nothing"
    )
    for each, arguments in (
        (loading, [[f"k{n:05}" for n in range(50)]]),
        (looking, [table.rows_in, "k00107"]),
        (saving, changed(1)[1]),
    ):
        (found,) = json.loads(await each.fetchval(*arguments))
        scans = [node for node in nodes(found["Plan"]) if node.get("Relation Name") == table.rows_in]
        assert {node["Node Type"] for node in scans} <= {
            "Index Scan",
            "Bitmap Heap Scan",
            "ModifyTable",
        }, scans
        read = sum(node["Actual Rows"] * node["Actual Loops"] for node in scans if "Scan" in node["Node Type"])
        assert 0 < read <= 50
    await connection.close()
    await store.close()


async def test_a_long_value_costs_only_the_page_it_is_on(postgres: Postgres) -> None:
    store = await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}")
    rows = {f"k{n:05}": Order("ann", n, f"{n % 50:03}") for n in range(5_000)}
    await keep(store, ORDERS, rows | {"z": Order(note="~" * 10_000)})
    table = PostgresTable(ORDERS, store._address.schema)
    connection = await asyncpg.connect(postgres.dsn)
    await begin(connection, 60.0)
    access = check_access(ORDERS, table.columns, {"customer": "ann"}, order_by="note", limit=9)
    ((sql, arguments),) = find_statements(table, access)
    rows_found = await connection.fetch(f"{sql} limit ${len(arguments) + 1}", *arguments, 10)
    assert not any(cut for *_, cut in rows_found)
    access = msgspec.structs.replace(access, descending=True)
    ((sql, arguments),) = find_statements(table, access)
    rows_found = await connection.fetch(f"{sql} limit ${len(arguments) + 1}", *arguments, 10)
    assert [cut for *_, cut in rows_found] == [True] + [False] * 9
    await connection.close()
    await store.close()
