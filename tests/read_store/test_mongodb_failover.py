"""Three nodes of which the primary is killed or steps down: saves go on after the election, and nothing is lost."""

import asyncio
import logging
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pymongo
import pytest

from tests.read_store.mongodb_follower import change, fold_of_all
from tests.read_store.mongodb_helpers import WITH_SERVERS_AWAY, opened
from tests.servers.mongodb import ReplicaSet, fresh_database
from tests.servers.server import wait_until
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.port import Change, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, found_rows, keep, progress

pytestmark = WITH_SERVERS_AWAY

log = logging.getLogger(__name__)

LONGEST_GAP = 15.0  # seconds


class Load:
    """A follower that runs until it is stopped, and notes when each of its saves was acknowledged."""

    def __init__(self, store: MongoReadStore) -> None:
        self.store = store
        self.position = 0
        self.acknowledged: list[float] = []
        self.going_on = True
        self._saved = asyncio.Condition()

    async def run(self) -> None:
        while self.going_on:
            await self.store.save(await change(self.store, self.position, self.position + 5))
            self.position += 5
            async with self._saved:
                self.acknowledged.append(time.monotonic())
                self._saved.notify_all()

    async def more(self, saves: int) -> None:
        """Wait for so many more saves."""
        wanted = len(self.acknowledged) + saves
        async with self._saved:
            await self._saved.wait_for(lambda: len(self.acknowledged) >= wanted)

    @property
    def longest_gap(self) -> float:
        return max(b - a for a, b in zip(self.acknowledged, self.acknowledged[1:], strict=False))


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.torture)])
@pytest.mark.timeout(900)
async def test_a_primary_killed_under_load_costs_a_pause_and_no_row(mongod_here: Path, kills: int) -> None:
    random = Random(kills)
    with ReplicaSet(mongod_here, 3, fast=True) as servers:
        async with opened(servers.url_of(fresh_database())) as store:
            await store.prepare([ORDERS])
            load = Load(store)
            running = asyncio.create_task(load.run())
            for _ in range(kills):
                await load.more(20 + random.randrange(20))
                primary = await asyncio.to_thread(lambda: servers.primary)
                primary.kill()
                await load.more(10)
                primary.start()
                await asyncio.to_thread(servers.wait_until_whole)
            load.going_on = False
            await running
            assert (await progress(store, ORDERS)).position == load.position
            assert dict(await found_rows(store, ORDERS)) == fold_of_all(load.position)
    log.info("%d saves, the longest gap between two was %.1f s", len(load.acknowledged), load.longest_gap)
    assert load.longest_gap < LONGEST_GAP, load.longest_gap


async def test_a_primary_that_steps_down_under_load_costs_a_pause_and_no_row(mongod_here: Path) -> None:
    with ReplicaSet(mongod_here, 3, fast=True) as servers:
        async with opened(servers.url_of(fresh_database())) as store:
            await store.prepare([ORDERS])
            load = Load(store)
            running = asyncio.create_task(load.run())
            await load.more(20)
            primary = await asyncio.to_thread(lambda: servers.primary)
            await asyncio.to_thread(primary.ask, "replSetStepDown", 10, force=True)
            await load.more(20)
            load.going_on = False
            await running
            assert dict(await found_rows(store, ORDERS)) == fold_of_all(load.position)
        assert load.longest_gap < LONGEST_GAP, load.longest_gap


async def test_rows_are_loaded_as_they_were_acknowledged_though_the_new_primary_does_not_know_that_yet(
    mongod_here: Path,
) -> None:
    with ReplicaSet(mongod_here, 3, fast=True) as servers:
        name = fresh_database()
        async with opened(servers.url_of(name)) as store:
            await keep(store, ORDERS, {"a": Order(total=1)})
            first = await asyncio.to_thread(lambda: servers.primary)
            for node in servers.nodes:
                if node is not first:
                    url = f"mongodb://{node.address}/?directConnection=true&readConcernLevel=majority"
                    await asyncio.to_thread(wait_until, partial(_has_row, url, name), "the others to know of the row")
                    # From now on they write what they are sent, and do not learn that a majority has it.
                    node.ask("configureFailPoint", "disableSnapshotting", mode="alwaysOn")
            await store.save(Change(ORDERS, LOG, 1, 2, 0, {"a": VersionedRow(Order(total=2), 2, 0, (Order(total=1),))}))
            first.kill()
            second = await asyncio.to_thread(lambda: servers.primary)
            assert second is not first
            rows = store._connection.collection("rows.orders@1")
            majority = await store._connection.retry(lambda: rows.find_one({"_id": "a"}))
            assert majority is not None
            assert majority["_p"] == 1, "which is what this is about"
            assert await store.load(ORDERS, ["a"]) == {"a": VersionedRow(Order(total=2), 2)}
            second.ask("configureFailPoint", "disableSnapshotting", mode="off")


def _has_row(url: str, name: str) -> bool:
    with pymongo.MongoClient[dict[str, Any]](url, readPreference="secondaryPreferred") as client:
        return client[name]["rows.orders@1"].count_documents({}) == 1
