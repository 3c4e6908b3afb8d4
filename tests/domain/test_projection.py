"""A projection folds events into rows, by the keys its tag or its function gives."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct

from tests.sample_domains.orders import (
    SUMMARIES,
    Line,
    OrderCancelled,
    OrderPaid,
    OrderPlaced,
    OrderSummary,
    SeatNumber,
    SeatTaken,
    Shipped,
    Sku,
)
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import MAX_KEY, BoundProjection, Projection

EVENTS = [OrderPlaced, OrderPaid, OrderCancelled, Shipped, SeatTaken]
RECORDED = RecordedEvent(41, "x", 1, b"", Envelope("c.0", (), Metadata(0, "c", "c", None, "ann")))


def bind(projection: Projection) -> BoundProjection:
    bound: BoundProjection = Wiring([Module("m", events=EVENTS, projections=[projection])]).projections[projection.name]
    return bound


class Count(Struct, frozen=True):
    key: Any = None
    times: int = 0


def count(row: Count | None, event: Shipped | OrderPlaced) -> Count:
    return Count(None, (row.times if row else 0) + 1)


def count_by_sku(row: Count | None, event: Shipped, sku: Sku) -> Count:
    return Count(sku, sum(line.quantity for line in event.lines if line.sku == sku))


def count_by_seat(row: Count | None, event: SeatTaken, recorded: RecordedEvent, seat: SeatNumber) -> Count:
    return Count((seat, recorded.actor), recorded.position)


def test_row_type_events_and_declared_access_are_read_off() -> None:
    bound = bind(SUMMARIES)
    assert bound.row is OrderSummary
    assert bound.events == (OrderPlaced, OrderPaid, OrderCancelled)
    assert bound.types == ("order-placed", "order-paid", "order-cancelled")
    assert (bound.find_by, bound.order_by, bound.version) == ((("customer_id",),), ("total",), 1)


def test_a_fold_makes_changes_and_deletes_a_row() -> None:
    bound = bind(SUMMARIES)
    row = bound.fold(None, OrderPlaced("o1", "ann", 5), "o1", RECORDED)
    assert row == OrderSummary("o1", "ann", 5)
    assert bound.fold(row, OrderPaid("o1", "ann"), "o1", RECORDED) == OrderSummary("o1", "ann", 5, True)
    assert bound.fold(row, OrderCancelled("o1"), "o1", RECORDED) is None
    assert bound.fold(None, OrderPaid("o9", "ann"), "o9", RECORDED) is None


def test_the_values_of_a_tag_are_keys_each_once() -> None:
    bound = bind(Projection("by-sku", count_by_sku, key=Sku))
    event = Shipped([Line("b", 1), Line("a", 2), Line("b", 3)])
    assert bound.keys(event) == ("b", "a")
    assert bound.fold(None, event, "b", RECORDED) == Count("b", 4)


def test_a_third_parameter_gets_the_key_in_its_own_type_beside_the_recorded_event() -> None:
    bound = bind(Projection("by-seat", count_by_seat, key=SeatNumber))
    assert bound.keys(SeatTaken(7, "ann", "t")) == ("7",)
    assert bound.fold(None, SeatTaken(7, "ann", "t"), "7", RECORDED) == Count([7, "ann"], 41)


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        ("2024-05", ("2024-05",)),
        (["a", "b", "a"], ("a", "b")),
        (("a",), ("a",)),
        ([], ()),
        (None, ()),
        (2024, ("2024",)),
        (Colour.RED, ("red",)),
        ({"a"}, ("a",)),
    ],
)
def test_a_function_gives_one_key_several_or_none(found: Any, keys: tuple[str, ...]) -> None:
    bound = bind(Projection("counts", count, key=lambda event: found))
    assert bound.keys(OrderPlaced("o1", "ann", 1)) == keys


def letters(event: Any) -> Iterator[str]:
    yield "a"


@pytest.mark.parametrize("key", [lambda _: "", lambda _: ["a", ""], lambda _: "x" * (MAX_KEY + 1)])
def test_a_key_that_could_not_be_found_again_is_an_error(key: Any) -> None:
    with pytest.raises(ValueError, match="a row key must have 1 to 1024 characters"):
        bind(Projection("counts", count, key=key)).keys(OrderPlaced("o1", "ann", 1))


@pytest.mark.parametrize("key", [letters, lambda _: {"a": 1}, lambda _: b"a", lambda _: [["a"]]])
def test_a_key_that_is_no_single_value_is_an_error(key: Any) -> None:
    with pytest.raises(ValueError, match="return one key, or a list, tuple or set of keys"):
        bind(Projection("counts", count, key=key)).keys(OrderPlaced("o1", "ann", 1))


def key_is_text(row: Count | None, event: OrderPlaced, month: str) -> Count:
    return Count(month)


def test_the_key_of_a_function_comes_as_text() -> None:
    bound = bind(Projection("months", key_is_text, key=lambda event: 202405))
    (key,) = bound.keys(OrderPlaced("o1", "a", 1))
    assert bound.fold(None, OrderPlaced("o1", "a", 1), key, RECORDED) == Count("202405")


def test_a_live_projection_takes_the_recorded_event_and_an_inline_one_the_key() -> None:
    live = bind(Projection("by-seat", count_by_seat, key=SeatNumber, lifecycle="live"))
    assert live.fold(None, SeatTaken(7, "ann", "t"), "7", RECORDED) == Count([7, "ann"], 41)
    inline = bind(Projection("by-sku", count_by_sku, key=Sku, lifecycle="inline"))
    assert inline.fold(None, Shipped([Line("b", 3)]), "b", None) == Count("b", 3)


def test_the_events_of_a_key_are_those_with_its_tag_or_all_of_its_types() -> None:
    by_tag = bind(Projection("by-seat", count_by_seat, key=SeatNumber)).events_of("7")
    assert by_tag == EventQuery((QueryItem(("seat-taken",), ("seat:7",)),))
    by_function = bind(Projection("counts", count, key=lambda event: "k")).events_of("k")
    assert by_function == EventQuery((QueryItem(("shipped", "order-placed"), ()),))


def test_several_fields_are_found_by_together() -> None:
    projection = Projection("s", SUMMARIES.fold, key=lambda event: "k", find_by=["total", ("customer_id", "paid")])
    assert bind(projection).find_by == (("total",), ("customer_id", "paid"))
