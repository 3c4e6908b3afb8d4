"""A follower of a generated log on Cassandra, whose saves can be interrupted, or delayed, at any statement.

Run as a program it follows in its own process, to the end or until it kills itself during a save.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import Any
from unittest.mock import patch

from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.cassandra.connection import CassandraConnection
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Change, ReadModel, ReadStore, VersionedRow
from twofold.testing.read_store_rows import LOG, Order, find

MODEL = ReadModel("moves", 1, Order, (("customer",), ("customer", "note")), ("total",))
Event = tuple[str, Order | None]
Log = Sequence[Event]
"""Each event: a key, and its row after the event."""


class Interrupted(Exception):
    """What an interrupted save ends with."""


class Interruption:
    """Lets a save run `after` statements; then the save fails or, if `waits`, hangs until `release`."""

    def __init__(self, after: int, *, waits: bool = False) -> None:
        self.reached = asyncio.Event()
        self._left = after
        self._released = asyncio.Event()
        self._waits = waits

    def release(self) -> None:
        self._released.set()

    async def at_a_statement(self) -> None:
        self._left -= 1
        if self._left >= 0:
            return
        self.reached.set()
        if not self._waits:
            raise Interrupted
        await self._released.wait()


_interruption: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


def make_interruptible(store: CassandraReadStore) -> None:
    ask = store._connection._execute

    async def asked(*statement: Any, **options: Any) -> Any:
        if interruption := _interruption.get():
            await interruption.at_a_statement()
        return await ask(*statement, **options)

    store._connection._execute = asked  # type: ignore[method-assign]


async def start_save(store: ReadStore, change: Change, interruption: Interruption) -> "asyncio.Task[None]":
    """A save that has reached its interruption, or its end."""

    async def save() -> None:
        _interruption.set(interruption)
        await store.save(change)

    saving = asyncio.create_task(save())
    reached = asyncio.create_task(interruption.reached.wait())
    await asyncio.wait([saving, reached], return_when=asyncio.FIRST_COMPLETED)
    if not interruption._waits:
        await asyncio.wait([saving])
    reached.cancel()
    return saving


async def change_of(store: ReadStore, model: ReadModel, log: Log, page: int) -> Change | None:
    """What a follower saves next, having folded a page of the log; None at its end."""
    async with store.snapshot() as snapshot:
        before = (await snapshot.progress(model)).position
    upto = min(before + page, len(log))
    if upto == before:
        return None
    events = list(enumerate(log[before:upto], before + 1))
    known = await store.load(model, [key for _, (key, _) in events])
    changed: dict[str, VersionedRow] = {}
    for position, (key, row) in events:
        kept = changed.get(key) or known.get(key) or VersionedRow(None, 0)
        if position > kept.position:
            previous_rows = (*kept.previous_rows, kept.row) if kept.row is not None else kept.previous_rows
            changed[key] = VersionedRow(row, position, kept.repair, previous_rows)
    return Change(model, LOG, before, upto, 0, changed)


async def follow(
    store: ReadStore, model: ReadModel, log: Log, page: int, tell: Callable[[int], None] = lambda position: None
) -> None:
    """Follow a log to its end, and report each position that is reached."""
    while change := await change_of(store, model, log, page):
        await store.save(change)
        tell(change.position)


async def answers(store: ReadStore, model: ReadModel, log: Log) -> dict[Any, Any]:
    """All that can be read of a model that followed the log: rows by key, and every find."""
    rows = [row for _, row in log if row is not None]
    filters: list[dict[str, Any]] = [{}]
    filters += [{"customer": customer} for customer in {row.customer for row in rows}]
    filters += [{"customer": each[0], "note": each[1]} for each in {(row.customer, row.note) for row in rows}]
    found: dict[Any, Any] = {}
    for each in filters:
        for order in (None, "total"):
            for descending in (False, True):
                question = (tuple(each.items()), order, descending)
                found[question] = (await find(store, model, each, order_by=order, descending=descending)).rows
    kept = await store.load(model, list(dict.fromkeys(key for key, _ in log)))
    return found | {key: each.row for key, each in kept.items() if each.row is not None}


async def expected(model: ReadModel, log: Log) -> dict[Any, Any]:
    """The answers of a store without faults."""
    memory = MemoryReadStore()
    await memory.prepare([model])
    await follow(memory, model, log, 1)
    return await answers(memory, model, log)


def made_up(events: int) -> list[Event]:
    """A log in which rows move, stay, are deleted and return."""
    log: list[Event] = []
    for n in range(events):
        row = None if n % 7 == 6 else Order(f"c{n % 5}", n % 11, None if n % 3 else "x")
        log.append((f"k{n * n % 13}", row))
    return log


async def _die_at(url: str, log: Log, page: int, step: str, statements: int) -> None:
    """Follow, and be killed in one step of the second save, after so many of its statements."""
    steps = {"finds": 1, "moves": 2, "rows": 3, "checkpoint": 4}
    run, decide = CassandraConnection.run, CassandraConnection.decide
    at = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def run_or_die(self: CassandraConnection, waiting: Iterable[Any]) -> Any:
        nonlocal at
        at += 1
        if at != steps[step]:
            return await run(self, waiting)
        await run(self, list(islice(waiting, statements)))
        die()

    async def decide_or_die(self: CassandraConnection, statement: Any) -> bool:
        die()
        return await decide(self, statement)

    store = await CassandraReadStore.open(url)
    await store.prepare([MODEL])
    first = await change_of(store, MODEL, log, page)
    assert first is not None
    await store.save(first)
    second = await change_of(store, MODEL, log, page)
    assert second is not None
    with (
        patch.object(CassandraConnection, "run", run_or_die),
        patch.object(CassandraConnection, "decide", decide_or_die),
    ):
        await store.save(second)


async def _to_the_end(url: str, log: Log, page: int) -> None:
    store = await CassandraReadStore.open(url, patience=60.0)
    await store.prepare([MODEL])
    await follow(store, MODEL, log, page, lambda position: print(position, flush=True))  # noqa: T201
    await store.close()


if __name__ == "__main__":
    url, events, page, *death = sys.argv[1:]
    if death:
        step, statements = death
        asyncio.run(_die_at(url, made_up(int(events)), int(page), step, int(statements)))
    else:
        asyncio.run(_to_the_end(url, made_up(int(events)), int(page)))
