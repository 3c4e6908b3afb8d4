"""A read store that other processes write, opened as soon as it is there: it may be away at start."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from twofold.errors import Unavailable
from twofold.late_opening import LateOpening
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, Lookup, RawRow, ReadModel, ReadStore, Snapshot, VersionedRow
from twofold.world import World


class DistantReadStore:
    """A read store that is opened by `opening` when it can be reached. Until then its calls are Unavailable.

    Its identity is "" until then.
    """

    save_events = 1

    def __init__(self, opening: Callable[[], Awaitable[ReadStore]], world: World) -> None:
        self.identity = ""

        async def identified() -> ReadStore:
            store = await opening()
            if not store.identity:
                await store.close()
                raise Unavailable("The read store is empty. Start a process with the role `sync`, with the same one.")
            self.identity = store.identity
            return store

        self.late = LateOpening(identified, world)

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        await (await self.late.get()).prepare(models)

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        return await (await self.late.get()).load(model, keys)

    async def save(self, change: Change) -> None:
        await (await self.late.get()).save(change)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Snapshot]:
        async with (await self.late.get()).snapshot() as snapshot:
            yield snapshot

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        return await (await self.late.get()).lookup(model, key)

    async def checkpoints(self) -> list[Checkpoint]:
        return await (await self.late.get()).checkpoints()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        await (await self.late.get()).repartition(model, old, new)

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        return await (await self.late.get()).raw_rows(name, generation, after, limit)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        return await (await self.late.get()).inspect(model, keys)

    async def drop(self, name: str, generation: int) -> None:
        await (await self.late.get()).drop(name, generation)

    async def close(self) -> None:
        await self.late.close(lambda store: store.close())
