"""The orders of the old shop: read from a file, and sent as commands in the order of their dates."""

import asyncio
from collections.abc import Callable
from datetime import date
from pathlib import Path

from msgspec import Struct

from shop.orders import PayOrder, TakeOverOrder
from twofold import App, EventQuery, QueryItem
from twofold.world import RealWorld, World

FILE = Path(__file__).parent / "data" / "cdnow_sample.txt"
_PAID = EventQuery((QueryItem(types=("order-paid",)),))
_PAGE = 1_000

Progress = Callable[[int, int], None]


class OldOrder(Struct, frozen=True):
    """One row of the file. The order id is made from the row number, so it is safe to replay a row again."""

    row: int
    customer: str
    placed_on: date
    cds: int
    total_cents: int

    @property
    def order_id(self) -> str:
        return f"cdnow-{self.row:05}"

    @property
    def take_over(self) -> TakeOverOrder:
        return TakeOverOrder(self.order_id, f"cdnow-{self.customer}", self.placed_on, self.cds, self.total_cents)


def old_orders(file: Path = FILE) -> list[OldOrder]:
    """All rows, the oldest first; rows of one day in the order of the file."""
    rows = [_parse(number, line) for number, line in enumerate(file.read_text("ascii").splitlines(), 1) if line.strip()]
    return sorted(rows, key=lambda order: order.placed_on)


def _parse(number: int, line: str) -> OldOrder:
    _, customer, day, cds, dollars = line.split()
    whole, _, cents = dollars.partition(".")
    return OldOrder(
        number, customer, date(int(day[:4]), int(day[4:6]), int(day[6:])), int(cds), int(whole) * 100 + int(cents)
    )


async def replay(
    app: App,
    *,
    speed: float | None = None,
    concurrency: int = 32,
    on_progress: Progress | None = None,
    world: World | None = None,
) -> int:
    """Place and pay every order that is not in the log yet, oldest first. The result is their number.

    At most `concurrency` orders are in progress, and never two of one customer. `speed` is orders per second; None
    means as fast as possible. `on_progress` is called with (orders in the log, all orders). It may be interrupted at
    any time and repeated.
    """
    world = world or RealWorld()
    everything = old_orders()
    paid = await _orders_paid(app)
    missing = [order for order in everything if order.order_id not in paid]
    done = len(everything) - len(missing)
    report = on_progress or _ignore_progress
    report(done, len(everything))
    began = world.monotonic()
    room = asyncio.Semaphore(concurrency)
    last_of: dict[str, asyncio.Task[None]] = {}

    async def send(order: OldOrder, before: asyncio.Task[None] | None) -> None:
        nonlocal done
        try:
            if before is not None:
                await asyncio.wait([before])
            await app.send(order.take_over, command_id=f"{order.order_id}-place")
            await app.send(PayOrder(order.order_id), command_id=f"{order.order_id}-pay")
        finally:
            room.release()
        done += 1
        report(done, len(everything))

    async with asyncio.TaskGroup() as group:
        for sent, order in enumerate(missing):
            if speed is not None:
                await world.sleep(max(0.0, began + sent / speed - world.monotonic()))
            await room.acquire()
            last_of[order.customer] = group.create_task(send(order, last_of.get(order.customer)))
    return len(missing)


def _ignore_progress(done: int, total: int) -> None:
    """The default for `on_progress`."""


async def _orders_paid(app: App) -> set[str]:
    """The ids of all paid orders in the log."""
    paid: set[str] = set()
    after = 0
    while True:
        page = await app.log(_PAID, after, _PAGE)
        for event in page.events:
            paid.update(tag.removeprefix("order:") for tag in event.tags if tag.startswith("order:"))
        if page.upto >= page.head:
            return paid
        after = page.upto
