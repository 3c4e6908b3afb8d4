"""Functions and types that are wrong, each in one way, for the tests of the wiring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from tests.sample_domains.orders import (
    CustomerId,
    Line,
    Order,
    OrderCancelled,
    OrderId,
    OrderPaid,
    OrderPlaced,
    OrderSummary,
    PlaceOrder,
    ShipOrder,
    Shipped,
    Unpaid,
)
from twofold.domain.events import RecordedEvent

# Events and commands


class OrderShipped(Struct, frozen=True):
    order_id: str


class Mutable(Struct):
    order_id: OrderId


@dataclass
class MutableToo:
    order_id: OrderId


class NoRecord:
    pass


def placed_elsewhere() -> type:
    class OrderPlaced(Struct, frozen=True):
        other: str

    return OrderPlaced


def same_name_elsewhere() -> Callable[..., Any]:
    class PlaceOrder(Struct, frozen=True):
        other: str

    def place_another(command: PlaceOrder) -> None:
        return None

    return place_another


def step(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


# Decisions


def asks_for_an_unlisted_model(command: PlaceOrder, line: Line) -> None:
    return None


def lacks_the_tag(command: ShipOrder, order: Order) -> None:
    return None


def carries_several(command: ShipOrder, stock: "OneStock") -> None:
    return None


def wrong_dict_key(command: PlaceOrder, orders: dict[CustomerId, Order]) -> None:
    return None


def dict_of_untagged(command: PlaceOrder, orders: dict[OrderId, "Everything"]) -> None:
    return None


def dict_without_ids(command: ShipOrder, orders: dict[OrderId, Order]) -> None:
    return None


def either_model(command: PlaceOrder, either: Order | Unpaid) -> None:
    return None


def returns_unlisted(command: PlaceOrder) -> OrderShipped | None:
    return None


def returns_a_tuple(command: PlaceOrder) -> tuple[OrderPlaced, OrderPaid]:
    raise NotImplementedError


def returns_a_list_of_unlisted(command: PlaceOrder) -> list[OrderPlaced | OrderShipped]:
    return []


def returns_any(command: PlaceOrder) -> Any:
    return None


def says_not_what_it_returns(command: PlaceOrder):  # type: ignore[no-untyped-def]
    return None


def takes_nothing() -> None:
    return None


def takes_unknown(command: PlaceOrder, order) -> None:  # type: ignore[no-untyped-def]
    return None


def takes_two_commands(command: PlaceOrder | ShipOrder) -> None:
    return None


def takes_text(command: str) -> None:
    return None


def takes_mutable(command: Mutable) -> None:
    return None


async def is_async(command: PlaceOrder) -> None:
    return None


def hidden_hint(command: PlaceOrder, order: "OnlyForTheTypeChecker") -> None:  # type: ignore[name-defined]  # noqa: F821
    return None


def place_order_again(command: PlaceOrder) -> None:
    return None


class OneStock(Struct, frozen=True):
    def evolve(self, event: Shipped) -> Any:
        return self


class Everything(Struct, frozen=True):
    def evolve(self, event: Shipped) -> Any:
        return self


class MaybeOrder(Struct, frozen=True):
    order_id: OrderId | None = None


def needs_what_may_be_none(command: MaybeOrder, order: Order) -> None:
    return None


# Models


class NoEvolve(Struct, frozen=True):
    pass


class ReadsUnlisted(Struct, frozen=True):
    def evolve(self, event: OrderPlaced | OrderShipped) -> Any:
        return self


class NeverSees(Struct, frozen=True):
    def evolve(self, event: OrderPlaced | OrderCancelled) -> Any:
        return self


class NoDefault(Struct, frozen=True):
    count: int

    def evolve(self, event: OrderPlaced) -> Any:
        return self


class MutableState(Struct):
    def evolve(self, event: OrderPlaced) -> Any:
        return self


class NoHint(Struct, frozen=True):
    def evolve(self, event) -> Any:  # type: ignore[no-untyped-def]
        return self


class OneMore(Struct, frozen=True):
    def evolve(self, event: OrderPlaced, more: int) -> Any:
        return self


class TwoMore(Struct, frozen=True):
    def evolve(self, event: OrderPlaced, one: RecordedEvent, two: RecordedEvent) -> Any:
        return self


# Projections


def reads_unlisted(row: OrderSummary | None, event: OrderShipped) -> OrderSummary | None:
    return None


def lacks_the_key(row: OrderSummary | None, event: OrderPlaced | OrderCancelled) -> OrderSummary | None:
    return None


async def async_fold(row: OrderSummary | None, event: OrderPlaced) -> OrderSummary | None:
    return None


def one_parameter(row: OrderSummary | None) -> OrderSummary | None:
    return None


def no_hint_for_the_event(row: OrderSummary | None, event) -> None:  # type: ignore[no-untyped-def]
    return None


def never_none(row: OrderSummary, event: OrderPlaced) -> OrderSummary:
    return row


def no_record(row: dict[str, int] | None, event: OrderPlaced) -> None:
    return None


def two_rows(row: OrderSummary | Line | None, event: OrderPlaced) -> None:
    return None


def wrong_key(row: OrderSummary | None, event: OrderPlaced, customer: CustomerId) -> None:
    return None


# Policies and prepare steps


async def reacts(event: OrderPlaced) -> None:
    return None


async def reacts_to_unlisted(event: OrderPlaced | OrderShipped) -> None:
    return None


def not_async(event: OrderPlaced) -> None:
    return None


async def reacts_to_anything(event) -> None:  # type: ignore[no-untyped-def]
    return None


async def wants_more(event: OrderPlaced, more: int) -> None:
    return None


async def prepare_order(command: PlaceOrder) -> PlaceOrder:
    return command


async def prepare_again(command: PlaceOrder) -> PlaceOrder:
    return command


async def prepare_shipping(command: ShipOrder) -> ShipOrder:
    return command


async def prepare_into_another(command: PlaceOrder) -> ShipOrder:
    raise NotImplementedError


async def prepare_two(command: PlaceOrder, more: int) -> PlaceOrder:
    return command


def prepare_at_once(command: PlaceOrder) -> PlaceOrder:
    return command
