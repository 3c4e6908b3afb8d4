"""Partitions: every key belongs to exactly one share, the same for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.read_store.partition import SLOTS, WHOLE, Partition, partition_named, same_slots, shares, slot_of


def test_the_slot_of_a_key_never_changes() -> None:
    assert [slot_of(key) for key in ("", "a", "ann", "\U0001f4a5")] == [0, 3651, 627, 2441]


@given(st.text(), st.integers(1, 100))
def test_every_key_is_in_exactly_one_share(key: str, count: int) -> None:
    assert sum(share.holds(key) for share in shares(count)) == 1
    assert same_slots([WHOLE], shares(count))


@given(st.integers(0, SLOTS - 2), st.integers(2, SLOTS))
def test_halves_are_the_whole_and_names_lead_back(first: int, width: int) -> None:
    share = Partition(first, min(SLOTS, first + width))
    assert same_slots([share], share.halves())
    assert partition_named(share.name) == share


def test_a_single_slot_cannot_be_parted() -> None:
    with pytest.raises(ValueError, match="7-8 is a single slot"):
        Partition(7, 8).halves()


@pytest.mark.parametrize("name", ["", "a-b", "3", "5-5", "9-3", "0-5000", "-1-5", "0-٣"])
def test_what_names_no_partition_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a partition"):
        partition_named(name)
