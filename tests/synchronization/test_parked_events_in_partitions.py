"""Each partition has its own record of an event that nobody can tell the keys of, also after a split or a merge."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, Ended, TotalOf, add_up, all_totals, count, total_of
from tests.synchronization.parking_helpers import caught_up, folded, parked, rows
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.read_store.partition import WHOLE, ParkedEvent, Partition, parked_event, slot_of

KEYS = [f"c{n}" for n in range(12)]

pytestmark = pytest.mark.usefixtures("unlogged")


def module(bad: set[int], **given: Any) -> Module:
    """The counters. The key of an event with one of the `bad` amounts cannot be told."""

    def keys(event: Counted | Ended) -> list[str]:
        if isinstance(event, Counted) and event.by in bad:
            raise LookupError("no key today")
        return event.counters

    return Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", add_up, key=keys, **given)],
        queries=[total_of, all_totals],
    )


@pytest.mark.parametrize(
    ("name", "event"),
    [("parked:42", ParkedEvent(42, WHOLE)), ("parked:1/2048-4096", ParkedEvent(1, Partition(2048, 4096)))],
)
def test_the_name_of_a_parked_event_says_its_position_and_its_partition(name: str, event: ParkedEvent) -> None:
    assert parked_event(name) == event
    assert event.key == name
    assert slot_of(name) == event.partition.first


@pytest.mark.parametrize(
    "key", ["parked:", "parked:0", "parked:01", "parked:4x", "parked:4/9-5", "xparked:4", "parked:\u0664"]
)
def test_any_other_text_is_a_key(key: str) -> None:
    assert parked_event(key) is None


@pytest.mark.parametrize("seed", range(6))
async def test_wherever_such_events_are_all_rows_are_right_after_a_retry_or_a_skip(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    amounts = [n + 100 for n in range(30)]
    bad = set(random.sample(amounts, 3))
    async with app_in(tmp_path, module(bad, partitions=random.choice((1, 2))), fold_retries=0) as app:
        for by in amounts[:20]:
            await app.send(Count(random.sample(KEYS, 3), by))
        await until(lambda: caught_up(app), "caught up")
        for _ in range(2):
            action = await app.projections.split("totals", await largest(app))
            assert action.done, action.outcome
            await until(lambda: caught_up(app), "followed again")
        for by in amounts[20:]:
            await app.send(Count(random.sample(KEYS, 3), by))
        await until(lambda: caught_up(app), "caught up")
        if random.random() < 0.5:
            first = (await app.status()).followers[0].partitions[0].partition
            assert (await app.projections.merge("totals", first)).done
            await until(lambda: caught_up(app), "merged")
        events = {event.position for key in await parked(app) if (event := parked_event(key))}
        assert len(events) == 3
        await every_partition_has_a_record_of_each(app, events)
        skipped = random.choice(sorted(events))
        assert (await app.projections.skip("totals", f"parked:{skipped}")).done
        await until(lambda: no_record_of(app, skipped), "skipped in every partition")
        bad.clear()
        for key in await parked(app):
            assert (await app.projections.retry("totals", key)).outcome == "It is up to date."
        assert not await parked(app)
        assert await rows(app) == await folded(app, {(key, skipped) for key in KEYS})


async def largest(app: App) -> str:
    partitions = [each.partition for each in (await app.status()).followers[0].partitions]
    return max(partitions, key=lambda name: int(name.partition("-")[2]) - int(name.partition("-")[0]))


async def every_partition_has_a_record_of_each(app: App, positions: set[int]) -> None:
    events = [event for key in await parked(app) if (event := parked_event(key))]
    for position in positions:
        slots = [slot for e in events if e.position == position for slot in range(e.partition.first, e.partition.end)]
        assert sorted(slots) == list(range(WHOLE.end))


async def no_record_of(app: App, position: int) -> bool:
    return all((event := parked_event(key)) is None or event.position != position for key in await parked(app))


async def test_only_rows_of_partitions_that_lack_the_event_are_refused(tmp_path: Path) -> None:
    bad = {13}
    async with app_in(tmp_path, module(bad, partitions=2), fold_retries=0) as app:
        for by in (1, 13):
            receipt = await app.send(Count(KEYS, by))
        await until(lambda: caught_up(app), "caught up")
        assert list(await parked(app)) == ["parked:2/0-2048", "parked:2/2048-4096"]
        bad.clear()
        assert (await app.projections.retry("totals", "parked:2/2048-4096")).outcome == "It is up to date."
        for key in KEYS:
            if slot_of(key) >= 2048:
                answer = await app.ask(TotalOf(key), position=receipt.token)
                assert answer.value.total == 14
            else:
                with pytest.raises(Unavailable, match="The event at 2 is parked"):
                    await app.ask(TotalOf(key), position=receipt.token)
