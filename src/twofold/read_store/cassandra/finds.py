"""Finds: the partitions of an access, read in order and merged, a few rows of each at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from twofold.read_store.cassandra.connection import CassandraConnection, CassandraRow

Read = Callable[[tuple[str, str] | None, int], Awaitable[list[CassandraRow]]]
"""Reads at most so many rows of a partition behind (sort key, key)."""

_LARGEST_READ = 1_000
_SPARE = 4


class IndexedRow(NamedTuple):
    """A row as an index entry holds it. `timestamp` is that of its cell."""

    sort_key: str
    key: str
    row: str
    timestamp: int


class _PartitionReader:
    """Reads one partition from one end to the other. `buffer` holds the rows that were read and not yet taken."""

    def __init__(self, read: Read, after: tuple[str, str] | None) -> None:
        self.buffer: deque[IndexedRow] = deque()
        self._read = read
        self._after = after
        self._ended = False

    async def fill(self, count: int) -> None:
        """Read the next rows, if the buffer is empty."""
        if self.buffer or self._ended:
            return
        rows = await self._read(self._after, count)
        self.buffer.extend(IndexedRow(*row) for row in rows)
        self._ended = len(rows) < count
        if rows:
            self._after = rows[-1][:2]


async def find(
    connection: CassandraConnection,
    table: str,
    partitions: Iterable[tuple[str, Sequence[str]]],
    count: int,
    *,
    after: tuple[str, str] | None = None,
    descending: bool = False,
) -> list[IndexedRow]:
    """At most `count` rows of these partitions (access, part) behind (sort key, key), in order."""
    beyond, direction = ("<", "desc") if descending else (">", "asc")
    select = f"select sort_key, key, row, writetime(row) from {table} where access = ? and part = ?"
    order = f"order by sort_key {direction}, key {direction} limit ?"

    async def read(
        partition: tuple[str, Sequence[str]], after: tuple[str, str] | None, count: int
    ) -> list[CassandraRow]:
        if after is None:
            return await connection.rows(f"{select} {order}", *partition, count)
        return await connection.rows(f"{select} and (sort_key, key) {beyond} (?, ?) {order}", *partition, *after, count)

    readers = [_PartitionReader(partial(read, partition), after) for partition in partitions]
    at_once = min(count if len(readers) == 1 else count // len(readers) + _SPARE, _LARGEST_READ)
    nearest = max if descending else min
    rows: list[IndexedRow] = []
    while len(rows) < count:
        await asyncio.gather(*(reader.fill(at_once) for reader in readers))
        filled = [reader for reader in readers if reader.buffer]
        if not filled:
            break
        # As long as each buffer has a row, the nearest of their first rows is the next one.
        while len(rows) < count and all(reader.buffer for reader in filled):
            rows.append(nearest(filled, key=lambda reader: reader.buffer[0]).buffer.popleft())
    return rows
