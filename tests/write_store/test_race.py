"""The race finds every way to check conditions wrongly: a check that cannot fail would prove nothing."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.testing.race import PRIZES, race
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome


class ChangedConditions(MemoryWriteStore):
    """A store that checks other conditions than it was given."""

    def __init__(self, change: Callable[[Append], Append]) -> None:
        super().__init__()
        self._change = change

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        return await super().append([self._change(each) for each in batch])


class CheckedBeforeTheBatch(MemoryWriteStore):
    """A store that checks a whole batch first and writes it then."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        probes = [msgspec.structs.replace(each, events=(), command_id=None) for each in batch]
        checked = await super().append(probes)
        free = [msgspec.structs.replace(each, conditions=()) for each in batch]
        written = iter(
            await super().append([each for each, seen in zip(free, checked, strict=True) if not _failed(seen)])
        )
        return [seen if _failed(seen) else next(written) for seen in checked]


def _failed(outcome: Outcome) -> bool:
    return isinstance(outcome, Exception)


def _items(append: Append, change: Callable[[QueryItem], list[QueryItem]]) -> Append:
    conditions = tuple(
        AppendCondition(EventQuery(tuple(new for item in each.query.items for new in change(item))), each.after)
        for each in append.conditions
    )
    return msgspec.structs.replace(append, conditions=conditions)


def no_conditions(append: Append) -> Append:
    return msgspec.structs.replace(append, conditions=())


def any_tag_instead_of_all(append: Append) -> Append:
    return _items(append, lambda item: [QueryItem(item.types, (tag,)) for tag in item.tags] or [item])


def tags_only(append: Append) -> Append:
    return _items(append, lambda item: [QueryItem((), item.tags)])


def types_only(append: Append) -> Append:
    return _items(append, lambda item: [QueryItem(item.types)])


def tagged_items_only(append: Append) -> Append:
    return _items(append, lambda item: [item] if item.tags else [])


@pytest.mark.parametrize("prize", PRIZES)
@pytest.mark.parametrize("in_one_batch", [False, True])
async def test_a_store_that_drops_conditions_loses_the_race(prize: str, in_one_batch: bool) -> None:
    with pytest.raises(AssertionError, match="64 of 64 racers won"):
        await race(ChangedConditions(no_conditions), PRIZES[prize], racers=64, rounds=1, in_one_batch=in_one_batch)


@pytest.mark.parametrize(
    ("change", "prize"),
    [
        (any_tag_instead_of_all, "two tags at once"),
        (tags_only, "one tag"),
        (types_only, "one tag"),
        (types_only, "two tags at once"),
        (tagged_items_only, "a type alone"),
    ],
)
async def test_a_store_that_reads_queries_wrongly_loses_the_race(
    change: Callable[[Append], Append], prize: str
) -> None:
    with pytest.raises(AssertionError, match="racers won, not one"):
        await race(ChangedConditions(change), PRIZES[prize], racers=4, rounds=1, in_one_batch=False)


@pytest.mark.parametrize("prize", PRIZES)
async def test_a_store_that_checks_a_batch_as_a_whole_loses_the_race_in_one_batch(prize: str) -> None:
    with pytest.raises(AssertionError, match="racers won, not one"):
        await race(CheckedBeforeTheBatch(), PRIZES[prize], racers=8, rounds=1, in_one_batch=True)


async def test_a_store_that_keeps_its_promises_wins() -> None:
    for prize in PRIZES.values():
        await race(MemoryWriteStore(), prize, racers=8, rounds=3, in_one_batch=True)
