"""The contract of read stores: subclass `ReadStoreContract` and give it stores to prove that they fulfil it."""

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twofold.errors import InvalidMessage, UndeclaredAccess, WiringError
from twofold.read_store.port import Change, Parked, Progress, ReadModel
from twofold.testing.read_store_maintenance import ReadStoreMaintenanceContract
from twofold.testing.read_store_progress import ReadStoreProgressContract
from twofold.testing.read_store_rows import (
    ANYTHING,
    EVERYTHING,
    FIELDS,
    HOSTILE,
    LOG,
    ORDERS,
    TEXT,
    Everything,
    Order,
    all_pages,
    at,
    find,
    found_rows,
    keep,
    keys,
    loaded,
    parked_keys,
    progress,
    sorted_dict,
)
from twofold.world import RealWorld


class ReadStoreContract(ReadStoreMaintenanceContract, ReadStoreProgressContract):
    """The rules of every read store. Subclass it, and open a new store in `opened`.

    Set `transactional` to False for a store that saves rows and checkpoint in several steps: it need not undo the rows
    of a save that came too late (they are the fold of the log all the same), nor show readers one moment.
    """

    async def test_what_was_saved_is_loaded_and_got_and_what_was_not_is_absent(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order("ann", 1), "b": Order("bob", 2, "x")})
            assert await loaded(store, ORDERS, ["b", "c", "a", "a"]) == {
                "a": Order("ann", 1),
                "b": Order("bob", 2, "x"),
            }
            assert await loaded(store, ORDERS, []) == {}
            async with store.snapshot() as snapshot:
                assert await snapshot.get(ORDERS, "b") == Order("bob", 2, "x")
                assert await snapshot.get(ORDERS, "c") is None

    async def test_a_key_that_no_row_can_have_is_absent(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order("ann", 1)})
            odd = ["", "x" * 5_000, "\U0001f4a5" * 20_000]
            assert await loaded(store, ORDERS, ["a", *odd]) == {"a": Order("ann", 1)}
            async with store.snapshot() as snapshot:
                assert [await snapshot.get(ORDERS, key) for key in odd] == [None, None, None]

    async def test_a_later_save_replaces_rows_and_none_deletes_them(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order("ann", 1), "b": Order("ann", 2), "c": Order("ann", 3)})
            await keep(store, ORDERS, {"a": Order("bob", 9), "b": None, "never": None}, before=1)
            assert await loaded(store, ORDERS, ["a", "b", "c"]) == {"a": Order("bob", 9), "c": Order("ann", 3)}
            assert await keys(store, ORDERS, {"customer": "ann"}) == ["c"]
            assert await keys(store, ORDERS, {"customer": "bob"}) == ["a"]

    async def test_thousands_of_keys_are_loaded_in_one_read(self) -> None:
        async with self.opened() as store:
            rows = {f"k{n}": Order(total=n) for n in range(5_000)}
            await keep(store, ORDERS, rows)
            assert await loaded(store, ORDERS, [*rows, "absent"]) == rows

    async def test_find_returns_all_rows_by_key_unless_told_otherwise(self) -> None:
        async with self.opened() as store:
            await keep(
                store, ORDERS, {"é": Order(), "a": Order(), "Z": Order(), "\U0001f4a5": Order(), "\uffff": Order()}
            )
            assert await keys(store, ORDERS) == ["Z", "a", "é", "\uffff", "\U0001f4a5"]
            assert await keys(store, ORDERS, descending=True) == ["\U0001f4a5", "\uffff", "é", "a", "Z"]

    async def test_rows_are_ordered_by_a_field_and_ties_by_key(self) -> None:
        async with self.opened() as store:
            await keep(
                store, ORDERS, {"c": Order(total=1), "b": Order(total=2), "a": Order(total=2), "d": Order(total=-1)}
            )
            assert await keys(store, ORDERS, order_by="total") == ["d", "c", "a", "b"]
            assert await keys(store, ORDERS, order_by="total", descending=True) == ["b", "a", "c", "d"]

    async def test_none_sorts_before_every_value_and_can_be_filtered_by(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order(note="x"), "b": Order(), "c": Order(note=""), "d": Order()})
            assert await keys(store, ORDERS, order_by="note") == ["b", "d", "c", "a"]
            assert await keys(store, ORDERS, order_by="note", descending=True) == ["a", "c", "d", "b"]
            assert await keys(store, ORDERS, {"customer": "ann", "note": None}) == ["b", "d"]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("order_by", [None, "total", "note"])
    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    async def test_pages_together_are_the_whole_each_row_once(
        self, size: int, order_by: str | None, descending: bool
    ) -> None:
        async with self.opened() as store:
            rows = {f"k{n}": Order(total=n % 3, note=[None, "x", "y", None][n % 4]) for n in range(11)}
            await keep(store, ORDERS, rows)
            for filters in ({}, {"customer": "ann"}):
                pages = await all_pages(store, ORDERS, filters, order_by, descending, size)
                whole = await keys(store, ORDERS, filters, order_by=order_by, descending=descending)
                assert [key for page in pages for key in page] == whole
                assert sorted(whole) == sorted(rows)
                assert len(pages) == max(1, -(-len(rows) // size))

    async def test_a_page_that_ends_with_the_last_row_has_no_cursor(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order(), "b": Order()})
            assert (await find(store, ORDERS, limit=2)).cursor is None
            assert (await find(store, ORDERS, limit=1)).cursor is not None

    async def test_paging_neither_repeats_nor_misses_rows_that_stay_while_others_come_and_go(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {key: Order(total=1) for key in "bdfh"})
            first = await find(store, ORDERS, order_by="total", limit=2)
            await keep(store, ORDERS, {"a": Order(total=1), "d": None, "e": Order(total=1), "z": Order()}, before=1)
            second = await find(store, ORDERS, order_by="total", limit=9, cursor=first.cursor)
            assert [key for key, _ in second.rows] == ["e", "f", "h"]

    async def test_decimals_sort_as_numbers_of_any_size_precision_and_sign(self) -> None:
        async with self.opened() as store:
            ordered = "-1E+30 -12 -1.23 -1.2 -1 -0.12 -0.1 -1E-30 0 1E-30 0.1 0.12 1 1.2 1.23 12 1E+30".split(" ")
            await keep(store, EVERYTHING, {f"k{text}": Everything(money=Decimal(text)) for text in ordered})
            assert await keys(store, EVERYTHING, order_by="money") == [f"k{text}" for text in ordered]
            assert await keys(store, EVERYTHING, {"money": Decimal("1.20")}) == ["k1.2"]

    @pytest.mark.parametrize("cursor", ["", "nonsense", "\U0001f4a5", "e30", "WyJhIiwxLCJiIl0", "====", "a b"])
    async def test_an_invalid_cursor_is_refused(self, cursor: str) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()})
            with pytest.raises(InvalidMessage, match="cursor") as refused:
                await find(store, ORDERS, cursor=cursor)
            assert refused.value.field == "after"

    async def test_a_cursor_continues_only_the_find_it_was_given_for(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order(total=1), "b": Order(total=2)})
            cursor = (await find(store, ORDERS, {"customer": "ann"}, order_by="total", limit=1)).cursor
            assert cursor is not None
            for filters, order_by, descending in (
                ({}, "total", False),
                ({"customer": "bob"}, "total", False),
                ({"customer": "ann"}, None, False),
                ({"customer": "ann"}, "total", True),
            ):
                with pytest.raises(InvalidMessage, match="another query"):
                    await find(store, ORDERS, filters, order_by=order_by, descending=descending, cursor=cursor)

    async def test_an_undeclared_filter_is_refused_with_projection_field_and_cure(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {})
            with pytest.raises(UndeclaredAccess, match=r"'orders'.*'total'.*find_by=\[…, \"total\"\]") as refused:
                await find(store, ORDERS, {"total": 1})
            assert refused.value.field == "total"
            with pytest.raises(UndeclaredAccess, match=r"find_by=\[…, \(\"customer\", \"total\"\)\]"):
                await find(store, ORDERS, {"customer": "ann", "total": 1})

    async def test_an_undeclared_order_is_refused_with_projection_field_and_cure(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {})
            with pytest.raises(
                UndeclaredAccess, match=r"'orders'.*'customer'.*order_by=\[…, \"customer\"\]"
            ) as refused:
                await find(store, ORDERS, order_by="customer")
            assert refused.value.field == "customer"

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_a_find_of_no_rows_is_refused(self, limit: int) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()})
            with pytest.raises(InvalidMessage, match="1 row or more"):
                await find(store, ORDERS, limit=limit)

    async def test_a_filter_of_the_wrong_type_is_refused_and_names_the_field(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {})
            for wrong in (5, b"ann", ["ann"], {"$ne": None}, "\ud800"):
                with pytest.raises(InvalidMessage, match="'customer'"):
                    await find(store, ORDERS, {"customer": wrong})

    async def test_a_filter_by_a_number_that_no_row_can_have_finds_nothing(self) -> None:
        near = 2.0**53
        rows = {"a": Everything(whole=1, real=near), "b": Everything(whole=2, real=near + 2), "c": Everything()}
        async with self.opened() as store:
            await keep(store, EVERYTHING, rows)
            for vain in ({"whole": 1.5}, {"whole": 1e30}, {"whole": -1e300}, {"real": 2**53 + 1}, {"yes": 0.5}):
                assert await keys(store, EVERYTHING, vain) == [], vain
                assert await keys(store, EVERYTHING, vain, order_by="whole", descending=True) == [], vain
            found = [await keys(store, EVERYTHING, each) for each in ({"whole": 1.0}, {"real": 2**53}, {"real": near})]
            assert found == [["a"], ["a"], ["a"]]

    async def test_a_whole_number_in_a_field_of_floats_is_found_as_the_float_it_is_read_as(self) -> None:
        async with self.opened() as store:
            rows = {"a": Everything(real=2**53 + 1), "b": Everything(real=5), "c": Everything(real=2.0**53)}
            await keep(store, EVERYTHING, rows)
            assert await keys(store, EVERYTHING, {"real": 2.0**53}) == ["a", "c"]
            assert await keys(store, EVERYTHING, {"real": 5}) == ["b"]
            assert await keys(store, EVERYTHING, order_by="real", descending=True) == ["c", "a", "b"]
            stored = {**dict(await store.raw_rows("everything", 1, "", 9)), **await store.inspect(EVERYTHING, ["b"])}
            assert [each.corruption for each in stored.values()] == ["", "", ""]

    async def test_a_snapshot_does_not_see_what_is_saved_after_it_was_taken(self) -> None:
        if not self.transactional:
            pytest.skip("a snapshot of this store is not one moment")
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order(total=1), "b": Order(total=2)})
            async with store.snapshot() as before:
                await keep(store, ORDERS, {"a": Order(total=9), "b": None, "c": Order()}, before=1)
                await keep(store, ORDERS, {"d": Order()}, before=2)
                assert await before.get(ORDERS, "a") == Order(total=1)
                assert [key for key, _ in (await before.find(ORDERS, {}, limit=9)).rows] == ["a", "b"]
                assert (await before.progress(ORDERS)).position == 1
                async with store.snapshot() as after:
                    assert [key for key, _ in (await after.find(ORDERS, {}, limit=9)).rows] == ["a", "c", "d"]
                    assert (await after.progress(ORDERS)).position == 3

    async def test_many_snapshots_at_once_are_all_served(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()})

            async def look() -> Any:
                async with store.snapshot() as snapshot:
                    await RealWorld().sleep(0)
                    return await snapshot.get(ORDERS, "a")

            assert await asyncio.gather(*(look() for _ in range(100))) == [Order()] * 100

    async def test_a_snapshot_is_given_back_when_its_user_fails_or_is_cancelled(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()})

            async def fail() -> None:
                async with store.snapshot():
                    raise LookupError

            async def hang(taken: asyncio.Event) -> None:
                async with store.snapshot():
                    taken.set()
                    await asyncio.Event().wait()

            for _ in range(50):
                with pytest.raises(LookupError):
                    await fail()
                taken = asyncio.Event()
                task = asyncio.create_task(hang(taken))
                await taken.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await keep(store, ORDERS, {"a": Order(total=1)}, before=1)
            assert (await found_rows(store, ORDERS)) == [("a", Order(total=1))]

    async def test_to_prepare_again_keeps_everything(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order("ann", 1)}, position=3)
            await store.prepare([ORDERS])
            assert await keys(store, ORDERS, {"customer": "ann"}, order_by="total") == ["a"]
            assert (await progress(store, ORDERS)).position == 3

    async def test_filters_and_orders_declared_later_find_the_rows_that_are_there(self) -> None:
        async with self.opened() as store:
            bare = ReadModel("orders", 1, Order)
            await keep(store, bare, {f"k{n}": Order("ann" if n % 2 else "bob", -n) for n in range(2_500)})
            await store.prepare([ORDERS])
            found = await keys(store, ORDERS, {"customer": "bob"}, order_by="total")
            assert found == [f"k{n}" for n in reversed(range(0, 2_500, 2))]

    async def test_an_access_declared_dropped_and_declared_again_is_up_to_date(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order("ann")})
            await keep(store, ReadModel("orders", 1, Order), {"a": Order("bob")}, before=1)
            await store.prepare([ORDERS])
            assert await keys(store, ORDERS, {"customer": "ann"}) == []
            assert await keys(store, ORDERS, {"customer": "bob"}) == ["a"]

    async def test_hostile_keys_values_and_errors_are_nothing_but_text(self) -> None:
        async with self.opened() as store:
            rows = {text: Order(text, n, text) for n, text in enumerate(HOSTILE)}
            await keep(store, ORDERS, rows, parked={text: Parked(text, 1, text, 0) for text in HOSTILE})
            assert await loaded(store, ORDERS, HOSTILE) == rows
            assert await keys(store, ORDERS) == sorted(HOSTILE)
            assert await keys(store, ORDERS, order_by="note") == sorted(HOSTILE)
            assert [each.key for each in await parked_keys(store, ORDERS)] == sorted(HOSTILE)
            for text in HOSTILE:
                assert await keys(store, ORDERS, {"customer": text}) == [text]
                assert await keys(store, ORDERS, {"customer": text, "note": text}) == [text]

    async def test_a_model_may_have_any_name(self) -> None:
        async with self.opened() as store:
            models = [
                msgspec.structs.replace(ORDERS, name=name) for name in (*HOSTILE, "Key", "sqlite_schema", "a@1", "")
            ]
            for n, model in enumerate(models):
                await keep(store, model, {"k": Order(total=n)}, position=n + 1)
            for n, model in enumerate(models):
                assert await found_rows(store, model, order_by="total") == [("k", Order(total=n))]
                assert (await progress(store, model)).position == n + 1

    async def test_fields_may_have_the_names_of_our_own_and_differ_by_case_only(self) -> None:
        fields = ["key", "row", "Row", "order", "größe", "rowid"]
        row = msgspec.defstruct("Odd", [(field, str) for field in fields], frozen=True)
        async with self.opened() as store:
            model = ReadModel("odd", 1, row, tuple((field,) for field in fields), tuple(fields))
            await keep(store, model, {"k": row(*fields), "l": row(*reversed(fields))})
            for field in fields:
                assert await keys(store, model, {field: field}, order_by="Row") == ["k"]

    async def test_a_field_whose_type_has_no_order_is_refused_when_prepared(self) -> None:
        async with self.opened() as store:
            for type_ in (list[str], bytes, str | int, object, dict[str, int]):
                row = msgspec.defstruct("Row", [("bad", type_)])
                with pytest.raises(WiringError, match=r"'bad'.*Use str"):
                    await store.prepare([ReadModel("m", 1, row, (("bad",),))])
            with pytest.raises(WiringError, match="no field 'gone'"):
                await store.prepare([ReadModel("m", 1, Order, (), ("gone",))])

    @pytest.mark.parametrize(
        ("field", "value"),
        [("whole", 2**63), ("real", float("nan")), ("real", float("inf")), ("money", Decimal("NaN"))],
    )
    async def test_a_value_without_a_place_in_the_order_is_refused_and_nothing_is_saved(
        self, field: str, value: Any
    ) -> None:
        async with self.opened() as store:
            await store.prepare([EVERYTHING])
            with pytest.raises(InvalidMessage, match=f"'{field}'"):
                await store.save(Change(EVERYTHING, LOG, 0, 1, 0, at(1, {"k": Everything(**{field: value})})))
            assert await progress(store, EVERYTHING) == Progress(0, "", 0)
            assert await found_rows(store, EVERYTHING) == []

    async def test_an_integer_beyond_64_bits_is_refused_in_a_plain_column_too(self) -> None:
        async with self.opened() as store:
            await store.prepare([ORDERS])
            with pytest.raises(InvalidMessage, match=r"'total'.*64 bits"):
                await store.save(Change(ORDERS, LOG, 0, 1, 0, at(1, {"fine": Order(), "k": Order(total=-(2**63) - 1)})))
            assert await found_rows(store, ORDERS) == []

    async def test_a_model_that_was_never_prepared_is_a_wiring_error(self) -> None:
        async with self.opened() as store:
            with pytest.raises(WiringError, match="'orders' generation 1 was never prepared"):
                await store.load(ORDERS, ["a"])
            with pytest.raises(WiringError, match="never prepared"):
                await progress(store, ORDERS)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(st.dictionaries(TEXT.filter(bool), ANYTHING, max_size=12), st.data())
    def test_find_equals_filtering_and_sorting_a_dict(self, rows: dict[str, Everything], data: st.DataObject) -> None:
        field = data.draw(st.sampled_from([None, *FIELDS]))
        values = st.sampled_from([getattr(row, field) for row in rows.values()] or [None]) if field else st.none()
        filters = {field: data.draw(values)} if field else {}
        order_by = data.draw(st.sampled_from([None, *FIELDS]))
        descending, size = data.draw(st.booleans()), data.draw(st.integers(1, 5))
        expected = sorted_dict(rows, filters, order_by, descending)

        async def check() -> None:
            async with self.opened() as store:
                await keep(store, EVERYTHING, rows)
                assert await found_rows(store, EVERYTHING, filters, order_by=order_by, descending=descending) == [
                    (key, rows[key]) for key in expected
                ]
                pages = await all_pages(store, EVERYTHING, filters, order_by, descending, size)
                assert [key for page in pages for key in page] == expected

        asyncio.run(check())
