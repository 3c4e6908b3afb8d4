"""A projection of the counters whose fold fails for some amounts of one key, and what its tests compare."""

from collections.abc import Mapping
from random import Random
from typing import Any

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    Totals,
    add_up,
    all_totals,
    count,
    total_of,
)
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.health import FollowerStatus

HOT = "hot"


KEYS = [HOT, *(f"c{n}" for n in range(8))]


Skipped = set[tuple[str, int]]


class Poison:
    """A fold that cannot take some amounts on the hot key, until they are mended."""

    def __init__(self, amounts: set[int]) -> None:
        self.amounts = amounts

    def fold(self, row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if counter == HOT and isinstance(event, Counted) and event.by in self.amounts:
            raise ArithmeticError(f"{event.by} cannot be taken")
        return add_up(row, event, counter)


def module(poison: Poison, **given: Any) -> Module:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        return poison.fold(row, event, counter)

    return Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId, **given)],
        queries=[total_of, all_totals],
    )


async def status_of(app: App) -> FollowerStatus:
    (only,) = (await app.status()).followers
    return only


async def caught_up(app: App) -> bool:
    return not (await status_of(app)).lag


async def sent(app: App, *amounts: int) -> None:
    """Events on the hot key, followed as far as they can be."""
    for by in amounts:
        await app.send(Count([HOT], by))
    await until(lambda: caught_up(app), "caught up")


async def parked(app: App) -> dict[str, tuple[int, int]]:
    """Position and number of waiting events, by key."""
    return {each.key: (each.position, each.waiting) for each in (await status_of(app)).parked}


async def rows(app: App) -> dict[str, Total]:
    return {row.counter: row for row in (await app.ask(Totals())).value}


async def folded(app: App, skipped: Skipped, upto: Mapping[str, int] | None = None) -> dict[str, Total]:
    """A plain fold of the log, made here: without what was skipped, of some keys only up to before a position."""
    made: dict[str, Total | None] = {}
    for recorded in (await app.log(limit=10_000)).events:
        event = app.events.decode(recorded)
        for counter in dict.fromkeys(event.counters):
            before = upto is None or counter not in upto or recorded.position < upto[counter]
            if before and (counter, recorded.position) not in skipped:
                made[counter] = add_up(made.get(counter), event, counter)
    return {counter: row for counter, row in made.items() if row is not None}


async def happen(app: App, random: Random, amounts: list[int]) -> None:
    """One event on the hot key for each amount, among and together with others."""
    for by in amounts:
        await app.send(Count([HOT, *random.sample(KEYS[1:], random.randint(0, 2))], by))
        for _ in range(random.randint(0, 2)):
            await app.send(Count(random.sample(KEYS[1:], random.randint(1, 3)), random.randint(0, 9)))


async def serves(app: App, generation: int) -> bool:
    return (await status_of(app)).generation == generation


async def nothing_parked(app: App) -> bool:
    return not await parked(app)


async def builds(app: App, parked: int) -> bool:
    return [build.parked_count for build in (await app.status()).builds] == [parked]


def spoil(app: App, key: str) -> None:
    """Let the row of a key be no JSON, behind everybody's back."""
    read_store: Any = app._running.read_store  # type: ignore[union-attr]
    (table,) = read_store._tables.values()
    assert read_store._connection.execute(
        f"update {table.name} set row = 'no JSON' where key = ? returning 1", (key,)
    ).get
