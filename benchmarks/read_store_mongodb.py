"""Measures `MongoReadStore.save` and `load` against the bare driver with the same documents, on one server."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

from pymongo import AsyncMongoClient, ReplaceOne
from pymongo.write_concern import WriteConcern

from benchmarks.read_store import BATCH, MODELS, Summary
from tests.servers.mongodb import ReplicaSet, fresh_database, installed
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.port import Change, ReadModel, VersionedRow

BATCHES = 40
ROUNDS = 5

Batch = dict[str, VersionedRow]
Rates = dict[str, float]


def work() -> list[Batch]:
    """Rows as a catch-up brings them: keys in order, of which every other batch meets again."""
    batches: list[Batch] = []
    for start in range(0, BATCH * BATCHES // 2, BATCH):
        rows = [Summary(f"o-{n:08d}", f"c-{n * 7919 % 10_000}", n % 997) for n in range(start, start + BATCH)]
        batches.append({row.order_id: VersionedRow(row, len(batches) + 1) for row in rows})
        batches.append({row.order_id: VersionedRow(row, len(batches) + 1, 0, (row,)) for row in rows})
    return batches


async def ours(url: str, model: ReadModel, batches: Sequence[Batch]) -> Rates:
    """Rows a second through the store."""
    store = await MongoReadStore.open(url)
    await store.prepare([model])
    spent = {"new": 0.0, "again": 0.0, "load": 0.0}
    for n, rows in enumerate(batches):
        began = time.perf_counter()
        await store.save(Change(model, "log", n, n + 1, 0, rows))
        spent["again" if n % 2 else "new"] += time.perf_counter() - began
        began = time.perf_counter()
        await store.load(model, list(rows))
        spent["load"] += time.perf_counter() - began
    await store.close()
    return _rates(spent, batches)


async def raw(url: str, model: ReadModel, batches: Sequence[Batch]) -> Rates:
    """Rows a second of the bare driver's upserts of documents made beforehand, with a checkpoint after each batch."""
    store = await MongoReadStore.open(url)
    await store.prepare([model])
    await store.close()
    table = MongoTable(model)
    documents = [table.documents(rows, 0) for rows in batches]
    spent = {"new": 0.0, "again": 0.0, "load": 0.0}
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database(write_concern=WriteConcern("majority", j=True))
        rows = database[table.collection]
        for n, batch in enumerate(documents):
            began = time.perf_counter()
            upserts = [ReplaceOne({"_id": key}, each, upsert=True) for key, each in zip(batches[n], batch, strict=True)]
            await rows.bulk_write(upserts, ordered=False)
            await database["checkpoint"].update_one({"_id": 1}, {"$set": {"position": n}}, upsert=True)
            spent["again" if n % 2 else "new"] += time.perf_counter() - began
            wanted = {"_id": {"$in": list(batches[n])}}
            began = time.perf_counter()
            await rows.find(wanted, {"c": 0}, batch_size=BATCH + 1).to_list()
            spent["load"] += time.perf_counter() - began
    return _rates(spent, batches)


def _rates(spent: Rates, batches: Sequence[Batch]) -> Rates:
    rows = BATCH * len(batches)
    return {name: (rows if name == "load" else rows / 2) / seconds for name, seconds in spent.items()}


async def main() -> None:
    """Print rows a second of both and their ratio, the median of some rounds."""
    program = installed()
    assert program is not None, "no mongod"
    batches = work()
    with ReplicaSet(program) as servers:
        for name, model in MODELS.items():
            pairs: list[tuple[Rates, Rates]] = []
            for _ in range(ROUNDS):
                bare = await raw(servers.url_of(fresh_database()), model, batches)
                pairs.append((await ours(servers.url_of(fresh_database()), model, batches), bare))
            for what in ("new", "again", "load"):
                ratio = statistics.median(mine[what] / bare[what] for mine, bare in pairs)
                mine, bare = (statistics.median(each[what] for each in column) for column in zip(*pairs, strict=True))
                print(f"{name:34} {what:6} store {mine:8,.0f} rows/s   raw {bare:8,.0f} rows/s   ratio {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
