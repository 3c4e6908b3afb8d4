"""Measures the read side on every store: catching up and rebuilding beside the bare drivers, lag, memory."""

import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import raw_read_stores as raw
from benchmarks.bank import WHOLE, BalanceOf, Deposit, bank
from benchmarks.harness import Result, compare, result, run
from benchmarks.peers_postgres import contestant
from benchmarks.postgres import durable_server, visible_times
from tests.servers.cassandra import Cassandra, fresh_keyspace
from tests.servers.mongodb import ReplicaSet, fresh_database, installed
from tests.servers.postgres import fresh_schema
from tests.write_store.postgres_helpers import fresh_log
from twofold import App
from twofold.domain.envelope import Metadata
from twofold.errors import Unavailable
from twofold.write_store.port import Append
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.sqlite import SqliteWriteStore

Raw = Callable[[Path, int, int], float]
Views = Callable[[Path], str]


@contextmanager
def servers(*names: str) -> Iterator[dict[str, tuple[Views, Raw]]]:
    """For each store how to name an empty one, and the bare driver's events a second on the same server."""
    with ExitStack() as stack:
        found: dict[str, tuple[Views, Raw]] = {}
        if "sqlite" in names:
            found["sqlite"] = lambda folder: f"sqlite:///{folder}/views.db", raw.sqlite
        if "postgresql" in names:
            dsn = stack.enter_context(durable_server())
            found["postgresql"] = (
                lambda _: f"{dsn}?schema={fresh_schema()}",
                lambda _, events, keys: run(raw.postgresql(dsn, events, keys)),
            )
        if "mongodb" in names:
            program = installed()
            assert program is not None
            mongo = stack.enter_context(ReplicaSet(program))
            found["mongodb"] = (
                lambda _: mongo.url_of(fresh_database()),
                lambda _, events, keys: run(raw.mongodb(mongo.url, events, keys)),
            )
        if "cassandra" in names:
            node = stack.enter_context(Cassandra(heap="2g"))
            found["cassandra"] = (
                lambda _: node.url(fresh_keyspace()),
                lambda _, events, keys: raw.cassandra(node.port, events, keys),
            )
        yield found


ALL = ("sqlite", "postgresql", "mongodb", "cassandra")


async def fill(folder: Path, events: int, keys: int, log: str | None = None) -> str:
    """The URL of a log with so many deposits: in SQLite, or in the PostgreSQL of a dsn."""
    app = bank(folder, WHOLE)
    url = f"sqlite:///{folder}/log.db" if log is None else await fresh_log(log)
    write_store = SqliteWriteStore(folder / "log.db") if log is None else await PostgresWriteStore.open(url)
    deposited = next(iter(app.wiring.events.values())).type
    for start in range(0, events, 10_000):
        new = tuple(
            app.events.encode(deposited(f"a-{n % keys}", 1), f"c-{n}", 0)
            for n in range(start, min(events, start + 10_000))
        )
        await write_store.append([Append(Metadata(1_700_000_000_000_000, f"c-{start}", f"c-{start}"), new)])
    await write_store.close()
    return url


async def _catch_up(folder: Path, read_store: str, events: int, keys: int, log: str | None = None) -> float:
    write_store = await fill(folder, events, keys, log)
    async with bank(folder, WHOLE, write_store=write_store, read_store=read_store) as app:
        began = time.perf_counter()
        await until(app, events)
        return events / (time.perf_counter() - began)


async def _rebuild(folder: Path, read_store: str, events: int, keys: int) -> float:
    """Positions a second of a rebuild beside the generation that serves, from the request to its switch."""
    write_store = await fill(folder, events, keys)
    async with bank(folder, WHOLE, write_store=write_store, read_store=read_store) as app:
        await until(app, events)
        (name,) = app.models
        began = time.perf_counter()
        await app.projections.rebuild([name])
        await until(app, events, at_least=2)
        await app.projections.switch(name)
        return events / (time.perf_counter() - began)


async def until(app: App, position: int, *, at_least: int = 1) -> None:
    """Wait until what runs, and that is so many followers, has come to a position."""
    running = app._running
    assert running is not None
    service = running.synchronization
    while len(service.workers) < at_least or any(w.position < position for w in service.workers):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def catch_up(rounds: int, seconds: float) -> list[Result]:
    """From 100,000 stored events, a row for each event and a thousand rows."""
    events = 10_000 if seconds < 1 else 100_000
    return _stored("catch-up", _catch_up, rounds, {"a row an event": (events, events), "1,000 rows": (events, 1_000)})


def catch_up_large(rounds: int, seconds: float) -> list[Result]:
    """From 1,000,000 stored events, a row for each; once, since it takes long."""
    events = 20_000 if seconds < 1 else 1_000_000
    return _stored("catch-up", _catch_up, 1, {"a row an event": (events, events)})


def rebuild(rounds: int, seconds: float) -> list[Result]:
    """The same by way of a rebuild."""
    events = 10_000 if seconds < 1 else 100_000
    return _stored("rebuild", _rebuild, rounds, {"a row an event": (events, events), "1,000 rows": (events, 1_000)})


def _stored(what: str, work: Callable[..., Any], rounds: int, sizes: Mapping[str, tuple[int, int]]) -> list[Result]:
    found: list[Result] = []
    with servers(*ALL) as stores:
        for name, (read_store, bare) in stores.items():
            for label, (events, keys) in sizes.items():
                figures = compare(
                    rounds,
                    ours=lambda folder, v=read_store, e=events, k=keys: run(work(folder, v(folder), e, k)),
                    raw=lambda folder, b=bare, e=events, k=keys: b(folder, e, k),
                )
                measure = f"{name}: {what} from {events:,}, {label}"
                found.append(result(measure, figures, "ours", "raw", "ev/s", must=0.6, ambition=0.8))
    return found


def beside_peer(rounds: int, seconds: float) -> list[Result]:
    """Catching up on PostgreSQL with log and rows in one server, and command to row, against `eventsourcing`."""
    events, few = (100_000, 10_000) if seconds >= 1 else (10_000, 1_000)
    found: list[Result] = []
    with durable_server() as dsn:

        def read_store(_: Path) -> str:
            return f"{dsn}?schema={fresh_schema()}"

        for label, share in (("a row an event", 1), ("a row for ten events", 10)):
            figures = compare(
                rounds,
                ours=lambda folder, k=events // share: run(_catch_up(folder, read_store(folder), events, k, log=dsn)),
                eventsourcing=lambda _, k=few // share: contestant("catch-up", dsn, few, k),
            )
            measure = f"PG: catch-up, {label}"
            found.append(result(measure, figures, "ours", "eventsourcing", "ev/s", must=25, ambition=60))
        times = max(50, int(300 * seconds))
        figures = compare(
            rounds,
            ours=lambda folder: statistics.median(run(visible_times(dsn, read_store(folder), times))),
            eventsourcing=lambda _: contestant("visible", dsn, times),
        )
        measure = "PG: command to visible row, p50"
        found.append(result(measure, figures, "ours", "eventsourcing", "ms", must=0.5, ambition=0.3, less=True))
    return found


async def _lag(read_store: str, write_store: str, rate: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds from receipt to visible row, of a sample of commands at a steady rate; and the rate reached.

    Commands come whether those before are done or not, as from many users. What is refused for overload is not counted
    into the rate.
    """
    app = bank("/nonexistent", WHOLE, write_store=write_store, read_store=read_store)
    waits: list[float] = []
    done = 0
    async with app:
        # Every account is known before: this is about lag, not about caches that fill.
        for start in range(0, 5_000, 250):
            await asyncio.gather(*(app.send(Deposit(f"a-{n}", 1)) for n in range(start, start + 250)))
        await app.ask(BalanceOf("a-0"), position=app.token((await app.log(limit=1)).head), timeout=60)
        looking: set[asyncio.Task[None]] = set()

        async def one(number: int) -> None:
            nonlocal done
            try:
                receipt = await app.send(Deposit(f"a-{number % 5_000}", 1))
            except Unavailable:
                return
            done += 1
            if number % 20 == 0:
                began = time.perf_counter()
                with suppress(Unavailable):
                    # One that timed out has waited that long.
                    await app.ask(BalanceOf(f"a-{number % 5_000}"), position=receipt.token, timeout=30)
                waits.append((time.perf_counter() - began) * 1_000)

        began, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            due = int(passed * rate) - sent
            for _ in range(due):
                task = asyncio.create_task(one(sent))
                looking.add(task)
                task.add_done_callback(looking.discard)
                sent += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*looking)
        return waits, done / (time.perf_counter() - began)


def lag(rounds: int, seconds: float) -> list[Result]:
    """At a steady 1,000 and 5,000 commands a second, the log in PostgreSQL."""
    found: list[Result] = []
    with servers(*ALL) as stores, durable_server() as dsn:
        for name, (read_store, _) in stores.items():
            for rate in (1_000, 5_000):
                print(f"{name} at {rate:,}/s …", flush=True)
                found += run(_measure_lag(name, read_store, dsn, rate, max(2.0, 4 * seconds)))
    return found


async def _measure_lag(name: str, read_store: Views, dsn: str, rate: int, seconds: float) -> list[Result]:
    waits, reached = await _lag(
        read_store(Path("/nonexistent")) if name != "sqlite" else "memory:", await fresh_log(dsn), rate, seconds
    )
    cuts = statistics.quantiles(waits, n=100)
    label = f"{name if name != 'sqlite' else 'memory'}: receipt to visible row at {rate:,}/s"
    return [
        Result(f"{label}, p50", cuts[49], 10.0, "10 ms", "ms", less=True),
        Result(f"{label}, p99", cuts[98], 10.0, "10 ms", "ms", less=True),
        Result(f"{label}, rate reached", reached, float(rate), "the rate wanted", "/s"),
    ]


async def _memory(folder: Path, events: int) -> list[float]:
    """Resident megabytes while so many events are followed, at each tenth."""
    write_store = await fill(folder, events, events)
    seen: list[float] = []
    async with bank(folder, WHOLE, write_store=write_store, read_store=f"sqlite:///{folder}/views.db") as app:
        for tenth in range(1, 11):
            await until(app, events * tenth // 10)
            seen.append(_resident())
    return seen


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 1_048_576


def memory(rounds: int, seconds: float) -> list[Result]:
    """Whether memory grows with the log: at the end of a long catch-up against its third tenth."""
    events = 50_000 if seconds < 1 else 1_000_000
    figures = compare(1, run=lambda folder: _last_over_third(run(_memory(folder, events))), flat=lambda _: 1.0)
    return [result(f"memory after {events:,} rows over that after 30 %", figures, "run", "flat", "×", less=True)]


def _last_over_third(seen: list[float]) -> float:
    return seen[-1] / seen[2]
