"""In charge of reading rows in order: the partitions of an access merged, a bit of each at a time."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twofold.read_store.cassandra.driver import Driver
from twofold.read_store.cassandra.layout import BUCKETS, EVERYTHING_BY_KEY

_MOST = 1_000
"""Rows in one read."""
_SPARE = 4


class Entry(NamedTuple):
    """A row where it was found. `written` is its timestamp."""

    place: str
    key: str
    row: str
    written: int


class _Partition:
    """One partition, read from one end towards the other."""

    def __init__(
        self, driver: Driver, table: str, access: str, part: Sequence[str], after: tuple[str, str] | None, back: bool
    ) -> None:
        self.entries: deque[Entry] = deque()
        self.ended = False
        self._driver = driver
        self._which = (access, part)
        self._after = after
        beyond, way = ("<", "desc") if back else (">", "asc")
        select = f"select place, key, row, writetime(row) from {table} where access = ? and part = ?"
        order = f"order by place {way}, key {way} limit ?"
        self._first = f"{select} {order}"
        self._next = f"{select} and (place, key) {beyond} (?, ?) {order}"

    async def fill(self, count: int) -> None:
        """Read on, if there is nothing left of what was read."""
        if self.entries or self.ended:
            return
        if self._after is None:
            found = await self._driver.rows(self._first, *self._which, count)
        else:
            found = await self._driver.rows(self._next, *self._which, *self._after, count)
        self.entries.extend(Entry(*row) for row in found)
        self.ended = len(found) < count
        if found:
            self._after = found[-1][:2]


async def find(
    driver: Driver,
    table: str,
    access: str,
    parts: Iterable[Sequence[str]],
    count: int,
    *,
    after: tuple[str, str] | None = None,
    back: bool = False,
) -> list[Entry]:
    """At most `count` rows of these partitions behind (place, key), in order."""
    partitions = [_Partition(driver, table, access, part, after, back) for part in parts]
    at_once = min(count if len(partitions) == 1 else count // len(partitions) + _SPARE, _MOST)
    nearest = max if back else min
    found: list[Entry] = []
    while len(found) < count:
        await asyncio.gather(*(each.fill(at_once) for each in partitions))
        there = [each for each in partitions if each.entries]
        if not there:
            break
        # As long as each of them has something to offer, what is nearest is next.
        while len(found) < count and all(each.entries for each in there):
            found.append(nearest(there, key=lambda each: each.entries[0]).entries.popleft())
    return found


async def find_by_key(driver: Driver, table: str, after: str, count: int) -> list[Entry]:
    """At most `count` rows behind a key, in the order of keys, whatever the model declares."""
    parts = [(str(bucket),) for bucket in range(BUCKETS)]
    return await find(driver, table, EVERYTHING_BY_KEY, parts, count, after=("", after))
