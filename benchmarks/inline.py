"""Measures inline and live projections: what a row with the events costs, a row that all commands meet in, a row folded
when it is asked for, and building what is new."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from benchmarks.bank import (
    HISTORY,
    Account,
    AccountId,
    Balance,
    BalanceOf,
    Deposit,
    Deposited,
    balance_of,
    bank,
    deposit,
    keep_balance,
)
from benchmarks.commands import ACCOUNTS
from benchmarks.harness import Contestant, Result, compare, result, run
from benchmarks.postgres import durable_server
from tests.write_store.postgres_helpers import fresh_log
from twofold import DecisionModel, Module, Projection

CALLERS = 32
LONG_PAST = 1_000


class Total(Struct, frozen=True):
    balance: int
    deposits: int


def add_up(row: Total | None, event: Deposited) -> Total:
    return Total(1, event.amount) if row is None else Total(row.balance + event.amount, row.deposits + 1)


def keeping(*projections: Projection) -> Module:
    """The bank with these projections."""
    queries = [balance_of] if any(each.name == "balances" for each in projections) else []
    return Module(
        "bank",
        events=[Deposited],
        models=[DecisionModel(Account, by=AccountId)],
        decisions=[deposit],
        projections=projections,
        queries=queries,
    )


OWN = Projection("balances", keep_balance, key=AccountId, lifecycle="inline")
HOT = Projection("total", add_up, key=lambda event: "all", lifecycle="inline")
LIVE = Projection("balances", keep_balance, key=AccountId, lifecycle="live")
KEEPING = {"none": keeping(), "own_rows": keeping(OWN), "one_hot_row": keeping(HOT), "both": keeping(OWN, HOT)}

Where = Callable[[Path], str]


async def _commands(write_store: str, module: Module, callers: int, seconds: float) -> float:
    app = bank("", module, write_store=write_store, read_store="memory:")
    async with app:
        await asyncio.gather(*(app.send(Deposit(f"a-{n % ACCOUNTS}", 1)) for n in range(ACCOUNTS * HISTORY)))
        before = (await app.log(limit=1)).head
        start = time.perf_counter()
        end = start + seconds

        async def caller(number: int) -> None:
            turn = 0
            while time.perf_counter() < end:
                turn += 1
                await app.send(Deposit(f"a-{(number + turn * callers) % ACCOUNTS}", 1))

        await asyncio.gather(*(caller(number) for number in range(callers)))
        took = time.perf_counter() - start
        return ((await app.log(limit=1)).head - before) / took


async def _answers(write_store: str, module: Module, events: int, seconds: float) -> float:
    """Microseconds of one answer about an account with so many events, in the median."""
    app = bank("", module, write_store=write_store, read_store="memory:")
    waits: list[float] = []
    async with app:
        for _ in range(events):
            receipt = await app.send(Deposit("a", 1))
        await app.ask(BalanceOf("a"), position=receipt.token)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            answer = await app.ask(BalanceOf("a"))
            waits.append((time.perf_counter() - start) * 1_000_000)
            assert isinstance(answer.value, Balance)
            assert answer.value.deposits == events
    return statistics.median(waits)


async def _build(write_store: str, events: int) -> float:
    """Events a second that a new projection is built from, at the start of the app."""
    async with bank("", KEEPING["none"], write_store=write_store, read_store="memory:") as app:
        for start in range(0, events, 5_000):
            await asyncio.gather(
                *(app.send(Deposit(f"a-{n % 10_000}", 1)) for n in range(start, min(start + 5_000, events)))
            )
    start = time.perf_counter()
    async with bank("", KEEPING["own_rows"], write_store=write_store, read_store="memory:"):
        return events / (time.perf_counter() - start)


def _compared(label: str, where: Where, rounds: int, seconds: float, names: Sequence[str]) -> list[Result]:
    contestants: dict[str, Contestant] = {
        name: lambda folder, module=KEEPING[name]: run(_commands(where(folder), module, CALLERS, seconds))  # type: ignore[misc]
        for name in names
    }
    figures = compare(rounds, **contestants)
    return [
        result(f"{label}: commands, {CALLERS} callers, {name.replace('_', ' ')}", figures, name, "none", "/s")
        for name in names
        if name != "none"
    ]


def _asked(label: str, where: Where, rounds: int, seconds: float) -> list[Result]:
    def asking(module: Module, events: int) -> Contestant:
        return lambda folder: run(_answers(where(folder), module, events, seconds / 3))

    figures = compare(
        rounds,
        inline=asking(keeping(OWN), LONG_PAST),
        live=asking(keeping(LIVE), LONG_PAST),
        live_short=asking(keeping(LIVE), HISTORY),
        followed=asking(keeping(Projection("balances", keep_balance, key=AccountId)), LONG_PAST),
    )
    return [
        result(f"{label}: answer, live, {HISTORY} events", figures, "live_short", "inline", "µs", less=True),
        result(f"{label}: answer, live, {LONG_PAST:,} events", figures, "live", "inline", "µs", less=True),
        result(f"{label}: answer, followed", figures, "followed", "inline", "µs", less=True),
    ]


def inline(rounds: int, seconds: float) -> list[Result]:
    """All of it, on SQLite and on PostgreSQL."""
    names = list(KEEPING)

    def on_sqlite(folder: Path) -> str:
        return f"sqlite:///{folder}/log.db"

    events = int(20_000 * seconds)
    found = _compared("SQLite", on_sqlite, rounds, seconds, names) + _asked("SQLite", on_sqlite, rounds, seconds)
    built = compare(rounds, build=lambda folder: run(_build(on_sqlite(folder), events)))["build"]
    label = f"SQLite: {events:,} events built into rows at start"
    found.append(Result(label, statistics.median(built), 1.0, "1", "/s"))
    with durable_server() as dsn:
        on_postgres: Where = partial(_fresh, dsn)
        found += _compared("PG", on_postgres, rounds, seconds, names) + _asked("PG", on_postgres, rounds, seconds)
    return found


def _fresh(dsn: str, folder: Path) -> str:
    return run(fresh_log(dsn))
