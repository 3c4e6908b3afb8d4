"""Followers that save for ever, and what must hold of their rows whatever befalls them.

As a program, `python -m tests.read_store.postgres_follower URL`, it saves until it is killed, and prints each position
it has saved.
"""

import asyncio
import sys

from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Kept, Parked, ReadModel, ReadStore
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import LOG, ORDERS, Order, found_rows, progress


def step(
    before: int, *, epoch: int = 0, now: int = 0, model: ReadModel = ORDERS, partition: Partition = WHOLE
) -> Change:
    """The change from a position to the next: twenty rows renewed, one added, the one before last deleted."""
    position = before + 1
    rows = {f"k{n}": Kept(Order("ann", position, "x" * (position % 3)), position) for n in range(20)}
    rows[f"new{position}"] = Kept(Order("bob", position), position)
    rows[f"new{before}"] = Kept(None, position)
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


async def whole_at(store: ReadStore, *, model: ReadModel = ORDERS, partition: Partition = WHOLE) -> int:
    """The position of a partition. AssertionError where its rows or parked keys are not just those of that position."""
    reached = next(each.progress for each in await store.checkpoints() if each.partition == partition)
    position = reached.position
    rows = {key: row for key, row in await found_rows(store, model) if partition.holds(key)}
    if position == 0:
        assert rows == {}
        assert reached.parked == ()
        return 0
    change = step(position - 1, model=model, partition=partition)
    assert rows == {key: kept.row for key, kept in change.rows.items() if kept.row is not None}
    assert {each.key: each.position for each in reached.parked} == {
        key: position for key, each in change.parked.items() if each is not None
    }
    for customer in ("ann", "bob"):
        by_index = await found_rows(store, model, {"customer": customer}, order_by="total")
        held = {key: row for key, row in by_index if partition.holds(key)}
        assert held == {key: row for key, row in rows.items() if row.customer == customer}
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
