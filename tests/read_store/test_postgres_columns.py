"""What PostgreSQL cannot keep or index as it is has the order and the equality it has in memory all the same."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.postgres import Postgres, fresh_schema
from twofold.errors import InvalidMessage
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Change, RawRow, ReadModel, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.postgres.schema_names import (
    cut,
    escaped,
    fitting,
    key_of,
    short_key,
    table_name,
    unescaped,
    whole_key,
)
from twofold.testing.read_store_rows import HOSTILE, LOG, ORDERS, Order, all_pages, at, find, found_rows, keep, loaded

SLOW = [HealthCheck.too_slow, HealthCheck.differing_executors, HealthCheck.function_scoped_fixture]
ANY_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\0\1\2\x7f\x80\uffff\U0010ffff"), max_size=12)


@pytest.fixture
async def store(postgres: Postgres) -> AsyncIterator[PostgresReadStore]:
    store = await PostgresReadStore.open(f"{postgres.dsn}?schema={fresh_schema()}")
    yield store
    await store.close()


async def same_as_in_memory(store: PostgresReadStore, model: ReadModel, rows: Mapping[str, Any]) -> None:
    """Every declared find of these rows, page by page, and all that is filtered by their values."""
    plain = MemoryReadStore()
    for each in (plain, store):
        await keep(each, model, rows)
    for group, order_by, descending in product(((), *model.find_by), (None, *model.order_by), (False, True)):
        asked = {tuple(getattr(row, field) for field in group) for row in rows.values()}
        for values in asked:
            filters = dict(zip(group, values, strict=True))
            for size in (2, 1_000) if group else (1, 2, 3, 1_000):
                expected = await all_pages(plain, model, filters, order_by, descending, size)
                assert await all_pages(store, model, filters, order_by, descending, size) == expected
    assert await loaded(store, model, list(rows)) == rows


# -------------------------------------------------------------------------------------------------------------- as text


@given(ANY_TEXT, ANY_TEXT)
def test_escaped_text_comes_back_and_sorts_as_before(one: str, other: str) -> None:
    assert unescaped(escaped(one)) == one
    assert "\0" not in escaped(one)
    assert (escaped(one).encode() < escaped(other).encode()) == (one < other)


@given(ANY_TEXT, ANY_TEXT, st.integers(4, 12))
def test_text_that_is_cut_sorts_as_before_and_never_becomes_equal_to_one_that_is_not(
    one: str, other: str, most: int
) -> None:
    one, other = escaped(one), escaped(other)
    heads = [cut(each, most) for each in (one, other)]
    kept = [each if head is None else head for each, head in zip((one, other), heads, strict=True)]
    assert all(len(each.encode()) <= most + 4 for each in kept)
    if kept[0] == kept[1]:
        assert one == other or None not in heads
    else:
        assert (kept[0].encode() < kept[1].encode()) == (one < other)


def test_keys_that_differ_never_share_what_stands_for_them() -> None:
    long = [f"{'é' * 525}{end}" for end in ("", "a", "b", "é", "\U0001f4a5", "\0" * 400)]
    # What stands for a long key is a key as well.
    keys = [*long, *(short_key(key) for key in long), "a\0", "a\1\1", "a\1", "a\2"]
    assert len({short_key(key) for key in keys}) == len(set(keys))
    assert [key_of(short_key(key), whole_key(key)) for key in keys] == keys
    assert max(len(short_key(key).encode()) for key in keys) <= 1_050 + 4 + 64


# ---------------------------------------------------------------------------------------------------------- long values


def long_texts(random: Random) -> list[str | None]:
    """Values of up to 10,000 characters that agree in what fits into an index, and those that only just fit."""
    tail = "".join(chr(random.randrange(0x20, 0x7F)) for _ in range(10_000))
    almost = "x" * 498
    ends = ["", "a", "ab", "abc", "aé", "é", "一", "\U0001f4a5", "\0", "\1", "\U0010ffff", f"a{tail}", f"b{tail}"]
    return [None, "", "w", "y", *(almost + end for end in ends), f"{almost}a{tail}!", f"{almost}a{tail}a", tail]


async def test_values_of_any_length_are_found_and_ordered_in_full(store: PostgresReadStore) -> None:
    texts = long_texts(Random(1))
    rows = {f"k{n:03}": Order(text or "", n % 2, text) for n, text in enumerate([*texts, *reversed(texts)])}
    await same_as_in_memory(store, ORDERS, rows)
    # And those that are not there, though they begin alike.
    absent = [f"{'x' * 498}a{'z' * 9_000}", "x" * 502, "x" * 501]
    assert [await found_rows(store, ORDERS, {"customer": text}) for text in absent] == [[], [], []]


async def test_a_cursor_behind_a_long_value_continues_behind_it_when_its_row_is_gone(store: PostgresReadStore) -> None:
    long = [f"{'x' * 600}{end}" for end in "abcd"]
    await keep(store, ORDERS, {f"k{end}": Order(note=note) for end, note in zip("dcba", long, strict=True)})
    first = await find(store, ORDERS, order_by="note", limit=2)
    assert [key for key, _ in first.rows] == ["kd", "kc"]
    await keep(store, ORDERS, {"kc": None, "ka": Order(note=long[0])}, before=1)
    second = await find(store, ORDERS, order_by="note", limit=9, cursor=first.cursor)
    assert [key for key, _ in second.rows] == ["kb"]


async def test_a_long_value_that_becomes_short_is_found_as_what_it_is(store: PostgresReadStore) -> None:
    await keep(store, ORDERS, {"a": Order("x" * 10_000), "b": Order("b")})
    await keep(store, ORDERS, {"a": Order("a"), "b": Order("x" * 10_000)}, before=1)
    assert await found_rows(store, ORDERS, {"customer": "a"}) == [("a", Order("a"))]
    assert await found_rows(store, ORDERS, {"customer": "x" * 10_000}) == [("b", Order("x" * 10_000))]


async def test_the_longest_keys_are_loaded_found_replaced_deleted_and_parked(store: PostgresReadStore) -> None:
    random = Random(2)
    alike = "".join(chr(random.randrange(0x10000, 0x10FFFF)) for _ in range(1_023))
    keys = [f"{alike}{end}" for end in "abc"] + ["".join(chr(random.randrange(1, 0xD800)) for _ in range(1_024))]
    await keep(store, ORDERS, {key: Order(key[-1], n) for n, key in enumerate(keys)})
    assert await loaded(store, ORDERS, keys) == {key: Order(key[-1], n) for n, key in enumerate(keys)}
    whole = [key for key, _ in await found_rows(store, ORDERS)]
    assert sorted(whole) == sorted(keys)
    pages = await all_pages(store, ORDERS, {}, None, False, 1)
    assert [key for page in pages for key in page] == whole
    await keep(store, ORDERS, {keys[0]: None, keys[1]: Order("new")}, before=1)
    assert await found_rows(store, ORDERS, {"customer": "new"}) == [(keys[1], Order("new"))]
    assert keys[0] not in await loaded(store, ORDERS, keys)
    assert {key for key, _ in await store.raw_rows("orders", 1, "", 9)} == set(keys[1:])


async def test_as_many_long_fields_as_an_index_can_have_fit_into_it(store: PostgresReadStore) -> None:
    random = Random(3)
    fields = [f"f{n}" for n in range(29)]
    row = msgspec.defstruct("Wide", [(field, str) for field in [*fields, "order"]], frozen=True)
    model = ReadModel("wide", 1, row, (tuple(fields),), ("order",))

    def noise() -> str:
        return "".join(chr(random.randrange(0x10000, 0x10FFFF)) for _ in range(1_024))

    rows = {noise(): row(*(noise() for _ in range(30))) for _ in range(5)}
    await keep(store, model, rows)
    for key, each in rows.items():
        filters = {field: getattr(each, field) for field in fields}
        assert await found_rows(store, model, filters, order_by="order") == [(key, each)]


async def test_values_that_were_cut_otherwise_are_written_anew(store: PostgresReadStore) -> None:
    row = msgspec.defstruct("Row", [(field, str) for field in "abcdef"], frozen=True)
    rows = {f"k{n}": row(*["x" * (150 + 50 * n)] * 6) for n in range(8)}
    await keep(store, ReadModel("m", 1, row, (("a",),), ("a",)), rows)
    for groups in ((("a",), tuple("abcdef")), (("a",), ("a", "b")), ((tuple("abcdef")),)):
        model = ReadModel("m", 1, row, groups, ("a",))
        await store.prepare([model])
        for group, (key, each) in product(groups, rows.items()):
            filters = {field: getattr(each, field) for field in group}
            assert await found_rows(store, model, filters) == [(key, each)]


# -------------------------------------------------------------------------------------------------------------- numbers


class Numbers(msgspec.Struct, frozen=True):
    whole: int | None = None
    yes: bool | None = None
    real: float | None = None
    any: int | float | None = None
    money: Decimal | None = None


NUMBERS = ReadModel(
    "numbers", 1, Numbers, tuple((field,) for field in Numbers.__struct_fields__), Numbers.__struct_fields__
)
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0])
REAL = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324, 2.0**53, 2.0**53 + 2])
SOME = st.builds(
    Numbers,
    whole=st.none() | WHOLE,
    yes=st.none() | st.booleans(),
    real=st.none() | REAL,
    any=st.none() | WHOLE | REAL,
    money=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
@given(st.lists(SOME, min_size=1, max_size=12))
def test_numbers_have_the_order_and_the_equality_they_have_in_memory(
    postgres_newest: Postgres, numbers: Sequence[Numbers]
) -> None:
    async def check() -> None:
        store = await PostgresReadStore.open(f"{postgres_newest.dsn}?schema={fresh_schema()}")
        await same_as_in_memory(store, NUMBERS, {f"k{n}": each for n, each in enumerate(numbers)})
        await store.close()

    asyncio.run(check())


def test_numbers_are_kept_in_columns_of_their_own_type() -> None:
    table = PostgresTable(NUMBERS, "s")
    assert {name: field.type for name, field in table.fields.items()} == {
        "whole": "bigint",
        "yes": "bigint",
        "real": "double precision",
        "any": "numeric",
        "money": "text",
    }


async def test_a_fraction_in_a_column_of_whole_numbers_is_refused_where_it_would_be_rounded(
    store: PostgresReadStore,
) -> None:
    await keep(store, ORDERS, {"a": Order(total=1)})
    with pytest.raises(InvalidMessage, match=r"Row 'b' of 'orders'.*'total'.*1.5 is not a whole number") as refused:
        await store.save(Change(ORDERS, LOG, 1, 2, 0, at(2, {"b": Order(total=1.5)})))  # type: ignore[arg-type]
    assert refused.value.field == "total"
    model = msgspec.structs.replace(ORDERS, find_by=(("total",),))
    await store.prepare([model])
    assert [key for key, _ in await found_rows(store, model, {"total": 1.0})] == ["a"]
    assert await found_rows(store, model, {"total": 1.5}) == []


# ---------------------------------------------------------------------------------------------------------- rows, names


class Odd(msgspec.Struct, frozen=True):
    big: int
    text: str
    counts: dict[int, Decimal]


async def test_rows_come_back_exactly_and_the_server_can_look_into_them(store: PostgresReadStore) -> None:
    model = ReadModel("odd", 1, Odd)
    rows = {
        "k\0": Odd(10**40, "a\0\1\ud7ffé\U0001f4a5\"'\\", {-1: Decimal("1.10"), 2**70: Decimal("1E+3")}),
        "l": Odd(-(10**40), "", {7: Decimal("1.10")}),
    }
    await keep(store, model, rows)
    assert await loaded(store, model, list(rows)) == rows
    plain = [(key, RawRow(msgspec.json.decode(msgspec.json.encode(row)), 1)) for key, row in rows.items()]
    assert await store.raw_rows("odd", 1, "", 9) == plain
    async with store.snapshot() as snapshot:
        native = snapshot.native(model)
        asked = f"select row->'counts'->>'7', row::text from {native.table} where key = $1"
        inside, text = await native.client.fetchrow(asked, "l")
    assert inside == "1.10"
    assert text == msgspec.json.encode(rows["l"]).decode()


async def test_text_that_is_none_is_refused_and_absent(store: PostgresReadStore) -> None:
    await keep(store, ORDERS, {"a": Order()})
    for rows in ({"\ud800": Order()}, {"k": Order("\ud800")}, {"k": Order(note="\udfff")}):
        with pytest.raises(InvalidMessage, match="cannot be stored"):
            await store.save(Change(ORDERS, LOG, 1, 2, 0, at(2, rows)))
    with pytest.raises(InvalidMessage, match="cannot be stored"):
        await store.save(Change(ORDERS, LOG, 1, 2, 0, {"\ud800": VersionedRow(None, 2)}))
    assert await loaded(store, ORDERS, ["\ud800", "a"]) == {"a": Order()}
    async with store.snapshot() as snapshot:
        assert await snapshot.get(ORDERS, "\ud800") is None


def test_names_are_readable_and_never_longer_than_the_server_takes_nor_the_same() -> None:
    assert table_name("order-summaries", 3) == "order-summaries@3"
    models = [*HOSTILE, "a@1", "a", "A", "a%40", "x" * 61, "x" * 62, "x" * 1_025, "\ud800", ""]
    names = [table_name(model, generation) for model in models for generation in (1, 11)]
    assert len(set(names)) == len(names)
    assert max(len(name) for name in names) <= 63
    fields = ["ü" * 40, "ü" * 41, "ü" * 31 + "x"]
    assert len({fitting(field) for field in fields}) == 3
    assert all(len(fitting(field).encode()) <= 63 for field in fields)
