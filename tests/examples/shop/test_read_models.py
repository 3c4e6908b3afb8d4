"""What the read models say after something happened, cancelled orders and refunds included."""

from datetime import UTC, date, datetime

from shop.events import (
    CustomerRegistered,
    CustomerTakenOver,
    OrderCancelled,
    OrderLine,
    OrderPaid,
    OrderPlaced,
    OrderShipped,
    ProductAdded,
    ProductRestocked,
)
from shop.read_models import (
    CustomerSummary,
    DayRevenue,
    OrderDetail,
    ShopTotals,
    Step,
    StockLevel,
    read_models,
)
from twofold.testing import ProjectionSpec, spec

DAY = date(2026, 3, 7)
AT = datetime(2026, 3, 7, 10, 30, tzinfo=UTC)
LATER = datetime(2026, 3, 8, 9, 15, tzinfo=UTC)
LINES = [OrderLine("Album", 2, 20_00, "a")]
PLACED = OrderPlaced("o-1", "ann", DAY, 1, LINES, 20_00)
PAID = OrderPaid("o-1", "ann", DAY, 2, 20_00)
SHIPPED = OrderShipped("o-1", "ann", LINES)
CANCELLED = OrderCancelled("o-1", "ann", DAY, LINES, was_paid=False, refunded_cents=0, reason="no")
REFUNDED = OrderCancelled("o-1", "ann", DAY, LINES, was_paid=True, refunded_cents=20_00, reason="no")


def model(name: str) -> ProjectionSpec:
    (projection,) = (one for one in read_models.projections if one.name == name)
    return spec(projection)


def test_an_order_shows_its_whole_history() -> None:
    model("order-details").at(AT).given(PLACED).at(LATER).given(PAID, SHIPPED).then_rows(
        {
            "o-1": OrderDetail(
                "o-1",
                "ann",
                "shipped",
                AT,
                LINES,
                20_00,
                0,
                None,
                [Step("placed", AT), Step("paid", LATER), Step("shipped", LATER)],
            )
        }
    )


def test_a_cancelled_order_says_why_and_what_was_refunded() -> None:
    steps = [Step("placed", AT), Step("paid", AT), Step("cancelled", LATER)]
    model("order-details").at(AT).given(PLACED, PAID).at(LATER).given(REFUNDED).then_rows(
        {"o-1": OrderDetail("o-1", "ann", "cancelled", AT, LINES, 20_00, 0, None, steps, 20_00, "no")}
    )


def test_an_order_taken_over_happened_on_its_day() -> None:
    old = OrderPlaced("c-1", "c", date(1997, 1, 1), 1, [OrderLine("CDs", 2, 29_33)], 29_33, taken_over=True)
    then = datetime(1997, 1, 1, tzinfo=UTC)
    paid = OrderPaid("c-1", "c", date(1997, 1, 1), 2, 29_33, taken_over=True)
    steps = [Step("placed", then), Step("paid", then)]
    model("order-details").at(AT).given(old, paid).then_rows(
        {"c-1": OrderDetail("c-1", "c", "paid", then, old.lines, 29_33, 0, None, steps, taken_over=True)}
    )


def test_a_customer_has_spent_what_was_paid_and_not_refunded() -> None:
    ann = CustomerRegistered("ann", "Ann")
    summaries = model("customer-summaries").given(ann, PLACED, PAID)
    summaries.then_rows({"ann": CustomerSummary("ann", "Ann", False, 1, 0, 2, 20_00, DAY, DAY)})
    summaries.given(REFUNDED).then_rows({"ann": CustomerSummary("ann", "Ann", False, 0, 1, 0, 0, DAY, DAY)})


def test_a_customer_of_the_old_shop_is_called_by_number() -> None:
    model("customer-summaries").given(CustomerTakenOver("c-7")).then_rows(
        {"c-7": CustomerSummary("c-7", "Customer c-7", of_old_shop=True)}
    )


def test_stock_is_reserved_by_orders_and_leaves_with_parcels() -> None:
    stock = model("stock-levels").given(ProductAdded("a", "Album", 10_00), ProductRestocked("a", 5), PLACED)
    stock.then_rows({"a": StockLevel("a", "Album", 10_00, on_shelf=5, reserved=2, available=3)})
    stock.given(SHIPPED).then_rows({"a": StockLevel("a", "Album", 10_00, on_shelf=3, available=3, sold=2)})
    stock.given(CANCELLED).then_rows({"a": StockLevel("a", "Album", 10_00, on_shelf=5, available=5)})


def test_an_order_of_several_products_changes_the_stock_of_each() -> None:
    both = OrderPlaced("o-1", "ann", DAY, 1, [OrderLine("A", 1, 1, "a"), OrderLine("B", 2, 2, "b")], 3)
    model("stock-levels").given(ProductAdded("a", "A", 1), ProductAdded("b", "B", 1), both).then_rows(
        {
            "a": StockLevel("a", "A", 1, reserved=1, available=-1),
            "b": StockLevel("b", "B", 1, reserved=2, available=-2),
        }
    )


def test_a_day_earns_what_its_orders_were_paid() -> None:
    revenue = model("revenue-by-day").given(PAID, OrderPaid("o-2", "ann", DAY, 1, 5_00))
    revenue.then_rows({"2026-03-07": DayRevenue(DAY, 2, 3, 25_00)})
    revenue.given(REFUNDED).then_rows({"2026-03-07": DayRevenue(DAY, 1, 1, 5_00)})


def test_cancelling_what_was_never_paid_changes_no_revenue() -> None:
    model("revenue-by-day").given(CANCELLED).then_rows({})


def test_the_totals_count_orders_customers_cds_and_money() -> None:
    free = OrderPlaced("o-2", "ann", DAY, 2, [OrderLine("Gift", 1, 0)], 0)
    shop = model("shop-totals").given(PLACED, free, PAID)
    shop.then_rows({"shop": ShopTotals(orders=2, customers=1, cds=3, revenue_cents=20_00, free_orders=1, paid=1)})
    shop.given(SHIPPED).then_rows({"shop": ShopTotals(2, 1, 3, 20_00, 1, 1, shipped=1)})
    shop.given(REFUNDED).then_rows({"shop": ShopTotals(2, 1, 1, 0, 1, 1, cancelled=1)})
