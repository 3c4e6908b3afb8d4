"""A write store whose appends, reads and row reads a test can hold, so that they overlap as it wants."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, LogRow, Outcome


class HeldStore(MemoryWriteStore):
    """`before[n]` holds the n-th append before its commit, `after[n]` its answer; `reads` and `row_reads` hold those.

    Another service on `inner` is another node: it is not held.
    """

    def __init__(self, inner: MemoryWriteStore) -> None:
        super().__init__()
        self.inner = inner
        self.identity = inner.identity
        self.appends = 0
        self.before: dict[int, asyncio.Event] = {}
        self.after: dict[int, asyncio.Event] = {}
        self.reads, self.row_reads = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.row_reads.set()

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        self.appends += 1
        number = self.appends
        if number in self.before:
            await self.before[number].wait()
        outcomes = await self.inner.append(batch)
        if number in self.after:
            await self.after[number].wait()
        return outcomes

    async def newer(self, *arguments: Any) -> Any:
        await self.reads.wait()
        return await self.inner.newer(*arguments)

    async def rows(self, *arguments: Any) -> Mapping[str, LogRow]:
        await self.row_reads.wait()
        return await self.inner.rows(*arguments)

    async def read(self, *arguments: Any, **options: Any) -> Any:
        return await self.inner.read(*arguments, **options)


async def ticks() -> None:
    """Let all tasks run that can run now."""
    for _ in range(30):
        await asyncio.sleep(0)
