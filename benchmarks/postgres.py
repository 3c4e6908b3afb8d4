"""Measures the log in PostgreSQL, on a durable server of its own: against the bare driver, and against the peer."""

import asyncio
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import peer_umadb
from benchmarks import raw_postgres as raw
from benchmarks.bank import DECIDING, HISTORY, WHOLE, BalanceOf, Deposit, bank
from benchmarks.commands import ACCOUNTS
from benchmarks.harness import Result, compare, result, run
from benchmarks.http import measure, serve_app, serve_bare
from benchmarks.log import append_batches, compare_sizes, filled, load_account
from benchmarks.peers_postgres import contestant
from tests.servers.postgres import Postgres, installed, versions
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.event_query import ALL_EVENTS
from twofold.write_store.postgres import PostgresWriteStore


@contextmanager
def durable_server() -> Iterator[str]:
    """The dsn of a server that syncs what it commits."""
    with Postgres(installed()[versions()[0]], durable=True, shared_buffers="512MB", max_wal_size="4GB") as server:
        yield server.dsn


async def _opened(dsn: str) -> PostgresWriteStore:
    return await PostgresWriteStore.open(await fresh_log(dsn))


async def _service(dsn: str, callers: int, seconds: float, cached: int, waits: list[float]) -> float:
    app = bank("/nonexistent", DECIDING, write_store=await fresh_log(dsn), cached_folds=cached)
    app.settings = type(app.settings)(write_store=app.settings.write_store, read_store="memory:", cached_folds=cached)
    async with app:
        await asyncio.gather(*(app.send(Deposit(f"a-{n % ACCOUNTS}", 1)) for n in range(ACCOUNTS * HISTORY)))
        before = (await app.status()).head
        start = time.perf_counter()
        end = start + seconds

        async def caller(number: int) -> None:
            turn = 0
            while (began := time.perf_counter()) < end:
                turn += 1
                await app.send(Deposit(f"a-{(number + turn * callers) % ACCOUNTS}", 1))
                waits.append((time.perf_counter() - began) * 1_000)

        await asyncio.gather(*(caller(number) for number in range(callers)))
        took = time.perf_counter() - start
        return ((await app.status()).head - before) / took


def commands(rounds: int, seconds: float) -> list[Result]:
    """The whole command path, in process, with 1, 32 and 256 callers."""
    found: list[Result] = []
    with durable_server() as dsn:
        for callers in (1, 32):
            found += _commands(dsn, callers, rounds, seconds)
        waits: list[float] = []
        figures = compare(
            rounds,
            many=lambda _: run(_service(dsn, 256, seconds, 100_000, waits)),
            few=lambda _: run(_service(dsn, 32, seconds, 100_000, [])),
        )
        found.append(result("PG: commands, 256 callers", figures, "many", "few", "/s"))
        found += _percentiles("PG: commands, 256 callers", waits)
    return found


def _commands(dsn: str, callers: int, rounds: int, seconds: float) -> list[Result]:
    waits: list[float] = []
    figures = compare(
        rounds,
        ours=lambda _: run(_service(dsn, callers, seconds, 100_000, waits)),
        uncached=lambda _: run(_service(dsn, callers, seconds, 0, [])),
        raw_row=lambda _: run(raw.one_by_one(dsn, callers, seconds, whole=False)),
        raw_rows=lambda _: run(raw.one_by_one(dsn, callers, seconds, whole=True)),
        eventsourcing=lambda _: contestant("commands", dsn, callers, seconds),
        its_best=lambda _: contestant("commands-best", dsn, callers, seconds),
        its_DCB=lambda _: contestant("dcb-commands", dsn, callers, seconds),
        umadb=lambda _: peer_umadb.contestant(callers, seconds),
    )
    label = f"PG: commands, {callers} caller{'s' * (callers > 1)}"
    bars = {
        1: {"raw_row": (0.55, 0.75), "eventsourcing": (2.0, 4.0)},
        32: {
            "raw_row": (0.8, 1.5),
            "eventsourcing": (10.0, 25.0),
            "its_best": (5.0, 10.0),
            "its_DCB": (10.0, 20.0),
            "umadb": (1.5, 4.0),
        },
    }[callers]
    names = ("raw_row", "raw_rows", "eventsourcing", "its_best", "its_DCB", "umadb")
    found = []
    for name in names:
        must, ambition = bars.get(name, (None, None))
        found.append(result(label, figures, "ours", name, "/s", must=must, ambition=ambition))
    found.append(result(f"{label}, no cached folds", figures, "uncached", "eventsourcing", "/s"))
    return found + _percentiles(label, waits)


def _percentiles(label: str, waits: list[float]) -> list[Result]:
    cuts = statistics.quantiles(waits, n=100)
    return [
        Result(f"{label}, p50", cuts[49], 1.0, "1 ms", "ms", less=True),
        Result(f"{label}, p99", cuts[98], 1.0, "1 ms", "ms", less=True),
    ]


def bulk(rounds: int, seconds: float) -> list[Result]:
    """Conditional appends with a command id each at the store, against the same rows by the bare driver."""
    found: list[Result] = []
    with durable_server() as dsn:
        for batch in (32, 128, 512, 1_000):
            batches = max(5, int(20_000 * seconds / batch))
            figures = compare(
                rounds,
                ours=lambda _, n=batches, b=batch: run(append_batches(_opened(dsn), n, b)),
                raw=lambda _, n=batches, b=batch: run(raw.in_batches(dsn, n, b)),
                eventsourcing=lambda _, n=batches, b=batch: contestant("bulk", dsn, max(3, n // 4), b),
            )
            label = f"PG: append, batches of {batch}"
            found.append(result(label, figures, "ours", "raw", "ev/s", must=0.7, ambition=0.85))
            found.append(result(label, figures, "ours", "eventsourcing", "ev/s", must=2.0, ambition=2.5))
    return found


def loads(rounds: int, seconds: float) -> list[Result]:
    """From stored events to a folded model."""
    found: list[Result] = []
    with durable_server() as dsn:
        for events, bar, ambition in ((10, None, None), (100, None, None), (1_000, 1 / 8, 1 / 12)):
            times = max(5, int(60 * seconds))
            figures = compare(
                rounds,
                ours=lambda _, n=events, t=times: run(load_account(_opened(dsn), n, t)),
                eventsourcing=lambda _, n=events, t=times: contestant("load", dsn, n, t),
                its_DCB=lambda _, n=events, t=times: contestant("dcb-load", dsn, n, t),
            )
            label = f"PG: load {events:,} events"
            found.append(result(label, figures, "ours", "eventsourcing", "ms", must=bar, ambition=ambition, less=True))
            found.append(result(label, figures, "ours", "its_DCB", "ms", less=True))
    return found


def growth(rounds: int, seconds: float) -> list[Result]:
    """What a boundary costs on a log of 10,000 events and on one of 1,000,000."""
    large = 1_000_000 if seconds >= 1 else 50_000
    with durable_server() as dsn:
        return run(_growth(dsn, rounds, large, max(20, int(200 * seconds))))


async def _growth(dsn: str, rounds: int, large: int, times: int) -> list[Result]:
    start = time.perf_counter()
    stores = [await filled(await _opened(dsn), n) for n in (10_000, large)]
    print(f"filled logs of 10,000 and {large:,} events in {time.perf_counter() - start:.0f} s", flush=True)
    found = await compare_sizes(stores, rounds, times, large)
    for write_store in stores:
        await write_store.close()
    return [Result(f"PG: {each.measure}", *_rest(each)) for each in found]


def _rest(each: Result) -> tuple[object, ...]:
    return tuple(getattr(each, name) for name in each.__struct_fields__[1:])


async def visible_times(dsn: str, read_store: str, times: int) -> list[float]:
    """Milliseconds from sending each of so many commands to reading its row."""
    app = bank("/nonexistent", WHOLE, write_store=await fresh_log(dsn), read_store=read_store)
    waits: list[float] = []
    async with app:
        for n in range(times):
            start = time.perf_counter()
            receipt = await app.send(Deposit(f"a-{n % ACCOUNTS}", 1))
            answer = await app.ask(BalanceOf(f"a-{n % ACCOUNTS}"), position=receipt.token)
            assert answer.value is not None
            waits.append((time.perf_counter() - start) * 1_000)
            await asyncio.sleep(0.002)
    return waits


def visible(rounds: int, seconds: float) -> list[Result]:
    """From sending a command to reading its row: milliseconds. The log in PostgreSQL, the row in SQLite."""
    waits: list[float] = []
    with durable_server() as dsn:

        def ours(folder: object) -> float:
            waits.extend(run(visible_times(dsn, f"sqlite:///{folder}/views.db", max(50, int(300 * seconds)))))
            return waits[-1]

        compare(rounds, ours=ours)
    cuts = statistics.quantiles(waits, n=100)
    return [
        Result("PG: command to visible row, p50", cuts[49], 1.0, "1 ms", "ms", less=True),
        Result("PG: command to visible row, p99", cuts[98], 1.0, "1 ms", "ms", 10.0, 5.0, less=True),
    ]


def wire(rounds: int, seconds: float) -> list[Result]:
    """Commands over HTTP, durable, with 1, 32 and 256 connections."""
    found: list[Result] = []
    with durable_server() as dsn:
        for callers in (1, 32, 256):
            figures: dict[str, list[float]] = {"ours": [], "bare": []}
            times: list[tuple[float, float]] = []
            for _ in range(rounds):
                bare = measure("bare ASGI", serve_bare, seconds, callers=callers)
                ours = measure("POST /commands", serve_app, seconds, run(fresh_log(dsn)), callers=callers)
                figures["bare"].append(bare.rate)
                figures["ours"].append(ours.rate)
                times.append((ours.p50, ours.p99))
            label = f"PG: POST of a command, {callers} connection{'s' * (callers > 1)}"
            found.append(result(label, figures, "ours", "bare", "/s", must=0.15 if callers == 32 else None))
            found += [
                Result(f"{label}, {name}", statistics.median(column), 1.0, "1 ms", "ms", less=True)
                for name, column in zip(("p50", "p99"), zip(*times, strict=True), strict=True)
            ]
    return found


def memory(rounds: int, seconds: float) -> list[Result]:
    """The memory of a process (MB) that has written and read a log, small and large."""
    large = 1_000_000 if seconds >= 1 else 50_000
    with durable_server() as dsn:
        figures = [run(_memory(dsn, events)) for events in (10_000, large)]
    return [
        Result(f"PG: memory of a process at {large:,} events", figures[1], figures[0], "at 10,000", "MB", less=True)
    ]


async def _memory(dsn: str, events: int) -> float:
    write_store = await filled(await _opened(dsn), events)
    position = 0
    while True:
        page = await write_store.read(ALL_EVENTS, position, 1_000)
        position = page.upto
        if position == page.head:
            break
    await write_store.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
