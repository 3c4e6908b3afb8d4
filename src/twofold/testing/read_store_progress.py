"""The part of the contract of read stores about what answers need: progress, summaries of parked keys, single rows."""

import abc
import asyncio
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import msgspec

from twofold.read_store.parked_summary import MAX_PARKED_SHOWN, ParkedSummary, summary_of
from twofold.read_store.partition import WHOLE, ParkedEvent, Partition, shares
from twofold.read_store.port import Change, Lookup, Parked, Progress, ReadStore
from twofold.testing.read_store_rows import HOSTILE, LOG, ORDERS, Order, keep, progress
from twofold.world import RealWorld


class ReadStoreProgressContract(abc.ABC):
    """Part of `ReadStoreContract`."""

    transactional: ClassVar[bool] = True

    @abc.abstractmethod
    def opened(self) -> AbstractAsyncContextManager[ReadStore]:
        """A new, empty store, closed when the context ends."""

    async def test_a_lookup_brings_the_row_and_the_progress_of_its_model(self) -> None:
        model = msgspec.structs.replace(ORDERS, name="in parts", partitions=3)
        async with self.opened() as store:
            await store.prepare([ORDERS])
            assert await store.lookup(ORDERS, "a") == Lookup(Progress(0, "", 0), None)
            rows, parked = {"a": Order(), "b": Order("bob")}, {"p": Parked("p", 3, "", 0)}
            await keep(store, ORDERS, rows, position=3, parked=parked)
            await keep(store, ORDERS, {"b": None}, before=3, position=7)
            reached = await progress(store, ORDERS)
            assert (reached.position, reached.parked.count) == (7, 1)
            for key, row in {"a": Order(), "b": None, "p": None, "": None, "x" * 5_000: None}.items():
                assert await store.lookup(ORDERS, key) == Lookup(reached, row)
            await store.prepare([model])
            for position, part in enumerate(shares(3), start=4):
                await store.save(Change(model, LOG, 0, position, position, partition=part))
            assert await store.lookup(model, "a") == Lookup(Progress(4, LOG, 6), None)

    async def test_a_lookup_never_shows_a_row_older_than_its_position(self) -> None:
        async with self.opened() as store:
            world = RealWorld()
            await keep(store, ORDERS, {"a": Order(total=1)})

            async def follow() -> None:
                for n in range(1, 30):
                    await keep(store, ORDERS, {"a": Order(total=n + 1)}, before=n)

            following = asyncio.create_task(follow())
            while not following.done():
                # The store in memory does not wait for anything.
                await world.sleep(0)
                found = await store.lookup(ORDERS, "a")
                assert isinstance(found.row, Order)
                assert found.row.total >= found.progress.position
                assert found.row.total == found.progress.position or not self.transactional
            await following

    async def test_progress_counts_all_parked_keys_and_names_the_first(self) -> None:
        names = [f"k{n:03}" for n in range(100)]
        event = ParkedEvent(9, WHOLE)
        async with self.opened() as store:
            await keep(store, ORDERS, {}, position=3, parked={key: Parked(key, 3, "no", 9) for key in reversed(names)})
            first = tuple(names[:MAX_PARKED_SHOWN])
            assert (await progress(store, ORDERS)).parked == ParkedSummary(100, first)
            # A change without a summary keeps the one that is there.
            await store.save(Change(ORDERS, LOG, 3, 4, 0))
            assert (await progress(store, ORDERS)).parked == ParkedSummary(100, first)
            changes = {"k000": None, event.key: Parked(event.key, 9, "no", 9)}
            await keep(store, ORDERS, {}, before=4, position=9, parked=changes)
            assert (await progress(store, ORDERS)).parked == ParkedSummary(
                100, (event.key, *names[1:MAX_PARKED_SHOWN]), (event.key,)
            )
            await keep(store, ORDERS, {}, before=9, parked=dict.fromkeys([*names, event.key]))
            assert await progress(store, ORDERS) == Progress(10, LOG, 0)

    async def test_a_snapshot_tells_whether_a_key_is_parked(self) -> None:
        other = msgspec.structs.replace(ORDERS, generation=2)
        async with self.opened() as store:
            await store.prepare([other])
            await keep(store, ORDERS, {}, parked={key: Parked(key, 1, "no", 0) for key in ("a", "k", *HOSTILE)})
            await keep(store, ORDERS, {}, before=1, parked={"a": None})
            async with store.snapshot() as snapshot:
                asked = ("a", "k", "K", "", "never", "x" * 5_000, *HOSTILE)
                parked = [key for key in asked if await snapshot.is_parked(ORDERS, key)]
                assert parked == ["k", *HOSTILE]
                assert not await snapshot.is_parked(other, "k")

    async def test_partitions_that_are_split_or_merged_count_their_own_parked_keys(self) -> None:
        names = [f"k{n}" for n in range(60)]
        event = ParkedEvent(5, Partition(0, 1))
        async with self.opened() as store:
            parked = {key: Parked(key, 5, "no", 0) for key in (*names, event.key)}
            await keep(store, ORDERS, {}, position=5, parked=parked)
            whole = (await progress(store, ORDERS)).parked
            assert whole == summary_of(parked)
            parts = shares(3)
            await store.repartition(ORDERS, [WHOLE], parts)
            assert [each.progress.parked for each in await store.checkpoints()] == [
                summary_of(key for key in parked if part.holds(key)) for part in parts
            ]
            assert (await progress(store, ORDERS)).parked == whole
            gone = next(key for key in names if parts[1].holds(key))
            left = summary_of(key for key in parked if parts[1].holds(key) and key != gone)
            await store.save(Change(ORDERS, LOG, 5, 5, 0, {}, {gone: None}, partition=parts[1], summary=left))
            await store.repartition(ORDERS, parts, [WHOLE])
            assert (await progress(store, ORDERS)).parked == summary_of(key for key in parked if key != gone)
