"""Ids and times of the real world."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from twofold.world import RealWorld, microseconds, time_ordered_id
from twofold.write_store.migration import new_log_name

MILLISECONDS = st.integers(0, 2**48 - 1)
RANDOM = st.binary(min_size=10, max_size=10)


@given(MILLISECONDS, RANDOM)
def test_a_new_id_is_a_uuid_of_version_7_that_begins_with_the_time(milliseconds: int, random: bytes) -> None:
    id = UUID(time_ordered_id(milliseconds, random))
    assert (id.version, id.variant) == (7, "specified in RFC 4122")
    assert id.int >> 80 == milliseconds


@given(MILLISECONDS, RANDOM, RANDOM)
def test_ids_differ_where_the_random_bits_differ_that_are_in_them(milliseconds: int, one: bytes, other: bytes) -> None:
    used = (1 << 80) - 1 & ~(0xF << 76 | 3 << 62)
    differ = (int.from_bytes(one) ^ int.from_bytes(other)) & used != 0
    assert (time_ordered_id(milliseconds, one) != time_ordered_id(milliseconds, other)) == differ


@given(MILLISECONDS, MILLISECONDS, RANDOM, RANDOM)
def test_ids_are_in_the_order_of_their_milliseconds(first: int, second: int, one: bytes, other: bytes) -> None:
    if first < second:
        assert time_ordered_id(first, one) < time_ordered_id(second, other)


def test_a_thousand_ids_made_at_once_are_all_different_and_of_now() -> None:
    world = RealWorld()
    before = microseconds(world.now()) // 1000
    ids = [world.new_id() for _ in range(1000)]
    after = microseconds(world.now()) // 1000
    assert len(set(ids)) == 1000
    assert all(before <= UUID(id).int >> 80 <= after for id in ids)


@given(st.datetimes(), st.integers(-23, 23))
def test_a_moment_is_as_many_microseconds_whatever_its_time_zone(naive: datetime, hours: int) -> None:
    moment = naive.replace(
        year=max(2, min(9998, naive.year)), day=min(28, naive.day), tzinfo=timezone(timedelta(hours=hours))
    )
    whole = microseconds(moment)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=whole) == moment


def test_the_names_of_logs_that_are_made_one_after_the_other_are_all_different() -> None:
    assert len({new_log_name("main", RealWorld()) for _ in range(100)}) == 100
