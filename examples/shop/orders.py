"""Orders: placed, paid, shipped or cancelled. The signature of each rule names all that the rule depends on."""

from datetime import date
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from shop.catalogue import Product
from shop.coupons import Coupon
from shop.customers import Customer
from shop.events import (
    CouponCode,
    CustomerId,
    CustomerTakenOver,
    OrderCancelled,
    OrderId,
    OrderLine,
    OrderPaid,
    OrderPlaced,
    OrderShipped,
    Sku,
    pieces_of,
)
from twofold import Context, DecisionModel, Module, Rejected

MOST_UNPAID = 3


class Line(Struct, frozen=True):
    """A number of pieces of a product. The price comes from the catalogue."""

    sku: Sku
    quantity: Annotated[int, Meta(ge=1, le=1_000)]


class PlaceOrder(Struct, frozen=True):
    """Order some products, perhaps with a coupon."""

    order_id: OrderId
    customer_id: CustomerId
    lines: Annotated[list[Line], Meta(min_length=1, max_length=100)]
    coupon: CouponCode | None = None


class TakeOverOrder(Struct, frozen=True):
    """Take over an order of the old shop, which stored the number of CDs and the total in cents."""

    order_id: OrderId
    customer_id: CustomerId
    placed_on: date
    cds: Annotated[int, Meta(ge=1)]
    total_cents: Annotated[int, Meta(ge=0)]


class PayOrder(Struct, frozen=True):
    """Pay the whole total."""

    order_id: OrderId


class ShipOrder(Struct, frozen=True):
    """Ship a paid order."""

    order_id: OrderId


class CancelOrder(Struct, frozen=True):
    """Cancel an order before it is shipped."""

    order_id: OrderId
    reason: Annotated[str, Meta(max_length=500)] = ""


class CancelUnpaidOrder(Struct, frozen=True):
    """Cancel an order if it is still unpaid."""

    order_id: OrderId


class Order(Struct, frozen=True):
    """The status of one order, and its first event."""

    status: Literal["new", "placed", "paid", "shipped", "cancelled"] = "new"
    placed: OrderPlaced | None = None

    def evolve(self, event: OrderPlaced | OrderPaid | OrderShipped | OrderCancelled) -> "Order":
        match event:
            case OrderPlaced():
                return Order("placed", event)
            case OrderPaid():
                return replace(self, status="paid")
            case OrderShipped():
                return replace(self, status="shipped")
            case OrderCancelled():
                return replace(self, status="cancelled")


class Account(Struct, frozen=True):
    """How many orders a customer ever placed, and how many of them are unpaid."""

    orders: int = 0
    unpaid: int = 0

    def evolve(self, event: OrderPlaced | OrderPaid | OrderCancelled) -> "Account":
        match event:
            case OrderPlaced():
                return Account(self.orders + 1, self.unpaid + 1)
            case OrderPaid():
                return replace(self, unpaid=self.unpaid - 1)
            case OrderCancelled():
                return self if event.was_paid else replace(self, unpaid=self.unpaid - 1)


def place_order(
    command: PlaceOrder,
    order: Order,
    customer: Customer,
    account: Account,
    products: dict[Sku, Product],
    coupon: Coupon | None,
    context: Context,
) -> OrderPlaced | None:
    if order.placed is not None:
        check_same_customer(order.placed, command.customer_id)
        return None
    if not customer.known:
        raise Rejected("unknown-customer", "We do not know this customer yet. Please register first.")
    if account.unpaid >= MOST_UNPAID:
        raise Rejected("too-many-unpaid-orders", f"{MOST_UNPAID} orders are unpaid. Please pay one of them first.")
    lines = priced(command.lines, products)
    amount = sum(line.amount_cents for line in lines)
    discount = 0 if coupon is None else redeem(coupon, amount)
    return OrderPlaced(
        command.order_id,
        command.customer_id,
        placed_on=context.time.date(),
        nth=account.orders + 1,
        lines=lines,
        total_cents=amount - discount,
        discount_cents=discount,
        coupon=command.coupon,
    )


def check_same_customer(placed: OrderPlaced, customer_id: str) -> None:
    """Sending an order twice is safe; using the order id of another customer is not."""
    if placed.customer_id != customer_id:
        raise Rejected("order-id-taken", "An order of another customer has this id. Please use a new one.")


def priced(wanted: list[Line], products: dict[Sku, Product]) -> list[OrderLine]:
    """The lines with prices, one for each product, if enough of each is available."""
    quantities: dict[str, int] = {}
    for line in wanted:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    if not quantities:
        raise Rejected("nothing-ordered", "Please choose at least one record.")
    for sku, quantity in quantities.items():
        product = products[sku]
        if not product.offered:
            raise Rejected("unknown-product", f"We do not sell “{sku}”.")
        if product.available < quantity:
            left = f"only {product.available} left" if product.available else "sold out"
            raise Rejected("out-of-stock", f"{product.name} is {left}; you asked for {quantity}.")
    return [
        OrderLine(products[sku].name, quantity, quantity * products[sku].price_cents, sku)
        for sku, quantity in quantities.items()
    ]


def redeem(coupon: Coupon, amount_cents: int) -> int:
    """The discount of the coupon."""
    if not coupon.issued:
        raise Rejected("unknown-coupon", "We do not know this coupon. Please check its code.")
    if coupon.spent:
        raise Rejected("coupon-spent", "This coupon was used already; it works once.")
    return coupon.discount(amount_cents)


def take_over_order(
    command: TakeOverOrder, order: Order, customer: Customer, account: Account
) -> list[CustomerTakenOver | OrderPlaced] | None:
    if order.placed is not None:
        check_same_customer(order.placed, command.customer_id)
        return None
    newcomer = [] if customer.known else [CustomerTakenOver(command.customer_id)]
    return [
        *newcomer,
        OrderPlaced(
            command.order_id,
            command.customer_id,
            placed_on=command.placed_on,
            nth=account.orders + 1,
            lines=[OrderLine("CDs from the old shop", command.cds, command.total_cents)],
            total_cents=command.total_cents,
            taken_over=True,
        ),
    ]


def pay_order(command: PayOrder, order: Order) -> OrderPaid | None:
    placed = known(order)
    if order.status == "cancelled":
        raise Rejected("order-cancelled", "This order was cancelled. Please place a new one.")
    if order.status != "placed":
        return None
    pieces = pieces_of(placed.lines)
    return OrderPaid(
        placed.order_id, placed.customer_id, placed.placed_on, pieces, placed.total_cents, placed.taken_over
    )


def ship_order(command: ShipOrder, order: Order) -> OrderShipped | None:
    placed = known(order)
    if order.status == "shipped":
        return None
    if order.status != "paid":
        raise Rejected("not-paid", f"Only a paid order is shipped; this one is {order.status}.")
    return OrderShipped(placed.order_id, placed.customer_id, placed.lines)


def cancel_order(command: CancelOrder, order: Order) -> OrderCancelled | None:
    placed = known(order)
    if order.status == "shipped":
        raise Rejected("already-shipped", "This order is shipped already. Please return it instead.")
    if order.status == "cancelled":
        return None
    return cancelled(placed, order.status == "paid", command.reason)


def cancel_unpaid_order(command: CancelUnpaidOrder, order: Order) -> OrderCancelled | None:
    if order.placed is None or order.status != "placed":
        return None
    return cancelled(order.placed, was_paid=False, reason="It was not paid in time.")


def known(order: Order) -> OrderPlaced:
    """The first event of an order that must exist."""
    if order.placed is None:
        raise Rejected("unknown-order", "There is no such order.")
    return order.placed


def cancelled(placed: OrderPlaced, was_paid: bool, reason: str) -> OrderCancelled:
    return OrderCancelled(
        placed.order_id,
        placed.customer_id,
        placed.placed_on,
        placed.lines,
        was_paid,
        refunded_cents=placed.total_cents if was_paid else 0,
        reason=reason,
    )


orders = Module(
    "orders",
    events=[OrderPlaced, OrderPaid, OrderShipped, OrderCancelled],
    models=[DecisionModel(Order, by=OrderId), DecisionModel(Account, by=CustomerId)],
    decisions=[place_order, take_over_order, pay_order, ship_order, cancel_order, cancel_unpaid_order],
)
