"""The race: many callers that have seen the same events append to one boundary, and exactly one may win."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.domain.events import NewEvent, Position
from twofold.errors import Conflict
from twofold.write_store.port import Append, Appended, Outcome, WriteStore

TAKEN = "seat-taken"


class Prize(NamedTuple):
    """What the racers compete for. In every tag `{}` stands for the number of the round.

    The event that takes it is a TAKEN with `tags`. The boundary of a racer is every TAKEN with the tags in `boundary`.
    The events `beside` are written after all racers have read. They are outside the boundary and must not stop a racer
    from winning.
    """

    tags: tuple[str, ...]
    boundary: tuple[str, ...]
    beside: tuple[tuple[str, tuple[str, ...]], ...]

    def query(self, number: int) -> EventQuery:
        """The boundary of one round."""
        return EventQuery((QueryItem((TAKEN,), _filled(self.boundary, number)),))


PRIZES = {
    "one tag": Prize(("seat:{}",), ("seat:{}",), ((TAKEN, ("seat:{}-beside",)), ("seat-cleaned", ("seat:{}",)))),
    "a type alone": Prize(("seat:{}",), (), (("seat-cleaned", ("seat:{}",)),)),
    "two tags at once": Prize(
        ("guest:{}", "show:{}"), ("show:{}", "guest:{}"), ((TAKEN, ("show:{}",)), (TAKEN, ("guest:{}",)))
    ),
}


async def race(store: WriteStore, prize: Prize, *, racers: int, rounds: int, in_one_batch: bool) -> None:
    """AssertionError unless in every round one racer wins, all others get Conflict, and one event is written."""
    after = 0
    for number in range(rounds):
        query = prize.query(number)
        # A barrier: every racer has read before the first one appends.
        seen = await asyncio.gather(*(store.read(query, after) for _ in range(racers)))
        await _write_beside(store, prize, number)
        appends = [_append(prize, number, racer, found.upto) for racer, found in enumerate(seen)]
        outcomes = await _append_all(store, appends, in_one_batch)
        await _check(store, prize, number, seen[0].upto, outcomes)
        after = seen[0].upto


async def _append_all(store: WriteStore, appends: Sequence[Append], in_one_batch: bool) -> list[Outcome]:
    if in_one_batch:
        return await store.append(appends)
    return [outcome for (outcome,) in await asyncio.gather(*(store.append([each]) for each in appends))]


async def _write_beside(store: WriteStore, prize: Prize, number: int) -> None:
    events = [
        NewEvent(f"beside-{number}.{i}", type, 1, _filled(tags, number), b"{}")
        for i, (type, tags) in enumerate(prize.beside)
    ]
    await store.append([Append(_metadata(f"beside-{number}"), tuple(events))])


def _append(prize: Prize, number: int, racer: int, after: Position) -> Append:
    command_id = f"round-{number}-racer-{racer}"
    event = NewEvent(f"{command_id}.0", TAKEN, 1, _filled(prize.tags, number), b"{}")
    condition = AppendCondition(prize.query(number), after)
    return Append(_metadata(command_id), (event,), (condition,), command_id, b"take")


def _filled(tags: Sequence[str], number: int) -> tuple[str, ...]:
    return tuple(tag.format(number) for tag in tags)


def _metadata(command_id: str) -> Metadata:
    return Metadata(0, command_id, command_id)


async def _check(store: WriteStore, prize: Prize, number: int, seen: Position, outcomes: Sequence[Outcome]) -> None:
    winners = [racer for racer, outcome in enumerate(outcomes) if isinstance(outcome, Appended)]
    losers = sum(isinstance(outcome, Conflict) for outcome in outcomes)
    assert len(winners) == 1, f"round {number}: {len(winners)} of {len(outcomes)} racers won, not one"
    assert losers == len(outcomes) - 1, f"round {number}: {losers} got Conflict, not {len(outcomes) - 1}"
    taken = await store.read(prize.query(number), after=seen)
    ids = [event.id for event in taken.events]
    assert ids == [f"round-{number}-racer-{winners[0]}.0"], f"round {number}: the log holds {ids}"
