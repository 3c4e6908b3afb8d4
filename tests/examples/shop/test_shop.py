"""The shop as a whole: rules over several things at once, effects that happen once, time that passes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from shop.app import modules
from shop.catalogue import AddProduct, RestockProduct
from shop.coupons import IssueCoupon
from shop.customers import RegisterCustomer
from shop.orders import CancelOrder, Line, PayOrder, PlaceOrder, ShipOrder
from shop.policies import send_once
from shop.queries import (
    BestCustomers,
    CustomerHistory,
    OrderById,
    OrdersOfCustomer,
    RegisteredCustomers,
    RevenueByDay,
    StockLevels,
    Totals,
)
from shop.seed import COUPONS, CUSTOMERS, RECORDS, seed_catalogue
from twofold import App, Rejected
from twofold.testing import FrozenWorld

AN_HOUR = timedelta(hours=1)


@pytest.fixture
def world() -> FrozenWorld:
    return FrozenWorld()


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
async def app(world: FrozenWorld, outbox: Path) -> AsyncIterator[App]:
    async with App(*modules(outbox, AN_HOUR), write_store="memory:", read_store="memory:", world=world) as app:
        await app.send(AddProduct("a", "Album", 10_00))
        await app.send(RestockProduct("a", 5))
        await app.send(RegisterCustomer("ann", "Ann"))
        await app.send(RegisterCustomer("ben", "Ben"))
        yield app


async def followed(app: App, world: FrozenWorld) -> None:
    """Until every follower has come to the end of the log."""
    while any(follower.lag for follower in (await app.status()).followers):
        await world.advance(1)


async def place(app: App, order_id: str, customer_id: str = "ann", quantity: int = 1) -> str:
    """Place an order; the token of its receipt."""
    return (await app.send(PlaceOrder(order_id, customer_id, [Line("a", quantity)]))).token


async def test_of_many_who_want_the_last_pieces_only_as_many_get_them_as_there_are(app: App) -> None:
    customers = [f"c-{n}" for n in range(12)]
    for customer in customers:
        await app.send(RegisterCustomer(customer, customer))
    results = await asyncio.gather(
        *(place(app, f"o-{customer}", customer) for customer in customers), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, Rejected)]
    assert [result.code for result in refused] == ["out-of-stock"] * 7
    assert sum(isinstance(result, str) for result in results) == 5


async def test_of_many_who_redeem_one_coupon_at_once_one_does(app: App) -> None:
    await app.send(IssueCoupon("TEN", percent_off=10))
    orders = [PlaceOrder(f"o-{who}", who, [Line("a", 1)], "TEN") for who in ("ann", "ben")]
    results = await asyncio.gather(*(app.send(order) for order in orders), return_exceptions=True)
    assert [type(result).__name__ for result in results].count("Rejected") == 1


async def test_the_answer_to_an_order_is_there_for_the_holder_of_the_receipt(app: App) -> None:
    token = await place(app, "o-1", quantity=2)
    order = (await app.ask(OrderById("o-1"), position=token)).value
    assert (order.status, order.total_cents, order.lines[0].name) == ("placed", 20_00, "Album")
    (stock,) = (await app.ask(StockLevels(), position=token)).value.items
    assert (stock.on_shelf, stock.reserved, stock.available) == (5, 2, 3)


async def test_a_history_shows_customer_and_orders_latest_first_and_in_pages(app: App, world: FrozenWorld) -> None:
    for n in (1, 2, 3):
        token = await place(app, f"o-{n}")
        await world.advance(60)
    first = (await app.ask(CustomerHistory("ann", size=2), position=token)).value
    assert first.customer.orders == 3
    assert [order.order_id for order in first.orders.items] == ["o-3", "o-2"]
    rest = (await app.ask(OrdersOfCustomer("ann", size=2, after=first.orders.next))).value
    assert [order.order_id for order in rest.items] == ["o-1"]
    assert rest.next is None


async def test_the_best_customers_are_those_who_paid_most(app: App) -> None:
    await place(app, "o-1", "ann", 1)
    await place(app, "o-2", "ben", 2)
    await app.send(PayOrder("o-1"))
    assert await best(app) == ["ann", "ben"]
    await app.send(PayOrder("o-2"))
    assert await best(app) == ["ben", "ann"]
    await app.send(CancelOrder("o-2"))
    assert await best(app) == ["ann", "ben"]


async def best(app: App) -> list[str]:
    token = app.token((await app.status()).head)
    return [row.customer_id for row in (await app.ask(BestCustomers(), position=token)).value.items]


async def test_revenue_comes_and_goes_with_payments_and_refunds(app: App) -> None:
    await place(app, "o-1", quantity=2)
    token = (await app.send(PayOrder("o-1"))).token
    (day,) = (await app.ask(RevenueByDay(), position=token)).value.items
    assert (day.day.isoformat(), day.revenue_cents) == ("2000-01-01", 20_00)
    token = (await app.send(CancelOrder("o-1", "broken"))).token
    (day,) = (await app.ask(RevenueByDay(), position=token)).value.items
    assert (day.orders, day.revenue_cents) == (0, 0)
    totals = (await app.ask(Totals(), position=token)).value
    assert (totals.orders, totals.cancelled, totals.revenue_cents) == (1, 1, 0)


async def test_an_order_unpaid_for_too_long_is_cancelled_and_frees_its_pieces(app: App, world: FrozenWorld) -> None:
    await place(app, "o-1", quantity=5)
    await followed(app, world)
    await world.advance(AN_HOUR.total_seconds() - 60)
    assert (await app.ask(OrderById("o-1"))).value.status == "placed"
    await world.advance(120)
    await followed(app, world)
    order = (await app.ask(OrderById("o-1"))).value
    assert (order.status, order.reason) == ("cancelled", "It was not paid in time.")
    await place(app, "o-2", "ben", 5)


async def test_an_order_paid_in_time_is_left_alone(app: App, world: FrozenWorld) -> None:
    await place(app, "o-1")
    await app.send(PayOrder("o-1"))
    await followed(app, world)
    await world.advance(2 * AN_HOUR.total_seconds())
    await followed(app, world)
    assert (await app.ask(OrderById("o-1"))).value.status == "paid"


async def test_payment_and_parcel_send_one_mail_each(app: App, world: FrozenWorld, outbox: Path) -> None:
    await place(app, "o-1", quantity=2)
    for _ in range(2):
        await app.send(PayOrder("o-1"))
        await app.send(ShipOrder("o-1"))
    await followed(app, world)
    mails = sorted(mail.read_text() for mail in outbox.glob("*.txt"))
    assert mails == [
        "To: ann\n\nThank you! We have received 20.00 dollars for order o-1.\n",
        "To: ann\n\nYour order o-1 is on its way.\n",
    ]
    assert len(list(outbox.iterdir())) == 2


def test_a_mail_that_was_sent_is_not_sent_again(outbox: Path) -> None:
    send_once(outbox, "m-1", "first")
    send_once(outbox, "m-1", "second")
    assert [(mail.name, mail.read_text()) for mail in outbox.iterdir()] == [("m-1.txt", "first")]


async def test_seeding_the_shop_twice_fills_it_once(app: App) -> None:
    await seed_catalogue(app)
    head = (await app.status()).head
    await seed_catalogue(app)
    assert (await app.status()).head == head == 4 + 2 * len(RECORDS) + (len(CUSTOMERS) - 2) + len(COUPONS)
    answer = await app.ask(RegisteredCustomers(), position=app.token(head))
    assert "Emi Tanaka" in [customer.name for customer in answer.value.items]
