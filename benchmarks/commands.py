"""Measures the whole command service: decode nothing, load, decide, append, receipt; durable; in process."""

import asyncio
import statistics
import time
from functools import partial
from pathlib import Path

from benchmarks import peers, raw
from benchmarks.bank import HISTORY, WHOLE, BalanceOf, Deposit, bank
from benchmarks.harness import Result, compare, result, run

ACCOUNTS = 320


async def _prepared(folder: Path, callers: int, seconds: float, cached: int, busy: bool) -> tuple[float, float]:
    app = bank(folder, cached_folds=cached)
    async with app:
        await asyncio.gather(*(app.send(Deposit(f"a-{n % ACCOUNTS}", 1)) for n in range(ACCOUNTS * HISTORY)))
        loop = asyncio.create_task(_never_idle()) if busy else None
        before = (await app.status()).head
        commits = _commits(app)
        start = time.perf_counter()
        end = start + seconds

        async def caller(number: int) -> None:
            turn = 0
            while time.perf_counter() < end:
                turn += 1
                await app.send(Deposit(f"a-{(number + turn * callers) % ACCOUNTS}", 1))

        await asyncio.gather(*(caller(number) for number in range(callers)))
        took = time.perf_counter() - start
        done = (await app.status()).head - before
        batch = done / max(1, _commits(app) - commits)
        if loop is not None:
            loop.cancel()
        return done / took, batch


async def _never_idle() -> None:
    while True:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)


def _commits(app: object) -> int:
    """How many batches the log has taken, as it counts them itself."""
    write_store = app._running.write_store.present  # type: ignore[attr-defined]
    return int(write_store._read_connection.execute("select appends from logs").get)


def service(folder: Path, callers: int, seconds: float, cached: int = 100_000, busy: bool = False) -> float:
    """Commands a second."""
    return run(_prepared(folder, callers, seconds, cached, busy))[0]


def batch_of(callers: int, seconds: float) -> int:
    """How many commands share a commit with so many callers."""
    sizes: list[float] = []

    def once(folder: Path) -> float:
        sizes.append(run(_prepared(folder, callers, seconds, 100_000, False))[1])
        return sizes[-1]

    compare(1, ours=once)
    return max(1, round(sizes[0]))


def commands(rounds: int, seconds: float) -> list[Result]:
    """The service against the raw driver and against eventsourcing."""
    found: list[Result] = []
    for callers, must, ambition in ((1, 3.0, 5.0), (32, 15.0, 30.0)):
        batch = batch_of(callers, seconds)
        count = max(20, int(3_000 / batch**0.5))
        figures = compare(
            rounds,
            ours=partial(service, callers=callers, seconds=seconds),
            uncached=partial(service, callers=callers, seconds=seconds, cached=0),
            raw=partial(raw.inserts, batches=count, batch=batch),
            eventsourcing=partial(peers.commands, callers=callers, seconds=seconds),
        )
        label = f"commands, {callers} caller{'s' * (callers > 1)}"
        raw_bars = (0.55, 0.75) if callers == 1 else (None, None)
        found += [
            result(label, figures, "ours", "eventsourcing", "/s", must=must, ambition=ambition),
            result(f"{label}, no cached folds", figures, "uncached", "eventsourcing", "/s"),
            result(
                f"{label}; raw in batches of {batch}",
                figures,
                "ours",
                "raw",
                "/s",
                must=raw_bars[0],
                ambition=raw_bars[1],
            ),
        ]
    figures = compare(
        rounds, many=partial(service, callers=256, seconds=seconds), few=partial(service, callers=32, seconds=seconds)
    )
    found.append(result("commands, 256 callers", figures, "many", "few", "/s"))
    return found


def saturated(rounds: int, seconds: float) -> list[Result]:
    """The same service while something else never lets the event loop rest."""
    figures = compare(
        rounds,
        busy=partial(service, callers=32, seconds=seconds, busy=True),
        idle=partial(service, callers=32, seconds=seconds),
    )
    return [result("commands, 32 callers, saturated loop", figures, "busy", "idle", "/s", must=0.25, ambition=0.4)]


async def _visible(folder: Path, times: int) -> list[float]:
    app = bank(folder, WHOLE)
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
    """From sending a command to reading its row: milliseconds."""
    times = max(50, int(300 * seconds))
    waits = [wait for _ in range(rounds) for wait in compare_visible(times)]
    cuts = statistics.quantiles(waits, n=100)
    return [
        Result("command to visible row, p50", cuts[49], 1.0, "1 ms", "ms", None, None, less=True),
        Result("command to visible row, p99", cuts[98], 1.0, "1 ms", "ms", 10.0, 5.0, less=True),
    ]


def compare_visible(times: int) -> list[float]:
    """Milliseconds of single commands until their row could be read."""
    waits: list[float] = []

    def ours(folder: Path) -> float:
        waits.extend(run(_visible(folder, times)))
        return statistics.median(waits)

    compare(1, ours=ours)
    return waits
