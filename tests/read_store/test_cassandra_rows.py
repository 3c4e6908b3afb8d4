"""How Cassandra stores the rows of a read model: text that sorts as values do, table names that are unique."""

import re
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.cassandra.address import CassandraAddress, address_of
from twofold.read_store.cassandra.rows import (
    BUCKETS,
    MAX_ROW_BYTES,
    CassandraLayout,
    bucket_of,
    text_of,
)
from twofold.read_store.cassandra.saving import timestamp_of, version_of
from twofold.read_store.cassandra.schema_names import build_name, is_table_of, table_names
from twofold.read_store.columns import ColumnValue
from twofold.read_store.port import ReadModel, VersionedRow
from twofold.testing.read_store_rows import ORDERS, Order

_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_NUMBERS = st.one_of(
    _INTEGERS,
    st.integers(2**53 - 3, 2**53 + 3),
    st.integers(2**63 - 5, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _INTEGERS.map(float),
    st.sampled_from([0.0, -0.0, 0, 1, True, False, 5e-324, -5e-324]),
)
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)


def _order(first: ColumnValue, second: ColumnValue) -> int:
    """As numbers and texts are ordered, None first: -1, 0 or 1."""
    if first is None or second is None:
        return (first is not None) - (second is not None)
    return (first > second) - (first < second)  # type: ignore[operator]


@settings(deadline=None)
@given(st.one_of(st.tuples(*[st.none() | _NUMBERS] * 2), st.tuples(*[st.none() | _TEXTS] * 2)))
def test_texts_sort_as_the_values_do_by_their_bytes(values: tuple[ColumnValue, ColumnValue]) -> None:
    first, second = (text_of(value).encode() for value in values)
    assert (first > second) - (first < second) == _order(*values)


@settings(deadline=None)
@given(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**47 - 1)), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_timestamps_sort_as_versions_do_and_tell_them(first: tuple[int, int], second: tuple[int, int]) -> None:
    one, other = (timestamp_of(VersionedRow(None, position, repair)) for repair, position in (first, second))
    assert (one > other) == (first > second)
    assert version_of(one) == first[::-1]
    assert 0 <= one < 2**63


@pytest.mark.parametrize(("position", "repair"), [(2**47, 0), (0, 2**16), (-1, 0)])
def test_a_version_without_a_timestamp_is_refused(position: int, repair: int) -> None:
    with pytest.raises(InvalidMessage, match="beyond"):
        timestamp_of(VersionedRow(None, position, repair))


NAMES = ["orders", "Orders", "ORDERS", "or ders", "or-ders", "a" * 60, "a" * 61, "é", "", "1", "orders_1", "💥" * 9]


def test_each_build_of_each_generation_has_tables_of_its_own_with_names_that_cassandra_takes() -> None:
    builds = [build_name(unique) for unique in ("a", "b")]
    named = [table_names(name, n, build) for name in NAMES for n in (1, 11) for build in builds]
    tables = [table for pair in named for table in pair]
    assert len(set(tables)) == len(tables) == 2 * 2 * 2 * len(NAMES)
    assert all(re.fullmatch("[a-z][a-z0-9_]{0,47}", table) for table in tables)


def test_a_table_is_known_by_its_model_and_generation_whatever_its_build() -> None:
    for name in NAMES:
        for table in table_names(name, 1, build_name("any")):
            assert [each for each in NAMES if is_table_of(table, each, 1)] == [name]
            assert not is_table_of(table, name, 2)
    assert not is_table_of("checkpoints", "", 1)


def test_a_row_has_a_place_for_every_filter_times_every_order() -> None:
    entries = CassandraLayout(ORDERS).entries("k", Order("ann", 7, None))
    (bucket,) = bucket_of("k")
    assert [(entry.access, entry.part) for entry in entries] == [
        ("*", (bucket,)),
        ("* by total", (bucket,)),
        ("* by note", (bucket,)),
        ("customer", ("=ann",)),
        ("customer by total", ("=ann",)),
        ("customer by note", ("=ann",)),
        ("customer,note", ("=ann", "")),
        ("customer,note by total", ("=ann", "")),
    ]
    assert {entry.sort_key for entry in entries if entry.access.endswith("by total")} == {text_of(7)}
    assert {entry.sort_key for entry in entries if not entry.access.endswith("by total")} == {""}


def test_keys_are_shared_out_among_all_buckets() -> None:
    assert {bucket_of(f"k{n}") for n in range(1_000)} == {(str(n),) for n in range(BUCKETS)}


def test_what_is_declared_tells_filters_orders_and_types_apart() -> None:
    other = msgspec.defstruct("Order", [("customer", str), ("total", Decimal), ("note", str | None)])
    declared = {
        CassandraLayout(model).declared
        for model in (
            ORDERS,
            msgspec.structs.replace(ORDERS, find_by=()),
            msgspec.structs.replace(ORDERS, order_by=("total",)),
            msgspec.structs.replace(ORDERS, row=other),
        )
    }
    assert len(declared) == 4
    again = msgspec.structs.replace(ORDERS, find_by=ORDERS.find_by[::-1], order_by=ORDERS.order_by[::-1])
    assert CassandraLayout(again).declared in declared


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (Order("x" * 65_520), "customer"),
        (Order("é" * 32_760), "customer"),
        (Order("ann", 0, "x" * 65_530), "note"),
        (Order("x" * 33_000, 0, "y" * 32_500), "customer"),
    ],
)
def test_text_that_fits_no_key_is_refused_by_its_field(row: Order, field: str) -> None:
    with pytest.raises(InvalidMessage, match=f"'{field}'.*64 KiB") as refused:
        CassandraLayout(ORDERS).entries("k", row)
    assert refused.value.field == field


def test_a_filter_that_no_row_can_fulfil_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidMessage, match="64 KiB") as refused:
        CassandraLayout(ORDERS).parts(("customer",), ("x" * 65_536,))
    assert refused.value.field == "customer"


def test_long_text_in_a_field_that_is_not_declared_is_kept() -> None:
    layout = CassandraLayout(ReadModel("bare", 1, Order))
    text = layout.encode(Order("x" * 1_000_000))
    assert layout.decode(text) == Order("x" * 1_000_000)
    assert len(layout.entries("k", Order("x" * 1_000_000))) == 1
    with pytest.raises(InvalidMessage, match="4,194,304 bytes"):
        layout.encode(Order("é" * (MAX_ROW_BYTES // 2)))


def test_a_url_names_hosts_account_keyspace_and_options() -> None:
    url = "cassandra://us%40er:pa%2Fss@one,two:19042,[::1]:29042/shop?datacenter=dc1&replication=3&tls=true"
    hosts = (("one", 29042), ("two", 19042), ("::1", 29042))
    address = address_of(url)
    assert address == CassandraAddress(hosts, "shop", "us@er", "pa/ss", "dc1", 3, True)
    assert "pa/ss" not in f"{address} {address!r} {address.shown}"
    assert address_of("cassandra://host") == CassandraAddress((("host", 9042),))


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("cassandra://", "names no host"),
        ("cassandra:///shop", "names no host"),
        ("cassandra://one,,two/shop", "names no host"),
        ("cassandra://user:se/cret@host/shop", "%2F for '/'"),
        ("cassandra://user:/secret@host/shop", "%2F for '/'"),
        ("cassandra://user:1?secret=1@host/shop", "%2F for '/'"),
        ("cassandra://user:1#secret@host/shop", "%2F for '/'"),
        ("cassandra://user:secret@host:port/shop", "%2F for '/'"),
        ("cassandra://user:secret@host:99999/shop", "%2F for '/'"),
        ("cassandra://user:secret@host/Shop", "small letters"),
        ("cassandra://user:secret@host/a-b", "small letters"),
        ("cassandra://user:secret@host/" + "a" * 49, "at most 48"),
        ("cassandra://user:secret@host/shop?replicas=3", "datacenter, replication, tls"),
        ("cassandra://user:secret@host/shop?replication", "cannot be parsed"),
        ("cassandra://user:secret@host/shop?replication=many", "replication=3"),
        ("cassandra://user:secret@host/shop?tls=perhaps", "neither true nor false"),
    ],
)
def test_a_url_that_does_not_fit_is_refused_with_the_cure_and_without_the_password(url: str, cure: str) -> None:
    with pytest.raises(WiringError, match=re.escape(cure)) as refused:
        address_of(url)
    assert "cret" not in str(refused.value)
    assert refused.value.__cause__ is None
