"""The queries of the shop. Lists come in pages; `after` is the cursor of the next page."""

from typing import Annotated

from msgspec import Meta, Struct

from shop.read_models import THE_SHOP, CustomerSummary, DayRevenue, OrderDetail, ShopTotals, StockLevel
from twofold import Module, Page, View

Size = Annotated[int, Meta(ge=1, le=1_000)]


class OrderById(Struct, frozen=True):
    """One order."""

    order_id: str


class OrdersOfCustomer(Struct, frozen=True):
    """A customer's orders, the latest first."""

    customer_id: str
    size: Size = 50
    after: str | None = None


class CustomerHistory(Struct, frozen=True):
    """A customer and the latest orders, read in one snapshot."""

    customer_id: str
    size: Size = 50
    after: str | None = None


class RegisteredCustomers(Struct, frozen=True):
    """Customers with an account in this shop, by name."""

    size: Size = 50
    after: str | None = None


class BestCustomers(Struct, frozen=True):
    """All customers, ordered by what they spent, the largest first."""

    size: Size = 20
    after: str | None = None


class StockLevels(Struct, frozen=True):
    """The catalogue with its stock, by name."""

    size: Size = 100
    after: str | None = None


class RevenueByDay(Struct, frozen=True):
    """Revenue of each day with paid orders, the latest first."""

    size: Size = 1_000
    after: str | None = None


class Totals(Struct, frozen=True):
    """The totals of the whole shop."""


class History(Struct, frozen=True):
    """A customer (None if unknown) with a page of orders."""

    customer: CustomerSummary | None
    orders: Page[OrderDetail]


async def order_by_id(query: OrderById, orders: View[OrderDetail]) -> OrderDetail | None:
    return await orders.get(query.order_id)


async def orders_of_customer(query: OrdersOfCustomer, orders: View[OrderDetail]) -> Page[OrderDetail]:
    return await orders.page(size=query.size, after=query.after, order_by="-placed", customer_id=query.customer_id)


async def customer_history(
    query: CustomerHistory, customers: View[CustomerSummary], orders: View[OrderDetail]
) -> History:
    customer = await customers.get(query.customer_id)
    page = await orders.page(size=query.size, after=query.after, order_by="-placed", customer_id=query.customer_id)
    return History(customer, page)


async def registered_customers(query: RegisteredCustomers, customers: View[CustomerSummary]) -> Page[CustomerSummary]:
    return await customers.page(size=query.size, after=query.after, order_by="name", of_old_shop=False)


async def best_customers(query: BestCustomers, customers: View[CustomerSummary]) -> Page[CustomerSummary]:
    return await customers.page(size=query.size, after=query.after, order_by="-spent_cents")


async def stock_levels(query: StockLevels, stock: View[StockLevel]) -> Page[StockLevel]:
    return await stock.page(size=query.size, after=query.after, order_by="name")


async def revenue_by_day(query: RevenueByDay, days: View[DayRevenue]) -> Page[DayRevenue]:
    return await days.page(size=query.size, after=query.after, order_by="-day")


async def totals(query: Totals, shop: View[ShopTotals]) -> ShopTotals:
    return await shop.get(THE_SHOP) or ShopTotals()


queries = Module(
    "queries",
    queries=[
        order_by_id,
        orders_of_customer,
        customer_history,
        registered_customers,
        best_customers,
        stock_levels,
        revenue_by_day,
        totals,
    ],
)
