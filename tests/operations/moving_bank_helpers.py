"""A bank that is under load while its log is moved, and what must be true of its log afterwards."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.command_service.inline_row_helpers import check_rows
from tests.sample_domains.bank import (
    ASYNC_TURNOVERS,
    INLINE_BALANCES,
    INLINE_TILL,
    LIVE_STATEMENTS,
    Deposit,
    Deposited,
    bank,
    turnover_of,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import App, Policy, Settings, Unavailable
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.receipt import Receipt
from twofold.world import RealWorld

BONUS = "bonus"
CALLERS = 6
INLINE = bank(INLINE_BALANCES, INLINE_TILL)


async def pay_bonus(event: Deposited) -> Deposit | None:
    """One cent for each deposit, paid by a policy."""
    return None if event.account_id == BONUS else Deposit(BONUS, 1)


def moving_bank(write_store: str, read_store: str = "memory:") -> App:
    """The app of a bank with projections of all kinds, and a policy that pays a cent for each deposit."""
    module = bank(
        *(INLINE_BALANCES, INLINE_TILL, LIVE_STATEMENTS, ASYNC_TURNOVERS),
        queries=[turnover_of],
        policies=[Policy("bonus", pay_bonus)],
    )
    return App(module, write_store=write_store, read_store=read_store, settings=Settings(poll_seconds=0.05))


def deposit(number: int) -> Deposit:
    """The deposit with this number."""
    return Deposit(f"a{number % 7}", 1_000 + number % 4_000)


class Callers:
    """Callers that deposit without a pause under their own command ids, and what was acknowledged to them.

    They repeat a command under its id where the bank is Unavailable.
    """

    def __init__(self, app: App, start: int = 1) -> None:
        self.app = app
        self.acknowledged: Callable[[str, Receipt], None] = lambda command_id, receipt: None
        self.receipts: dict[str, Receipt] = {}
        self.unavailable = 0
        self.longest = 0.0
        self._numbers = count(start)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """They deposit as long as the context lasts."""
        going = True

        async def caller() -> None:
            while going:
                await self.deposit(f"d-{next(self._numbers)}")
                await asyncio.sleep(0.002)

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        try:
            yield
        finally:
            going = False
            await asyncio.gather(*callers)

    async def deposit(self, command_id: str) -> None:
        number = int(command_id.partition("-")[2])
        while True:
            began = time.monotonic()
            try:
                receipt = await self.app.send(deposit(number), command_id=command_id)
            except Unavailable:
                self.unavailable += 1
                await asyncio.sleep(0.01)
                continue
            self.longest = max(self.longest, time.monotonic() - began)
            self.acknowledged(command_id, receipt)
            self.receipts[command_id] = receipt
            return

    async def more(self, number: int) -> None:
        """Return once so many more deposits were acknowledged."""
        wanted = len(self.receipts) + number
        await until(lambda: len(self.receipts) >= wanted)


async def until(holds: Callable[[], Any]) -> None:
    """Return once something holds."""
    async with asyncio.timeout(60):
        while not holds():
            await RealWorld().sleep(0.01)


async def check_moved(app: App, receipts: dict[str, Receipt]) -> list[RecordedEvent]:
    """AssertionError unless the running app has all that was acknowledged, once, and its rows are right. Its log."""
    running = app._running
    assert running is not None
    for receipt in list(receipts.values())[-1:]:
        late = await app.projections.late(["turnovers", "bonus"], receipt.position, 60)
        assert not late
    for command_id, first in list(receipts.items())[::7]:
        number = int(command_id.partition("-")[2])
        again = await app.send(deposit(number), command_id=command_id)
        assert (again.repeated, again.position, again.events) == (True, first.position, first.events)
    log = await whole_log(app)
    await check_rows(running.write_store, INLINE)
    check_events(log, {key: (receipt.position, receipt.events) for key, receipt in receipts.items()})
    return log


async def whole_log(app: App) -> list[RecordedEvent]:
    """All events, once every deposit has its bonus."""
    async with asyncio.timeout(60):
        while True:
            log = [event async for event in _read(app)]
            bonus = sum(app.events.decode(event).account_id == BONUS for event in log)  # type: ignore[attr-defined]
            if 2 * bonus >= len(log):
                assert 2 * bonus == len(log), "a bonus was paid twice"
                return log
            await asyncio.sleep(0.02)


async def _read(app: App) -> AsyncIterator[RecordedEvent]:
    after = 0
    while page := await app.log(ALL_EVENTS, after, 5_000):
        for event in page.events:
            yield event
        if page.upto == page.head:
            return
        after = page.upto


def check_events(log: list[RecordedEvent], receipts: dict[str, tuple[int, list[str]]]) -> None:
    """AssertionError unless the log has no gap, nothing twice, and what was acknowledged where it was."""
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    ids = [event.id for event in log]
    assert [each for each, number in Counter(ids).items() if number > 1] == [], "events are doubled"
    for command_id, (position, events) in receipts.items():
        assert ids[position - len(events) : position] == events, f"{command_id} is lost"


async def place_for(kind: str, name: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a new log of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/{name}.db"
    postgres: Postgres = request.getfixturevalue("postgres_newest")
    return await fresh_log(postgres.dsn)
