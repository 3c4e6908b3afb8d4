"""The part of the write store contract about appends that rest on appends before them in the same batch."""

import pytest

from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery
from twofold.testing.write_store_model import append, event, everything, kinds, put, query
from twofold.testing.write_store_rows import RowsContract
from twofold.write_store.port import Append, Appended, RowGuard, RowWrite

BOUNDARIES = {
    "a type and a tag": query((["a"], ["n:1"])),
    "a type": query((["a"], [])),
    "a tag": query(([], ["n:1"])),
    "two tags": query((["a"], ["m:1", "n:1"])),
    "two items": query((["a"], ["n:1"]), (["b"], ["n:2"])),
    "all events": ALL_EVENTS,
}


def on(boundary: EventQuery, *, after: int = 0, rests_on: tuple[int, ...] | None = (), events: int = 1) -> Append:
    """An append of events of every boundary above, decided on this one."""
    written = [event("a", tags=["m:1", "n:1"])] * events
    return append(*written, conditions=[AppendCondition(boundary, after)], rests_on=rests_on)


class TurnsContract(RowsContract):
    """Part of `WriteStoreContract`."""

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    async def test_what_an_append_rests_on_does_not_break_its_conditions(self, boundary: str) -> None:
        selected = BOUNDARIES[boundary]
        async with self.opened() as store:
            await put(store, event("a", tags=["m:1", "n:1"]))
            batch = [
                on(selected, after=1),
                on(selected, after=1, rests_on=(0,)),
                on(selected, after=1, rests_on=(0, 1)),
            ]
            assert kinds(await store.append(batch)) == [2, 3, 4]
            alone = [on(selected, after=4), on(selected, after=4, rests_on=None)]
            assert kinds(await store.append(alone)) == [5, "Conflict"]

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    async def test_an_event_from_before_the_batch_breaks_the_conditions_of_appends_in_turn(self, boundary: str) -> None:
        selected = BOUNDARIES[boundary]
        async with self.opened() as store:
            await put(store, event("a", tags=["m:1", "n:1"]))
            await put(store, event("a", tags=["m:1", "n:1"]))
            # The second one writes to the boundary of the third without depending on it.
            batch = [
                on(selected, after=1),
                append(event("a", tags=["m:1", "n:1"])),
                on(selected, after=1, rests_on=(1,)),
            ]
            assert kinds(await store.append(batch)) == ["Conflict", 3, "Conflict"]

    async def test_what_rests_on_a_refused_append_is_refused_and_what_rests_on_that_too(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            refused = append(event("b"), conditions=[AppendCondition(ALL_EVENTS, 0)], rests_on=())
            batch = [
                refused,
                append(event("c"), rests_on=()),
                append(event("d"), rests_on=(0,)),
                append(event("e"), rests_on=(1,)),
                append(event("f"), rests_on=(1, 2)),
                append(event("g"), rests_on=(3,)),
                append(rests_on=(4,)),
            ]
            assert kinds(await store.append(batch)) == ["Conflict", 2, "Conflict", 3, "Conflict", 4, "Conflict"]
            assert [e.type for e in await everything(store)] == ["a", "c", "e", "g"]

    async def test_what_rests_on_a_repeated_command_is_refused(self) -> None:
        async with self.opened() as store:
            await store.append([append(event("a"), command_id="c-1")])
            batch = [
                append(event("b"), command_id="c-1", rests_on=()),
                append(event("c"), command_id="c-2", rests_on=(0,)),
                append(event("d"), command_id="c-3", rests_on=()),
            ]
            first, second, third = await store.append(batch)
            assert isinstance(first, Appended)
            assert (first.position, first.repeated) == (1, True)
            assert kinds([second, third]) == ["Conflict", 2]
            assert (await store.newer([], "c-2"))[1] is None
            assert [e.type for e in await everything(store)] == ["a", "d"]

    async def test_a_command_id_may_come_twice_among_appends_in_turn(self) -> None:
        async with self.opened() as store:
            batch = [
                append(event("a"), command_id="c-1", rests_on=()),
                append(event("b"), command_id="c-1", rests_on=(0,)),
                append(event("c"), command_id="c-2", rests_on=(1,)),
            ]
            first, again, third = await store.append(batch)
            assert isinstance(again, Appended)
            assert (kinds([first]), again.position, again.repeated) == ([1], 1, True)
            assert kinds([third]) == ["Conflict"]
            assert [e.type for e in await everything(store)] == ["a"]

    async def test_rows_are_written_in_turn_too(self) -> None:
        async with self.opened() as store:
            batch = [
                append(event("a"), rows=[RowWrite("s", "k", b"1", 0, 11)], rests_on=()),
                append(event("b"), rows=[RowWrite("s", "k", b"2", 11, 22)], rests_on=(0,)),
                append(event("c"), rows=[RowWrite("s", "k", b"3", 11, 33)], rests_on=(0,)),
                append(event("d"), rests_on=(2,)),
                append(event("e"), rows=[RowWrite("s", "k", b"4", 22, 44)], rests_on=(1,)),
            ]
            assert kinds(await store.append(batch)) == [1, 2, "Conflict", "Conflict", 3]
            assert {key: row.value for key, row in (await store.rows("s")).items()} == {"k": b"4"}

    async def test_what_a_store_writes_in_several_parts_rests_on_no_other_part(self) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            batch = [
                append(event("a"), rests_on=(), guards=[RowGuard("s", "k", 1)]),
                append(event("b"), rests_on=(), guards=[RowGuard("s", "k", 2)]),
                append(event("c"), rests_on=(1,), guards=[RowGuard("s", "k", 1)]),
                append(event("d"), rests_on=(), guards=[RowGuard("s", "k", 1)]),
            ]
            outcomes = kinds(await store.append(batch))
            assert outcomes == [1, "Conflict", "Conflict", 2]

    async def test_many_appends_may_rest_on_one_another(self) -> None:
        async with self.opened() as store:
            selected = query((["a"], ["n:1"]))
            chain = [on(selected, rests_on=(n - 1,) if n else ()) for n in range(300)]
            assert kinds(await store.append(chain)) == list(range(1, 301))
            fan = [on(selected, after=300, rests_on=tuple(range(n))) for n in range(120)]
            assert kinds(await store.append(fan)) == list(range(301, 421))
