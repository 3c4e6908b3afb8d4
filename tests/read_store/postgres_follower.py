"""Followers that save for ever, and what must hold of their rows whatever befalls them.

As a program, `python -m tests.read_store.postgres_follower URL`, it saves until it is killed, and prints each position
it has saved.
"""

import asyncio
import sys

from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Parked, ReadModel, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import LOG, ORDERS, Order, progress


def step(
    before: int, *, epoch: int = 0, now: int = 0, model: ReadModel = ORDERS, partition: Partition = WHOLE
) -> Change:
    """The change from a position to the next: twenty rows renewed, one added, the one before last deleted."""
    position = before + 1
    rows = {f"k{n}": VersionedRow(Order("ann", position, "x" * (position % 3)), position) for n in range(20)}
    rows[f"new{position}"] = VersionedRow(Order("bob", position), position)
    rows[f"new{before}"] = VersionedRow(None, position)
    parked = {"p": Parked("p", position, "no", 0), f"q{before}": None, f"q{position}": Parked("q", position, "", 0)}
    return Change(
        model,
        LOG,
        before,
        position,
        now,
        {key: kept for key, kept in rows.items() if partition.holds(key)},
        {key: each for key, each in parked.items() if partition.holds(key)},
        epoch=epoch,
        partition=partition,
    )


async def whole_at(store: PostgresReadStore, *, model: ReadModel = ORDERS, partition: Partition = WHOLE) -> int:
    """The position of a partition. AssertionError where its rows or parked keys are not just those of that position."""
    async with store.snapshot() as snapshot:
        reached = next(each for each in await snapshot.checkpoints() if each.partition == partition)
        found = await snapshot.find(model, {}, limit=10_000)
        by_index: dict[str, Order] = {}
        for customer in ("ann", "bob"):
            of_one = await snapshot.find(model, {"customer": customer}, order_by="total", limit=10_000)
            assert {row.customer for _, row in of_one.rows} <= {customer}
            by_index |= dict(of_one.rows)
    rows = {key: row for key, row in found.rows if partition.holds(key)}
    assert {key: row for key, row in by_index.items() if partition.holds(key)} == rows
    position = reached.progress.position
    kept = step(position - 1, model=model, partition=partition) if position else Change(model, LOG, 0, 0, 0)
    assert rows == {key: each.row for key, each in kept.rows.items() if each.row is not None}
    parked = {each.key: each.position for each in reached.parked}
    assert parked == {key: position for key, each in kept.parked.items() if each is not None}
    return position


async def main(url: str) -> None:
    """Save for ever."""
    store = await PostgresReadStore.open(url)
    await store.prepare([ORDERS])
    position = (await progress(store, ORDERS)).position
    while True:
        await store.save(step(position))
        position += 1
        sys.stdout.write(f"{position}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
