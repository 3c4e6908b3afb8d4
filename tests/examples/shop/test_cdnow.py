"""The orders of the old shop: the file, and its replay through the command side to totals that are known beforehand."""

import asyncio
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from shop import open_shop, replay
from shop.cdnow import OldOrder, old_orders
from shop.queries import BestCustomers, CustomerHistory, OrderById, RevenueByDay, Totals
from shop.read_models import ShopTotals
from twofold import App, EventQuery, QueryItem
from twofold.world import RealWorld

TOTALS = ShopTotals(
    orders=6_919, customers=2_357, cds=16_479, revenue_cents=24_409_194, free_orders=8, paid=6_919
)  # fmt: skip


class BrokenOff(Exception):
    """Stands for whatever ends a replay half-way."""


def shop_in(folder: Path) -> App:
    urls = {name: f"sqlite:///{folder / name}.db" for name in ("write_store", "read_store")}
    return open_shop(**urls, outbox=folder / "outbox")


async def totals_of(app: App) -> ShopTotals:
    token = app.token((await app.status()).head)
    answer: ShopTotals = (await app.ask(Totals(), position=token, timeout=60)).value
    return answer


def test_the_file_holds_what_is_said_of_it() -> None:
    rows = old_orders()
    assert len(rows) == 6_919
    assert len({row.customer for row in rows}) == 2_357
    assert sum(row.cds for row in rows) == 16_479
    assert sum(row.total_cents for row in rows) == 24_409_194
    assert sum(row.total_cents == 0 for row in rows) == 8


def test_rows_that_repeat_another_are_orders_of_their_own() -> None:
    rows = old_orders()
    content = Counter((row.customer, row.placed_on, row.cds, row.total_cents) for row in rows)
    assert sum(count - 1 for count in content.values()) == 21
    assert len({row.order_id for row in rows}) == len(rows)


def test_orders_are_replayed_in_the_order_of_their_dates_then_rows() -> None:
    assert all((a.placed_on, a.row) < (b.placed_on, b.row) for a, b in pairwise(old_orders()))


async def test_the_replay_ends_at_the_known_totals_even_when_it_is_interrupted(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def break_off(done: int, total: int) -> None:
        progress.append((done, total))
        if done == 2_000:
            raise BrokenOff

    async with shop_in(tmp_path) as app:
        with pytest.raises(ExceptionGroup) as broken_off:
            await replay(app, on_progress=break_off)
        assert broken_off.group_contains(BrokenOff)
    assert progress[0] == (0, 6_919)

    progress.clear()
    async with shop_in(tmp_path) as app:
        sent = await replay(app, on_progress=lambda done, total: progress.append((done, total)))
        assert progress[0][0] == 6_919 - sent >= 2_000
        assert progress[-1] == (6_919, 6_919)
        assert await totals_of(app) == TOTALS
        assert await replay(app) == 0
        page = (await app.ask(BestCustomers(size=1), position=app.token((await app.status()).head), timeout=60)).value
        assert (page.items[0].customer_id, page.items[0].orders) == ("cdnow-1901", 56)
        # Another projection than that of the totals, with a checkpoint of its own.
        token = app.token((await app.status()).head)
        days = (await app.ask(RevenueByDay(size=1_000), position=token, timeout=60)).value.items
        assert sum(day.revenue_cents for day in days) == TOTALS.revenue_cents
        assert sum(day.orders for day in days) == TOTALS.orders
        assert not (tmp_path / "outbox").exists(), "customers of 1997 were sent mail"


async def test_a_customer_s_orders_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in old_orders() if row.customer == "1901"]
    monkeypatch.setattr("shop.cdnow.old_orders", lambda: rows)
    async with open_shop(write_store="memory:", read_store="memory:") as app:
        await replay(app, concurrency=16)
        page = await app.log(EventQuery((QueryItem(("order-placed",), ("customer:cdnow-1901",)),)), 0, 1_000)
        assert [app.events.decode(event).order_id for event in page.events] == [row.order_id for row in rows]
        history = (await app.ask(CustomerHistory("cdnow-1901"), position=app.token(page.head))).value
        assert history.customer.orders == len(rows) == 56
        assert (await app.ask(OrderById(rows[0].order_id))).value.status == "paid"


async def test_a_replay_at_a_chosen_speed_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.cdnow.old_orders", lambda: old[:10])
    slept: list[float] = []

    class Watched(RealWorld):
        def monotonic(self) -> float:
            return 0.0

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    old: list[OldOrder] = old_orders()
    async with open_shop(write_store="memory:", read_store="memory:") as app:
        await asyncio.wait_for(replay(app, speed=20, world=Watched()), 30)
    assert slept == pytest.approx([n / 20 for n in range(10)])
