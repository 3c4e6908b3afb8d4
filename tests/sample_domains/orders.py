"""A sample domain: orders of customers, stock of many things, seats with numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct
from msgspec.structs import replace

from twofold.domain.decision import Context, DecisionModel
from twofold.domain.events import RecordedEvent
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import Rejected

OrderId = Annotated[str, Tag("order")]
CustomerId = Annotated[str, Tag("customer")]
Sku = Annotated[str, Tag("sku")]
SeatNumber = Annotated[int, Tag("seat")]


class PlaceOrder(Struct, frozen=True):
    order_id: OrderId
    customer_id: CustomerId
    total: int


class OrderPlaced(Struct, frozen=True):
    order_id: OrderId
    customer_id: CustomerId
    total: int


class OrderPaid(Struct, frozen=True):
    order_id: OrderId
    customer_id: CustomerId


class OrderCancelled(Struct, frozen=True):
    order_id: OrderId


class Order(Struct, frozen=True):
    status: Literal["new", "placed", "paid"] = "new"

    def evolve(self, event: OrderPlaced | OrderPaid) -> Order:
        return Order("placed" if isinstance(event, OrderPlaced) else "paid")


class Unpaid(Struct, frozen=True):
    orders: int = 0

    def evolve(self, event: OrderPlaced | OrderPaid) -> Unpaid:
        return Unpaid(self.orders + (1 if isinstance(event, OrderPlaced) else -1))


MODELS = [DecisionModel(Order, by=OrderId), DecisionModel(Unpaid, by=CustomerId)]


def place_order(command: PlaceOrder, order: Order, unpaid: Unpaid) -> OrderPlaced | None:
    if order.status != "new":
        return None
    if unpaid.orders >= 3:
        raise Rejected("too-many-unpaid-orders", f"{unpaid.orders} are unpaid")
    return OrderPlaced(command.order_id, command.customer_id, command.total)


class OrderSummary(Struct, frozen=True):
    order_id: str
    customer_id: str
    total: int
    paid: bool = False


def summarise(row: OrderSummary | None, event: OrderPlaced | OrderPaid | OrderCancelled) -> OrderSummary | None:
    match event:
        case OrderPlaced():
            return OrderSummary(event.order_id, event.customer_id, event.total)
        case OrderPaid():
            return row and replace(row, paid=True)
        case OrderCancelled():
            return None


SUMMARIES = Projection("order-summaries", summarise, key=OrderId, find_by=["customer_id"], order_by=["total"])


class Line(Struct, frozen=True):
    sku: Sku
    quantity: int


class ShipOrder(Struct, frozen=True):
    lines: list[Line]


class Shipped(Struct, frozen=True):
    lines: list[Line]


class Received(Struct, frozen=True):
    sku: Sku
    quantity: int


class Stock(Struct, frozen=True):
    """Born with its id: one of an event's several lines is about it."""

    sku: Sku
    on_hand: int = 0

    def evolve(self, event: Received | Shipped) -> Stock:
        if isinstance(event, Received):
            return replace(self, on_hand=self.on_hand + event.quantity)
        gone = sum(line.quantity for line in event.lines if line.sku == self.sku)
        return replace(self, on_hand=self.on_hand - gone)


def ship_order(command: ShipOrder, stocks: dict[Sku, Stock]) -> Shipped:
    for line in command.lines:
        if stocks[line.sku].on_hand < line.quantity:
            raise Rejected("not-enough", line.sku)
    return Shipped(command.lines)


class TakeSeats(Struct, frozen=True):
    seats: list[SeatNumber]


class SeatTaken(Struct, frozen=True):
    seat: SeatNumber
    taken_by: str
    ticket: str


class Seat(Struct, frozen=True):
    number: SeatNumber
    taken_by: str | None = None
    since: int = 0

    def evolve(self, event: SeatTaken, recorded: RecordedEvent) -> Seat:
        return Seat(self.number, recorded.actor, recorded.position)


def take_seats(command: TakeSeats, seats: dict[SeatNumber, Seat], context: Context) -> list[SeatTaken]:
    taken = [seat for seat in seats.values() if seat.taken_by is not None]
    if taken:
        raise Rejected("taken", f"{taken[0].number} by {taken[0].taken_by}")
    who = f"{context.actor} at {context.time:%H:%M}"
    return [SeatTaken(number, who, context.new_id()) for number in seats]
