"""A follower of a generated log, which saves as the real one does.

Event `n` changes some keys; the resulting rows are known without any store, so that rows can be compared with them. Run
as a program it follows the log in its own process, which a test kills.
"""

import asyncio
import os
import signal
import sys
from unittest.mock import patch

from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints
from twofold.read_store.port import Change, ReadStore, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order
from twofold.world import RealWorld, microseconds

KEYS = 40


def keys_of(n: int) -> list[str]:
    """The keys that event `n` changes."""
    return list(dict.fromkeys([f"k{n * 7 % KEYS}", f"k{n * 11 % KEYS}", f"once-{n}"]))


def folded(row: Order | None, n: int, key: str) -> Order | None:
    """The row after event `n`. Some events delete it."""
    if row is not None and n % 5 == 0:
        return None
    before = row or Order("nobody")
    return Order(f"c{n % 9}", before.total + n, None if n % 3 == 0 else f"{key} by {n}")


def fold_of_all(upto: int) -> dict[str, Order]:
    """The rows that must exist at a checkpoint."""
    rows: dict[str, Order | None] = {}
    for n in range(1, upto + 1):
        for key in keys_of(n):
            rows[key] = folded(rows.get(key), n, key)
    return {key: row for key, row in sorted(rows.items()) if row is not None}


async def change(store: ReadStore, before: int, position: int, *, epoch: int = 0, log: str = LOG) -> Change:
    """The change made by the events from a checkpoint to a position, folded on the rows of the store."""
    events = range(before + 1, position + 1)
    known = await store.load(ORDERS, list(dict.fromkeys(key for n in events for key in keys_of(n))))
    changed: dict[str, VersionedRow] = {}
    for n in events:
        for key in keys_of(n):
            kept = changed.get(key) or known.get(key) or VersionedRow(None, 0)
            if n <= kept.position:
                continue
            previous_rows = (*kept.previous_rows, kept.row) if kept.row is not None else kept.previous_rows
            after = folded(kept.row, n, key)
            if after is not None or kept.row is not None:
                changed[key] = VersionedRow(after, n, 0, previous_rows)
    # The real time: deleted rows are kept for a week after it.
    return Change(ORDERS, log, before, position, microseconds(RealWorld().now()), changed, epoch=epoch)


async def follow(store: ReadStore, upto: int, batch: int, *, epoch: int = 0) -> None:
    """Advance the read model from its checkpoint to a position."""
    async with store.snapshot() as snapshot:
        position = (await snapshot.progress(ORDERS)).position
    while position < upto:
        reached = min(position + batch, upto)
        await store.save(await change(store, position, reached, epoch=epoch))
        position = reached


async def die(*_: object) -> None:
    """Replaces a step: the process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, upto: int, batch: int, dies: bool) -> None:
    """Follow and print every checkpoint; or, if `dies`, be killed between rows and checkpoint."""
    store = await MongoReadStore.open(url)
    await store.prepare([ORDERS])
    if dies:
        with patch.object(MongoCheckpoints, "advance", die):
            await follow(store, upto, batch)
    for position in range(batch, upto + 1, batch):
        await follow(store, position, batch)
        sys.stdout.write(f"{position}\n")
        sys.stdout.flush()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "dies"))
