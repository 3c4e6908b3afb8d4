"""Given/when/then says what a decision does, and fails, readably, when it does something else."""

import itertools
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec import Struct

from tests.sample_domains.orders import (
    MODELS,
    SUMMARIES,
    Line,
    Order,
    OrderCancelled,
    OrderId,
    OrderPaid,
    OrderPlaced,
    OrderSummary,
    PlaceOrder,
    Received,
    Seat,
    SeatNumber,
    SeatTaken,
    ShipOrder,
    Shipped,
    Sku,
    Stock,
    TakeSeats,
    place_order,
    ship_order,
    take_seats,
)
from twofold.domain.decision import DecisionModel
from twofold.domain.events import RecordedEvent
from twofold.domain.projection import Projection
from twofold.errors import InvalidMessage, WiringError
from twofold.testing import spec

place = spec(place_order, *MODELS)
ship = spec(ship_order, DecisionModel(Stock, by=Sku))
take = spec(take_seats, DecisionModel(Seat, by=SeatNumber))

THREE_UNPAID = [OrderPlaced(f"o{n}", "ann", 10) for n in range(3)]


def test_an_order_is_placed() -> None:
    place.when(PlaceOrder("o1", "ann", 10)).then(OrderPlaced("o1", "ann", 10))


def test_a_fourth_unpaid_order_is_rejected() -> None:
    place.given(*THREE_UNPAID).when(PlaceOrder("o9", "ann", 10)).then_rejected("too-many-unpaid-orders")


def test_a_beginning_is_shared_and_never_changed() -> None:
    unpaid = place.given(*THREE_UNPAID)
    unpaid.given(OrderPaid("o1", "ann")).when(PlaceOrder("o9", "ann", 10)).then(OrderPlaced("o9", "ann", 10))
    unpaid.when(PlaceOrder("o9", "ann", 10)).then_rejected("too-many-unpaid-orders", "3 are unpaid")
    place.when(PlaceOrder("o9", "ann", 10)).then(OrderPlaced("o9", "ann", 10))


def test_nothing_follows_from_an_order_placed_twice() -> None:
    place.given(OrderPlaced("o1", "ann", 10)).when(PlaceOrder("o1", "ann", 10)).then_nothing()


def test_each_of_many_models_sees_its_own_events() -> None:
    stocked = ship.given(Received("a", 2), Received("b", 5), Shipped([Line("a", 1), Line("b", 1)]))
    stocked.when(ShipOrder([Line("a", 1), Line("b", 4)])).then(Shipped([Line("a", 1), Line("b", 4)]))
    stocked.when(ShipOrder([Line("b", 5), Line("a", 1)])).then_rejected("not-enough", "b")


def test_time_and_actor_are_those_said_before() -> None:
    late = datetime(2024, 5, 1, 23, 59, tzinfo=timezone(timedelta(hours=2)))
    take.at(late).by("ann").given(SeatTaken(7, "ann", "t")).by("bob").when(TakeSeats([7])).then_rejected(
        "taken", "7 by ann"
    )
    decided = take.at(late).by("bob").when(TakeSeats([7]))
    (event,) = decided.events
    assert isinstance(event, SeatTaken)
    assert (event.seat, event.taken_by) == (7, "bob at 21:59")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="tzinfo=UTC"):
        take.at(datetime(2024, 5, 1))  # noqa: DTZ001


def test_other_events_fail_with_both_shown() -> None:
    with pytest.raises(AssertionError) as failed:
        place.when(PlaceOrder("o1", "ann", 10)).then(OrderPlaced("o1", "ann", 11))
    assert "- OrderPlaced(order_id='o1', customer_id='ann', total=11)" in str(failed.value)
    assert "+ OrderPlaced(order_id='o1', customer_id='ann', total=10)" in str(failed.value)


def test_a_rejection_fails_where_events_were_expected_and_the_other_way_round() -> None:
    rejected = place.given(*THREE_UNPAID).when(PlaceOrder("o9", "ann", 10))
    with pytest.raises(AssertionError, match=r"\+ Rejected\('too-many-unpaid-orders', '3 are unpaid'\)"):
        rejected.then(OrderPlaced("o9", "ann", 10))
    with pytest.raises(AssertionError, match="nothing was expected"):
        rejected.then_nothing()
    with pytest.raises(AssertionError, match=r"- Rejected\('no-credit'"):
        rejected.then_rejected("no-credit")
    with pytest.raises(AssertionError, match="- Rejected"):
        rejected.then_rejected("too-many-unpaid-orders", "another reason")
    with pytest.raises(AssertionError, match=r"\+ OrderPlaced"):
        place.when(PlaceOrder("o1", "ann", 10)).then_rejected("too-many-unpaid-orders")


def test_nothing_and_something_are_told_apart() -> None:
    with pytest.raises(AssertionError, match=r"- nothing"):
        place.when(PlaceOrder("o1", "ann", 10)).then_nothing()
    again = place.given(OrderPlaced("o1", "ann", 10)).when(PlaceOrder("o1", "ann", 10))
    with pytest.raises(AssertionError, match=r"\+ nothing"):
        again.then(OrderPlaced("o1", "ann", 10))
    with pytest.raises(AssertionError):
        again.then()


def test_an_event_that_no_model_would_see_fails() -> None:
    with pytest.raises(AssertionError) as failed:
        place.given(OrderPlaced("o1", "bob", 10)).when(PlaceOrder("o9", "ann", 10))
    text = str(failed.value)
    assert "is outside the boundary of place_order" in text
    assert "tagged customer:bob + order:o1" in text
    assert "Order: order-placed or order-paid, tagged order:o9" in text
    assert "Unpaid: order-placed or order-paid, tagged customer:ann" in text


def test_a_type_that_no_model_reads_fails() -> None:
    with pytest.raises(AssertionError, match=r"OrderCancelled\(order_id='o1'\) is outside the boundary of place_order"):
        place.given(OrderCancelled("o1")).when(PlaceOrder("o1", "ann", 10))


def test_a_command_of_another_decision_fails() -> None:
    with pytest.raises(AssertionError, match="place_order decides PlaceOrder, not"):
        place.when(ShipOrder([]))  # type: ignore[arg-type]


class AskTheTime(Struct, frozen=True):
    order_id: OrderId


class TimeTold(Struct, frozen=True):
    ticket: str


ticks = itertools.count()


def impure(command: AskTheTime) -> TimeTold:
    return TimeTold(f"{uuid.uuid4()} {next(ticks)}")


def test_a_decision_that_answers_differently_the_second_time_fails() -> None:
    with pytest.raises(AssertionError, match="take time and new ids from a parameter annotated Context"):
        spec(impure).when(AskTheTime("o1"))


def unstorable(command: PlaceOrder) -> OrderPlaced:
    return OrderPlaced("", command.customer_id, 1)


def test_an_event_that_could_not_be_stored_fails() -> None:
    with pytest.raises(InvalidMessage, match="order_id is an id and must not be empty"):
        spec(unstorable).when(PlaceOrder("o1", "ann", 1))


def test_a_missing_model_is_a_wiring_error_as_at_start() -> None:
    with pytest.raises(WiringError, match="place_order asks for Unpaid"):
        spec(place_order, DecisionModel(Order, by=OrderId))


def test_rows_follow_from_events_and_go_with_them() -> None:
    placed = spec(SUMMARIES).given(OrderPlaced("o1", "ann", 10), OrderPlaced("o2", "bob", 20))
    placed.then_rows({"o1": OrderSummary("o1", "ann", 10), "o2": OrderSummary("o2", "bob", 20)})
    placed.given(OrderPaid("o2", "bob"), OrderCancelled("o1")).then_rows({"o2": OrderSummary("o2", "bob", 20, True)})
    spec(SUMMARIES).then_rows({})


def test_a_missing_another_and_an_extra_row_fail_with_all_shown() -> None:
    placed = spec(SUMMARIES).given(OrderPlaced("o1", "ann", 10))
    with pytest.raises(AssertionError, match="other rows were expected") as failed:
        placed.then_rows({"o2": OrderSummary("o2", "ann", 10)})
    assert "- 'o2': OrderSummary" in str(failed.value)
    assert "+ 'o1': OrderSummary" in str(failed.value)
    with pytest.raises(AssertionError):
        placed.then_rows({})
    with pytest.raises(AssertionError):
        placed.then_rows({"o1": OrderSummary("o1", "ann", 11)})


def test_an_event_that_the_projection_does_not_read_fails() -> None:
    with pytest.raises(AssertionError, match="does not read Received"):
        spec(SUMMARIES).given(Received("a", 1)).then_rows({})


class Last(Struct, frozen=True):
    at: datetime
    by: str | None
    position: int


def last(row: Last | None, event: SeatTaken, recorded: RecordedEvent) -> Last:
    return Last(recorded.time, recorded.actor, recorded.position)


def test_a_fold_sees_time_actor_and_position() -> None:
    morning, evening = (datetime(2024, 5, 1, hour, tzinfo=UTC) for hour in (8, 20))
    seen = spec(Projection("last", last, key=SeatNumber)).at(morning).by("ann").given(SeatTaken(1, "x", "t"))
    seen.at(evening).by("bob").given(SeatTaken(2, "x", "t")).then_rows(
        {"1": Last(morning, "ann", 1), "2": Last(evening, "bob", 2)}
    )
