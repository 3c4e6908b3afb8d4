"""Rows in MongoDB: documents for native queries, which return exactly what was saved."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import bson
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.read_store.mongodb_helpers import database, documents, opened
from tests.servers.mongodb import ReplicaSet, fresh_database
from twofold.errors import InvalidMessage, Unavailable, WiringError
from twofold.read_store.mongodb.rows import MAX_DOCUMENT_BYTES, MongoTable
from twofold.read_store.mongodb.schema_names import id_of
from twofold.read_store.port import Change, Parked, ReadModel, VersionedRow
from twofold.testing.read_store_rows import (
    HOSTILE,
    LOG,
    ORDERS,
    Order,
    found_rows,
    keep,
    keys,
    loaded,
    parked_keys,
    progress,
)
from twofold.world import RealWorld, microseconds


class Odd(msgspec.Struct, frozen=True):
    """Values that documents and JSON treat differently."""

    value: Any = None
    money: Decimal = Decimal(0)
    counts: dict[int, bytes] = {}
    raw: msgspec.Raw = msgspec.Raw(b"null")
    large: int = 0


ODD = ReadModel("odd", 1, Odd)

TEXT = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["$ref", "$id", "$set", "a.b", "\x00", ""])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**31, -(2**63), 2**63 - 1, 2**63, -0.0])
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def as_json(row: Any) -> Any:
    """What a row's JSON says."""
    return msgspec.json.decode(msgspec.json.encode(row))


def same(one: Any, other: Any) -> bool:
    """Equal, also where `==` sees no difference: 1, 1.0 and True, 0.0 and -0.0."""
    return bool(one == other) and repr(one) == repr(other)


async def test_a_row_is_a_document_whose_fields_can_be_asked_for_natively(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order("ann", 2**40, None), "b": Order("$where", 1, "a\x00b"), "c": Order()})
        await keep(store, ORDERS, {"c": None}, before=1)
        async with store.snapshot() as snapshot:
            native = snapshot.native(ORDERS)
            rows = native.client[native.table]
            found = [each async for each in rows.find({"row.total": {"$gt": 0}}, session=native.session).sort("_id")]
        assert [each["row"] for each in found] == [
            {"customer": "ann", "total": 2**40, "note": None},
            {"customer": "$where", "total": 1, "note": "a\x00b"},
        ]
        assert found[0]["c"] == {"customer:text": "ann", "note:text": None, "total:number": 2**40}


@pytest.mark.parametrize(
    ("value", "native"),
    [
        ({"$set": 1, "a.b": 2, "": 3, "$id": {"$where": "x"}}, True),
        ("$ref", False),
        ([1, 1.0, True, -0.0, 2**63 - 1], True),
        (2**63, False),
        ({"a\x00b": 1}, False),
        ({"x": {"$ref": "orders", "$id": 1}}, False),
        ([{}] * 200, True),
    ],
    ids=str,
)
async def test_what_no_document_can_hold_is_kept_as_text_and_all_comes_back_the_same(
    mongodb_url: str, value: Any, native: bool
) -> None:
    row = Odd(value, Decimal("1.10"), {1: b"\x00"}, msgspec.Raw(b'{"a":1}'))
    async with opened(mongodb_url) as store:
        await keep(store, ODD, {"k": row})
        assert ("row" in (await documents(mongodb_url, ODD))["k"]) is native
        back = (await loaded(store, ODD, ["k"]))["k"]
        assert same(back.value, value)
        assert same(as_json(back), as_json(row))
        ((_, kept),) = await store.raw_rows("odd", 1, "", 9)
        assert same(kept.row, as_json(row))


async def test_what_is_nested_too_deeply_for_a_document_is_kept_as_text(mongodb_url: str) -> None:
    deep: Any = 1
    for n in range(150):
        deep = {"x": deep} if n % 2 else [deep]
    async with opened(mongodb_url) as store:
        await keep(store, ODD, {"k": Odd(deep)})
        assert (await loaded(store, ODD, ["k"]))["k"].value == deep
        assert "json" in (await documents(mongodb_url, ODD))["k"]


async def test_integers_beyond_64_bits_come_back_from_fields_that_nobody_sorts_by(mongodb_url: str) -> None:
    model = ReadModel("odd", 1, Odd, (("money",),), ("money",))
    async with opened(mongodb_url) as store:
        await keep(store, model, {"k": Odd(large=10**40), "l": Odd(large=2**63 - 1, money=Decimal(2))})
        assert await loaded(store, model, ["k", "l"]) == {
            "k": Odd(large=10**40),
            "l": Odd(large=2**63 - 1, money=Decimal(2)),
        }
        assert await keys(store, model, {"money": Decimal(0)}) == ["k"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_a_table_gives_back_what_the_json_of_a_row_says(values: dict[str, Any]) -> None:
    table = MongoTable(ODD)
    rows = {key: VersionedRow(Odd(value), n, n) for n, (key, value) in enumerate(values.items())}
    for (key, kept), document in zip(rows.items(), table.documents(rows, 0), strict=True):
        found = bson.decode(document.raw)
        assert found["_id"] == key
        back = table.versioned_row(found)
        assert (back.position, back.repair) == (kept.position, kept.repair)
        assert same(back.row.value, as_json(kept.row.value))


@pytest.mark.parametrize(
    ("key", "row"),
    [("a\ud800", Order()), ("k", Order("a\ud800")), ("k", Order(note="\udfff")), ("\ud800", None)],
)
async def test_text_that_is_no_unicode_is_refused_and_nothing_is_saved(
    mongodb_url: str, key: str, row: Order | None
) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"fine": Order()})
        for rows, parked in (({key: VersionedRow(row, 2)}, {}), ({}, {"\ud800": None})):
            with pytest.raises(InvalidMessage, match="cannot be stored"):
                await store.save(Change(ORDERS, LOG, 1, 2, 0, {"other": VersionedRow(Order(), 2), **rows}, parked))
        assert await keys(store, ORDERS) == ["fine"]
        assert (await progress(store, ORDERS)).position == 1
        for asked in (store.load(ORDERS, ["fine", "\ud800"]), keys(store, ORDERS, {"customer": "\ud800"})):
            with pytest.raises(InvalidMessage):
                await asked
        async with store.snapshot() as snapshot:
            with pytest.raises(InvalidMessage):
                await snapshot.get(ORDERS, "\ud800")


async def test_an_error_that_is_no_unicode_does_not_keep_a_key_from_being_parked(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {}, parked={"k": Parked("k", 1, "broken: \ud800", 0)})
        assert await parked_keys(store, ORDERS) == (Parked("k", 1, "broken: \\ud800", 0),)


async def test_a_row_that_is_too_large_is_refused_by_its_key_and_the_largest_is_kept(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await store.prepare([ODD])
        spare = MAX_DOCUMENT_BYTES - len(MongoTable(ODD).documents({"k": VersionedRow(Odd(""), 1)}, 0)[0].raw)
        with pytest.raises(InvalidMessage, match=r"'huge' of 'odd': Its document takes 16,\d+,\d+ bytes"):
            await keep(store, ODD, {"small": Odd(), "huge": Odd("x" * (spare + 1))})
        assert await keys(store, ODD) == []
        largest = Odd("x" * (spare - 10))
        await keep(store, ODD, {"k": largest})
        await store.save(Change(ODD, LOG, 1, 2, 0, {"k": VersionedRow(largest, 2, 0, (largest,))}))
        assert await store.load(ODD, ["k"]) == {"k": VersionedRow(largest, 2)}
        # Several that are more than one message of the protocol holds.
        many = {f"k{n}": VersionedRow(largest, 3) for n in range(4)}
        await store.save(Change(ODD, LOG, 2, 3, 0, many))
        assert await loaded(store, ODD, list(many)) == dict.fromkeys(many, largest)


async def test_a_row_whose_type_has_changed_is_told_with_the_cure(mongodb_url: str) -> None:
    other = msgspec.defstruct("Order", [("customer", int)], frozen=True)
    async with opened(mongodb_url) as store, opened(mongodb_url) as newer:
        await store.prepare([ORDERS])
        changed = ReadModel("orders", 1, other, ORDERS.find_by[:0], ())
        await newer.prepare([changed])
        await store.prepare([ORDERS])
        await keep(store, ORDERS, {"a": Order("ann")})
        for asked in (newer.load(changed, ["a"]), found_rows(newer, changed)):
            with pytest.raises(Unavailable, match="raise `version` of the projection 'orders'"):
                await asked
        with pytest.raises(WiringError, match="raise `version` of the projection 'orders'"):
            await newer.prepare([changed])


def test_a_row_type_without_json_is_a_wiring_error() -> None:
    with pytest.raises(WiringError, match="cannot be stored as JSON"):
        MongoTable(ReadModel("m", 1, msgspec.defstruct("Row", [("bad", Order | Odd)])))


async def test_what_was_deleted_is_forgotten_by_the_server_after_a_week(mongodb_url: str) -> None:
    now = RealWorld().now()
    old, young = (microseconds(now - timedelta(days=days)) for days in (8, 6))
    async with opened(mongodb_url) as store, database(mongodb_url) as found:
        await keep(store, ORDERS, {"stays": Order()}, parked={"p": Parked("p", 1, "no", 0)})
        await store.save(Change(ORDERS, LOG, 1, 2, old, {"old": VersionedRow(None, 2)}, {"gone": None}))
        await store.save(Change(ORDERS, LOG, 2, 3, young, {"young": VersionedRow(None, 3)}, {"here": None}))
        async with asyncio.timeout(60):
            while {"old", "gone"} & await _kept(found):
                continue
        assert await _kept(found) == {"stays", "young", "p", "here"}
        assert await store.load(ORDERS, ["old", "young"]) == {"young": VersionedRow(None, 3)}


async def _kept(found: Any) -> set[str]:
    """The keys of all documents of the model, and of all parked keys, including deleted ones."""
    rows = [each["_id"] async for each in found["rows.orders@1"].find({})]
    parked = [each["_id"].partition("/")[2] async for each in found["parked"].find({})]
    return {*rows, *parked}


def test_names_are_readable_and_none_is_anothers() -> None:
    names = [*HOSTILE, "x" * 1025, "x" * 1023 + "y", "é" * 300, *("a", "a@1", "A", "a%401", "", "\ud800", "~", "a/b")]
    models = {(name, generation): id_of(name, generation) for name in names for generation in (1, 2, 11)}
    assert len(set(models.values())) == len(models)
    assert models["a", 1] == "a@1"
    for made in models.values():
        assert made.isascii()
        assert len(made) < 150
        assert not set(made) & set("/$. \x00")
    assert id_of("order-summaries", 3) == "order-summaries@3"


async def test_not_a_number_is_what_json_makes_of_it(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ODD, {"k": Odd([math.nan, math.inf])})
        assert (await loaded(store, ODD, ["k"]))["k"].value == [None, None]


def test_the_moment_of_a_deletion_is_that_of_the_save() -> None:
    (made,) = MongoTable(ORDERS).documents({"a": VersionedRow(None, 1)}, 1_700_000_000_123_456)
    assert dict(made)["_d"].replace(tzinfo=UTC) == datetime.fromtimestamp(1_700_000_000.123, UTC)


async def test_two_databases_of_one_server_are_strangers(mongodb: ReplicaSet) -> None:
    first, second = (mongodb.url_of(fresh_database()) for _ in range(2))
    async with opened(first) as store, opened(second) as other:
        await keep(store, ORDERS, {"a": Order()})
        assert await other.checkpoints() == []
