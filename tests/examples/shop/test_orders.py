"""The rules about orders: what they do, what they reject, and when nothing changes."""

from datetime import UTC, date, datetime

import pytest

from shop.catalogue import catalogue
from shop.coupons import coupons
from shop.customers import customers
from shop.events import (
    CouponIssued,
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
from shop.orders import (
    CancelOrder,
    CancelUnpaidOrder,
    Line,
    PayOrder,
    PlaceOrder,
    ShipOrder,
    TakeOverOrder,
    cancel_order,
    cancel_unpaid_order,
    orders,
    pay_order,
    place_order,
    ship_order,
    take_over_order,
)
from twofold.testing import spec

MODELS = [*catalogue.models, *customers.models, *coupons.models, *orders.models]
TODAY = date(2026, 3, 7)
ANN = CustomerRegistered("ann", "Ann")
RECORDS = [ProductAdded("a", "Album", 10_00), ProductRestocked("a", 5)]
MORE_RECORDS = [ProductAdded("b", "Ballads", 7_50), ProductRestocked("b", 5)]


def placed(order_id: str = "o-1", quantity: int = 2, *, sku: str = "a", coupon: str | None = None) -> OrderPlaced:
    lines = [OrderLine("Album", quantity, quantity * 10_00, sku)]
    return OrderPlaced(order_id, "ann", TODAY, 1, lines, quantity * 10_00, coupon=coupon)


def paid(order: OrderPlaced) -> OrderPaid:
    return OrderPaid(
        order.order_id, "ann", order.placed_on, order.lines[0].quantity, order.total_cents, order.taken_over
    )


def shipped(order: OrderPlaced) -> OrderShipped:
    return OrderShipped(order.order_id, "ann", order.lines)


def cancelled(order: OrderPlaced, *, was_paid: bool = False, reason: str = "") -> OrderCancelled:
    refund = order.total_cents if was_paid else 0
    return OrderCancelled(order.order_id, "ann", order.placed_on, order.lines, was_paid, refund, reason)


place = spec(place_order, *MODELS).at(datetime(2026, 3, 7, 23, 59, tzinfo=UTC))
take_over = spec(take_over_order, *MODELS)
pay = spec(pay_order, *MODELS)
ship = spec(ship_order, *MODELS)
cancel = spec(cancel_order, *MODELS)
cancel_unpaid = spec(cancel_unpaid_order, *MODELS)


def order(quantity: int = 2, *, order_id: str = "o-1", coupon: str | None = None) -> PlaceOrder:
    return PlaceOrder(order_id, "ann", [Line("a", quantity)], coupon)


def test_an_order_of_several_lines_is_placed_at_the_prices_of_the_catalogue() -> None:
    place.given(ANN, *RECORDS, *MORE_RECORDS).when(
        PlaceOrder("o-1", "ann", [Line("a", 2), Line("b", 1)])
    ).then(
        OrderPlaced(
            "o-1", "ann", TODAY, 1, [OrderLine("Album", 2, 20_00, "a"), OrderLine("Ballads", 1, 7_50, "b")], 27_50
        )
    )  # fmt: skip


def test_two_lines_of_one_product_are_one() -> None:
    place.given(ANN, *RECORDS).when(PlaceOrder("o-1", "ann", [Line("a", 1), Line("a", 1)])).then(placed())


def test_two_lines_of_one_product_cannot_oversell_it_together() -> None:
    twice = PlaceOrder("o-1", "ann", [Line("a", 3), Line("a", 3)])
    place.given(ANN, *RECORDS).when(twice).then_rejected("out-of-stock")


def test_placing_an_order_twice_changes_nothing() -> None:
    place.given(ANN, *RECORDS, placed()).when(order()).then_nothing()


def test_an_order_id_of_another_customer_is_refused() -> None:
    ben = PlaceOrder("o-1", "ben", [Line("a", 1)])
    place.given(*RECORDS, CustomerRegistered("ben", "Ben"), placed()).when(ben).then_rejected("order-id-taken")


def test_a_stranger_cannot_order() -> None:
    place.given(*RECORDS).when(order()).then_rejected("unknown-customer")


def test_an_order_of_nothing_is_refused() -> None:
    place.given(ANN).when(PlaceOrder("o-1", "ann", [])).then_rejected("nothing-ordered")


def test_what_is_not_sold_cannot_be_ordered() -> None:
    place.given(ANN).when(order()).then_rejected("unknown-product")


def test_the_last_piece_can_be_ordered() -> None:
    place.given(ANN, *RECORDS, placed("o-9", 3)).when(order(2)).then(
        OrderPlaced("o-1", "ann", TODAY, 2, [OrderLine("Album", 2, 20_00, "a")], 20_00)
    )


def test_no_product_is_oversold() -> None:
    place.given(ANN, *RECORDS, placed("o-9", 4)).when(order(2)).then_rejected(
        "out-of-stock", "Album is only 1 left; you asked for 2."
    )


def test_cancelling_an_order_frees_its_pieces() -> None:
    other = placed("o-9", 4)
    place.given(ANN, *RECORDS, other, cancelled(other)).when(order(5)).then(
        OrderPlaced("o-1", "ann", TODAY, 2, [OrderLine("Album", 5, 50_00, "a")], 50_00)
    )


def test_a_fourth_unpaid_order_is_refused() -> None:
    three = [placed(f"o-{n}", 1) for n in (7, 8, 9)]
    place.given(ANN, *RECORDS, *three).when(order(1)).then_rejected("too-many-unpaid-orders")


@pytest.mark.parametrize("settle", [paid, cancelled])
def test_paying_or_cancelling_one_makes_room_for_another(settle: object) -> None:
    three = [placed(f"o-{n}", 1) for n in (7, 8, 9)]
    assert callable(settle)
    place.given(ANN, *RECORDS, *three, settle(three[0])).when(order(1)).then(
        OrderPlaced("o-1", "ann", TODAY, 4, [OrderLine("Album", 1, 10_00, "a")], 10_00)
    )


def test_cancelling_a_paid_order_does_not_make_room_twice() -> None:
    four = [placed(f"o-{n}", 1) for n in (6, 7, 8, 9)]
    past = [ANN, *RECORDS, four[0], paid(four[0]), cancelled(four[0], was_paid=True), *four[1:]]
    place.given(*past).when(order(1)).then_rejected("too-many-unpaid-orders")


def test_a_coupon_takes_percent_off_in_whole_cents() -> None:
    odd = [ProductAdded("a", "Album", 9_99), ProductRestocked("a", 1)]
    place.given(ANN, *odd, CouponIssued("TEN", percent_off=10)).when(order(1, coupon="TEN")).then(
        OrderPlaced("o-1", "ann", TODAY, 1, [OrderLine("Album", 1, 9_99, "a")], 9_00, 99, "TEN")
    )


def test_a_coupon_never_takes_off_more_than_there_is() -> None:
    place.given(ANN, *RECORDS, CouponIssued("BIG", cents_off=99_00)).when(order(1, coupon="BIG")).then(
        OrderPlaced("o-1", "ann", TODAY, 1, [OrderLine("Album", 1, 10_00, "a")], 0, 10_00, "BIG")
    )


def test_an_unknown_coupon_is_refused() -> None:
    place.given(ANN, *RECORDS).when(order(coupon="TEN")).then_rejected("unknown-coupon")


def test_a_coupon_is_redeemed_once_even_if_its_order_is_cancelled() -> None:
    used = placed("o-9", 1, coupon="TEN")
    past = [ANN, *RECORDS, CouponIssued("TEN", percent_off=10), used, cancelled(used)]
    place.given(*past).when(order(coupon="TEN")).then_rejected("coupon-spent")


OLD = TakeOverOrder("cdnow-00001", "cdnow-0001", date(1997, 1, 1), 2, 29_33)
TAKEN_OVER = OrderPlaced(
    "cdnow-00001",
    "cdnow-0001",
    date(1997, 1, 1),
    1,
    [OrderLine("CDs from the old shop", 2, 29_33)],
    29_33,
    taken_over=True,
)


def test_an_order_of_the_old_shop_brings_its_customer_along() -> None:
    take_over.when(OLD).then(CustomerTakenOver("cdnow-0001"), TAKEN_OVER)


def test_a_customer_is_taken_over_once() -> None:
    first = OrderPlaced("cdnow-00009", "cdnow-0001", date(1997, 1, 1), 1, [], 0, taken_over=True)
    take_over.given(CustomerTakenOver("cdnow-0001"), first).when(OLD).then(
        OrderPlaced("cdnow-00001", "cdnow-0001", OLD.placed_on, 2, TAKEN_OVER.lines, 29_33, taken_over=True)
    )


def test_taking_an_order_over_twice_changes_nothing() -> None:
    take_over.given(CustomerTakenOver("cdnow-0001"), TAKEN_OVER).when(OLD).then_nothing()


def test_an_order_taken_over_keeps_its_owner() -> None:
    stolen = TakeOverOrder("cdnow-00001", "cdnow-0002", date(1997, 1, 1), 2, 29_33)
    take_over.given(TAKEN_OVER).when(stolen).then_rejected("order-id-taken")


def test_paying_pays_the_whole_total() -> None:
    pay.given(placed()).when(PayOrder("o-1")).then(OrderPaid("o-1", "ann", TODAY, 2, 20_00))


@pytest.mark.parametrize("so_far", [[paid(placed())], [paid(placed()), shipped(placed())]])
def test_paying_twice_changes_nothing(so_far: list[object]) -> None:
    pay.given(placed(), *so_far).when(PayOrder("o-1")).then_nothing()


def test_what_was_never_ordered_cannot_be_paid() -> None:
    pay.when(PayOrder("o-1")).then_rejected("unknown-order")


def test_a_cancelled_order_cannot_be_paid() -> None:
    pay.given(placed(), cancelled(placed())).when(PayOrder("o-1")).then_rejected("order-cancelled")


def test_a_paid_order_is_shipped() -> None:
    ship.given(placed(), paid(placed())).when(ShipOrder("o-1")).then(shipped(placed()))


def test_an_unpaid_order_is_not_shipped() -> None:
    ship.given(placed()).when(ShipOrder("o-1")).then_rejected("not-paid")


def test_a_cancelled_order_is_not_shipped() -> None:
    past = [placed(), paid(placed()), cancelled(placed(), was_paid=True)]
    ship.given(*past).when(ShipOrder("o-1")).then_rejected("not-paid")


def test_shipping_twice_changes_nothing() -> None:
    ship.given(placed(), paid(placed()), shipped(placed())).when(ShipOrder("o-1")).then_nothing()


def test_an_unpaid_order_is_cancelled_without_a_refund() -> None:
    cancel.given(placed()).when(CancelOrder("o-1", "too many")).then(cancelled(placed(), reason="too many"))


def test_cancelling_a_paid_order_refunds_the_money() -> None:
    cancel.given(placed(), paid(placed())).when(CancelOrder("o-1")).then(cancelled(placed(), was_paid=True))


def test_a_shipped_order_cannot_be_cancelled() -> None:
    past = [placed(), paid(placed()), shipped(placed())]
    cancel.given(*past).when(CancelOrder("o-1")).then_rejected("already-shipped")


def test_what_was_never_ordered_cannot_be_cancelled() -> None:
    cancel.when(CancelOrder("o-1")).then_rejected("unknown-order")


def test_cancelling_twice_changes_nothing() -> None:
    cancel.given(placed(), cancelled(placed())).when(CancelOrder("o-1")).then_nothing()


def test_an_order_that_stayed_unpaid_is_cancelled() -> None:
    cancel_unpaid.given(placed()).when(CancelUnpaidOrder("o-1")).then(
        cancelled(placed(), reason="It was not paid in time.")
    )


@pytest.mark.parametrize("so_far", [[], [placed(), paid(placed())], [placed(), cancelled(placed())]])
def test_an_order_that_does_not_wait_for_its_money_is_left_alone(so_far: list[object]) -> None:
    cancel_unpaid.given(*so_far).when(CancelUnpaidOrder("o-1")).then_nothing()
