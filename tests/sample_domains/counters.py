"""A sample domain: counters, whose read model can be compared with a plain fold of the log."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.query_service.view import View

CounterId = Annotated[str, Tag("counter")]


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
