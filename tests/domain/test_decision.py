"""A decision's signature is its consistency boundary: which folds it needs, born with which ids, called with what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from msgspec import Struct

from tests.sample_domains.orders import (
    MODELS,
    CustomerId,
    Line,
    Order,
    OrderId,
    OrderPaid,
    OrderPlaced,
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
    Unpaid,
    place_order,
    ship_order,
    take_seats,
)
from twofold.domain.decision import Boundary, Context, Decision, DecisionModel, returned_events
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.errors import FunctionFailed, InvalidMessage, Rejected

EVENTS = [OrderPlaced, OrderPaid, Received, Shipped, SeatTaken]
NOW = datetime(2024, 5, 1, 9, 30, tzinfo=UTC)


def read(function: Any, *models: DecisionModel) -> Decision:
    (decision,) = Wiring([Module("m", events=EVENTS, models=models, decisions=[function])]).decisions.values()
    return decision


def items(boundary: Boundary) -> list[QueryItem]:
    return [fold.item for fold in boundary.folds]


def decided(decision: Decision, command: object, states: dict[str, Any], context: Context | None = None) -> Any:
    """The events decided where the folds, by their tags, have these states."""
    boundary = decision.boundary(command)
    known = {fold: states.get("+".join(fold.tags), fold.model.initial(fold.tags)) for fold in boundary.folds}
    return decision.decide(command, boundary, known, context or Context("c-1", NOW))


def recorded(actor: str, position: int) -> RecordedEvent:
    return RecordedEvent(position, "seat-taken", 1, b"", Envelope("c.0", (), Metadata(0, "c", "c", None, actor)))


def test_the_boundary_is_one_item_for_each_model() -> None:
    boundary = read(place_order, *MODELS).boundary(PlaceOrder("o1", "ann", 10))
    types = ("order-placed", "order-paid")
    assert items(boundary) == [QueryItem(types, ("order:o1",)), QueryItem(types, ("customer:ann",))]


def test_one_event_a_list_and_none_are_answers() -> None:
    place = read(place_order, *MODELS)
    command = PlaceOrder("o1", "ann", 10)
    assert decided(place, command, {}) == (OrderPlaced("o1", "ann", 10),)
    assert decided(place, command, {"order:o1": Order("paid")}) == ()
    with pytest.raises(Rejected) as rejected:
        decided(place, command, {"customer:ann": Unpaid(3)})
    assert (rejected.value.code, rejected.value.reason) == ("too-many-unpaid-orders", "3 are unpaid")


def test_several_ids_in_a_list_make_a_fold_each_once() -> None:
    ship = read(ship_order, DecisionModel(Stock, by=Sku))
    command = ShipOrder([Line("b", 1), Line("a", 1), Line("b", 2)])
    boundary = ship.boundary(command)
    assert [fold.tags for fold in boundary.folds] == [("sku:b",), ("sku:a",)]
    assert decided(ship, command, {"sku:a": Stock("a", 9), "sku:b": Stock("b", 9)}) == (Shipped(command.lines),)
    assert decided(ship, ShipOrder([]), {}) == (Shipped([]),)


def test_a_model_is_born_with_its_id_in_the_type_of_the_id() -> None:
    (fold,) = read(ship_order, DecisionModel(Stock, by=Sku)).boundary(ShipOrder([Line("a:b", 1)])).folds
    assert fold.model.initial(fold.tags) == Stock("a:b", 0)
    (seat,) = read(take_seats, DecisionModel(Seat, by=SeatNumber)).boundary(TakeSeats([7])).folds
    assert seat.model.initial(seat.tags) == Seat(7)


def test_many_models_come_by_id_in_the_type_of_the_id() -> None:
    take = read(take_seats, DecisionModel(Seat, by=SeatNumber))
    events = decided(take, TakeSeats([7, 8]), {}, Context("c-1", NOW, "ann"))
    assert [event.seat for event in events] == [7, 8]
    assert {event.taken_by for event in events} == {"ann at 09:30"}


def test_a_fold_may_take_the_recorded_event() -> None:
    (fold,) = read(take_seats, DecisionModel(Seat, by=SeatNumber)).boundary(TakeSeats([7])).folds
    state = fold.model.evolve(Seat(7), SeatTaken(7, "x", "t"), recorded("bob", 41))
    assert state == Seat(7, "bob", 41)


def test_ids_of_a_context_are_the_same_for_the_same_command_and_differ_otherwise() -> None:
    first, again, other = Context("c-1", NOW), Context("c-1", NOW), Context("c-2", NOW)
    ids = [first.new_id() for _ in range(3)]
    assert ids == [again.new_id() for _ in range(3)]
    assert len({*ids, other.new_id()}) == 4


class Rename(Struct, frozen=True):
    order_id: OrderId | None = None


def rename(command: Rename, order: Order | None) -> OrderPaid | None:
    return OrderPaid("none", "x") if order is None else None


def test_an_id_that_may_be_none_makes_a_model_that_may_be_none() -> None:
    decision = read(rename, MODELS[0])
    assert decision.boundary(Rename()).folds == ()
    assert decided(decision, Rename(), {}) == (OrderPaid("none", "x"),)
    assert decided(decision, Rename("o1"), {}) == ()


class Bought(Struct, frozen=True):
    times: int = 0

    def evolve(self, event: OrderPlaced) -> Bought:
        return Bought(self.times + 1)


def once(command: PlaceOrder, bought: Bought) -> OrderPlaced | None:
    return None


def test_two_tags_mean_events_that_carry_both() -> None:
    decision = read(once, DecisionModel(Bought, by=[CustomerId, OrderId]))
    boundary = decision.boundary(PlaceOrder("o1", "ann", 1))
    assert items(boundary) == [QueryItem(("order-placed",), ("customer:ann", "order:o1"))]


def test_no_tag_means_every_event_of_the_types() -> None:
    decision = read(once, DecisionModel(Bought))
    assert items(decision.boundary(PlaceOrder("o1", "ann", 1))) == [QueryItem(("order-placed",), ())]


class Born(Struct, frozen=True):
    buyer: CustomerId
    order: OrderId
    n: int = 0

    def evolve(self, event: OrderPlaced) -> Born:
        return self


def bear(command: PlaceOrder, born: Born) -> NoReturn:
    raise Rejected(f"{born.buyer}/{born.order}")


def test_a_model_of_two_tags_is_born_with_both_whatever_their_order() -> None:
    decision = read(bear, DecisionModel(Born, by=[OrderId, CustomerId]))
    with pytest.raises(Rejected, match="ann/o1"):
        decided(decision, PlaceOrder("o1", "ann", 1), {})


def no_models(command: PlaceOrder) -> list[OrderPlaced | OrderPaid] | None:
    return [OrderPlaced("o1", "a", 1), OrderPaid("o1", "a")]


def test_a_decision_may_rest_on_nothing() -> None:
    decision = read(no_models)
    assert decision.boundary(PlaceOrder("o1", "ann", 1)).folds == ()
    assert decided(decision, PlaceOrder("o1", "ann", 1), {}) == (OrderPlaced("o1", "a", 1), OrderPaid("o1", "a"))


def test_an_id_that_cannot_be_a_tag_is_an_invalid_message() -> None:
    with pytest.raises(InvalidMessage, match="order_id is an id and must not be empty") as refused:
        read(place_order, *MODELS).boundary(PlaceOrder("", "ann", 1))
    assert refused.value.field == "order_id"


class Forgetful(Struct, frozen=True):
    def evolve(self, event: OrderPlaced) -> Any:
        return None


def forget(command: PlaceOrder, forgetful: Forgetful) -> None:
    return None


def test_a_fold_that_forgets_to_return_a_state_says_so() -> None:
    (fold,) = read(forget, DecisionModel(Forgetful, by=OrderId)).boundary(PlaceOrder("o1", "a", 1)).folds
    said = r"Forgetful\.evolve returned NoneType for OrderPlaced, but it returns a state in every case: None"
    with pytest.raises(FunctionFailed, match=said):
        fold.model.evolve(Forgetful(), OrderPlaced("o1", "a", 1), recorded("x", 1))


def test_the_event_types_of_a_return_hint_are_all_its_arms() -> None:
    assert returned_events(OrderPlaced | list[OrderPaid | OrderPlaced] | None) == (OrderPlaced, OrderPaid)
    assert returned_events(None) == returned_events(NoReturn) == ()


def test_the_same_thing_asked_for_twice_is_folded_once() -> None:
    decision = read(place_order, *MODELS)
    one, same = (decision.boundary(PlaceOrder("o1", "ann", n)).folds for n in (1, 2))
    assert set(one) == set(same)
