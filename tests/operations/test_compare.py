"""Comparing two generations: differences are reported, and a row that is only ahead is not one."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import pytest

from tests.operations.generation_helpers import Built, Named, Total, log_of
from twofold.errors import UnknownMessage, WiringError
from twofold.operations.compare import Comparison, compare
from twofold.operations.row_differences import FieldDifference
from twofold.operations.row_inspector import just_before
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import shares
from twofold.read_store.port import Checkpoint, Parked, RawRow, ReadStore
from twofold.testing.read_store_rows import HOSTILE
from twofold.world import RealWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import LogIdentity


class Meanwhile(RealWorld):
    """A world in which something happens whenever a task waits, without loss of time."""

    def __init__(self, *happens: Callable[[], Awaitable[object]]) -> None:
        self._happens = list(happens)
        self._passed = 0.0

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        self._passed += seconds
        if self._happens:
            await self._happens.pop(0)()


def counts(found: Comparison) -> dict[str, int]:
    """Everything that is not 0, by name."""
    reported: dict[str, Any] = msgspec.to_builtins(found)
    return {
        name: reported[name]
        for name in reported
        if name not in ("name", "old", "new", "rows", "sample") and reported[name]
    }


async def test_rows_that_differ_are_counted_by_kind_and_shown_with_their_fields(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await log_of(log, 9)
    same = {"a": (Total("a", 1), 3), "\U0001f4a5": (Total("x", 2), 4)}
    await Built(log, read_store, 1).save(9, {**same, "b": (Total("b", 1), 5), "gone": (Total("g"), 7)})
    await Built(log, read_store, 2).save(9, {**same, "b": (Total("b", 2), 5), "come": (Total("c"), 8)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld())
    assert counts(found) == {"equal": 2, "different": 1, "only_old": 1, "only_new": 1}
    assert found.rows == 5
    assert not found.same
    shown = {each.key: each for each in found.sample}
    assert shown.keys() == {"b", "gone", "come"}
    assert (shown["b"].before, shown["b"].after, shown["b"].fields) == (5, 5, {"total": FieldDifference(1, 2)})
    assert (shown["gone"].before, shown["gone"].after) == (7, None)
    assert (shown["come"].before, shown["come"].after) == (None, 8)
    assert shown["come"].fields == {"counter": FieldDifference(after="c"), "total": FieldDifference(after=0)}


async def test_generations_of_different_row_types_are_compared_field_by_field(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await log_of(log, 3)
    await Built(log, read_store, 1).save(3, {"a": (Total("a", 5), 3)})
    await Built(log, read_store, 2, Named).save(3, {"a": (Named("a", "five"), 3)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld())
    (shown,) = found.sample
    assert shown.fields == {
        "total": FieldDifference(before=5),
        "name": FieldDifference(after="five"),
        "label": FieldDifference(after=None),
    }
    assert b'"fields":{"total":{"before":5},"name":{"after":"five"},"label":{"after":null}}' in msgspec.json.encode(
        shown
    )


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, 0), ([1], [1.0])])
async def test_values_that_only_python_takes_for_equal_differ(log: MemoryWriteStore, one: Any, other: Any) -> None:
    class Any_(msgspec.Struct, frozen=True):
        value: Any

    read_store = MemoryReadStore()
    await log_of(log, 1)
    await Built(log, read_store, 1, Any_).save(1, {"a": (Any_(one), 1)})
    await Built(log, read_store, 2, Any_).save(1, {"a": (Any_(other), 1)})
    assert counts(await compare(log, read_store, "totals", 1, 2, RealWorld())) == {"different": 1}


async def test_the_order_of_fields_is_no_difference(log: MemoryWriteStore) -> None:
    class Turned(msgspec.Struct, frozen=True):
        total: int
        counter: str

    read_store = MemoryReadStore()
    await log_of(log, 1)
    await Built(log, read_store, 1).save(1, {"a": (Total("a", 1), 1)})
    await Built(log, read_store, 2, Turned).save(1, {"a": (Turned(1, "a"), 1)})
    assert counts(await compare(log, read_store, "totals", 1, 2, RealWorld())) == {"equal": 1}


@pytest.mark.parametrize("ahead", [1, 2])
async def test_a_row_that_is_only_ahead_is_looked_at_again_until_the_other_side_has_come_as_far(
    log: MemoryWriteStore, read_store: ReadStore, ahead: int
) -> None:
    await log_of(log, 9)
    first, second = Built(log, read_store, ahead), Built(log, read_store, 3 - ahead)
    await first.save(9, {"a": (Total("a", 2), 8), "new": (Total("n"), 7)})
    await second.save(5, {"a": (Total("a", 1), 4), "old": (Total("o"), 5)})
    world = Meanwhile(
        lambda: second.save(6),
        lambda: second.save(9, {"a": (Total("a", 2), 8), "new": (Total("n"), 7), "old": (None, 6)}),
    )
    found = await compare(log, read_store, "totals", 1, 2, world)
    assert counts(found) == {"equal": 2}


@pytest.mark.parametrize("ahead", [1, 2])
async def test_a_row_that_is_ahead_and_other_all_the_same_differs_once_both_have_come_as_far(
    log: MemoryWriteStore, read_store: ReadStore, ahead: int
) -> None:
    await log_of(log, 9)
    first, second = Built(log, read_store, ahead), Built(log, read_store, 3 - ahead)
    await first.save(9, {"a": (Total("a", 2), 8), "new": (Total("n"), 7)})
    await second.save(5, {"a": (Total("a", 1), 4), "old": (Total("o"), 5)})
    world = Meanwhile(lambda: second.save(6), lambda: second.save(9, {"a": (Total("a", 3), 8)}))
    found = await compare(log, read_store, "totals", 1, 2, world)
    lacking = {"only_old": 1, "only_new": 1}
    assert counts(found) == {"different": 1, **lacking}


async def test_rows_of_one_position_that_differ_do_so_for_good_however_far_the_checkpoints_are_apart(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await log_of(log, 9)
    await Built(log, read_store, 1).save(9, {"a": (Total("a", 1), 2)})
    await Built(log, read_store, 2).save(3, {"a": (Total("a", 2), 2)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), patience=0)
    assert counts(found) == {"different": 1}


async def test_a_row_of_a_lower_position_differs_where_its_checkpoint_is_beyond_the_other_row(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    """Two versions may read other events: then it is the checkpoints that tell how far a row counts."""
    await log_of(log, 9)
    await Built(log, read_store, 1).save(9, {"a": (Total("a", 1), 2), "b": (Total("b", 1), 2)})
    await Built(log, read_store, 2).save(9, {"a": (Total("a", 2), 7), "b": (Total("b", 1), 7)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), patience=0)
    assert counts(found) == {"different": 1, "equal": 1}


async def test_what_never_comes_to_one_position_is_undecided_within_the_patience(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await log_of(log, 9)
    await Built(log, read_store, 1).save(9, {"a": (Total("a", 2), 8), "new": (Total("n"), 7), "as": (Total("s"), 2)})
    await Built(log, read_store, 2).save(5, {"a": (Total("a", 1), 4), "old": (Total("o"), 5), "as": (Total("s"), 2)})
    world = Meanwhile()
    found = await compare(log, read_store, "totals", 1, 2, world, patience=3.0)
    assert counts(found) == {"equal": 1, "undecided": 3}
    assert found.same
    assert world.monotonic() == pytest.approx(3.0, abs=0.2)


async def test_no_row_is_taken_for_missing_while_deletes_may_run_ahead_of_their_checkpoint(
    log: MemoryWriteStore,
) -> None:
    """Stores without transactions write rows first: the row is gone, but its checkpoint is before that still."""
    read_store = MemoryReadStore()
    await log_of(log, 9)
    old, new = Built(log, read_store, 1), Built(log, read_store, 2)
    await old.save(5, {"a": (Total("a"), 2)})
    await new.save(5)
    # Both sides are at 5, and the log at 9: what deletes the row may be at 6, written by one of the two already.
    world = Meanwhile(lambda: new.save(9), lambda: old.save(9, {"a": (None, 6)}))
    assert counts(await compare(log, read_store, "totals", 1, 2, world)) == {}
    await Built(log, read_store, 3).save(9, {"a": (Total("a"), 2)})
    assert counts(await compare(log, read_store, "totals", 3, 2, RealWorld(), patience=0)) == {"only_old": 1}


async def test_parked_keys_are_counted_apart(log: MemoryWriteStore, read_store: ReadStore) -> None:
    await log_of(log, 9)
    await Built(log, read_store, 1).save(9, {"a": (Total("a", 1), 3), "b": (Total("b"), 2)})
    await Built(log, read_store, 2).save(
        9, {"a": (Total("a", 0), 1)}, {key: Parked(key, 3, "ValueError: no", 0) for key in ("a", "b")}
    )
    assert counts(await compare(log, read_store, "totals", 1, 2, RealWorld())) == {"parked": 2}


async def test_each_row_counts_as_far_as_its_own_partition(log: MemoryWriteStore, read_store: ReadStore) -> None:
    await log_of(log, 9)
    keys = [f"c{n}" for n in range(12)]
    await Built(log, read_store, 1).save(9, {key: (Total(key, 2), 7) for key in keys})
    parts = shares(2)
    new = Built(log, read_store, 2, partitions=2)
    for at, partition in zip((9, 6), parts, strict=True):
        mine = {key: (Total(key, 1), 5) for key in keys if partition.holds(key)}
        await new.save(at, mine, partition=partition)
    reached = sum(parts[0].holds(key) for key in keys)
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), patience=0)
    assert 0 < reached < 12
    assert counts(found) == {"different": reached, "undecided": 12 - reached}


async def test_the_sample_is_bounded(log: MemoryWriteStore) -> None:
    read_store = MemoryReadStore()
    await log_of(log, 1)
    for number in (1, 2):
        await Built(log, read_store, number).save(1, {f"k{n:03}": (Total("x", number), 1) for n in range(50)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), page=7)
    assert (found.different, [each.key for each in found.sample]) == (50, [f"k{n:03}" for n in range(20)])
    assert len((await compare(log, read_store, "totals", 1, 2, RealWorld(), sample=3)).sample) == 3


async def test_no_more_rows_are_read_at_once_than_a_page(log: MemoryWriteStore) -> None:
    class Watched(MemoryReadStore):
        most = 0

        async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
            found = await super().raw_rows(name, generation, after, limit)
            self.most = max(self.most, len(found))
            return found

    read_store = Watched()
    await log_of(log, 1)
    for number in (1, 2):
        await Built(log, read_store, number).save(1, {f"k{n:03}": (Total("x", n), 1) for n in range(100)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), page=8)
    assert (found.equal, read_store.most) == (100, 8)


async def test_no_more_keys_are_remembered_to_be_looked_at_again_than_two_pages(log: MemoryWriteStore) -> None:
    class Watched(MemoryReadStore):
        looks = most = 0

        async def checkpoints(self) -> list[Checkpoint]:
            self.looks = 0
            return await super().checkpoints()

        async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
            self.looks += 1
            self.most = max(self.most, self.looks)
            return await super().raw_rows(name, generation, after, limit)

    read_store = Watched()
    await log_of(log, 9)
    await Built(log, read_store, 1).save(9, {f"k{n:03}": (Total("x", n), 9) for n in range(100)})
    await Built(log, read_store, 2).save(1, {f"k{n:03}": (Total("x", n), 1) for n in range(100)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), page=8, patience=0)
    assert counts(found) == {"undecided": 100}
    assert read_store.most <= 16


async def test_every_row_is_compared_once_whatever_keys_either_side_has_and_however_it_is_paged(
    read_store: ReadStore, log: MemoryWriteStore
) -> None:
    random = Random(7)
    await log_of(log, 3)
    keys = sorted({*(each for each in HOSTILE if each and len(each) <= 1_024), *(f"k{n}" for n in range(60))})
    rounds = 3 if type(read_store).__name__ == "CassandraReadStore" else 15
    for number in range(1, 2 * rounds, 2):
        sides: list[dict[str, int]] = []
        for generation in (number, number + 1):
            some = {key: random.randint(0, 2) for key in random.sample(keys, random.choice([0, 1, 5, len(keys) // 2]))}
            await Built(log, read_store, generation).save(3, {key: (Total("x", n), 1) for key, n in some.items()})
            sides.append(some)
        old, new = sides
        found = await compare(log, read_store, "totals", number, number + 1, RealWorld(), page=random.randint(1, 9))
        assert found.equal == sum(key in old and old[key] == n for key, n in new.items())
        assert found.different == sum(key in old and old[key] != n for key, n in new.items())
        assert (found.only_old, found.only_new) == (len(old.keys() - new.keys()), len(new.keys() - old.keys()))
        for generation in (number, number + 1):
            await read_store.drop("totals", generation)


async def test_a_key_is_found_again_whatever_its_neighbours_are(log: MemoryWriteStore, read_store: ReadStore) -> None:
    await log_of(log, 9)
    keys = [
        *(each for each in HOSTILE if each and len(each) <= 1_024),
        "a",
        "a\x00",
        "a\x00b",
        "b",
        "\ue000",
        "\U00010000",
    ]
    keys += [f"a{each}" for each in keys if len(each) < 1_000]
    old, new = Built(log, read_store, 1), Built(log, read_store, 2)
    await old.save(5, {key: (Total("x", 1), 5) for key in keys})
    await new.save(9, {key: (Total("x", 2), 9) for key in keys})
    world = Meanwhile(lambda: old.save(9, {key: (Total("x", 2), 9) for key in keys}))
    found = await compare(log, read_store, "totals", 1, 2, world)
    assert counts(found) == {"equal": len(set(keys))}


def test_what_is_just_before_a_key_is_before_it_and_is_text_of_a_length_that_keys_may_have() -> None:
    for key in ["a", "\x00", "a\x00", "\ue000", "\U0010ffff", "x" * 1_024, "\x01"]:
        before = just_before(key)
        assert before < key
        assert before.encode() < key.encode()
        assert len(before) <= 1_024
    # A search for the key from there on does not pass the keys that begin with the letter before.
    assert just_before("ab") > "aa" + "z" * 1_000


async def test_a_generation_that_is_not_there_or_of_another_log_is_refused(
    log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await log_of(log, 3)
    await Built(log, read_store, 1).save(3)
    with pytest.raises(UnknownMessage, match="no generation 2 of 'totals'"):
        await compare(log, read_store, "totals", 1, 2, RealWorld())
    await Built(log, read_store, 2).save(3)
    with pytest.raises(WiringError, match="Correct the URLs of the stores, or restore the log"):
        other = MemoryWriteStore()
        other.identity = LogIdentity("another", 1)
        await compare(other, read_store, "totals", 1, 2, RealWorld())
