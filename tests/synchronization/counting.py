"""In charge of a domain of counters whose read models can be compared with a plain fold, and of apps that run it."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.process import Policy
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.query_service.view import View
from twofold.settings import Settings
from twofold.world import World

CounterId = Annotated[str, Tag("counter")]
PATIENCE = 20.0


class Count(msgspec.Struct, frozen=True):
    """Counts on several counters at once; `by` 0 ends them."""

    counters: list[CounterId]
    by: int = 1


class Counted(msgspec.Struct, frozen=True):
    counters: list[CounterId]
    by: int


class Ended(msgspec.Struct, frozen=True):
    counters: list[CounterId]


class Ignored(msgspec.Struct, frozen=True):
    counters: list[CounterId]


class Ignore(msgspec.Struct, frozen=True):
    counters: list[CounterId]


class Total(msgspec.Struct, frozen=True):
    """The read model. Order of events matters to it, so that events out of order show."""

    counter: str
    total: int = 0
    trail: int = 0


class TotalOf(msgspec.Struct, frozen=True):
    counter: str


class Totals(msgspec.Struct, frozen=True):
    pass


def count(command: Count) -> Counted | Ended:
    return Counted(command.counters, command.by) if command.by else Ended(command.counters)


def ignore(command: Ignore) -> Ignored:
    return Ignored(command.counters)


def add_up(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Ended):
        return None
    row = row or Total(counter)
    return Total(counter, row.total + event.by, (row.trail * 31 + event.by) % 1_000_003)


async def total_of(query: TotalOf, totals: View[Total]) -> Total | None:
    return await totals.get(query.counter)


async def all_totals(query: Totals, totals: View[Total]) -> list[Total]:
    return await totals.find()


def counters(
    fold: Callable[..., Any] = add_up,
    key: object = CounterId,
    policies: Iterable[Policy] = (),
    version: int = 1,
    **given: Any,
) -> Module:
    """The module, with another fold, key, policies or accesses where a test wants them."""
    return Module(
        "counters",
        events=[Counted, Ended, Ignored],
        decisions=[count, ignore],
        projections=[Projection("totals", fold, key=key, version=version, **given)],
        queries=[total_of, all_totals],
        policies=list(policies),
    )


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
    await until(lambda: all(worker.position >= head for worker in running.workers), "caught up")
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
