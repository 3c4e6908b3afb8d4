"""A summary of parked keys is the same, however the keys came to be parked and however they are divided."""

from random import Random

import pytest

from twofold.read_store.parked_summary import (
    MAX_PARKED_SHOWN,
    NOTHING_PARKED,
    ParkedNames,
    ParkedSummary,
    merged_summary,
    stored_summary,
    summaries_by_partition,
    summary_of,
    summary_stored,
)
from twofold.read_store.partition import WHOLE, ParkedEvent, Partition, shares

NAMES = [
    *(f"k{n}" for n in range(60)),
    "parked:",
    "parked:x",
    "a\x00b",
    "\U0001f4a5",
    *(ParkedEvent(position, WHOLE).key for position in (2, 10, 9)),
    *(ParkedEvent(position, Partition(0, 2_048)).key for position in (7, 70)),
]


@pytest.mark.parametrize("seed", range(20))
def test_changes_one_after_another_give_the_summary_of_what_is_parked_then(seed: int) -> None:
    random = Random(seed)
    names, parked = ParkedNames(), set[str]()
    for _ in range(50):
        changes = {name: random.choice([None, "parked"]) for name in random.sample(NAMES, random.randint(0, 12))}
        before = names.summary
        known, names = names, names.changed(changes)
        parked = {name for name in NAMES if changes.get(name, "parked" if name in parked else None)}
        assert names.summary == summary_of(parked)
        assert names.summary.count == len(parked)
        assert known.summary == before, "the names before the change are those that are saved if this save fails"
        assert summary_stored(stored_summary(names.summary)) == names.summary
        parts = summaries_by_partition(parked, shares(random.randint(1, 5)))
        assert merged_summary(parts.values()).first == names.summary.first
        assert merged_summary(parts.values()).count == len(parked)


def test_events_come_first_and_the_earliest_of_each_partition_is_named() -> None:
    summary = summary_of(NAMES)
    assert summary.first[:5] == ("parked:10", "parked:2", "parked:7/0-2048", "parked:70/0-2048", "parked:9")
    assert len(summary.first) == MAX_PARKED_SHOWN
    assert not summary.complete
    assert summary.events == ("parked:2", "parked:7/0-2048")


def test_a_change_that_parks_and_unparks_nothing_is_none() -> None:
    names = ParkedNames(["a", "b"])
    assert names.changed({"a": "waits longer", "c": None}) is names


def test_a_key_of_several_read_models_counts_once_if_all_are_named() -> None:
    assert merged_summary([ParkedSummary(1, ("a",)), ParkedSummary(2, ("a", "b"))]) == ParkedSummary(2, ("a", "b"))
    assert merged_summary([NOTHING_PARKED, NOTHING_PARKED]) == NOTHING_PARKED
    many = summary_of(f"k{n:02}" for n in range(30))
    assert merged_summary([many, many]).count == 60
