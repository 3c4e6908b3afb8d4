"""A command service with its parts over any store, and stores for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.command_service.boundary_probe import RULES
from twofold.codec import EventCodec, MessageCodec
from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.folds import Folds
from twofold.command_service.handle import CommandLimits
from twofold.command_service.inline_projections import InlineProjections
from twofold.command_service.snapshots import Snapshots
from twofold.domain.event_query import AppendCondition
from twofold.domain.module import Module, Wiring
from twofold.world import RealWorld, World
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, WriteStore
from twofold.write_store.reserving import DecideReserved, append_reserved
from twofold.write_store.sqlite import SqliteWriteStore


class Services:
    """A command service with its folds and its batcher, over a store it may share with others."""

    def __init__(
        self,
        write_store: WriteStore,
        module: Module = RULES,
        *,
        cached: int = 1_000,
        retries: int = 100,
        snapshot_events: int = 0,
        queue: int = 10_000,
        batch: int = 512,
        queue_size: int = 67_108_864,
        limits: CommandLimits = CommandLimits(),  # noqa: B008 -- a tuple
        world: World | None = None,
    ) -> None:
        world = world or RealWorld()
        wiring = self.wiring = Wiring([module])
        self.codec = EventCodec(wiring.events.values())
        self.write_store = write_store
        self.snapshots = Snapshots(write_store, wiring, world, snapshot_events)
        self.folds = Folds(write_store, self.codec, world, self.snapshots, cached)
        self.batcher = Batcher(
            write_store, self.folds, world, commands=batch, size=4_194_304, queue=queue, queue_size=queue_size
        )
        messages = MessageCodec()
        self.inline = InlineProjections(wiring, write_store, self.codec, 1_000)
        parts = (wiring, self.folds, self.codec, messages, self.batcher, world, self.inline)
        limits = limits._replace(conflict_retries=retries)
        self.commands = CommandService(*parts, write_store=write_store, limits=limits)
        self.handle = self.commands.handle

    async def __aenter__(self) -> "Services":
        self.batcher.start()
        self.snapshots.start(self.batcher.append_alone)
        await self.commands.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.snapshots.stop()
        await self.batcher.stop()


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[WriteStore]:
    """A fresh store of this kind."""
    write_store: WriteStore = MemoryWriteStore() if kind == "memory" else SqliteWriteStore(folder / "log.db")
    try:
        yield write_store
    finally:
        await write_store.close()


class YieldingStore:
    """A store whose every answer lets others go first, a random number of times, as one across a network would."""

    def __init__(self, write_store: WriteStore, random: Random) -> None:
        self._write_store = write_store
        self._random = random
        self.identity = write_store.identity
        self.problem: str | None = None

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        await self._yield()
        outcomes = await self._write_store.append(batch)
        await self._yield()
        return outcomes

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        await self._yield()
        outcomes = await append_reserved(self._write_store, conditions, decide)
        await self._yield()
        return outcomes

    async def newer(self, *args: object) -> object:
        await self._yield()
        found = await self._write_store.newer(*args)  # type: ignore[arg-type]
        await self._yield()
        return found

    async def rows(self, space: str, keys: Sequence[str] | None = None, limit: int | None = None) -> object:
        await self._yield()
        found = await self._write_store.rows(space, keys, limit)
        await self._yield()
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._write_store, name)

    async def _yield(self) -> None:
        for _ in range(self._random.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
