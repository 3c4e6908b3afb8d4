"""The example shop as the demo uses it. The shop is not part of the package."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from twofold.app import App
from twofold.cli.output import columns
from twofold.errors import TwofoldError, WiringError

PATIENCE = 300.0
"""Seconds for the read models to reach the head of the log."""


class ShopTotals(msgspec.Struct, frozen=True):
    """Totals of the shop; money is in cents."""

    orders: int
    customers: int
    cds: int
    revenue_cents: int
    free_orders: int
    paid: int

    def table(self) -> str:
        """The totals as lines for people."""
        rows = [
            ["orders", f"{self.orders:,}"],
            ["paid", f"{self.paid:,}"],
            ["customers", f"{self.customers:,}"],
            ["CDs", f"{self.cds:,}"],
            ["revenue", f"${self.revenue_cents // 100:,}.{self.revenue_cents % 100:02}"],
            ["orders of $0.00", f"{self.free_orders:,}"],
        ]
        return "\n".join(f"  {line}" for line in columns(rows, right=frozenset({1})))

    def included_in(self, other: "ShopTotals") -> bool:
        """Whether `other` has the same totals, or more orders on top of them."""
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return self == other or (other.orders > self.orders and all(a <= b for a, b in zip(mine, others, strict=True)))


class Shop:
    """The example shop. `expected` are the totals of the file of the old shop."""

    def __init__(self, shop: Any, orders: list[Any], totals: type) -> None:
        self._shop = shop
        self._totals = totals
        self._dates = [f"{order.placed_on:%Y-%m-%d}" for order in orders]
        self.expected = ShopTotals(
            len(orders),
            len({order.customer for order in orders}),
            sum(order.cds for order in orders),
            sum(order.total_cents for order in orders),
            sum(order.total_cents == 0 for order in orders),
            len(orders),
        )

    def open(self, *, write_store: str, read_store: str, outbox: Path) -> App:
        """The app of the shop, with these stores."""
        app: App = self._shop.open_shop(write_store=write_store, read_store=read_store, outbox=outbox)
        return app

    async def seed(self, app: App) -> None:
        """Add the catalogue, if it is missing."""
        await self._shop.seed_catalogue(app)

    async def replay(self, app: App, speed: float | None, on_progress: Callable[[int, int], None]) -> int:
        """Send the orders that are not in the log yet; how many were sent. Raises what `app.send` raises."""
        try:
            return int(await self._shop.replay(app, speed=speed, on_progress=on_progress))
        except ExceptionGroup as failed:
            # Many concurrent orders failed for the same reason: report the first.
            if isinstance(failed.exceptions[0], TwofoldError):
                raise failed.exceptions[0] from failed
            raise

    def date_reached(self, done: int) -> str:
        """The date of the last of the first `done` orders."""
        return self._dates[done - 1] if done else ""

    async def totals(self, app: App) -> ShopTotals:
        """The totals of the read models at the present head. Unavailable if they do not reach it in time."""
        head = app.token((await app.status()).head)
        answer = await app.ask(self._totals(), position=head, timeout=PATIENCE)
        return msgspec.convert(answer.value, ShopTotals, from_attributes=True)


def load_shop() -> Shop:
    """The shop that comes with the project. WiringError where it is not installed."""
    try:
        shop: Any = import_module("shop")
        replays: Any = import_module("shop.cdnow")
        queries: Any = import_module("shop.queries")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "shop":
            raise
        raise WiringError(
            "The example shop is not installed: it is in the source of Twofold, not in the package. Run `make demo` in "
            "a clone, or run `pip install -e .` there and `twofold demo` again."
        ) from error
    return Shop(shop, replays.old_orders(), queries.Totals)
