"""The part of the contract of read stores about checkpoints, versions of rows, partitions and generations."""

import abc
import asyncio
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twofold.errors import Conflict
from twofold.read_store.parked_summary import ParkedSummary
from twofold.read_store.partition import WHOLE, Partition, shares
from twofold.read_store.port import Change, Parked, Progress, RawRow, ReadStore, VersionedRow
from twofold.testing.read_store_rows import (
    ANYTHING,
    EVERYTHING,
    LOG,
    ORDERS,
    TEXT,
    Everything,
    Order,
    at,
    found_rows,
    keep,
    keys,
    loaded,
    parked_keys,
    progress,
)


class ReadStoreMaintenanceContract(abc.ABC):
    """Part of `ReadStoreContract`."""

    transactional: ClassVar[bool] = True

    @abc.abstractmethod
    def opened(self) -> AbstractAsyncContextManager[ReadStore]:
        """A new, empty store, closed when the context ends."""

    async def test_progress_tells_position_log_and_time_of_the_last_save(self) -> None:
        async with self.opened() as store:
            await store.prepare([ORDERS])
            assert await progress(store, ORDERS) == Progress(0, "", 0)
            await store.save(Change(ORDERS, LOG, 0, 7, 123))
            assert await progress(store, ORDERS) == Progress(7, LOG, 123)

    async def test_checkpoints_of_all_models_and_generations_are_listed(self) -> None:
        async with self.opened() as store:
            assert await store.checkpoints() == []
            await store.prepare([ORDERS, msgspec.structs.replace(ORDERS, generation=ORDERS.generation + 1)])
            await keep(store, ORDERS, {}, position=3, parked={"k": (parked := Parked("k", 3, "no", 9))})
            found = [(each.name, each.generation, each.progress) for each in await store.checkpoints()]
            kept = Progress(3, LOG, 0, ParkedSummary(1, ("k",)))
            assert [each.parked for each in await store.checkpoints()] == [(parked,), ()]
            assert found == [("orders", ORDERS.generation, kept), ("orders", ORDERS.generation + 1, Progress(0, "", 0))]

    @pytest.mark.parametrize(("before", "log"), [(0, LOG), (2, LOG), (8, LOG), (7, "log-b")])
    async def test_a_save_on_another_checkpoint_or_log_is_a_conflict_and_changes_nothing(
        self, before: int, log: str
    ) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()}, position=7)
            parked = {"a": Parked("a", 8, "no", 1)}
            with pytest.raises(Conflict, match="'orders' is at 7"):
                await store.save(Change(ORDERS, log, before, 9, 5, at(9, {"a": None, "b": Order()}), parked))
            if self.transactional:
                assert await found_rows(store, ORDERS) == [("a", Order())]
            assert await progress(store, ORDERS) == Progress(7, LOG, 0)

    async def test_of_two_followers_on_one_checkpoint_one_saves(self) -> None:
        async with self.opened() as store:
            await store.prepare([ORDERS])
            changes = [Change(ORDERS, LOG, 0, 5, 0, at(5, {f"k{n}": Order()})) for n in range(10)]
            outcomes = await asyncio.gather(*(store.save(each) for each in changes), return_exceptions=True)
            assert [type(each) for each in outcomes].count(Conflict) == 9
            if self.transactional:
                assert len(await keys(store, ORDERS)) == 1

    async def test_parked_keys_are_kept_replaced_and_cleared(self) -> None:
        async with self.opened() as store:
            first, other = Parked("k", 3, "it 'broke'", 99), Parked("a", 4, "\U0001f4a5", 100, 2)
            await keep(store, ORDERS, {}, position=3, parked={"k": first, "a": other})
            assert await parked_keys(store, ORDERS) == (other, first)
            assert (await progress(store, ORDERS)).parked == ParkedSummary(2, ("a", "k"))
            waiting = msgspec.structs.replace(first, waiting=1)
            await keep(store, ORDERS, {}, before=3, position=5, parked={"k": waiting, "a": None, "never": None})
            assert await parked_keys(store, ORDERS) == (waiting,)
            assert (await progress(store, ORDERS)).parked == ParkedSummary(1, ("k",))

    async def test_generations_and_models_are_strangers_to_one_another(self) -> None:
        async with self.opened() as store:
            second = msgspec.structs.replace(ORDERS, generation=2)
            other = msgspec.structs.replace(ORDERS, name="Orders")
            await keep(store, ORDERS, {"a": Order()}, position=9, parked={"p": Parked("p", 1, "", 0)})
            await keep(store, second, {"a": Order(total=2)}, position=4)
            await store.prepare([other])
            assert await found_rows(store, ORDERS) == [("a", Order())]
            assert await found_rows(store, second) == [("a", Order(total=2))]
            assert await progress(store, second) == Progress(4, LOG, 0)
            assert await found_rows(store, other) == []
            assert await progress(store, other) == Progress(0, "", 0)

    async def test_a_row_tells_the_event_it_was_folded_from_last(self) -> None:
        async with self.opened() as store:
            await store.prepare([ORDERS])
            await store.save(
                Change(ORDERS, LOG, 0, 9, 0, {"a": VersionedRow(Order(), 4), "b": VersionedRow(Order(), 7, 2)})
            )
            assert await store.load(ORDERS, ["a", "b"]) == {
                "a": VersionedRow(Order(), 4),
                "b": VersionedRow(Order(), 7, 2),
            }

    async def test_an_older_version_of_a_row_never_takes_the_place_of_a_newer_one(self) -> None:
        newer, older = (
            VersionedRow(Order(total=1), 7, 1),
            [VersionedRow(Order(total=2), p, r) for p, r in ((7, 1), (6, 1), (99, 0))],
        )
        async with self.opened() as store:
            await store.prepare([ORDERS])
            await store.save(Change(ORDERS, LOG, 0, 1, 0, {"a": newer}))
            for n, each in enumerate(older, 1):
                # The same event again makes the same row: only that has to be harmless.
                same = newer if (each.position, each.repair) == (7, 1) else each
                await store.save(Change(ORDERS, LOG, n, n + 1, 0, {"a": same, "b": VersionedRow(Order(), n)}))
                assert await store.load(ORDERS, ["a"]) == {"a": newer}
            await store.save(Change(ORDERS, LOG, 4, 5, 0, {"a": VersionedRow(None, 6, 1)}))
            assert await found_rows(store, ORDERS) == [("a", Order(total=1)), ("b", Order())]
            await store.save(Change(ORDERS, LOG, 5, 6, 0, {"a": VersionedRow(Order(total=3), 1, 2, (Order(total=1),))}))
            assert await loaded(store, ORDERS, ["a"]) == {"a": Order(total=3)}

    async def test_a_row_that_moves_is_found_where_it_is_and_nowhere_else(self) -> None:
        names = ["ann", "bob", "cid", "ann", "dan"]
        rows = [Order(name, n) for n, name in enumerate(names)]
        async with self.opened() as store:
            await store.prepare([ORDERS])
            await store.save(Change(ORDERS, LOG, 0, 1, 0, {"a": VersionedRow(rows[0], 1)}))
            await store.save(Change(ORDERS, LOG, 1, 4, 0, {"a": VersionedRow(rows[3], 4, 0, tuple(rows[:3]))}))
            assert [await keys(store, ORDERS, {"customer": name}) for name in names[:3]] == [["a"], [], []]
            await store.save(Change(ORDERS, LOG, 4, 5, 0, {"a": VersionedRow(rows[4], 5, 0, (rows[3],))}))
            assert [await keys(store, ORDERS, {"customer": name}) for name in ("ann", "dan")] == [[], ["a"]]
            assert await keys(store, ORDERS, order_by="total") == ["a"]
            await store.save(Change(ORDERS, LOG, 5, 6, 0, {"a": VersionedRow(None, 6, 0, (rows[4],))}))
            assert await keys(store, ORDERS, {"customer": "dan"}) == []
            assert await keys(store, ORDERS, order_by="total") == []

    async def test_a_later_epoch_shuts_out_an_earlier_one(self) -> None:
        async with self.opened() as store:
            await store.prepare([ORDERS])
            await store.save(Change(ORDERS, LOG, 0, 3, 0, at(3, {"a": Order()}), epoch=1))
            await store.save(Change(ORDERS, LOG, 3, 3, 0, epoch=2))
            with pytest.raises(Conflict):
                await store.save(Change(ORDERS, LOG, 3, 4, 0, at(4, {"a": Order(total=4)}), epoch=1))
            assert [each.epoch for each in await store.checkpoints()] == [2]
            if self.transactional:
                assert await found_rows(store, ORDERS) == [("a", Order())]
            await store.save(Change(ORDERS, LOG, 3, 5, 0, epoch=2))
            assert (await progress(store, ORDERS)).position == 5

    async def test_partitions_have_checkpoints_of_their_own_and_the_lowest_is_the_models(self) -> None:
        model = msgspec.structs.replace(ORDERS, partitions=3)
        first, second, third = shares(3)
        async with self.opened() as store:
            await store.prepare([model])
            await store.prepare([ORDERS])
            for share, position in ((first, 7), (second, 5), (third, 9)):
                await store.save(Change(model, LOG, 0, position, position, partition=share))
            assert await progress(store, model) == Progress(5, LOG, 9)
            found = [(each.partition, each.progress.position) for each in await store.checkpoints()]
            assert found == [(first, 7), (second, 5), (third, 9)]
            with pytest.raises(Conflict):
                await store.save(Change(model, LOG, 5, 6, 0))

    async def test_a_parked_key_is_told_with_the_partition_that_holds_it(self) -> None:
        model = msgspec.structs.replace(ORDERS, partitions=2)
        async with self.opened() as store:
            await store.prepare([model])
            for share in shares(2):
                held = {key: Parked(key, 1, "no", 0, 3, 9) for key in "abcdefgh" if share.holds(key)}
                await store.save(Change(model, LOG, 0, 1, 0, {}, held, partition=share))
            for each in await store.checkpoints():
                assert [p.key for p in each.parked] == [k for k in "abcdefgh" if each.partition.holds(k)]
            assert [p.key for p in await parked_keys(store, model)] == list("abcdefgh")
            assert {(p.waiting, p.upto) for p in await parked_keys(store, model)} == {(3, 9)}

    async def test_a_partition_is_split_and_merged_where_it_stands(self) -> None:
        left, right = WHOLE.halves()
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order(), "b": Order()}, position=4)
            await store.save(Change(ORDERS, LOG, 4, 5, 0, epoch=6))
            await store.repartition(ORDERS, [WHOLE], [left, right])
            found = [(each.partition, each.progress.position, each.epoch) for each in await store.checkpoints()]
            assert found == [(left, 5, 6), (right, 5, 6)]
            with pytest.raises(Conflict):
                await store.save(Change(ORDERS, LOG, 5, 6, 0, epoch=9))
            await store.save(Change(ORDERS, LOG, 5, 8, 0, epoch=6, partition=left))
            with pytest.raises(Conflict):
                await store.repartition(ORDERS, [left, right], [WHOLE])
            await store.save(Change(ORDERS, LOG, 5, 8, 0, epoch=7, partition=right))
            await store.repartition(ORDERS, [left, right], [WHOLE])
            assert [(each.partition, each.epoch) for each in await store.checkpoints()] == [(WHOLE, 7)]
            assert (await progress(store, ORDERS)).position == 8
            assert await keys(store, ORDERS) == ["a", "b"]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ([Partition(0, 9)], [Partition(0, 4), Partition(4, 9)]),
            ([WHOLE], [Partition(0, 9)]),
            ([WHOLE], [WHOLE, Partition(0, 1)]),
            ([], []),
        ],
    )
    async def test_partitions_that_are_not_there_or_lose_keys_are_a_conflict(
        self, old: list[Partition], new: list[Partition]
    ) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {}, position=4)
            with pytest.raises(Conflict):
                await store.repartition(ORDERS, old, new)
            assert [(each.partition, each.progress.position) for each in await store.checkpoints()] == [(WHOLE, 4)]

    async def test_of_those_who_split_one_partition_one_does(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {}, position=4)
            splits = [store.repartition(ORDERS, [WHOLE], shares(n)) for n in (2, 3, 4, 5)]
            outcomes = [type(each) for each in await asyncio.gather(*splits, return_exceptions=True)]
            assert outcomes.count(Conflict) == 3
            assert len(await store.checkpoints()) == 2 + outcomes.index(type(None))

    async def test_stored_rows_are_read_by_key_whatever_their_type(self) -> None:
        async with self.opened() as store:
            assert await store.raw_rows("orders", 1, "", 10) == []
            await keep(store, ORDERS, {key: Order(note=key) for key in ("é", "b", "a", "Z")}, position=3)
            await keep(store, ORDERS, {"b": None}, before=3)
            assert [key for key, _ in await store.raw_rows("orders", 1, "", 10)] == ["Z", "a", "é"]
            page = await store.raw_rows("orders", 1, "Z", 1)
            assert page == [("a", RawRow({"customer": "ann", "total": 0, "note": "a"}, 3))]
            assert await store.raw_rows("orders", 2, "", 10) == []

    async def test_stored_rows_come_in_the_order_of_whole_keys_however_long_they_are(self) -> None:
        stems = ["\u8a9e" * 400, "\u8a9e" * 350, "x" * 1_000, "\U0001f4a5" * 300]
        long = {f"{stem}{end}" for stem in stems for end in ("", *"gabfced")} | {"a", "\U0010ffff"}
        async with self.opened() as store:
            await keep(store, ORDERS, {key: Order() for key in long})
            for limit in (1, 2, 3, 7, 100):
                seen: list[str] = []
                while page := await store.raw_rows("orders", 1, seen[-1] if seen else "", limit):
                    seen += [key for key, _ in page]
                assert seen == sorted(long), limit

    async def test_what_is_stored_of_a_key_is_told_with_its_version_and_deleted_rows_where_they_are_kept(self) -> None:
        async with self.opened() as store:
            assert await store.inspect(ORDERS, ["a"]) == {}
            await store.prepare([ORDERS])
            gone, never = Order("bob", 2), ["never", "", "x" * 5_000, "\ud800"]
            await store.save(
                Change(ORDERS, LOG, 0, 5, 0, {"a": VersionedRow(Order(), 4, 2), "b": VersionedRow(gone, 5)})
            )
            await store.save(Change(ORDERS, LOG, 5, 6, 0, {"b": VersionedRow(None, 6, 0, (gone,))}))
            found = await store.inspect(ORDERS, ["b", "a", "a", *never])
            assert found.pop("a") == RawRow({"customer": "ann", "total": 0, "note": None}, 4, 2)
            assert found in ({}, {"b": RawRow(None, 6)})
            if not self.transactional:
                assert found, "a store without transactions keeps deleted rows, and must return them"
            assert await store.inspect(ORDERS, []) == {}

    @settings(
        max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(st.dictionaries(TEXT.filter(bool), ANYTHING, min_size=1, max_size=6))
    def test_rows_as_they_were_saved_are_not_corrupt(self, rows: dict[str, Everything]) -> None:
        async def check() -> None:
            async with self.opened() as store:
                await keep(store, EVERYTHING, rows)
                listed = dict(await store.raw_rows("everything", 1, "", 100))
                assert [each.corruption for each in listed.values()] == [""] * len(rows)
                assert await store.inspect(EVERYTHING, list(rows)) == listed
                plain = {key: msgspec.json.decode(msgspec.json.encode(row)) for key, row in rows.items()}
                assert {key: each.row for key, each in listed.items()} == plain

        asyncio.run(check())

    async def test_a_dropped_generation_leaves_nothing_and_may_come_again(self) -> None:
        second = msgspec.structs.replace(ORDERS, generation=2)
        async with self.opened() as store:
            for model in (ORDERS, second):
                await keep(store, model, {"a": Order()}, position=3, parked={"k": Parked("k", 1, "no", 0)})
            await store.drop("orders", 2)
            await store.drop("orders", 2)
            assert [each.generation for each in await store.checkpoints()] == [1]
            assert await found_rows(store, ORDERS) == [("a", Order())]
            await store.prepare([second])
            assert await progress(store, second) == Progress(0, "", 0)
            assert await found_rows(store, second) == []
            await keep(store, second, {"a": Order(total=2)}, position=1)
            assert await loaded(store, second, ["a"]) == {"a": Order(total=2)}

    async def test_every_store_has_an_identity_of_its_own(self) -> None:
        async with self.opened() as store, self.opened() as other:
            assert store.identity
            assert other.identity
            assert store.identity != other.identity

    async def test_native_access_is_there_for_every_model(self) -> None:
        async with self.opened() as store:
            await keep(store, ORDERS, {"a": Order()})
            async with store.snapshot() as snapshot:
                native = snapshot.native(ORDERS)
                assert native.client is not None
                assert native.table
