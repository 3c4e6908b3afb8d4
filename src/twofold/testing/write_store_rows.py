"""The part of the write store contract about rows: they are written together with events, or not at all."""

import abc
from contextlib import AbstractAsyncContextManager

import pytest

from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.errors import Conflict
from twofold.testing.write_store_model import append, event, everything, kinds, put
from twofold.write_store.port import Appended, LogRow, RowGuard, RowWrite, WriteStore

ODD_KEYS = ("", " ", "'", '"', "%", "_", "\\", "{}", "{a,b}", "null", "ßß é", "🦊", ";--", "a:b", "x" * 1_024)


ROUND_AND_ROUND = (("a", 7, 3), ("b", 3, 9), ("c", 7, 3), ("d", 9, 7))


class RowsContract(abc.ABC):
    """Part of `WriteStoreContract`."""

    @abc.abstractmethod
    def opened(self) -> AbstractAsyncContextManager[WriteStore]:
        """A new, empty store, closed when the context ends."""

    async def test_rows_count_their_versions_and_keep_to_their_space(self) -> None:
        async with self.opened() as store:
            assert await store.rows("s") == {}
            await put(store, rows=[RowWrite("s", "k", b"\x00\xff", 0), RowWrite("t", "k", b"t", 0)])
            await put(store, rows=[RowWrite("s", "k", b"", 1)])
            assert await store.rows("s") == {"k": LogRow(b"", 2)}
            assert await store.rows("t") == {"k": LogRow(b"t", 1)}

    async def test_a_row_that_was_deleted_starts_again(self) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            assert isinstance(await put(store, rows=[RowWrite("s", "k", None, 7)]), Conflict)
            assert isinstance(await put(store, rows=[RowWrite("s", "k", None, 1)]), Appended)
            assert await store.rows("s") == {}
            assert isinstance(await put(store, rows=[RowWrite("s", "k", b"2", 1)]), Conflict)
            await put(store, rows=[RowWrite("s", "k", b"2", 0)])
            assert await store.rows("s") == {"k": LogRow(b"2", 1)}

    async def test_a_failing_guard_writes_neither_events_nor_other_rows(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"), rows=[RowWrite("s", "k", b"1", 0)])
            stale = [RowWrite("s", "new", b"1", 0), RowWrite("s", "k", b"2", 0)]
            refused = append(event("b"), command_id="c-1", rows=stale)
            assert kinds(await store.append([refused, append(event("c"))])) == ["Conflict", 2]
            assert await store.rows("s") == {"k": LogRow(b"1", 1)}
            assert [e.type for e in await everything(store)] == ["a", "c"]
            assert (await store.newer([], "c-1"))[1] is None

    async def test_a_failing_condition_writes_no_rows(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            stale = [AppendCondition(ALL_EVENTS, 0)]
            assert isinstance(await put(store, rows=[RowWrite("s", "k", b"1", 0)], conditions=stale), Conflict)
            assert await store.rows("s") == {}

    async def test_of_two_writers_of_one_row_in_a_batch_the_first_wins(self) -> None:
        async with self.opened() as store:
            one, two = (append(event(n), rows=[RowWrite("s", "k", n.encode(), 0)]) for n in ("a", "b"))
            assert kinds(await store.append([one, two])) == [1, "Conflict"]
            assert await store.rows("s") == {"k": LogRow(b"a", 1)}
            assert [e.type for e in await everything(store)] == ["a"]

    async def test_a_write_may_say_which_version_its_row_gets(self) -> None:
        async with self.opened() as store:
            large = 2**63 - 1
            await put(store, rows=[RowWrite("s", "k", b"1", 0, large)])
            assert await store.rows("s") == {"k": LogRow(b"1", large)}
            assert isinstance(await put(store, rows=[RowWrite("s", "k", b"2", 1)]), Conflict)
            assert isinstance(await put(store, rows=[RowWrite("s", "k", b"2", large, 7)]), Appended)
            assert await store.rows("s") == {"k": LogRow(b"2", 7)}
            chain = [append(event(n), rows=[RowWrite("s", "k", b"3", at, to)]) for n, at, to in ROUND_AND_ROUND]
            assert kinds(await store.append(chain)) == [1, 2, "Conflict", 3]
            assert isinstance(await put(store, rows=[RowWrite("s", "k", None, 7)]), Appended)
            assert await store.rows("s") == {}

    async def test_rows_of_some_keys_are_those_that_are_there(self) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", key, key.encode(), 0) for key in ODD_KEYS])
            await put(store, rows=[RowWrite("t", "only here", b"", 0)])
            assert await store.rows("s", []) == {}
            assert await store.rows("s", ["only here"]) == {}
            for key in ODD_KEYS:
                assert await store.rows("s", [key]) == {key: LogRow(key.encode(), 1)}
            keys = ["absent", *ODD_KEYS, ODD_KEYS[0]]
            assert await store.rows("s", keys) == {key: LogRow(key.encode(), 1) for key in ODD_KEYS}

    async def test_no_more_rows_come_than_the_limit_says(self) -> None:
        async with self.opened() as store:
            everyone = {f"k{n}": LogRow(b"%d" % n, 1) for n in range(10)}
            await put(store, rows=[RowWrite("s", key, row.value, 0) for key, row in everyone.items()])
            some = await store.rows("s", limit=4)
            assert len(some) == 4
            assert some.items() <= everyone.items()
            assert len(await store.rows("s", list(everyone), limit=3)) == 3
            assert await store.rows("s", limit=11) == everyone
            assert await store.rows("s", limit=0) == {}

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_guard_on_another_version_refuses_the_append(self, expected: int) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            await put(store, rows=[RowWrite("s", "k", b"2", 1)])
            refused = append(event("a"), rows=[RowWrite("s", "other", b"", 0)], guards=[RowGuard("s", "k", expected)])
            assert kinds(await store.append([refused, append(event("b"))])) == ["Conflict", 1]
            assert await store.rows("s") == {"k": LogRow(b"2", 2)}
            assert [e.type for e in await everything(store)] == ["b"]

    async def test_a_guard_that_holds_leaves_its_row_as_it_is(self) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            guarded = append(event("a"), guards=[RowGuard("s", "k", 1), RowGuard("s", "absent", 0)])
            assert kinds(await store.append([guarded, guarded])) == [1, 2]
            assert kinds(await store.append([guarded])) == [3]
            assert await store.rows("s") == {"k": LogRow(b"1", 1)}

    async def test_of_several_guards_each_has_to_hold(self) -> None:
        async with self.opened() as store:
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            holds, fails = RowGuard("s", "k", 1), RowGuard("s", "absent", 1)
            assert isinstance(await put(store, event("a"), guards=[holds, fails]), Conflict)
            assert isinstance(await put(store, event("a"), guards=[fails, holds]), Conflict)

    async def test_a_guard_sees_what_was_written_before_it_in_its_batch(self) -> None:
        async with self.opened() as store:
            unmoved, moved = RowGuard("s", "k", 0), RowGuard("s", "k", 1)
            batch = [
                append(event("a"), guards=[unmoved]),
                append(event("b"), guards=[unmoved], rows=[RowWrite("s", "k", b"1", 0)]),
                append(event("c"), guards=[unmoved]),
                append(event("d"), guards=[moved]),
                append(event("e")),
                append(event("f"), guards=[moved], rows=[RowWrite("s", "k", None, 1)]),
                append(event("g"), guards=[moved]),
                append(event("h"), guards=[unmoved]),
            ]
            assert kinds(await store.append(batch)) == [1, 2, "Conflict", 3, 4, 5, "Conflict", 6]

    async def test_a_repeat_is_known_even_where_its_guard_would_now_refuse_it(self) -> None:
        async with self.opened() as store:
            one = append(event("a"), command_id="c-1", guards=[RowGuard("s", "k", 0)])
            assert await store.append([one]) == [Appended(1, 1)]
            await put(store, rows=[RowWrite("s", "k", b"1", 0)])
            repeat, refused = await store.append([one, append(event("b"), guards=one.guards)])
            assert repeat == Appended(1, 1, repeated=True)
            assert isinstance(refused, Conflict)
