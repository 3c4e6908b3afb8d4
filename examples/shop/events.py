"""What can happen in the shop: every fact it keeps, and the names of the things those facts are about."""

from datetime import date
from typing import Annotated

from msgspec import Struct

from twofold import Tag

Sku = Annotated[str, Tag("sku")]
CustomerId = Annotated[str, Tag("customer")]
OrderId = Annotated[str, Tag("order")]
CouponCode = Annotated[str, Tag("coupon")]


class ProductAdded(Struct, frozen=True):
    """A record came into the catalogue, at a price in cents."""

    sku: Sku
    name: str
    price_cents: int


class ProductRestocked(Struct, frozen=True):
    """So many more pieces stand on the shelf."""

    sku: Sku
    quantity: int


class CustomerRegistered(Struct, frozen=True):
    """Somebody opened an account."""

    customer_id: CustomerId
    name: str


class CustomerTakenOver(Struct, frozen=True):
    """Somebody was a customer of the old shop, which kept no names."""

    customer_id: CustomerId


class CouponIssued(Struct, frozen=True):
    """A coupon takes so many percent, or so many cents, off one order."""

    code: CouponCode
    percent_off: int = 0
    cents_off: int = 0


class OrderLine(Struct, frozen=True):
    """Some pieces of one product for an amount in cents. Orders of the old shop do not say of which product."""

    name: str
    quantity: int
    amount_cents: int
    sku: Sku | None = None


class OrderPlaced(Struct, frozen=True):
    """An order stands, its pieces are reserved. `nth` counts the orders of this customer; the first is 1."""

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
    """An order stands no more; its pieces are free again, and what had been paid is given back."""

    order_id: OrderId
    customer_id: CustomerId
    placed_on: date
    lines: list[OrderLine]
    was_paid: bool
    refunded_cents: int
    reason: str


def pieces_of(lines: list[OrderLine]) -> int:
    """How many pieces some lines make together."""
    return sum(line.quantity for line in lines)


def quantity_of(sku: str, lines: list[OrderLine]) -> int:
    """How many pieces of one product some lines hold."""
    return sum(line.quantity for line in lines if line.sku == sku)
