"""The orders of the old shop: read from its file, and replayed through the command side in the order of their dates."""

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
    """One row of the file. Its number in the file makes its order id, so that replaying it again is safe."""

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
    """All rows, the oldest first; rows of one day as they stand in the file."""
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
    """Send every order that the log does not hold yet, placed and paid, oldest first; how many those were.

    At most `concurrency` orders are under way, and never two of one customer. `speed` is orders per second; None: as
    fast as the app takes them. `on_progress` hears (orders in the log, orders in all). It may be broken off at any
    time and repeated.
    """
    world = world or RealWorld()
    everything = old_orders()
    paid = await _orders_paid(app)
    missing = [order for order in everything if order.order_id not in paid]
    done = len(everything) - len(missing)
    report = on_progress or _nobody
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


def _nobody(done: int, total: int) -> None:
    """Hears the progress when nobody else does."""


async def _orders_paid(app: App) -> set[str]:
    """The ids of all orders the log says were paid."""
    found: set[str] = set()
    after = 0
    while True:
        page = await app.log(_PAID, after, _PAGE)
        for event in page.events:
            found.update(tag.removeprefix("order:") for tag in event.tags if tag.startswith("order:"))
        if page.upto >= page.head:
            return found
        after = page.upto
