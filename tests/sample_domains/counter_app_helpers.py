"""Apps of the counters over two files, and what tests wait for and compare."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sample_domains.counters import Ignored, Total, Totals, add_up, counters
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.settings import Settings
from twofold.world import World

PATIENCE = 60.0


def app_in(folder: Path, module: Module | None = None, *, world: World | None = None, **settings: Any) -> App:
    """An app over the two databases in `folder`."""
    chosen = Settings(**({"poll_seconds": 0.02} | settings))
    write_store, read_store = f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/views.db"
    return App(module or counters(), write_store=write_store, read_store=read_store, settings=chosen, world=world)


async def until(holds: Callable[[], Any], what: str) -> None:
    """Wait until something holds; AssertionError after a long time."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0)


async def settled(app: App) -> dict[str, Total]:
    """The rows of the read model once it has seen the whole log."""
    running = app._running
    assert running is not None
    head = (await app.log()).head
    await until(lambda: all(worker.position >= head for worker in running.synchronization.workers), "caught up")
    answer = await app.ask(Totals())
    assert answer.position == head
    return {row.counter: row for row in answer.value}


async def folded(app: App, fold: Callable[..., Any] = add_up) -> dict[str, Total]:
    """What the read model must be: a plain fold of the whole log, made here."""
    rows: dict[str, Any] = {}
    running = app._running
    assert running is not None
    for recorded in (await running.write_store.read(ALL_EVENTS)).events:
        event = app.events.decode(recorded)
        if isinstance(event, Ignored):
            continue
        for counter in dict.fromkeys(event.counters):
            rows[counter] = fold(rows.get(counter), event, counter)
    return {counter: row for counter, row in rows.items() if row is not None}
