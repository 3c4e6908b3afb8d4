"""Projections to rebuild, and what the tests of rebuilds wait for."""

import asyncio
from pathlib import Path

import msgspec

from tests.sample_domains.counters import (
    Counted,
    CounterId,
    Ended,
    Total,
    add_up,
)
from twofold.app import App
from twofold.errors import Unavailable

ROOT = Path(__file__).parents[2]


class Events(msgspec.Struct, frozen=True):
    """How many events a counter has seen."""

    count: int = 0


class Largest(msgspec.Struct, frozen=True):
    """The largest step of a counter."""

    by: int = 0


def count_events(row: Events | None, event: Counted | Ended) -> Events | None:
    return Events((row.count if row else 0) + 1)


def keep_largest(row: Largest | None, event: Counted) -> Largest | None:
    return Largest(max(event.by, row.by if row else 0))


FOLDS = {"events": count_events, "largest": keep_largest}


async def built(app: App, name: str = "totals") -> bool:
    """Whether a rebuild has caught up with the log."""
    status = await app.status()
    return any(each.name == name and each.state == "building" and each.lag == 0 for each in status.builds)


async def switch(app: App, name: str = "totals") -> int:
    """Switch as soon as it can be: under load the new generation is now and then a moment behind."""
    while True:
        try:
            return await app.projections.switch(name)
        except Unavailable:
            await asyncio.sleep(0)


async def all_at(app: App, position: int) -> bool:
    return all(each.position == position for each in (await app.status()).followers)


async def serves(app: App, generation: int) -> bool:
    return app.models["totals"].generation == generation


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13:
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def caught_up(app: App) -> bool:
    return all(each.lag == 0 for each in (await app.status()).followers)


async def built_one(app: App) -> bool:
    return [each.lag for each in (await app.status()).builds] == [0]
