"""Measures queries by key: beside the bare driver's select, with many parked keys, and during a rebuild."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import apsw
import asyncpg
from pymongo import AsyncMongoClient

from benchmarks.bank import WHOLE, Balance, BalanceOf, Deposit, bank
from benchmarks.harness import Result, compare, result, run
from benchmarks.postgres import durable_server
from benchmarks.read_side import fill, until
from tests.servers.mongodb import ReplicaSet, fresh_database, installed
from tests.servers.postgres import fresh_schema
from twofold import App
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.parked_summary import summary_of
from twofold.read_store.port import Change, Parked, ReadModel, VersionedRow
from twofold.read_store.postgres.rows import PostgresTable
from twofold.read_store.sqlite.rows import SqliteTable
from twofold.stores import open_read_store
from twofold.world import RealWorld

CALLERS = 32
ROWS = 1_000
FEW, MANY = 10, 100_000
_CONNECTIONS = 16

Ask = Callable[[str], Awaitable[object]]


async def _rate(ask: Ask, seconds: float) -> float:
    """Queries a second of 32 callers."""
    asked, end = 0, time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal asked
        while time.perf_counter() < end:
            assert await ask(f"a-{(asked + number) % ROWS}") is not None
            asked += 1
            # A driver that does not wait would let the other callers wait for ever.
            await asyncio.sleep(0)

    begun = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return asked / (time.perf_counter() - begun)


async def _ours(read_store: str, seconds: float) -> float:
    async with bank("", WHOLE, write_store="memory:", read_store=read_store) as app:
        await _fill(app)
        return await _rate(lambda key: app.ask(BalanceOf(key)), seconds)


async def _fill(app: App) -> ReadModel:
    """A row for each account. Returns the read model."""
    receipts = await asyncio.gather(*(app.send(Deposit(f"a-{n}", 1)) for n in range(ROWS)))
    await app.ask(BalanceOf("a-0"), position=max(receipts, key=lambda each: each.position).token, timeout=60)
    (model,) = app.models.values()
    return model


async def _prepared(read_store: str) -> ReadModel:
    async with bank("", WHOLE, write_store="memory:", read_store=read_store) as app:
        return await _fill(app)


async def _bare_sqlite(folder: Path, seconds: float) -> float:
    model = await _prepared(f"sqlite:///{folder}/views.db")
    connection = apsw.Connection(f"{folder}/views.db", flags=apsw.SQLITE_OPEN_READONLY)
    select = SqliteTable(model).select

    async def ask(key: str) -> Any:
        return connection.execute(select, (key,)).fetchone()

    rate = await _rate(ask, seconds)
    connection.close()
    return rate


async def _bare_postgres(dsn: str, seconds: float) -> float:
    schema = fresh_schema()
    model = await _prepared(f"{dsn}?schema={schema}")
    select = PostgresTable(model, schema).select
    async with asyncpg.create_pool(dsn, min_size=_CONNECTIONS, max_size=_CONNECTIONS) as pool:
        return await _rate(lambda key: pool.fetchrow(select, key), seconds)


async def _bare_mongodb(url: str, seconds: float) -> float:
    model = await _prepared(url)
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        rows = client.get_default_database()[MongoTable(model).collection]
        return await _rate(lambda key: rows.find_one({"_id": key}), seconds)


def by_key(rounds: int, seconds: float) -> list[Result]:
    """32 callers who ask for a row by its key, beside 32 who select it with the bare driver."""
    with ExitStack() as stack:
        dsn = stack.enter_context(durable_server())
        program = installed()
        assert program is not None
        mongo = stack.enter_context(ReplicaSet(program))
        contestants: dict[str, tuple[Callable[[Path], float], Callable[[Path], float], float | None]] = {
            "SQLite": (
                lambda folder: run(_ours(f"sqlite:///{folder}/views.db", seconds)),
                lambda folder: run(_bare_sqlite(folder, seconds)),
                0.25,
            ),
            "PostgreSQL": (
                lambda _: run(_ours(f"{dsn}?schema={fresh_schema()}", seconds)),
                lambda _: run(_bare_postgres(dsn, seconds)),
                0.5,
            ),
            "MongoDB": (
                lambda _: run(_ours(mongo.url_of(fresh_database()), seconds)),
                lambda _: run(_bare_mongodb(mongo.url_of(fresh_database()), seconds)),
                None,
            ),
        }
        return [
            result(
                f"{name}: query by key, 32 callers", compare(rounds, ours=ours, raw=raw), "ours", "raw", "/s", must=must
            )
            for name, (ours, raw, must) in contestants.items()
        ]


async def _with_parked(read_store: str, parked: int, seconds: float) -> float:
    """Milliseconds of one query by key of one caller, where so many keys are parked."""
    app = bank("", WHOLE)
    (model,) = app.models.values()
    async with AsyncExitStack() as stack:
        store = await open_read_store(read_store, RealWorld())
        stack.push_async_callback(store.close)
        await store.prepare([model])
        rows = {f"a-{n}": VersionedRow(Balance(f"a-{n}", 1, 1), 1) for n in range(ROWS)}
        keys = {key: Parked(key, 1, "no", 0) for key in (f"p-{n:06}" for n in range(parked))}
        await store.save(Change(model, "log", 0, 1, 0, rows, keys, summary=summary_of(keys)))
        asked, begun = 0, time.perf_counter()
        while time.perf_counter() < begun + seconds:
            await app.queries.answer(store, BalanceOf(f"a-{asked % ROWS}"), 0, 5.0)
            asked += 1
        return 1_000 * (time.perf_counter() - begun) / asked


def parked(rounds: int, seconds: float) -> list[Result]:
    """A query by key of a read model with 100,000 parked keys, beside one with 10."""
    with durable_server() as dsn:
        where: dict[str, Callable[[Path], str]] = {
            "SQLite": lambda folder: f"sqlite:///{folder}/views.db",
            "PostgreSQL": lambda _: f"{dsn}?schema={fresh_schema()}",
        }
        found: list[Result] = []
        for name, url in where.items():
            figures = compare(
                rounds,
                ours=lambda folder, url=url: run(_with_parked(url(folder), MANY, seconds)),
                at_10=lambda folder, url=url: run(_with_parked(url(folder), FEW, seconds)),
            )
            measure = f"{name}: query by key, 100,000 parked keys"
            found.append(result(measure, figures, "ours", "at_10", "ms", must=1.5, less=True))
        return found


async def _asked(app: App, keys: int, going: Callable[[], bool]) -> list[float]:
    """Milliseconds from when each of 200 queries a second was due to its answer, while `going`."""
    spent: list[float] = []
    due = time.perf_counter()
    while going():
        due += 0.005
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await app.ask(BalanceOf(f"a-{len(spent) * 7_919 % keys}"))
        spent.append(1_000 * (time.perf_counter() - due))
    return spent


async def _rebuilding(folder: Path, events: int, seconds: float) -> dict[str, float]:
    """The 99th percentile of a query by key, without other work and during a rebuild."""
    write_store = await fill(folder, events, events)
    async with bank(folder, WHOLE, write_store=write_store) as app:
        await until(app, events)
        end = time.perf_counter() + seconds
        quiet = await _asked(app, events, lambda: time.perf_counter() < end)
        (name,) = app.models
        done = asyncio.Event()
        asking = asyncio.create_task(_asked(app, events, lambda: not done.is_set()))
        await app.projections.rebuild([name])
        await until(app, events, at_least=2)
        done.set()
        busy = await asking
        return {"quiet": _p99(quiet), "busy": _p99(busy)}


def _p99(spent: list[float]) -> float:
    return statistics.quantiles(spent, n=100)[98]


def during_rebuild(rounds: int, seconds: float) -> list[Result]:
    """200 queries by key a second on SQLite, while a read model of 200,000 events is rebuilt."""
    events = 20_000 if seconds < 1 else 200_000
    found: list[dict[str, float]] = []

    def measured(folder: Path) -> float:
        found.append(run(_rebuilding(folder, events, 2 * seconds)))
        return found[-1]["busy"]

    figures = compare(rounds, ours=measured)
    figures["quiet"] = [each["quiet"] for each in found]
    measure = f"SQLite: query by key, p99, during a rebuild of {events:,} events"
    return [result(measure, figures, "ours", "quiet", "ms", must=5, less=True)]
