"""The first command after a restart on a boundary with a long history, with and without a snapshot."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.bank import Deposit, Deposited, bank
from benchmarks.harness import Contestant, Result, compare, result, run
from benchmarks.postgres import durable_server
from tests.write_store.postgres_helpers import fresh_log
from twofold import Event, Metadata, Settings
from twofold.codec import EventCodec
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store.port import Append

_PAGE = 5_000
_SNAPSHOTS = 1_000


class FirstCommand(NamedTuple):
    """Milliseconds until it was answered, and of processor time the longest for which other tasks had no turn."""

    answered: float
    longest_block: float


async def _fill(write_store: str, events: int) -> None:
    """An account with so many deposits, and one more command after which a snapshot of it is stored."""
    store = await open_write_store(write_store, Settings(), RealWorld())
    codec = EventCodec([Event(Deposited)])
    for first in range(0, events, _PAGE):
        many = [codec.encode(Deposited("long", 1), f"f-{n}", 0) for n in range(first, min(events, first + _PAGE))]
        await store.append([Append(Metadata(1, "fill", "fill"), tuple(many))])
    await store.close()
    async with bank(None, write_store=write_store, read_store="memory:", snapshot_events=_SNAPSHOTS) as app:
        await app.send(Deposit("long", 1))


async def _first(write_store: str, snapshot_events: int) -> FirstCommand:
    async with bank(None, write_store=write_store, read_store="memory:", snapshot_events=snapshot_events) as app:
        # Not the commit of the first command of all, nor what a process does once.
        for _ in range(5):
            await app.send(Deposit("other", 1))
        blocks: list[float] = []
        ticker = asyncio.create_task(_tick(blocks))
        await asyncio.sleep(0.01)
        blocks.clear()
        start = time.perf_counter()
        await app.send(Deposit("long", 1))
        answered = time.perf_counter() - start
        ticker.cancel()
        return FirstCommand(answered * 1_000, max(blocks) * 1_000)


async def _tick(blocks: list[float]) -> None:
    """The processor time between two turns of this task, again and again: others may keep the machine busy."""
    last = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now = time.thread_time()
        blocks.append(now - last)
        last = now


def _measured(name: str, rounds: int, write_store: str, events: int) -> list[Result]:
    run(_fill(write_store, events))
    blocks: dict[str, list[float]] = {"snapshot": [], "no snapshot": []}

    def first(kind: str, snapshot_events: int) -> Contestant:
        def measure(_: Path) -> float:
            command = run(_first(write_store, snapshot_events))
            blocks[kind].append(command.longest_block)
            return command.answered

        return measure

    contestants = {"snapshot": first("snapshot", _SNAPSHOTS), "no snapshot": first("no snapshot", 0)}
    answered = compare(rounds * 3, **contestants)
    label = f"{name}: first command on {events:,} events"
    return [
        result(label, answered, "snapshot", "no snapshot", "ms", less=True),
        result(f"{label}, longest block", blocks, "snapshot", "no snapshot", "ms", less=True),
    ]


def long_boundary(rounds: int, seconds: float) -> list[Result]:
    """On SQLite and PostgreSQL; the app is started again for each figure."""
    events = 100_000 if seconds >= 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        found = _measured("SQLite", rounds, f"sqlite:///{folder}/log.db", events)
    with durable_server() as dsn:
        return [*found, *_measured("PG", rounds, run(fresh_log(dsn)), events)]
