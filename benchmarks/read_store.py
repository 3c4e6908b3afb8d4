"""Measures `SqliteReadStore.save` against a raw executemany into the same columns and indexes, in one run."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import apsw
import msgspec

from twofold.read_store.port import Change, ReadModel
from twofold.read_store.sqlite import SqliteReadStore
from twofold.read_store.sqlite_table import Table

BATCH = 1_000
BATCHES = 200
ROUNDS = 5


class Summary(msgspec.Struct, frozen=True):
    """The row of the measurement."""

    order_id: str
    customer_id: str
    total: int
    paid: bool = False


MODELS = {
    "no index": ReadModel("summaries", 1, Summary),
    "find_by customer": ReadModel("summaries", 1, Summary, (("customer_id",),)),
    "find_by customer, order_by total": ReadModel("summaries", 1, Summary, (("customer_id",),), ("total",)),
}


def batches() -> list[dict[str, Summary]]:
    """Rows as a catch-up brings them: keys in order, of which every other batch meets again."""
    rows = [Summary(f"o-{n:08d}", f"c-{n * 7919 % 10_000}", n % 997) for n in range(BATCH * BATCHES // 2)]
    whole = [rows[n : n + BATCH] for n in range(0, len(rows), BATCH)]
    return [{row.order_id: row for row in batch} for each in whole for batch in (each, each)]


async def ours(model: ReadModel, path: Path, work: list[dict[str, Summary]]) -> float:
    """Rows a second through the store."""
    store = SqliteReadStore(path)
    await store.prepare([model])
    start = time.perf_counter()
    for n, rows in enumerate(work):
        await store.save(Change(model, "log", n, n + 1, 0, rows))
    seconds = time.perf_counter() - start
    await store.close()
    return BATCH * len(work) / seconds


async def raw(model: ReadModel, path: Path, work: list[dict[str, Summary]]) -> float:
    """Rows a second of the bare statements on parameters made beforehand, with a checkpoint in the same transaction."""
    store = SqliteReadStore(path)
    await store.prepare([model])
    await store.close()
    table = Table(model)
    connection = apsw.Connection(str(path))
    connection.execute("pragma synchronous = normal; pragma cache_size = -65536; pragma wal_autocheckpoint = 4000")
    parameters = [table.parameters(rows) for rows in work]
    start = time.perf_counter()
    for n, batch in enumerate(parameters):
        connection.execute("begin immediate")
        connection.executemany(table.upsert, batch)
        connection.execute("update checkpoints set position = ?", (n + 1,))
        connection.execute("commit")
    seconds = time.perf_counter() - start
    connection.close()
    return BATCH * len(work) / seconds


async def main() -> None:
    """Print rows a second of both and their ratio, the median of some rounds."""
    work = batches()
    for name, model in MODELS.items():
        pairs: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                bare = await raw(model, Path(folder) / "raw.db", work)
                pairs.append((await ours(model, Path(folder) / "ours.db", work), bare))
        ratio = statistics.median(mine / bare for mine, bare in pairs)
        mine, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:34} store {mine:9,.0f} rows/s   raw {bare:9,.0f} rows/s   ratio {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
