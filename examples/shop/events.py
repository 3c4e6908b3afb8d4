"""The events of the shop, and the tags of the things they are about."""

from datetime import date
from typing import Annotated

from msgspec import Struct

from twofold import Tag

Sku = Annotated[str, Tag("sku")]
CustomerId = Annotated[str, Tag("customer")]
OrderId = Annotated[str, Tag("order")]
CouponCode = Annotated[str, Tag("coupon")]


class ProductAdded(Struct, frozen=True):
    """A product was added to the catalogue, at a price in cents."""

    sku: Sku
    name: str
    price_cents: int


class ProductRestocked(Struct, frozen=True):
    """More pieces of a product were put on the shelf."""

    sku: Sku
    quantity: int


class CustomerRegistered(Struct, frozen=True):
    """A customer opened an account."""

    customer_id: CustomerId
    name: str


class CustomerTakenOver(Struct, frozen=True):
    """A customer of the old shop was taken over. The old shop stored no names."""

    customer_id: CustomerId


class CouponIssued(Struct, frozen=True):
    """A coupon was issued: a discount in percent or in cents on one order."""

    code: CouponCode
    percent_off: int = 0
    cents_off: int = 0


class OrderLine(Struct, frozen=True):
    """Some pieces of one product for an amount in cents. Orders of the old shop do not name the product."""

    name: str
    quantity: int
    amount_cents: int
    sku: Sku | None = None


class OrderPlaced(Struct, frozen=True):
    """An order was placed, and its pieces are reserved. `nth` counts the orders of this customer; the first is 1."""

    order_id: OrderId
    customer_id: CustomerId
    placed_on: date
    nth: int
    lines: list[OrderLine]
    total_cents: int
    discount_cents: int = 0
    coupon: CouponCode | None = None
    taken_over: bool = False


class OrderPaid(Struct, frozen=True):
    """The whole total of an order was paid."""

    order_id: OrderId
    customer_id: CustomerId
    placed_on: date
    pieces: int
    total_cents: int
    taken_over: bool = False


class OrderShipped(Struct, frozen=True):
    """The pieces of an order left the shelf."""

    order_id: OrderId
    customer_id: CustomerId
    lines: list[OrderLine]


class OrderCancelled(Struct, frozen=True):
    """An order was cancelled: its pieces are available again, and what was paid is refunded."""

    order_id: OrderId
    customer_id: CustomerId
    placed_on: date
    lines: list[OrderLine]
    was_paid: bool
    refunded_cents: int
    reason: str


def pieces_of(lines: list[OrderLine]) -> int:
    """The number of pieces in some order lines."""
    return sum(line.quantity for line in lines)


def quantity_of(sku: str, lines: list[OrderLine]) -> int:
    """The number of pieces of one product in some order lines."""
    return sum(line.quantity for line in lines if line.sku == sku)
