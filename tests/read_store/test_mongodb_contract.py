"""The read store in MongoDB keeps the promises of every read store."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.servers.mongodb import ReplicaSet, fresh_database
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.parked_summary import ParkedSummary
from twofold.read_store.port import Change, Parked, Progress, ReadStore
from twofold.testing.read_store_contract import ReadStoreContract
from twofold.testing.read_store_rows import LOG, ORDERS, Order, at, keep


class TestMongoReadStore(ReadStoreContract):
    transactional = False

    @pytest.fixture(autouse=True)
    def servers(self, mongodb: ReplicaSet) -> None:
        self.mongodb = mongodb

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[ReadStore]:
        store = await MongoReadStore.open(self.mongodb.url_of(fresh_database()))
        try:
            yield store
        finally:
            await store.close()


async def test_a_snapshot_holds_the_moment_of_its_first_question_still(mongodb_url: str) -> None:
    store = await MongoReadStore.open(mongodb_url)
    await keep(store, ORDERS, {"a": Order(total=1), "b": Order(total=2)})
    async with store.snapshot() as before:
        assert (await before.progress(ORDERS)).position == 1
        await keep(store, ORDERS, {"a": Order(total=9), "b": None, "c": Order()}, before=1)
        await keep(store, ORDERS, {"d": Order()}, before=2, parked={"p": Parked("p", 3, "no", 0)})
        assert await before.get(ORDERS, "a") == Order(total=1)
        assert [key for key, _ in (await before.find(ORDERS, {}, limit=9)).rows] == ["a", "b"]
        assert await before.progress(ORDERS) == Progress(1, LOG, 0)
        async with store.snapshot() as after:
            assert [key for key, _ in (await after.find(ORDERS, {}, limit=9)).rows] == ["a", "c", "d"]
            assert (await after.progress(ORDERS)).parked == ParkedSummary(1, ("p",))
            assert (await before.is_parked(ORDERS, "p"), await after.is_parked(ORDERS, "p")) == (False, True)
    await store.close()


async def test_questions_asked_at_once_in_a_snapshot_are_answered_as_of_one_moment(mongodb_url: str) -> None:
    store = await MongoReadStore.open(mongodb_url)
    await keep(store, ORDERS, {key: Order(total=0) for key in "abcdefgh"})

    async def write() -> None:
        for n in range(1, 40):
            await store.save(Change(ORDERS, LOG, n, n + 1, 0, at(n + 1, {key: Order(total=n) for key in "abcdefgh"})))

    writing = asyncio.create_task(write())
    while not writing.done():
        async with store.snapshot() as snapshot:
            progress, *rows = await asyncio.gather(
                snapshot.progress(ORDERS), *(snapshot.get(ORDERS, key) for key in "abcdefgh")
            )
            again = [row for _, row in (await snapshot.find(ORDERS, {}, limit=9)).rows]
            assert again == rows
            # The rows of one save may come some by some, but never behind the checkpoint.
            assert all(row.total >= progress.position - 1 for row in rows)
    await writing
    await store.close()
