"""Followers that run beside an audit or a comparison, at any pace, over stores that may save row by row."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from tests.sample_domains.counters import Counted, Ended, Ignored
from twofold.app import App
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS, EventQuery
from twofold.domain.events import Position
from twofold.errors import Conflict
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import Partition, shares
from twofold.read_store.port import Change, Checkpoint, RawRow, ReadModel, ReadStore
from twofold.synchronization.cluster_state import ClusterStateStore, Generation, Generations
from twofold.synchronization.folding import FoldFailed
from twofold.synchronization.projector import Projector, ProjectorIO, ProjectorOptions, Skips
from twofold.write_store.history import HistoryCheck, cut_at
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import PAGE_BYTES, Append, Outcome, Slice, WriteStore


async def turns(random: Random, most: int = 4) -> None:
    """Let others have some turns."""
    for _ in range(random.randint(0, most)):
        await asyncio.sleep(0)


class JitteryLog(MemoryWriteStore):
    """A log whose readers lose time before and after."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        await turns(self._random)
        found = await super().read(query, after, limit, size)
        await turns(self._random)
        return found


class JitteryReadStore(MemoryReadStore):
    """Read models whose readers lose time before and after.

    `loose`: without transactions, so that a save writes row by row, in any order, and the checkpoint last.
    """

    def __init__(self, random: Random, *, loose: bool) -> None:
        super().__init__()
        self._random = random
        self._loose = loose

    async def checkpoints(self) -> list[Checkpoint]:
        await turns(self._random)
        found = await super().checkpoints()
        await turns(self._random)
        return found

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        await turns(self._random)
        found = await super().raw_rows(name, generation, after, limit)
        await turns(self._random)
        return found

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        await turns(self._random)
        found = await super().inspect(model, keys)
        await turns(self._random)
        return found

    async def save(self, change: Change) -> None:
        if self._loose:
            for key in self._random.sample(list(change.rows), len(change.rows)):
                await super().save(
                    msgspec.structs.replace(
                        change,
                        position=change.before,
                        stamp=change.expected,
                        rows={key: change.rows[key]},
                        parked={},
                    )
                )
                await turns(self._random)
        await turns(self._random)
        await super().save(change)
        await turns(self._random)


async def serves(write_store: WriteStore, read_store: ReadStore, name: str, number: int, version: int = 1) -> None:
    """Note that a generation serves."""

    async def append(append: Append) -> Outcome:
        (outcome,) = await write_store.append([append])
        return outcome

    control = ClusterStateStore(write_store, append, App().world, read_store)
    noted = (await control.read()).generations(name)
    record = Generations({number: Generation(version, "serving", 0)}, number)
    assert await control.write(control.generations(name, record, noted.version))


class Log:
    """What happens in the domain of the counters."""

    def __init__(self, app: App, write_store: WriteStore, random: Random, keys: Sequence[str]) -> None:
        self._app = app
        self._write_store = write_store
        self._random = random
        self._keys = keys

    async def happen(self, events: int) -> None:
        """Some events about some of the keys, a few of them of no interest."""
        for _ in range(events):
            head = (await self._write_store.read(NO_EVENTS)).head
            counters = self._random.sample(self._keys, self._random.randint(1, 3))
            kind = self._random.random()
            event: Any = Counted(counters, self._random.randint(1, 9))
            if kind < 0.3:
                event = Ended(counters) if kind < 0.2 else Ignored(counters)
            new = self._app.events.encode(event, f"c{head}", 0)
            await self._write_store.append([Append(Metadata(head, f"c{head}", f"c{head}"), (new,))])


class Following:
    """A generation of the read model `totals`, followed in partitions, each at its own pace."""

    def __init__(
        self,
        app: App,
        write_store: WriteStore,
        read_store: ReadStore,
        random: Random,
        number: int,
        partitions: int = 1,
    ) -> None:
        self.projection = app.wiring.projections["totals"]
        self.model = ReadModel("totals", number, self.projection.row, partitions=partitions)
        self.skips: Skips = frozenset()
        self._app = app
        self._write_store = write_store
        self._read_store = read_store
        self._random = random
        self._epoch = 0

    def projector(self, partition: Partition) -> Projector:
        """A follower that has not opened, with a new lease."""
        self._epoch += 1
        return Projector(
            self.projection,
            self.model,
            ProjectorIO(
                self._write_store,
                self._read_store,
                self._app.events.decode,
                self._app.world,
                HistoryCheck(self._write_store),
            ),
            partition,
            self._epoch,
            ProjectorOptions(skips=self.skips, cached_rows=self._random.choice([0, 2, 1_000])),
        )

    async def prepare(self) -> "Following":
        """Make room for it."""
        await self._read_store.prepare([self.model])
        return self

    async def catch_up(self, to: Position | None = None) -> None:
        """Follow up to a position, the head if none is given."""
        head = (await self._write_store.read(NO_EVENTS)).head if to is None else to
        for partition in shares(self.model.partitions):
            await self._follow(partition, head)

    async def run(self) -> None:
        """Follow until cancelled; now and then someone else goes on where the store says."""
        await asyncio.gather(*(self._follow(each, None) for each in shares(self.model.partitions)))

    async def _follow(self, partition: Partition, to: Position | None) -> None:
        projector = self.projector(partition)
        position = await projector.open()
        while to is None or position < to:
            await turns(self._random, 8)
            page = await self._write_store.read(projector.query, position, self._random.randint(1, 12))
            if page.upto == position:
                await asyncio.sleep(0)
                continue
            try:
                position = await self._take(projector, page, position, to)
            except Conflict:
                # A lease that was taken over: that is how a zombie ends.
                position = await projector.open()
            if self._random.random() < 0.1:
                projector = self.projector(partition)
                position = await projector.open()

    async def _take(self, projector: Projector, page: Slice, position: Position, to: Position | None) -> Position:
        taken = page if to is None else await cut_at(self._write_store, page, to)
        try:
            await projector.apply(taken, position)
        except FoldFailed:
            for event in taken.events:
                alone = Slice([event], event.position, page.head, event.chain)
                try:
                    await projector.apply(alone, position)
                except FoldFailed as error:
                    await projector.park(alone, position, error)
                position = event.position
            await projector.apply(Slice([], taken.upto, page.head, taken.chain), position)
        return taken.upto
