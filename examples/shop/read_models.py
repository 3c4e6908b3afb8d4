"""The read models of the shop: rows in the shape of its queries. Each can be dropped and rebuilt."""

from datetime import UTC, date, datetime, time
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from shop.events import (
    CustomerId,
    CustomerRegistered,
    CustomerTakenOver,
    OrderCancelled,
    OrderId,
    OrderLine,
    OrderPaid,
    OrderPlaced,
    OrderShipped,
    ProductAdded,
    ProductRestocked,
    Sku,
    pieces_of,
    quantity_of,
)
from twofold import Module, Projection, RecordedEvent


class Step(Struct, frozen=True):
    """One step of an order, and its time."""

    what: Literal["placed", "paid", "shipped", "cancelled"]
    at: datetime


class OrderDetail(Struct, frozen=True):
    """One order as its customer sees it. `placed` is when it was placed, amounts are in cents."""

    order_id: str
    customer_id: str
    status: Literal["placed", "paid", "shipped", "cancelled"]
    placed: datetime
    lines: list[OrderLine]
    total_cents: int
    discount_cents: int
    coupon: str | None
    history: list[Step]
    refunded_cents: int = 0
    reason: str = ""
    taken_over: bool = False


def follow_order(
    row: OrderDetail | None, event: OrderPlaced | OrderPaid | OrderShipped | OrderCancelled, recorded: RecordedEvent
) -> OrderDetail | None:
    match event:
        case OrderPlaced():
            at = midnight(event.placed_on) if event.taken_over else recorded.time
            return OrderDetail(
                event.order_id,
                event.customer_id,
                "placed",
                at,
                event.lines,
                event.total_cents,
                event.discount_cents,
                event.coupon,
                [Step("placed", at)],
                taken_over=event.taken_over,
            )
        case OrderPaid():
            at = midnight(event.placed_on) if event.taken_over else recorded.time
            return row and replace(row, status="paid", history=[*row.history, Step("paid", at)])
        case OrderShipped():
            return row and replace(row, status="shipped", history=[*row.history, Step("shipped", recorded.time)])
        case OrderCancelled():
            return row and replace(
                row,
                status="cancelled",
                history=[*row.history, Step("cancelled", recorded.time)],
                refunded_cents=event.refunded_cents,
                reason=event.reason,
            )


def midnight(day: date) -> datetime:
    """The old shop stored days without times."""
    return datetime.combine(day, time(), UTC)


class CustomerSummary(Struct, frozen=True):
    """A customer in figures. `orders` and `pieces` leave out cancelled orders, `spent_cents` is what was paid."""

    customer_id: str
    name: str
    of_old_shop: bool = False
    orders: int = 0
    cancelled: int = 0
    pieces: int = 0
    spent_cents: int = 0
    first_order: date | None = None
    last_order: date | None = None


def sum_up_customer(
    row: CustomerSummary | None,
    event: CustomerRegistered | CustomerTakenOver | OrderPlaced | OrderPaid | OrderCancelled,
) -> CustomerSummary | None:
    match event:
        case CustomerRegistered():
            return CustomerSummary(event.customer_id, event.name)
        case CustomerTakenOver():
            return CustomerSummary(event.customer_id, f"Customer {event.customer_id}", of_old_shop=True)
        case OrderPlaced():
            return row and replace(
                row,
                orders=row.orders + 1,
                pieces=row.pieces + pieces_of(event.lines),
                first_order=row.first_order or event.placed_on,
                last_order=event.placed_on,
            )
        case OrderPaid():
            return row and replace(row, spent_cents=row.spent_cents + event.total_cents)
        case OrderCancelled():
            return row and replace(
                row,
                orders=row.orders - 1,
                cancelled=row.cancelled + 1,
                pieces=row.pieces - pieces_of(event.lines),
                spent_cents=row.spent_cents - event.refunded_cents,
            )


class StockLevel(Struct, frozen=True):
    """The stock of one product. `available` is neither reserved nor shipped; `sold` is shipped."""

    sku: str
    name: str
    price_cents: int
    on_shelf: int = 0
    reserved: int = 0
    available: int = 0
    sold: int = 0


def count_stock(
    row: StockLevel | None,
    event: ProductAdded | ProductRestocked | OrderPlaced | OrderShipped | OrderCancelled,
    sku: Sku,
) -> StockLevel | None:
    match event:
        case ProductAdded():
            return StockLevel(sku, event.name, event.price_cents)
        case ProductRestocked():
            return row and moved(row, on_shelf=event.quantity)
        case OrderPlaced():
            return row and moved(row, reserved=quantity_of(sku, event.lines))
        case OrderCancelled():
            return row and moved(row, reserved=-quantity_of(sku, event.lines))
        case OrderShipped():
            shipped = quantity_of(sku, event.lines)
            return row and replace(moved(row, on_shelf=-shipped, reserved=-shipped), sold=row.sold + shipped)


def moved(row: StockLevel, on_shelf: int = 0, reserved: int = 0) -> StockLevel:
    """The row after pieces were added to the shelf and reserved."""
    return replace(
        row,
        on_shelf=row.on_shelf + on_shelf,
        reserved=row.reserved + reserved,
        available=row.available + on_shelf - reserved,
    )


class DayRevenue(Struct, frozen=True):
    """The revenue in cents of the orders placed on one day that are paid and not cancelled."""

    day: date
    orders: int = 0
    pieces: int = 0
    revenue_cents: int = 0


def add_up_day(row: DayRevenue | None, event: OrderPaid | OrderCancelled) -> DayRevenue | None:
    row = row or DayRevenue(event.placed_on)
    match event:
        case OrderPaid():
            return DayRevenue(row.day, row.orders + 1, row.pieces + event.pieces, row.revenue_cents + event.total_cents)
        case OrderCancelled():
            pieces = row.pieces - pieces_of(event.lines)
            return DayRevenue(row.day, row.orders - 1, pieces, row.revenue_cents - event.refunded_cents)


def day_of(event: OrderPaid | OrderCancelled) -> date | None:
    """The day whose revenue an event changes; None for an unpaid order that is cancelled."""
    return None if isinstance(event, OrderCancelled) and not event.was_paid else event.placed_on


class ShopTotals(Struct, frozen=True):
    """The whole shop in one row: all orders, all customers who ordered, and the CDs of orders that are not cancelled.

    `paid` counts payments, `revenue_cents` is what was paid less refunds, `free_orders` have the total 0.
    """

    orders: int = 0
    customers: int = 0
    cds: int = 0
    revenue_cents: int = 0
    free_orders: int = 0
    paid: int = 0
    shipped: int = 0
    cancelled: int = 0


def add_up_shop(
    row: ShopTotals | None, event: OrderPlaced | OrderPaid | OrderShipped | OrderCancelled
) -> ShopTotals | None:
    row = row or ShopTotals()
    match event:
        case OrderPlaced():
            return replace(
                row,
                orders=row.orders + 1,
                customers=row.customers + (event.nth == 1),
                cds=row.cds + pieces_of(event.lines),
                free_orders=row.free_orders + (event.total_cents == 0),
            )
        case OrderPaid():
            return replace(row, paid=row.paid + 1, revenue_cents=row.revenue_cents + event.total_cents)
        case OrderShipped():
            return replace(row, shipped=row.shipped + 1)
        case OrderCancelled():
            return replace(
                row,
                cancelled=row.cancelled + 1,
                cds=row.cds - pieces_of(event.lines),
                revenue_cents=row.revenue_cents - event.refunded_cents,
            )


THE_SHOP = "shop"


def the_shop(event: OrderPlaced | OrderPaid | OrderShipped | OrderCancelled) -> str:
    """All orders belong to one row."""
    return THE_SHOP


read_models = Module(
    "read-models",
    projections=[
        Projection("order-details", follow_order, key=OrderId, find_by=["customer_id"], order_by=["placed"]),
        Projection(
            "customer-summaries",
            sum_up_customer,
            key=CustomerId,
            find_by=["of_old_shop"],
            order_by=["spent_cents", "name"],
        ),
        Projection("stock-levels", count_stock, key=Sku, order_by=["name"]),
        Projection("revenue-by-day", add_up_day, key=day_of, order_by=["day"]),
        Projection("shop-totals", add_up_shop, key=the_shop),
    ],
)
